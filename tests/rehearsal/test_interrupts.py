"""Whatever ends a rehearsal, and wherever: the next training is bit-equal to one without it. Tested line by line."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from lightning_hp.rehearsal import Rehearsal
from lightning_hp.snapshot import Snapshot, Undo
from lightning_hp.snapshot import undo as undo_module
from tests.callbacks.contract import loader
from tests.injection import InjectedError, Injection, sample
from tests.training import Net, Run, assert_same_training, train

#: Points of each case in the test that is always run.
NUM_SAMPLED = {"error": 15, "interrupt": 15, "sigint": 30}
SHORT: dict[str, Any] = {
    "max_epochs": 1, "limit_train_batches": 3, "limit_val_batches": 0, "num_sanity_val_steps": 0
}  # fmt: skip


class CtrlC(Net):
    """Its third step is ended by Ctrl-C."""

    steps_until_interrupt = 10**9

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        CtrlC.steps_until_interrupt -= 1
        if CtrlC.steps_until_interrupt == 0:
            raise KeyboardInterrupt
        return loss


class Rehearses(pl.Callback):
    """Three steps, with what a search does between them; the injection is active from the given moment on."""

    def __init__(self, injection: Injection, after_interrupt: bool) -> None:
        self.injection, self.after_interrupt = injection, after_interrupt

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        rehearsal = Rehearsal(trainer, pl_module)
        if self.after_interrupt:
            CtrlC.steps_until_interrupt = 3
            self.interrupted(rehearsal)
        else:
            with self.injection.active():
                self.search(rehearsal)

    def search(self, rehearsal: Rehearsal) -> None:
        with rehearsal:
            rehearsal.step()
            rehearsal.rewind()
            rehearsal.step()
            rehearsal.step()

    def interrupted(self, rehearsal: Rehearsal) -> None:
        """The first Ctrl-C ends a step; the lines that run after it are those that restore."""
        with EndInjected(rehearsal, self.injection):
            rehearsal.step()
            rehearsal.step()
            rehearsal.step()


class EndInjected:
    """Enters a rehearsal, and makes the injection active when the block is left."""

    def __init__(self, rehearsal: Rehearsal, injection: Injection) -> None:
        self.rehearsal, self.injection = rehearsal, injection

    def __enter__(self) -> None:
        self.rehearsal.__enter__()

    def __exit__(self, *details: object) -> None:
        with self.injection.active():
            self.rehearsal.__exit__(*details)


def run_with(injection: Injection, after_interrupt: bool) -> Run:
    """A training that the injection ends, then another one of the same module and loader."""
    torch.manual_seed(5)
    module, data = CtrlC(dropout=0.3, batch_norm=True), loader(shuffle=True, generator=torch.Generator().manual_seed(3))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning ignores it from the first Ctrl-C on
    try:
        train(module, [Rehearses(injection, after_interrupt)], data, **SHORT)
    except (KeyboardInterrupt, SystemExit):
        pass
    except Exception as error:  # one in a hook that is called a second time is named
        if not isinstance(error, InjectedError) and not isinstance(error.__cause__, InjectedError):
            raise
    finally:
        CtrlC.steps_until_interrupt = 10**9
        torch.set_grad_enabled(True)
    torch.manual_seed(5)
    return train(module, [], data, **SHORT)


def faults(how: str, after_interrupt: bool, points: Sequence[int], clean: Run) -> list[str]:
    found, num_acted = [], 0
    for at in points:
        injection = Injection(at, how)
        try:
            run = run_with(injection, after_interrupt)
            if injection.acted:  # the number of lines differs a little from run to run
                assert_same_training(clean, run)
        except Exception as error:  # noqa: BLE001 - the next training differs, or does not even run
            found.append(f"{how} at line {at} ({injection.place}): {str(error)[:200]}")
        num_acted += injection.acted
    assert num_acted >= 0.8 * len(points)
    return found


@pytest.fixture(autouse=True)
def _python_handles_sigint() -> Iterator[None]:
    """A process in the background may ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def clean() -> Run:
    torch.manual_seed(5)
    return train(
        CtrlC(dropout=0.3, batch_norm=True), [], loader(shuffle=True, generator=torch.Generator().manual_seed(3)),
        **SHORT,
    )  # fmt: skip


CASES = [("error", False), ("interrupt", False), ("sigint", False), ("sigint", True)]


def points(how: str, after_interrupt: bool) -> list[int]:
    counting = Injection(None, how)
    run_with(counting, after_interrupt)
    assert counting.lines > 300
    return counting.points


@pytest.mark.parametrize(("how", "after_interrupt"), CASES)
def test_at_a_sample_of_lines_the_next_training_is_bit_equal(how: str, after_interrupt: bool, clean: Run) -> None:
    found = faults(how, after_interrupt, sample(points(how, after_interrupt), NUM_SAMPLED[how]), clean)
    assert not found, "\n".join(found)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("how", "after_interrupt"), CASES)
def test_at_every_line_the_next_training_is_bit_equal(how: str, after_interrupt: bool, clean: Run) -> None:
    found = faults(how, after_interrupt, points(how, after_interrupt), clean)
    assert not found, "\n".join(found)


def test_the_harness_reports_a_restoring_that_is_switched_off(monkeypatch: pytest.MonkeyPatch, clean: Run) -> None:
    monkeypatch.setattr(Snapshot, "restore", lambda self: None)
    assert len(faults("error", False, sample(points("error", False), 8), clean)) >= 3


def test_the_harness_reports_a_restoring_that_a_second_ctrl_c_ends(monkeypatch: pytest.MonkeyPatch, clean: Run) -> None:
    sampled = sample(points("sigint", True), 8)
    monkeypatch.setattr(undo_module, "_PROTECTED", set())
    assert len(faults("sigint", True, sampled, clean)) >= 2


# ---------------------------------------------------------------------------------------------- the context itself


def test_a_signal_during_the_end_acts_after_all_callbacks() -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt), Undo() as undo:  # noqa: PT012
        undo.callback(done.append, "last")
        undo.callback(signal.raise_signal, signal.SIGINT)
        undo.callback(done.append, "first")
    assert done == ["first", "last"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_in_the_block_acts_at_once() -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt), Undo() as undo:  # noqa: PT012
        undo.callback(done.append, "undone")
        signal.raise_signal(signal.SIGINT)
        done.append("not reached")
    assert done == ["undone"]


def test_within_the_end_of_another_one_it_waits_for_the_outer() -> None:
    done: list[str] = []

    def inner() -> None:
        with Undo() as undo:
            undo.callback(signal.raise_signal, signal.SIGINT)
        done.append("inner")

    with pytest.raises(KeyboardInterrupt), Undo() as undo:  # noqa: PT012
        undo.callback(done.append, "outer")
        undo.callback(inner)
    assert done == ["inner", "outer"]


def test_a_handler_of_the_user_is_called_once_and_stays() -> None:
    calls: list[int] = []

    def handler(number: int, frame: Any) -> None:
        calls.append(number)

    before = signal.signal(signal.SIGINT, handler)
    try:
        with Undo() as undo:
            undo.callback(signal.raise_signal, signal.SIGINT)
            undo.callback(signal.raise_signal, signal.SIGINT)
        assert calls == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is handler
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with Undo():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread_it_is_an_ordinary_stack() -> None:
    done: list[str] = []

    def work() -> None:
        with Undo() as undo:
            undo.callback(done.append, "undone")
            done.append(str(signal.getsignal(signal.SIGINT) is signal.default_int_handler))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == ["True", "undone"]
