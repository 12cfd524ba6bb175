"""A sweep whose learning rate follows the batch size, against rates that are scaled by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_hp import sweep
from tests.sweeping.common import TRAINER, Scored, loaders

SPACE: dict[Any, list[Any]] = {"lr": [0.1, 0.2], "batch_size": [4, 16, 64]}
BY_HAND = {
    "linear": {4: 1.0, 16: 4.0, 64: 16.0},
    "sqrt": {4: 1.0, 16: 2.0, 64: 4.0},
    None: {4: 1.0, 16: 1.0, 64: 1.0},
}


def build(settings: dict[str, Any]) -> Any:
    return Scored(settings["lr"] + 0 * settings["batch_size"]), loaders()


def run(space: Any = None, **options: Any) -> Any:
    fixed = {"monitor": "val_score", "mode": "max", "trainer": TRAINER, "logdir": None}
    return sweep(build, SPACE if space is None else space, **{**fixed, **options})


@pytest.mark.parametrize("rule", ["linear", "sqrt", None])
def test_build_gets_the_rate_for_the_batch_size_and_the_settings_keep_that_for_the_first(rule: Any):
    result = run(scale_lr=rule, strategy="grid")
    rows = {(trial.settings["lr"], trial.settings["batch_size"]): trial for trial in result.trials}
    assert rows.keys() == {(lr, size) for lr in SPACE["lr"] for size in SPACE["batch_size"]}
    for (lr, size), trial in rows.items():
        assert trial.score == pytest.approx(lr * BY_HAND[rule][size])
        assert trial.used == ({} if rule is None else {"lr": pytest.approx(trial.score)})


def test_the_rate_is_first_chosen_for_the_first_batch_size_and_then_follows_it():
    result = run(scale_lr="linear", start={"batch_size": 16})
    assert result.best == {"lr": 0.2, "batch_size": 64}
    assert max(trial.score for trial in result.trials) == pytest.approx(0.8)
    assert len(result.trials) == 2 + 2
    assert yaml.safe_load(result.to_yaml(which="best")) == {"lr": pytest.approx(0.8), "batch_size": 64}
    assert "lr used" in str(result.table())


def test_what_is_logged_is_what_was_used(tmp_path: Path):
    result = run({"lr": [0.1], "batch_size": [4, 16]}, scale_lr="linear", logdir=tmp_path)
    logged = [yaml.safe_load((Path(trial.log_dir) / "hparams.yaml").read_text())["lr"] for trial in result.trials]
    assert logged == pytest.approx([0.1, 0.4])


def test_refinement_moves_both_and_the_rate_follows():
    result = run({"lr": [0.1, 0.2], "batch_size": [4, 16, 64]}, scale_lr="sqrt", refine=4)
    assert len(result.trials) > 4
    for trial in result.trials:
        by_hand = trial.settings["lr"] * math.sqrt(trial.settings["batch_size"] / 4)
        assert trial.score == pytest.approx(by_hand, rel=1e-5)


def test_another_rule_or_another_base_is_another_experiment(tmp_path: Path):
    options = {"storage": tmp_path / "sweep.db", "scale_lr": "linear"}
    run(**options)
    run(**options)
    for changed in ({"scale_lr": "sqrt"}, {"scale_lr": None}, {"start": {"batch_size": 16}}):
        with pytest.raises(ValueError, match="the rule by which the learning rate follows the batch size is another"):
            run(**{**options, **changed})


@pytest.mark.parametrize(
    ("space", "rule", "error", "message"),
    [
        ({"lr": [0.1]}, "linear", ValueError, "one name in `space` that is 'batch_size' with `scale_lr`, got none"),
        ({"batch_size": [4]}, "linear", ValueError, "'lr' or 'learning_rate' with `scale_lr`, got none"),
        ({**SPACE, "b.lr": [1]}, "linear", ValueError, "got 'lr', 'b.lr'"),
        ({("lr", "batch_size"): [(0.1, 4)]}, "linear", ValueError, "but they are coupled"),
        ({"lr": [0.1, 0], "batch_size": [4]}, "linear", ValueError, "numbers above 0 with `scale_lr`"),
        ({"lr": ["a"], "batch_size": [4]}, "linear", ValueError, "numbers above 0 with `scale_lr`"),
        ({"lr": [0.1], "batch_size": [4, 4.5]}, "linear", ValueError, "whole numbers above 0 with `scale_lr`"),
        (SPACE, "cubic", ValueError, "scale_lr"),
        (SPACE, 1, TypeError, "scale_lr"),
    ],
)
def test_what_cannot_be_scaled_is_refused_before_any_training(space: Any, rule: Any, error: Any, message: str):
    with pytest.raises(error, match=message):
        run(space, scale_lr=rule)


def test_in_the_shell_the_rate_follows_by_the_last_part_of_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from tests.test_cli import STAND_IN, call, write

    stand_in = STAND_IN.replace('"mode": "fine"', '"mode": "fine", "batch_size": 4')
    stand_in = stand_in.replace('"model.mode"', '"model.batch_size"').replace('values["mode"] = value', "pass")
    write(tmp_path, {"train.py": stand_in, "base.yaml": "trainer: {max_epochs: 5}"})
    monkeypatch.chdir(tmp_path)
    entries = {"monitor": "val", "mode": "max", "cli": "python train.py fit", "logdir": "runs", "scale_lr": "sqrt"}
    space = {"model.lr": [0.1], "model.batch_size": [4, 16]}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({**entries, "space": space}, sort_keys=False))

    code, out, err = call("sweep", "--config", "base.yaml", "--sweep", "sweep.yaml")

    assert code == 0, err
    outcomes = sorted((tmp_path / "runs").glob("trial*/outcome.json"))
    assert [json.loads(path.read_text())["values"][0] for path in outcomes] == pytest.approx([0.1, 0.2])
    assert "(used: model.lr=0.2)" in out
