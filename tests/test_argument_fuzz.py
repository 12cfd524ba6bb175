"""Hostile arguments, alone and in pairs: each call returns a valid object in plain types, or raises one sentence."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

import lightning_hp
from lightning_hp import functional as hpf
from tests import test_arguments
from tests.argument_fuzz import VALUES, Call, OwnError, all_single_calls, calls, not_plain
from tests.callbacks.contract import loader
from tests.training import Net, train

NUM_CALLS, NUM_ALL = 400, 10_505


def faults_of(number: int, seed: int = 0) -> list[str]:
    """What is wrong with the calls of a seed."""
    return [f"{call} {fault}" for call in calls(number, seed) if (fault := fault_of(call))]


def fault_of(call: Call) -> str | None:
    made: list[Any] = []

    def subject(**arguments: Any) -> None:
        try:
            made.append(call.subject(**arguments))
        except OwnError:
            return

    target = call.subject if call.subject is not lightning_hp.ClassifierMixin else test_arguments.Module
    call = Call(target, call.replaced)
    subject.__name__ = call.subject.__name__
    test_arguments.VALID[subject] = (
        test_arguments.VALID.get(target) or test_arguments.VALID[lightning_hp.ClassifierMixin]
    )
    draws = test_arguments.DRAWS_WEIGHTS
    try:
        test_arguments.DRAWS_WEIGHTS = (*draws, subject) if target in draws else draws
        fault, refusal = test_arguments.outcome(subject, call.values)
    finally:
        test_arguments.DRAWS_WEIGHTS = draws
        del test_arguments.VALID[subject]
    if fault is None and refusal is None and isinstance(target, type):
        kept = [thing for one in made for thing in not_plain(one)]
        fault = f"keeps {kept[0]!r} of type {type(kept[0]).__name__}" if kept else None
    return fault


def test_a_sample_of_calls() -> None:
    faults = faults_of(NUM_CALLS)
    assert not faults, f"{len(faults)} of {NUM_CALLS} calls are unclear:\n" + "\n".join(faults)


@pytest.mark.exhaustive
def test_all_calls() -> None:
    faults = faults_of(NUM_ALL, seed=1)
    assert not faults, f"{len(faults)} of {NUM_ALL} calls are unclear:\n" + "\n".join(faults[:100])


def test_the_calls_of_a_seed_are_the_same_and_reach_every_argument() -> None:
    assert list(map(str, calls(50))) == list(map(str, calls(50))) != list(map(str, calls(50, seed=1)))
    every = {(call.subject, name) for call in all_single_calls() for name in call.replaced}
    assert {(call.subject, name) for call in calls(NUM_ALL, seed=1) for name in call.replaced} == every
    assert {value for call in calls(NUM_ALL, seed=1) for value in call.replaced.values()} == set(VALUES)


def test_the_fuzz_reports_what_is_unclear(monkeypatch: pytest.MonkeyPatch) -> None:
    class Keeps:
        def __init__(self, number: Any) -> None:
            self.number = number

    def raw(number: Any) -> float:
        return number + 1.0

    for subject in (Keeps, raw):
        monkeypatch.setitem(test_arguments.VALID, subject, lambda: {"number": 1.0})
    assert fault_of(Call(Keeps, {"number": "np.int64(3)"})) == "keeps np.int64(3) of type int64"
    assert fault_of(Call(Keeps, {"number": "3.0"})) is None
    assert "raises TypeError: can only concatenate" in (fault_of(Call(raw, {"number": "'3'"})) or "")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lightning_hp.LRFinder(max_lr=1e308), "`max_lr` to be a number from 1e-15 to 1e15, with which"),
        (lambda: lightning_hp.LRFinder(min_lr=5e-324), "`min_lr` to be a number from 1e-15 to 1e15, with which"),
        (lambda: lightning_hp.LRFinder(milestones=bytearray(b"a")), "`milestones` to be a sequence of epochs"),
        (lambda: lightning_hp.LRFinder(num_repeats=2**53), "`num_repeats` to be an int from 1 to 1000"),
        (lambda: lightning_hp.SAM(rho=10**30), "`rho` to be a number from 1e-15 to 1e15"),
        (lambda: lightning_hp.SAM(eta=1e308), "`eta` to be a number from 1e-15 to 1e15"),
        (lambda: lightning_hp.BatchSizeScaler(steps_per_trial=2**63), "`steps_per_trial` to be an int from 2 to 1000"),
        (lambda: mixin(weight_decay=float("inf")), "`weight_decay` to be a finite number >= 0, or None, but got inf"),
        (lambda: mixin(weight_decay=1e308), "`weight_decay` to be a number from 1e-15 to 1e15"),
        (lambda: mixin(lr=torch.tensor(0.1)), "`lr` to be a finite number > 0"),
        (lambda: mixin(optimizer="SGD", optimizer_options={"momentum": float("nan")}), "['momentum']` to be a finite"),
        (lambda: hpf.batch_size_for_share(0.9, [20, 20], min_per_class=2**63), "`min_per_class` to be an int from 0"),
        (lambda: hpf.batch_size_for_share(0.9, [1e308, 1e308], min_per_class=1), "`class_counts` to be finite numbers"),
    ],
)  # fmt: skip
def test_a_number_beyond_what_can_be_calculated_gets_a_sentence(call: Callable[[], Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert str(caught.value).startswith("Expected")
    assert message in str(caught.value)


def mixin(**kwargs: Any) -> Any:
    return test_arguments.Module(num_classes=3, **kwargs)


def test_numbers_of_other_libraries_are_converted() -> None:
    finder = lightning_hp.LRFinder(min_lr=Fraction(1, 1000), max_lr=np.float32(4), budget=np.int64(40))
    assert not list(not_plain(finder))
    module = mixin(lr=np.float64(0.1), weight_decay=Fraction(1, 4))
    module.layer = nn.Linear(2, 2)
    assert type(module.lr) is float
    assert module.configure_optimizers()[0][0].param_groups[0]["weight_decay"] == 0.25


@pytest.mark.filterwarnings("ignore:LRFinder. the learning rate stays")
def test_an_iterator_of_milestones_is_read_once_and_searches_at_each() -> None:
    finder = lightning_hp.LRFinder(
        min_lr=1e-4, num_training_steps=12, suggestion="minimum", num_repeats=1, zoom=False, milestones=iter([0, 1])
    )
    train(Net(), [finder], loader(), max_epochs=2)
    assert sorted(finder.results) == [0, 1]


#: Numbers that are accepted at the ends of their ranges, each in a training.
ENDS: dict[type, dict[str, tuple[Any, ...]]] = {
    lightning_hp.SAM: {
        "rho": (1e-15, 1e15), "eta": (1e-15, 1e15), "interval": (2**53,), "start": (5e-324, 1 - 1e-16),
        "warmup": (5e-324, 1),
    },
    lightning_hp.LRFinder: {
        "min_lr": (1e-15, 9.0), "max_lr": (2e-7, 1e15), "early_stop_threshold": (1 + 1e-15, 1e308),
        "budget": (10,), "milestones": ([2**53],),
    },
    lightning_hp.BatchSizeScaler: {
        "min_per_class": (2**53,), "init_val": (1, 2**53), "max_val": (1, 2**53), "round_to": (2**53,),
        "base_batch_size": (2**53,), "warmup": (2**53,), "margin": (5e-324, 1 - 1e-16),
        "effective_batch_size": (2**53,),
    },
    lightning_hp.BackboneFreezing: {
        "ramp_epochs": (5e-324, 1e308), "unfreeze_at_epoch": (2**53,), "epochs_per_stage": (2**53,), "stages": (2**53,),
    },
}  # fmt: skip
#: A training with few steps for each.
SHORT = {lightning_hp.LRFinder: {"num_training_steps": 12, "budget": 12}, lightning_hp.BatchSizeScaler: {"max_val": 16}}
IN_TRAINING = [(kind, name, value) for kind, one in ENDS.items() for name, values in one.items() for value in values]


class Small(pl.LightningModule):
    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.lr = lr
        self.backbone = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.ReLU())
        self.head = nn.Linear(4, 3)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return nn.functional.cross_entropy(self.head(self.backbone(batch[0])), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "name", "value"), IN_TRAINING, ids=lambda x: getattr(x, "__name__", repr(x)[:12]))
def test_the_ends_of_a_range_train_or_say_why_not(kind: type, name: str, value: Any) -> None:
    callback = kind(**{**SHORT.get(kind, {}), name: value})
    refusal, weights = "expected", {}
    try:
        weights = train(
            Small(), [callback], loader(), max_epochs=1, num_sanity_val_steps=0, limit_val_batches=0
        ).weights
    except Exception as error:  # noqa: BLE001 - anything but a sentence is the fault that is looked for
        refusal = repr(error)
    assert "expected" in refusal.lower()
    assert all(bool(weight.isfinite().all()) for weight in weights.values())
