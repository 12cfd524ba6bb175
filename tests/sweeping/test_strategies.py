"""Subjects, and which settings each strategy asks for. No training: scores are functions of the settings."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import optuna
import pytest

from lightning_hp.functional.sweep.labels import key_of
from lightning_hp.sweeping.sampling import refine, refining_sampler, sampled
from lightning_hp.sweeping.space import Space
from lightning_hp.sweeping.strategies import Plan, Round, grid, measured_order, one_at_a_time

Score = Callable[[dict[str, Any]], float | None]


def follow(plan: Plan, score: Score) -> tuple[list[Round], Any]:
    """All rounds of a plan, and what it returns."""
    rounds = []
    try:
        asked = next(plan)
        while True:
            rounds.append(asked)
            asked = plan.send(score)
    except StopIteration as end:
        return rounds, end.value


def space(**options: Any) -> Space:
    return Space({"units": [64, 128, 256], "drop": [0.0, 0.2], ("size", "lr"): [(32, 0.05), (128, 0.2)]}, **options)


def test_one_at_a_time_keeps_the_best_value_of_each_subject():
    def score(settings: dict[str, Any]) -> float:
        return -abs(settings["units"] - 128) - abs(settings["drop"] - 0.2) - settings["lr"]

    rounds, _ = follow(one_at_a_time(space(), space().subjects), score)

    assert [each.stage for each in rounds] == ["units", "drop", "size, lr"]
    assert [list(settings.values()) for settings in rounds[0].settings] == [
        [64, 0.0, 32, 0.05],
        [128, 0.0, 32, 0.05],
        [256, 0.0, 32, 0.05],
    ]
    assert [list(settings.values()) for settings in rounds[2].settings] == [[128, 0.2, 32, 0.05], [128, 0.2, 128, 0.2]]


def test_a_subject_whose_trainings_all_fail_keeps_its_start():
    rounds, _ = follow(one_at_a_time(space(start={"units": 256}), space().subjects), lambda _: None)

    assert {settings["units"] for each in rounds[1:] for settings in each.settings} == {256}


def test_the_grid_has_every_combination_once():
    rounds, _ = follow(grid(space()), lambda _: 0.0)

    expected = {(u, d, s) for u in (64, 128, 256) for d in (0.0, 0.2) for s in (32, 128)}
    found = [(settings["units"], settings["drop"], settings["size"]) for settings in rounds[0].settings]
    assert len(found) == len(space()) == 12
    assert set(found) == expected
    assert all((settings["size"] == 32) == (settings["lr"] == 0.05) for settings in rounds[0].settings)


def test_the_measured_order_has_the_largest_impact_first():
    def score(settings: dict[str, Any]) -> float | None:
        return None if settings["lr"] > 0.1 else 0.01 * settings["units"] + settings["drop"]

    rounds, order = follow(measured_order(space()), score)

    # `lr` fails, which counts as the worst score: no impact beyond the start; units 1.92, drop 0.2.
    assert [subject.label for subject in order] == ["units", "drop", "size, lr"]
    assert all(each.is_probe for each in rounds)
    assert len(rounds[0].settings) == 1 + 2 + 1 + 1


@pytest.mark.parametrize("batch", [1, 3])
def test_a_sampler_asks_for_different_settings_of_the_lists(batch: int):
    rounds, _ = follow(
        sampled(space(), [], optuna.samplers.TPESampler(seed=0), 8, batch), lambda s: -abs(s["units"] - 128) - s["drop"]
    )

    asked = {key_of(settings) for each in rounds for settings in each.settings}
    assert len(asked) == 8
    assert asked <= {key_of(settings) for settings in space().grid()}
    assert all(len(each.settings) <= batch for each in rounds)


def test_a_sampler_ends_when_all_settings_are_known():
    rounds, _ = follow(sampled(space(), [], optuna.samplers.RandomSampler(seed=0), 100, 1), lambda _: 0.0)

    assert len({key_of(settings) for each in rounds for settings in each.settings}) <= 12


def test_refining_stays_between_the_neighbours():
    subjects = Space({"lr": [0.001, 0.01, 0.1, 1.0], "act": ["relu", "tanh"], ("size", "width"): [(8, 16), (32, 64)]})
    known = list(subjects.grid())

    def score(settings: dict[str, Any]) -> float:
        return -abs(settings["lr"] - 0.02) + (settings["act"] == "tanh") - settings["size"] / 1000

    sampler = optuna.samplers.TPESampler(seed=0)
    rounds, _ = follow(refine(subjects, known, [], score, sampler, 12, 1), score)

    asked = [settings for each in rounds[:-1] for settings in each.settings]
    assert len(asked) == 12
    assert all(0.001 <= settings["lr"] <= 0.1 for settings in asked)
    assert {settings["act"] for settings in asked} == {"relu", "tanh"}
    assert all(isinstance(settings["size"], int) and 8 <= settings["size"] <= 32 for settings in asked)
    assert all(settings["width"] == pytest.approx(2 * settings["size"], abs=2) for settings in asked)
    assert max(map(score, asked)) > max(map(score, known))


def test_refining_leaves_a_category_that_one_at_a_time_was_caught_in():
    subjects = Space({"act": ["tanh", "relu"], "lr": [0.01, 0.1, 1.0]}, start={"lr": 1.0})

    def score(settings: dict[str, Any]) -> float:
        far = abs(math.log10(settings["lr"] / (0.1 if settings["act"] == "relu" else 1.0)))
        return (settings["act"] == "relu") - 2 * far

    rounds, _ = follow(one_at_a_time(subjects, subjects.subjects), score)
    known = [settings for each in rounds for settings in each.settings]
    assert max(known, key=score)["act"] == "tanh"

    rounds, _ = follow(refine(subjects, known, [], score, refining_sampler(), 20, 1), score)
    found = max((settings for each in rounds for settings in each.settings), key=score)
    assert found["act"] == "relu"
    assert score(found) > score(max(known, key=score)) + 0.3


def test_what_a_sampler_chose_before_counts():
    earlier = list(space().grid())[:5]

    rounds, _ = follow(sampled(space(), earlier, optuna.samplers.TPESampler(seed=0), 7, 1), lambda _: 0.0)

    assert list(rounds[0].settings) == earlier
    assert len({key_of(settings) for each in rounds[1:] for settings in each.settings} | set(map(key_of, earlier))) <= 7


@pytest.mark.parametrize(
    ("subjects", "error", "message"),
    [
        (["lr"], TypeError, "a dict of subjects"),
        ({}, ValueError, "a dict of subjects"),
        ({"lr": []}, ValueError, "one or more values"),
        ({"lr": "0.1"}, TypeError, "a list of values"),
        ({"lr": [0.1, 0.1]}, ValueError, "values that differ"),
        ({"lr": [1, 1.0]}, ValueError, "values that differ"),
        ({"lr": [float("nan")]}, ValueError, "finite numbers"),
        ({("a", "b"): [(1,)]}, ValueError, "2 entries"),
        ({"a": [1], ("a", "b"): [(1, 2)]}, ValueError, "in two"),
        ({1: [1]}, TypeError, "each key a str"),
        ({"f": [object()]}, ValueError, "whose repr states"),
    ],
)
def test_wrong_subjects_get_one_sentence(subjects: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        Space(subjects)


def test_a_start_of_unknown_names_is_refused():
    with pytest.raises(ValueError, match="names of `space`"):
        space(start={"depth": 3})


def test_values_may_be_lists_and_dicts():
    subjects = Space({"layers": [[8], [8, 8]], "optimizer": [{"name": "SGD"}, {"name": "Adam"}]})

    _, order = follow(measured_order(subjects), lambda settings: len(settings["layers"]))

    assert [subject.label for subject in order] == ["layers", "optimizer"]
    assert subjects.holds({"layers": [8, 8], "optimizer": {"name": "Adam"}}, may_lie_between=False)
    assert not subjects.holds({"layers": [16], "optimizer": {"name": "Adam"}}, may_lie_between=False)
