"""The short trainings of LRFinder: they are the first steps of real trainings, and they cost what they may."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from benchmarks.lr_tasks import truth
from benchmarks.lr_tasks.regret import regret
from benchmarks.lr_tasks.shaping.tasks import TASKS
from lightning_hp import LRFinder
from lightning_hp.hyperparameters import LearningRate
from lightning_hp.tuning.learning_rate.settings import default_budget
from lightning_hp.tuning.learning_rate.short_trainings import ShortTrainings, steps_of_each
from tests.callbacks.contract import loader
from tests.training import Net, train

#: A validation draws random numbers between two epochs.
NO_VALIDATION = {"limit_val_batches": 0, "num_sanity_val_steps": 0}


def finder(**kwargs: Any) -> LRFinder:
    few = {"min_lr": 1e-4, "num_training_steps": 40, "suggestion": "trainings", "update_attr": False}
    return LRFinder(**{**few, **kwargs})


def net(**kwargs: Any) -> Net:
    torch.manual_seed(5)
    return Net(**kwargs)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_each_is_the_start_of_a_training_at_its_rate(optimizer: str) -> None:
    """To the last bit: `fit` from the same seed, with the rate typed in."""
    torch.manual_seed(3)
    model = net(optimizer=optimizer, dropout=0.2)
    callback = finder(budget=160)
    train(model, [callback], loader(shuffle=True), max_epochs=1, **NO_VALIDATION)
    result = callback.result
    assert len(result.trained_lrs) >= 3
    for lr, losses in zip(result.trained_lrs, result.trained_losses, strict=True):
        torch.manual_seed(3)
        epochs = math.ceil(len(losses) / 6)
        model = net(optimizer=optimizer, dropout=0.2, lr=lr)
        run = train(model, [], loader(shuffle=True), max_epochs=epochs, **NO_VALIDATION)
        by_hand = [values["train_loss_step"] for _, values in run.metrics if "train_loss_step" in values]
        finite = [loss for loss in losses if math.isfinite(loss)]
        assert finite == pytest.approx(by_hand[: len(finite)], rel=1e-6)


#: Not kept in the callback, whose state a rehearsal restores.
RATES: list[float] = []


class Rates(Callback):
    """Records the rate of every optimizer step of a rehearsal or a training."""

    changes_gradients = True

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        RATES.append(optimizer.param_groups[0]["lr"])


class Warm(Net):
    """A tenth of warm-up, then a cosine to zero, over the planned steps."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.hparams.lr)
        steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_cosine(step / steps))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def warm_cosine(progress: float) -> float:
    if progress < 0.1:
        return progress / 0.1
    return 0.5 * (1 + math.cos(math.pi * (progress - 0.1) / 0.9))


@pytest.mark.parametrize("epochs", [10, 50])
def test_the_rates_are_those_of_the_first_steps_and_a_long_warm_up_is_compressed(epochs: int) -> None:
    """6 steps of warm-up fit into 25 steps, 30 do not: these are compressed into half of them."""
    torch.manual_seed(5)
    RATES.clear()
    callback = finder(budget=140, early_stop_threshold=None, max_lr=3.0)
    train(Warm(), [callback, Rates()], loader(shuffle=True), max_epochs=epochs)
    result = callback.result
    planned, steps = 6 * epochs, 25
    done = [step / planned for step in range(steps)]
    if epochs == 50:
        done = [0.1 * (step + 0.5) / 12.5 for step in range(12)] + [
            0.1 + (step - 12) / planned for step in range(12, 25)
        ]
    # The schedule decays, so each ends with ten steps of a decay to zero.
    wanted = [warm_cosine(progress) * min(1.0, (24.5 - step) / 10) for step, progress in enumerate(done)]
    tried = [RATES[start : start + steps] for start in range(40, 40 + steps * 3, steps)]
    assert len(result.trained_lrs) >= 3
    for rates in tried:
        peak = min(result.trained_lrs, key=lambda lr: abs(math.log(lr / max(rates))))
        assert [rate / peak for rate in rates] == pytest.approx(wanted, abs=0.04)


class Cycle(Net):
    """One cycle, whose momentum falls from 0.95 to 0.85 while the rate rises, and rises while it falls."""

    def configure_optimizers(self) -> Any:
        optimizer: Any = torch.optim.SGD(self.parameters(), lr=self.hparams.lr, momentum=0.9)
        if self.hparams.optimizer == "adamw":
            optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
        schedule = one_cycle(optimizer, self.hparams.lr, self.trainer.estimated_stepping_batches)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def one_cycle(optimizer: Any, lr: float, steps: int) -> Any:
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)


