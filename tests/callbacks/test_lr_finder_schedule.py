"""The rate that LRFinder finds is the highest that the schedule reaches, and its groups have their ratios of then.

What it reaches is read in a real `fit`: a callback records the rate of every group in each optimizer step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from timm.scheduler import CosineLRScheduler
from torch.optim import Optimizer
from torch.optim import lr_scheduler as s

from lightning_hp import LRFinder
from lightning_hp.rehearsal import is_rehearsal
from tests.callbacks.contract import loader
from tests.training import Net, Run, train

EPOCHS, STEPS_PER_EPOCH = 4, 6
STEPS = EPOCHS * STEPS_PER_EPOCH


def noam(step: int) -> float:
    return 3 * min((step + 1) ** -0.5, (step + 1) * 9**-1.5)


def climb(step: int) -> float:
    return 1 + 9 * min(1.0, step / 12)


#: Schedules that are stepped once per optimizer step, from an optimizer and the module's rate.
CLIMBING: dict[str, Callable[[Optimizer, float], Any]] = {
    "noam": lambda o, lr: s.LambdaLR(o, noam),
    "ten times": lambda o, lr: s.LambdaLR(o, climb),
    "the factor is the rate": lambda o, lr: s.LambdaLR(o, lambda step: 1e-3 * min(1.0, (step + 1) / 8)),
    "a lambda per group": lambda o, lr: s.LambdaLR(o, [lambda step: 0.1 * 0.9**step, lambda step: 0.9**step]),
    "a lambda per group that climbs": lambda o, lr: s.LambdaLR(o, [lambda step: 0.3 * climb(step), climb]),
    "multiplicative": lambda o, lr: s.MultiplicativeLR(o, lambda step: 1.2 if step < 9 else 0.9),
}
USUAL: dict[str, Callable[[Optimizer, float], Any]] = {
    "one cycle": lambda o, lr: s.OneCycleLR(o, [group["lr"] for group in o.param_groups], STEPS),
    "cosine": lambda o, lr: s.CosineAnnealingLR(o, STEPS, eta_min=1e-6),
    "warm-up": lambda o, lr: s.SequentialLR(o, [s.LinearLR(o, 0.1, 1.0, 5), s.CosineAnnealingLR(o, 19)], [5]),
    "steps": lambda o, lr: s.StepLR(o, 8, 0.5),
    "plateau": lambda o, lr: s.ReduceLROnPlateau(o, patience=100),
    "none": lambda o, lr: None,
}
SCHEDULES = {**CLIMBING, **USUAL}


class Scheduled(Net):
    """Two groups, body and head; the rate of the body is `ratio` times that of the head, which is `lr`."""

    def __init__(self, lr: float, schedule: str, ratio: float = 1.0, **config: Any) -> None:
        torch.manual_seed(5)
        super().__init__(lr=lr)
        self.schedule, self.ratio = schedule, ratio
        self.config = {"interval": "step", "monitor": "train_loss_epoch", **config}

    def rate(self) -> float:
        return self.lr

    def scheduler(self, optimizer: Optimizer) -> Any:
        return SCHEDULES[self.schedule](optimizer, self.rate())

    def groups(self) -> list[dict[str, Any]]:
        body, head = list(self.body.parameters()), list(self.head.parameters())
        return [{"params": body, "lr": self.rate() * self.ratio}, {"params": head}]

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.groups(), lr=self.rate(), momentum=0.9)
        scheduler = self.scheduler(optimizer)
        if scheduler is None:
            return optimizer
        interval = "epoch" if isinstance(scheduler, s.ReduceLROnPlateau) else self.config["interval"]
        return [optimizer], [{"scheduler": scheduler, **self.config, "interval": interval}]


class WithoutHome(Scheduled):
    """Its rate is under a name that nothing knows."""

    def __init__(self, lr: float, *args: Any, **kwargs: Any) -> None:
        super().__init__(lr, *args, **kwargs)
        del self.lr
        self.hparams.clear()
        self.pace = lr

    def rate(self) -> float:
        return self.pace


class Timm(Scheduled):
    """A scheduler of timm, which multiplies the rate of each group by its ``lr_scale``."""

    def groups(self) -> list[dict[str, Any]]:
        body, head = super().groups()
        return [{**body, "lr_scale": 0.2}, {**head, "lr_scale": 1.0}]

    def __init__(self, *args: Any, warmup: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.warmup = warmup

    def scheduler(self, optimizer: Optimizer) -> Any:
        in_epochs = self.config["interval"] == "epoch"
        return CosineLRScheduler(
            optimizer,
            t_initial=EPOCHS if in_epochs else STEPS,
            warmup_t=self.warmup,
            warmup_lr_init=1e-5,
            t_in_epochs=in_epochs,
            warmup_prefix=True,
        )

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if self.config["interval"] == "epoch":
            scheduler.step(epoch=self.current_epoch + 1)
        else:
            scheduler.step_update(num_updates=self.global_step)


# The rates of all groups in each optimizer step. Not attributes of the callback: a rehearsal restores those.
SWEEPS: list[list[float]] = []
TRAINING: list[list[float]] = []


class Records(Callback):
    """Records the rate of every group in each optimizer step, of the sweeps and of the training."""

    changes_gradients = True

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        rates = [group["lr"] for group in optimizer.param_groups]
        (SWEEPS if is_rehearsal(trainer) else TRAINING).append(rates)


def make_finder(**kwargs: Any) -> LRFinder:
    settings = {"num_training_steps": 70, "num_repeats": 1, "zoom": False, "suggestion": "fall"}
    return LRFinder(**{"min_lr": 1e-4, "max_lr": 10.0, "early_stop_threshold": None, **settings, **kwargs})


def find(module: pl.LightningModule, **kwargs: Any) -> tuple[LRFinder, Run]:
    SWEEPS.clear(), TRAINING.clear()
    finder = make_finder(**kwargs.pop("finder", {}))
    kwargs = {"max_epochs": EPOCHS, **kwargs}
    return finder, train(module, [finder, Records()], kwargs.pop("loader", None) or loader(), **kwargs)


def check(finder: LRFinder, reference: int = 1) -> None:
    """The training's peak is what was found, and the sweep had the ratios of that moment."""
    assert finder.result is not None
    peak = max(TRAINING, key=lambda rates: rates[reference])
    assert peak[reference] == pytest.approx(finder.optimal_lr, rel=1e-9)
    assert [rates[reference] for rates in SWEEPS] == pytest.approx(list(finder.result.lrs), rel=1e-9)
    for rates in SWEEPS:
        assert rates[0] / rates[1] == pytest.approx(peak[0] / peak[1], rel=1e-9)


