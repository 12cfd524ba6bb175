"""Ctrl-C at any line of SAM's second pass: the weights are w, and all else is as the first pass has left it."""

from __future__ import annotations

import contextlib
import copy
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from lightning_hp import SAM
from lightning_hp.snapshot import undo as undo_module
from tests.callbacks.contract import loader
from tests.injection import InjectedError, Injection, sample
from tests.training import Net, assert_identical, train

NUM_SAMPLED = 30


def state_of(trainer: Any, module: Any) -> dict[str, Any]:
    """What the second pass may have moved, replaced or muted."""
    return {
        "weights": copy.deepcopy(module.state_dict()),
        "buffers": {name: buffer.clone() for name, buffer in module.named_buffers()},
        "attributes": sorted(vars(module)),
        "seen": copy.deepcopy(module.seen),
        "random": [torch.get_rng_state(), module.noise.get_state()],
        "trainer": {name: id(vars(trainer)[name]) for name in ("callbacks", "_loggers", "profiler")},
        "strategy": sorted(vars(trainer.strategy)),
        "results": sorted(vars(trainer._results)),
        "hook": trainer._logger_connector._current_fx,
    }


class Watched(SAM):
    """The injection is active in the second batch, while SAM has the word after the backward pass."""

    def __init__(self, injection: Injection) -> None:
        super().__init__(rho=0.5)
        self.injection = injection
        self.left: dict[str, Any] = {}
        self.found: dict[str, Any] = {}

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step != 1:
            super().on_after_backward(trainer, pl_module)
            return
        self.left = state_of(trainer, pl_module)
        with self.injection.active():
            super().on_after_backward(trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        super().on_exception(trainer, pl_module, exception)
        self.found = state_of(trainer, pl_module)


def run_with(injection: Injection) -> Watched:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning ignores it from the first Ctrl-C on
    torch.manual_seed(5)
    callback = Watched(injection)
    with contextlib.suppress(InjectedError, KeyboardInterrupt, SystemExit):
        train(
            Net(dropout=0.3, batch_norm=True), [callback], loader(), max_epochs=1, limit_train_batches=3,
            limit_val_batches=0, num_sanity_val_steps=0,
        )  # fmt: skip
    return callback


def points(how: str) -> list[int]:
    counting = Injection(None, how)
    run_with(counting)
    assert counting.lines > 200
    return counting.points


def faults(how: str, points: Sequence[int]) -> list[str]:
    found = []
    for at in points:
        injection = Injection(at, how)
        callback = run_with(injection)
        try:
            assert injection.acted
            assert_identical(callback.found, callback.left, "state")
        except AssertionError as error:
            found.append(f"{how} at line {at} ({injection.place}): {str(error)[:200]}")
    return found


@pytest.fixture(autouse=True)
def _python_handles_sigint() -> Iterator[None]:
    """A process in the background may ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("how", ["error", "interrupt", "sigint"])
def test_at_a_sample_of_lines_nothing_of_the_second_pass_is_left(how: str) -> None:
    found = faults(how, sample(points(how), NUM_SAMPLED if how == "sigint" else NUM_SAMPLED // 2))
    assert not found, "\n".join(found)


@pytest.mark.exhaustive
@pytest.mark.parametrize("how", ["error", "interrupt", "sigint"])
def test_at_every_line_nothing_of_the_second_pass_is_left(how: str) -> None:
    found = faults(how, points(how))
    assert not found, "\n".join(found)


def test_the_harness_reports_a_restoring_that_ctrl_c_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    sampled = sample(points("sigint"), NUM_SAMPLED)
    monkeypatch.setattr(undo_module, "_PROTECTED", set())
    assert len(faults("sigint", sampled)) >= 2