def momentum_of(optimizer: Any) -> float:
    group = optimizer.param_groups[0]
    return float(group["betas"][0] if "betas" in group else group["momentum"])


class Momenta(Callback):
    """Records the momentum of every optimizer step of a rehearsal or a training."""

    changes_gradients = True

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        RATES.append(momentum_of(optimizer))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_momentum_is_that_of_the_steps_that_are_rehearsed(optimizer: str) -> None:
    """At the peak in the range test; as a stepped scheduler gives it in the short trainings and in the training."""
    torch.manual_seed(5)
    RATES.clear()
    callback, epochs, steps = finder(budget=140, early_stop_threshold=None, max_lr=1.0), 10, 25
    train(Cycle(optimizer=optimizer), [callback, Momenta()], loader(shuffle=True), max_epochs=epochs)
    planned = 6 * epochs
    stepped = Cycle(optimizer=optimizer)
    kind = torch.optim.AdamW if optimizer == "adamw" else lambda parameters: torch.optim.SGD(parameters, momentum=0.9)
    by_hand = kind(stepped.parameters())
    schedule, real = one_cycle(by_hand, 0.1, planned), []
    for _ in range(planned):
        real.append(momentum_of(by_hand))
        by_hand.step()
        if len(real) < planned:
            schedule.step()
    assert RATES[:40] == pytest.approx([0.85] * 40, abs=1e-3)
    # The peak is step 17 of 60: such a warm-up is compressed into half of a short training.
    done = [17 * (step + 0.5) / 12.5 for step in range(12)] + [17.0 + step - 12 for step in range(12, 25)]
    wanted = [real[int(step)] for step in done]
    assert len(callback.result.trained_lrs) >= 3
    for start in range(40, 40 + steps * 3, steps):
        assert RATES[start : start + steps] == pytest.approx(wanted, abs=0.01)
    assert RATES[-planned:] == pytest.approx(real)


class Rectified(Net):
    """RAdam, whose steps of a constant rate get longer."""

    def configure_optimizers(self) -> Any:
        kind = torch.optim.RAdam if self.hparams.optimizer == "radam" else torch.optim.Adam
        optimizer = kind(self.parameters(), lr=self.hparams.lr)
        steps = self.trainer.estimated_stepping_batches if self.hparams.dropout else 1e9
        return [optimizer], [
            {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 1 - n / steps), "interval": "step"}
        ]


def searched(optimizer: str, epochs: int, dropout: float) -> Any:
    torch.manual_seed(5)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False,
    )  # fmt: skip
    model = Rectified(optimizer=optimizer, dropout=dropout)
    model.val_dataloader = lambda: loader()
    return finder(budget=440, max_lr=0.3).find(trainer, model, loader(shuffle=True))


@pytest.mark.parametrize(("epochs", "dropout"), [(17, 0.0), (170, 0.0), (170, 1e-9)])
def test_the_warm_up_of_radam_lowers_the_rate_by_what_steps_get_longer(
    monkeypatch: pytest.MonkeyPatch, epochs: int, dropout: float
) -> None:
    """Against the lengths of RAdam's own steps over a gradient of one, and a search that knows nothing of them."""
    found = searched("radam", epochs, dropout)
    monkeypatch.setattr(LearningRate, "has_own_warm_up", False)
    without = searched("radam", epochs, dropout)
    assert found.trained_losses == without.trained_losses
    weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.double))
    optimizer, lengths, planned = torch.optim.RAdam([weight], lr=1.0), [], 6 * epochs
    for _ in range(planned):
        before = weight.item()
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        lengths.append(abs(weight.item() - before))
    steps = max(map(len, found.trained_losses))
    short, long = lengths[:steps], lengths
    if dropout:  # the schedule decays: a line to zero, and over the last 40 % of a short training another one
        long = [length * (1 - n / planned) for n, length in enumerate(lengths)]
        short = [length * min(1, (steps - n - 0.5) / (0.4 * steps)) for n, length in enumerate(long[:steps])]
    ratio = max(long[5:]) / max(short[5:])
    assert ratio > (1.0 if epochs == 17 else 1.5)
    assert without.suggestion / found.suggestion == pytest.approx(ratio, rel=0.01)