@pytest.mark.parametrize("make", [Scheduled, WithoutHome])
@pytest.mark.parametrize("name", CLIMBING)
def test_the_highest_rate_of_the_training_is_what_was_found(name: str, make: Any) -> None:
    finder, run = find(make(1.0 if "factor" in name else 0.02, name))
    check(finder)
    assert len(TRAINING) == STEPS
    if make is Scheduled:
        assert run.module.lr == run.module.hparams.lr
        assert run.module.lr == pytest.approx(finder.optimal_lr / (max(r[1] for r in TRAINING) / run.module.lr))


@pytest.mark.parametrize("make", [Scheduled, WithoutHome])
@pytest.mark.parametrize("name", USUAL)
def test_under_the_usual_schedules_it_is_the_rate_that_they_are_built_on(name: str, make: Any) -> None:
    finder, run = find(make(0.02, name, ratio=0.3))
    module = run.module
    if make is Scheduled:
        assert module.lr == finder.optimal_lr
        # Exactly what it is without a schedule: the steps of the sweep are the same.
        assert [[lr * 0.3, lr] for lr in finder.result.lrs] == SWEEPS
        assert max(rates[1] for rates in TRAINING) == pytest.approx(finder.optimal_lr, rel=0.02)
    else:  # the value is the rate of the first group
        assert [rates[0] for rates in SWEEPS] == list(finder.result.lrs)
        assert max(rates[0] for rates in TRAINING) == pytest.approx(finder.optimal_lr, rel=0.02)


@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("warmup", [0, 2])
def test_the_scale_of_a_group_under_timm(interval: str, warmup: int) -> None:
    finder, run = find(Timm(0.02, "timm", interval=interval, warmup=warmup))
    check(finder)
    assert {round(rates[0] / rates[1], 9) for rates in TRAINING + SWEEPS} == {0.2}
    assert run.module.lr == finder.optimal_lr


@pytest.mark.parametrize(("interval", "frequency"), [("step", 2), ("epoch", 1), ("epoch", 2)])
def test_interval_and_frequency_of_the_scheduler_count(interval: str, frequency: int) -> None:
    module = Scheduled(0.02, "ten times", interval=interval, frequency=frequency)
    finder, _ = find(module)
    check(finder)
    assert max(rates[1] for rates in TRAINING) < 9.9 * module.lr


@pytest.mark.parametrize("options", [{"accumulate_grad_batches": 4}, {"max_steps": 7}, {"limit_train_batches": 2}])
def test_the_planned_training_decides_how_far_the_schedule_gets(options: dict[str, Any]) -> None:
    finder, run = find(Scheduled(0.02, "ten times"), **options)
    check(finder)
    assert 10 * run.module.lr > 1.01 * finder.optimal_lr


