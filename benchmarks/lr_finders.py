"""The compared learning-rate finders, each used as in its own documentation."""

from __future__ import annotations

import contextlib
import io
import math
import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks.tasks import Form, Task
from benchmarks.trainers import quiet_trainer
from lightning_hp import LRFinder
from lightning_hp import functional as hpf

FASTAI_RULES = {"valley": hpf.valley_lr, "slide": hpf.slide_lr, "minimum": hpf.minimum_lr, "steep": hpf.steep_lr}
FIXED_LR = {"sgd": 0.1, "momentum": 0.1, "adam": 1e-3, "adamw": 1e-3}


class Suggestion(NamedTuple):
    """The suggested LR (``None``: the finder gave none) and the number of training steps of the search."""

    lr: float | None
    steps: int


Method = Callable[[Task, Form, int], dict[str, Suggestion]]


def range_test(label: str, **options: Any) -> Method:
    """The range test of this package alone, with some options: a reading of its curve, without short trainings."""

    def run(task: Task, form: Form, seed: int) -> dict[str, Suggestion]:
        steps = 0

        def count(*_: object) -> None:
            nonlocal steps
            steps += 1

        module = task.module(form, seed=seed)
        module.net.register_forward_hook(count)
        rule: Any = "one_cycle" if form == "one_cycle" else "fall"
        result = LRFinder(suggestion=rule, **options).find(quiet_trainer(max_epochs=task.epochs), module, task.loader())
        return {label: Suggestion(_usable(result.suggestion), steps)}

    return run


def lightning(task: Task, form: Form, seed: int) -> dict[str, Suggestion]:
    """Lightning's ``Tuner.lr_find`` with its defaults."""
    from pytorch_lightning.tuner import Tuner

    module = task.module(form, seed=seed)
    with tempfile.TemporaryDirectory() as folder, _silenced():
        trainer = quiet_trainer(max_epochs=task.epochs, default_root_dir=folder)
        found = Tuner(trainer).lr_find(module, train_dataloaders=task.loader(), update_attr=False)
    assert found is not None
    return {"Lightning lr_find": Suggestion(_usable(found.suggestion()), len(found.results["loss"]))}


def torch_lr_finder(task: Task, form: Form, seed: int) -> dict[str, Suggestion]:
    """torch-lr-finder from 1e-7 to its default end of 10. It ignores the schedule, so one run serves both forms."""
    return _torch_lr_finder(task, seed)


@lru_cache
def _torch_lr_finder(task: Task, seed: int) -> dict[str, Suggestion]:
    from matplotlib.figure import Figure
    from torch_lr_finder import LRFinder as TorchLRFinder

    module = task.module("constant", lr=1e-7, seed=seed)  # it rejects an optimizer with a scheduler
    with _silenced():
        finder = TorchLRFinder(module.net, module.configure_optimizers(), nn.CrossEntropyLoss(), device="cpu")
        finder.range_test(task.loader(), num_iter=100)
        steps = len(finder.history["lr"])
        try:
            _, lr = finder.plot(ax=Figure().subplots())  # the suggestion is part of the plot
        except RuntimeError:  # raised for too few points
            lr = None
    return {"torch-lr-finder": Suggestion(_usable(lr), steps)}


def fastai(task: Task, form: Form, seed: int) -> dict[str, Suggestion]:
    """The range test of fastai (1e-7 to 10, 100 steps, its early stop) and its four rules. It ignores the form too."""
    return _fastai(task, seed)


@lru_cache
def _fastai(task: Task, seed: int) -> dict[str, Suggestion]:
    lrs, losses = fastai_range_test(task, seed)
    recorded = losses + [math.nan] * (len(lrs) - len(losses))
    return {
        f"fastai {name}": Suggestion(_usable(rule(lrs, recorded)), len(losses)) for name, rule in FASTAI_RULES.items()
    }


def fastai_range_test(task: Task, seed: int, num_it: int = 100) -> tuple[list[float], list[float]]:
    """The LRs of fastai's range test, and the raw losses until the smoothed loss is 4 times its best or NaN."""
    module = task.module("constant", seed=seed)
    optimizer = module.configure_optimizers()
    lrs = [1e-7 * 1e8 ** (i / (num_it - 1)) for i in range(num_it)]
    losses: list[float] = []
    average, best = 0.0, math.inf
    for lr, (x, y) in zip(lrs, _endless(task), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss = nn.functional.cross_entropy(module.net(x), y)
        if not math.isfinite(loss.item()):
            break
        losses.append(loss.item())
        average = 0.98 * average + 0.02 * losses[-1]
        smooth = average / (1 - 0.98 ** len(losses))
        best = min(best, smooth)
        if smooth > 4 * best:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return lrs, losses


def fixed(task: Task, form: Form, seed: int) -> dict[str, Suggestion]:
    """No finder: a common default LR for each optimizer."""
    return {"no finder (0.1 SGD, 0.001 Adam)": Suggestion(FIXED_LR[task.optimizer], 0)}


METHODS: tuple[Method, ...] = (
    range_test("range test"),
    range_test("range test, num_repeats=1", num_repeats=1),
    range_test("range test, zoom=False", zoom=False),
    range_test("range test, zoom=False, num_repeats=1", zoom=False, num_repeats=1),
    lightning,
    torch_lr_finder,
    fastai,
    fixed,
)


def _endless(task: Task) -> Iterator[tuple[torch.Tensor, ...]]:
    loader = task.loader()
    while True:
        yield from loader


def _usable(lr: float | None) -> float | None:
    return float(lr) if lr is not None and math.isfinite(lr) and lr > 0 else None


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