@pytest.mark.parametrize(
    ("planned", "budget"), [(None, 600), (3, 3), (200, 200), (600, 600), (5999, 600), (6001, 600), (10_000, 1000)]
)
def test_the_default_budget(planned: int | None, budget: int) -> None:
    assert default_budget(planned) == budget


@pytest.mark.parametrize("budget", range(60, 2000, 37))
def test_four_trainings_have_room(budget: int) -> None:
    assert 4 * steps_of_each(budget) <= budget < 4 * (steps_of_each(budget) + 1)


@pytest.mark.parametrize(
    ("epochs", "options"), [(20, {}), (60, {}), (150, {}), (20, {"budget": 300}), (2, {"budget": 200})]
)
def test_a_search_takes_no_more_steps_than_it_may(epochs: int, options: dict[str, int]) -> None:
    callback = LRFinder(update_attr=False, **options)
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False,
    )  # fmt: skip
    model = net()
    model.val_dataloader = lambda: loader()
    callback.find(trainer, model, loader(shuffle=True))
    planned = 6 * epochs
    assert callback.result.num_steps <= options.get("budget", min(planned, max(600, planned // 10)))
    assert callback.result.rule == ("trainings" if planned > 100 or options else "fall")


@pytest.mark.parametrize(
    "name",
    [
        "pairs36-mlp-momentum",  # rates that look good for 150 steps, and return to chance afterwards
        "table35-mlp-momentum",
        "digits-mlp-sgd-batch2",  # the noise of a loss is larger than its fall
        "friedman-mlp-adam-batch8",  # the noise is proportional to the loss
        "price-mlp-adam",  # a heavy tail
        "mnist-plaincnn-momentum",
    ],
)
def test_trainings_that_a_range_test_alone_ruined_or_refused(name: str) -> None:
    """Against a grid of real trainings."""
    task = next(task for task in TASKS if task.name == name)
    pl.seed_everything(11, verbose=False)
    result = LRFinder().find(task.trainer(), task.module(task.default_lr), task.loader())
    assert result.suggestion is not None, result.reason
    assert regret(truth.load("shaping")[name], result.suggestion) <= 10 if name == "price-mlp-adam" else 5
    assert result.interval is not None
    assert result.interval[0] <= result.suggestion <= result.interval[1]


@pytest.mark.parametrize("zoom", [False, True])
def test_a_rule_by_name_keeps_to_a_budget_that_is_given(zoom: bool) -> None:
    callback = finder(suggestion="fall", zoom=zoom, num_repeats=3, budget=95, early_stop_threshold=None)
    train(net(), [callback], loader(shuffle=True), max_epochs=1)
    assert callback.result.num_steps == 80  # one sweep of 40 and two of 20, or two of 40
    assert len(callback.result.losses) == (1 if zoom else 2)


class FakeStepper:
    """Trainings of a made-up loss, in the place of those of a module."""

    class FakeRehearsal:
        steps_per_epoch = 300

        def rewind(self, same_batches: bool) -> None:
            assert same_batches

    class FakeRate:
        decays, has_shrinking_steps, has_own_warm_up, warm_up = False, False, False, 0.0

    rehearsal, learning_rate = FakeRehearsal(), FakeRate()

    def __init__(self, loss: Any) -> None:
        self.loss, self.num_steps = loss, 0

    def run(self, moments: Iterable[tuple[float, float | None]]) -> list[float]:
        losses = [self.loss(lr, step) for step, (lr, _) in enumerate(moments)]
        self.num_steps += len(losses)
        return losses


def test_rates_that_differ_by_their_noise_are_named() -> None:
    noise = np.random.default_rng(0)

    def loss(lr: float, step: int) -> float:
        return (2.3 if lr > 0.05 else 1.0) * math.exp(0.05 * noise.normal()) if step > 10 else 2.3

    stepper = FakeStepper(loss)
    trainings = ShortTrainings(stepper, 100, budget=400)  # type: ignore[arg-type]
    trainings.run(1e-2, 1e-3, 1e-2 * math.sqrt(10), [2.3, 2.30001] * 5, planned_steps=100)
    assert trainings.choice.tied == pytest.approx((1e-3, 1e-2 * math.sqrt(10)))
    assert 10**-2.625 <= (trainings.choice.lr or 0) <= 10**-1.875
    assert trainings.note is not None
    assert trainings.note.startswith("Rates from 0.001 to 0.0316 differ by no more than their noise")


def test_a_rate_whose_loss_rises_later_is_replaced_by_a_lower_one_that_holds() -> None:
    def loss(lr: float, step: int) -> float:
        fall = 2.3 - 2 * min(1.0, 30 * lr * step / 100)
        return 2.3 if lr > 3e-3 and step > 120 else fall + 10 * lr

    stepper = FakeStepper(loss)
    trainings = ShortTrainings(stepper, 100, budget=2000)  # type: ignore[arg-type]
    trainings.run(1e-2, 1e-7, 10.0, [2.3, 2.30001] * 5, planned_steps=300)
    assert trainings.choice.lr is not None
    assert trainings.choice.lr < 3e-3
    assert "the loss rose again within 300 steps, so a lower rate was taken" in (trainings.note or "")
    assert len(trainings.checked_losses) == 300
    assert trainings.checked_losses[-1] < 2.1
    assert trainings.choice.interval is not None
    assert trainings.choice.interval[0] <= trainings.choice.lr <= trainings.choice.interval[1]


class AtRest(FakeStepper):
    """A training in noise: the loss is a distance that shrinks in proportion to the rate, and noise that follows it."""

    def __init__(self) -> None:
        super().__init__(None)

    def run(self, moments: Iterable[tuple[float, float | None]]) -> list[float]:
        distance, noise, losses = 1.0, 1.0, []
        for lr, _ in moments:
            losses.append(distance + noise)
            distance *= 1 - min(1.0, 0.02 * lr)
            noise += 0.2 * (lr - noise)
        self.num_steps += len(losses)
        return losses


def test_in_a_training_that_has_begun_rest_alone_is_no_progress() -> None:
    """Whose noise is that of a rate of 1: any lower rate lowers the loss at once, and 0.1 hardly learns."""
    chosen = {}
    for midway in (False, True):
        trainings = ShortTrainings(AtRest(), 60, 240, midway)  # type: ignore[arg-type]
        trainings.run(1.0, 1e-7, 10.0, [2.0, 2.0001] * 5, planned_steps=60)
        assert trainings.choice.lr is not None
        chosen[midway] = trainings.choice.lr
    assert chosen[False] < 0.3
    assert chosen[True] > 0.5


def test_where_the_budget_ends_at_the_best_rate_the_note_says_so() -> None:
    stepper = FakeStepper(lambda lr, step: 2.3 - min(2.0, lr * step))
    few = ShortTrainings(stepper, 50, budget=200)  # type: ignore[arg-type]
    few.run(1e-4, 1e-7, 10.0, [2.3, 2.30001] * 5, planned_steps=50)
    assert sorted(few.losses) == pytest.approx([1e-4 / 10**0.5, 1e-4, 1e-4 * 10**0.5, 1e-3])
    assert "The highest rate that was tried is the best one" in (few.note or "")
    many = ShortTrainings(stepper, 50, budget=1000)  # type: ignore[arg-type]
    many.run(1e-4, 1e-7, 10.0, [2.3, 2.30001] * 5, planned_steps=50)
    assert max(many.losses) > 0.02
    assert many.note is None
    limited = ShortTrainings(stepper, 50, budget=200)  # type: ignore[arg-type]
    limited.run(1e-4, 1e-7, 2e-4, [2.3, 2.30001] * 5, planned_steps=50)
    assert max(limited.losses) == 1e-4
    assert limited.note is None  # not the budget, but `max_lr` has ended it


def test_no_short_training_is_longer_than_the_training() -> None:
    torch.manual_seed(5)
    callback = finder(budget=600, max_lr=10.0)
    train(net(), [callback], loader(shuffle=True), max_epochs=4)
    assert max(len(losses) for losses in callback.result.trained_losses) <= 24


def test_in_the_middle_the_search_begins_at_the_present_rate() -> None:
    torch.manual_seed(5)
    callback = LRFinder(milestones=[0, 30], budget=300)
    train(net(optimizer="sgd"), [callback], loader(shuffle=True), max_epochs=40)
    before, after = callback.results[0], callback.results[30]
    assert before.lr_used == after.lr_before
    assert min(abs(math.log(lr / after.lr_before)) for lr in after.trained_lrs) < 1e-6


def test_data_without_a_finite_loss_is_said_to_be_so() -> None:
    class Broken(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) * math.nan

    torch.manual_seed(5)
    callback = finder(budget=200)
    with pytest.warns(UserWarning, match="The loss is not finite at the first step"):
        train(Broken(), [callback], loader(shuffle=True), max_epochs=1)
    assert callback.result.suggestion is None
    assert callback.result.trained_lrs == ()