def test_the_answer_does_not_depend_on_the_rate_that_was_there() -> None:
    found = [find(Scheduled(lr, "noam"))[0].optimal_lr for lr in (0.0, 1e-6, 3.0)]
    assert found == [found[0]] * 3


def test_the_rate_before_is_the_highest_that_would_have_been_reached() -> None:
    finder, run = find(Scheduled(0.02, "ten times"), finder={"update_attr": False})
    assert finder.result.lr_before == finder.result.lr_used == pytest.approx(0.2)
    assert max(rates[1] for rates in TRAINING) == pytest.approx(0.2)
    assert run.module.lr == 0.02


def test_the_schedule_may_ask_for_the_length_of_the_training() -> None:
    class Asks(Scheduled):
        def scheduler(self, optimizer: Optimizer) -> Any:
            length = self.trainer.estimated_stepping_batches
            return s.LambdaLR(optimizer, lambda step: 1 + 4 * step / (length - 1))

    finder, run = find(Asks(0.02, "noam"))
    check(finder)
    assert finder.optimal_lr == pytest.approx(5 * run.module.lr)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
@pytest.mark.parametrize("make", [Scheduled, WithoutHome])
def test_a_resumed_run_and_a_second_fit_reach_the_same_peak(make: Any, tmp_path: Any) -> None:
    whole, _ = find(make(0.02, "ten times"))
    expected = list(TRAINING)
    # The plan is the same; this training ends early.
    first = make_finder()

    class Stops(Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.current_epoch == 1:
                trainer.save_checkpoint(tmp_path / "half.ckpt")
                trainer.should_stop = True

    TRAINING.clear()
    train(make(0.02, "ten times"), [first, Records(), Stops()], loader(), max_epochs=EPOCHS)
    half = list(TRAINING)
    assert half == expected[: len(half)]
    assert first.optimal_lr == whole.optimal_lr
    SWEEPS.clear(), TRAINING.clear()
    ckpt_path = tmp_path / "half.ckpt"
    resumed = make(0.02, "ten times")
    train(resumed, [make_finder(), Records()], loader(), max_epochs=EPOCHS, ckpt_path=ckpt_path)
    assert SWEEPS == []
    assert half + TRAINING == expected
    if make is Scheduled:
        assert resumed.lr == pytest.approx(whole.optimal_lr / 10)


@pytest.mark.parametrize("make", [Scheduled, WithoutHome])
def test_a_second_fit_starts_the_schedule_again_on_the_same_rate(make: Any) -> None:
    _, run = find(make(0.02, "ten times"))
    expected = list(TRAINING)
    SWEEPS.clear(), TRAINING.clear()
    run.trainer.fit_loop.max_epochs = 2 * EPOCHS
    run.trainer.fit(run.module, loader(), loader())
    assert SWEEPS == []
    assert expected == TRAINING


@pytest.mark.parametrize("name", ["ten times", "noam"])
def test_at_a_later_milestone_it_is_the_peak_of_the_whole_schedule(name: str) -> None:
    finder, _ = find(Scheduled(0.02, name), finder={"milestones": (3,), "suggestion": "valley"})
    assert finder.optimal_lr is not None
    factor = {"ten times": climb, "noam": noam}[name]
    highest = max(map(factor, range(STEPS)))
    last = TRAINING[-1][1]
    assert last == pytest.approx(finder.optimal_lr * factor(STEPS - 1) / highest)


def test_where_the_schedule_cannot_be_stepped_the_rate_is_the_one_that_it_is_built_on() -> None:
    class Needs(s.LRScheduler):
        def get_lr(self) -> list[Any]:
            return [10 * base for base in self.base_lrs]

        def step(self, metric: Any = 0.0) -> None:
            if metric is None:
                raise TypeError("a number")
            super().step()

    class Gives(Scheduled):
        def scheduler(self, optimizer: Optimizer) -> Any:
            return Needs(optimizer)

        def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
            scheduler.step(self.trainer.callback_metrics["train_loss_step"] if TRAINING else None)

    finder, run = find(Gives(0.02, "none"))
    assert run.module.lr == finder.optimal_lr


def test_with_manual_optimization_it_is_the_rate_that_the_schedule_is_built_on() -> None:
    class Manual(Scheduled):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.automatic_optimization = False

    with pytest.warns(RuntimeWarning, match="keys will be ignored"):
        finder, run = find(Manual(0.02, "ten times"))
    assert run.module.lr == finder.optimal_lr
    assert not math.isnan(finder.optimal_lr or math.nan)
