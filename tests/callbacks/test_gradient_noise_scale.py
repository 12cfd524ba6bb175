"""GradientNoiseScale against gradients that are computed by hand, sample by sample and batch by batch."""

from __future__ import annotations

import copy
import importlib
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, default_collate

from lightning_hp import SAM, BatchSizeScaler, GradientNoiseScale, LRFinder, NoiseScaleResult
from lightning_hp.functional import NoiseScaleEstimator, gradient_and_noise
from lightning_hp.tuning.noise_scale import Norms

FEATURES, CLASSES, NUM, BATCH = 6, 3, 90, 8
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(NUM, FEATURES, generator=GENERATOR)
Y = (X @ torch.randn(FEATURES, CLASSES, generator=GENERATOR) + torch.randn(NUM, CLASSES, generator=GENERATOR)).argmax(1)
PACKAGES = ["pytorch_lightning", "lightning.pytorch"]


def make_model(
    package: str = "pytorch_lightning", optimizer: str = "SGD", lr: float = 0.1, twice: bool = False, **options: Any
) -> Any:
    base = importlib.import_module(package).LightningModule

    class Logistic(base):
        """Notes the weights and the batch of each step."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.lr = lr
            self.net = nn.Sequential(nn.Linear(FEATURES, 5), nn.Tanh(), nn.Linear(5, CLASSES))
            self.seen: list[tuple[list[Tensor], Tensor, Tensor]] = []

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            x, y = batch
            self.seen.append(([p.detach().clone() for p in self.parameters()], x, y))
            return nn.functional.cross_entropy(self.net(x), y)

        def backward(self, loss: Tensor) -> None:
            if twice:
                loss.backward(retain_graph=True)
            loss.backward()

        def configure_optimizers(self) -> Any:
            return getattr(torch.optim, optimizer)(self.parameters(), lr=self.lr, **options)

    return Logistic()


def fit(
    callbacks: list[Any],
    model: Any = None,
    package: str = "pytorch_lightning",
    batch_size: int = BATCH,
    data: Any = None,
    **options: Any,
) -> Any:
    model = make_model(package) if model is None else model
    ckpt_path = options.pop("ckpt_path", None)
    trainer = importlib.import_module(package).Trainer(
        **{
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 2,
            "accumulate_grad_batches": 4,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "log_every_n_steps": 1,
            **options,
        },
        callbacks=callbacks,
    )
    pl.seed_everything(3)
    data = DataLoader(TensorDataset(X, Y), batch_size=batch_size, shuffle=True) if data is None else data
    trainer.fit(model, data, ckpt_path=ckpt_path)
    return model


def gradient(weights: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
    """The gradient of the mean loss of a batch, as one vector."""
    w1, b1, w2, b2 = (w.clone().double().requires_grad_() for w in weights)
    loss = nn.functional.cross_entropy(torch.tanh(x.double() @ w1.T + b1) @ w2.T + b2, y)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, [w1, b1, w2, b2])])


def windows(model: Any, accumulate: int = 4) -> list[list[Any]]:
    """The micro-batches of each optimizer step: an epoch of 12 batches, the last of which has two samples."""
    per_epoch = math.ceil(NUM / BATCH)
    epochs = [model.seen[i : i + per_epoch] for i in range(0, len(model.seen), per_epoch)]
    return [epoch[i : i + accumulate] for epoch in epochs for i in range(0, per_epoch, accumulate)]


def observe(window: list[Any]) -> tuple[float, float]:
    gradients = [gradient(weights, x, y) for weights, x, y in window]
    harmonic = len(window) / sum(1 / len(y) for _, _, y in window)
    small = float(torch.stack([g.square().sum() for g in gradients]).mean())
    large = float(torch.stack(gradients).mean(0).square().sum())
    return gradient_and_noise(small, large, harmonic, harmonic * len(window))


def by_hand(steps: list[tuple[float, float]], decay: float = 0.98) -> list[Any]:
    estimator, found = NoiseScaleEstimator(decay), []
    for gradient_square, noise in steps:
        estimator.update(gradient_square, noise)
        found.append(estimator.noise_scale())
    return found


def assert_equal(result: NoiseScaleResult, expected: list[Any], rel: float = 1e-3) -> None:
    values = [math.nan if one.value is None else one.value for one in expected]
    assert result.noise_scales == pytest.approx(values, rel=rel, nan_ok=True)
    assert result.lows == pytest.approx([one.low for one in expected], rel=rel, abs=1e-3)
    assert result.highs == pytest.approx([one.high for one in expected], rel=rel)


LONG = {"max_epochs": 5}


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize(
    "options", [{}, {"gradient_clip_val": 0.01}, {"accumulate_grad_batches": 5}], ids=["plain", "clipped", "uneven"]
)
def test_micro_batches_along_a_training_equal_those_by_hand(options: dict[str, Any], package: str) -> None:
    """Also with a last batch of two samples; with 5 the last step of an epoch has two batches."""
    noise = GradientNoiseScale()
    model = fit([noise], package=package, **LONG, **options)
    expected = by_hand([observe(window) for window in windows(model, options.get("accumulate_grad_batches", 4))])
    assert noise.result is not None
    assert noise.result.source == "accumulation"
    assert noise.result.num_observations == 15
    assert sum(low > 0 for low in noise.result.lows) > 4
    assert_equal(noise.result, expected)


def test_every_third_step_is_measured_and_the_others_have_no_hook() -> None:
    class Hooks(pl.Callback):
        def __init__(self) -> None:
            self.num: list[int] = []

        def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
            self.num.append(sum(len(p._backward_hooks or ()) for p in pl_module.parameters()))

    noise, hooks = GradientNoiseScale(every=3), Hooks()
    model = fit([noise, hooks], max_epochs=9)
    measured = [window for step, window in enumerate(windows(model)) if step % 3 == 0]
    assert noise.result is not None
    assert noise.result.steps == tuple(range(1, 27, 3))
    assert_equal(noise.result, by_hand([observe(window) for window in measured]))
    assert hooks.num == ([4] * 4 + [0] * 8) * 9


def test_norms_are_read_where_they_are_logged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    reads: list[int] = []
    read = Norms.read
    monkeypatch.setattr(Norms, "read", lambda norms: (reads.append(trainer_step()), read(norms))[1])
    noise, model = GradientNoiseScale(), make_model()
    trainer_step = lambda: model.trainer.global_step  # noqa: E731
    fit([noise], model, logger=TensorBoardLogger(tmp_path), log_every_n_steps=6, max_epochs=5)
    assert reads == [6] * 6 + [12] * 6 + [15] * 3
    log = EventAccumulator(str(next(tmp_path.rglob("version_0"))))
    log.Reload()
    assert [event.step for event in log.Scalars("noise_scale/estimate")] == [12]  # after 6 steps it is not known
    logged = [log.Scalars(f"noise_scale/{name}")[-1].value for name in ("low", "estimate", "high")]
    assert noise.result is not None
    at = noise.result.steps.index(12)
    rows = [row[at] for row in (noise.result.lows, noise.result.noise_scales, noise.result.highs)]
    assert logged == pytest.approx(rows)
    assert log.Tags()["images"] == ["noise_scale"]
    assert "noise_scale/summary/text_summary" in log.Tags()["tensors"]


def test_steps_that_a_gradient_scaler_skips_do_not_count() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**22, growth_interval=1000)
    noise = GradientNoiseScale()
    model = fit([noise], max_epochs=9, plugins=[MixedPrecision("16-mixed", "cpu", scaler=scaler)])
    assert noise.result is not None
    skipped = 27 - noise.result.num_observations
    assert 0 < skipped < 27 - 8
    # The scaler halves itself in the first steps, and then no more.
    expected = by_hand([observe(window) for window in windows(model)[skipped:]])
    assert_equal(noise.result, expected, rel=0.1)  # the forward pass has 16 bits


@pytest.mark.parametrize("order", [1, -1])
def test_with_sam_the_gradients_are_those_at_w(order: int) -> None:
    noise = GradientNoiseScale()
    model = make_model()
    fit([noise, SAM(rho=0.5)][::order], model, max_epochs=5)
    assert len(model.seen) == 5 * 12  # what the second pass at w + e(w) has noted is undone
    assert noise.result is not None
    assert_equal(noise.result, by_hand([observe(window) for window in windows(model)]))


def exact(weights: list[Tensor]) -> float:
    """The noise scale from the gradient of each sample, of the distribution that the 90 samples were drawn from.

    Batches without replacement show this one: their mean squared norms are sums over pairs of different samples.
    """
    each = torch.stack([gradient(weights, X[i : i + 1], Y[i : i + 1]) for i in range(NUM)])
    trace = each.var(0).sum()
    return float(trace / (each.mean(0).square().sum() - trace / NUM))


def test_a_rehearsal_finds_the_exact_value_at_the_weights_of_each_milestone() -> None:
    noise = GradientNoiseScale(milestones=(0, 3), num_training_steps=80, num_micro_batches=6)
    model, plain = make_model(lr=0.02), make_model(lr=0.02)
    fit([noise], model, accumulate_grad_batches=1, max_epochs=4, batch_size=4)
    fit([], plain, accumulate_grad_batches=1, max_epochs=4, batch_size=4)
    result = noise.result
    assert result is not None
    assert (result.source, result.steps, result.batch_size) == ("rehearsal", (0, 69), 4)
    assert result.num_observations == 160
    for row, weights in enumerate([plain.seen[0][0], plain.seen[69][0]]):
        assert result.lows[row] <= exact(weights) <= result.highs[row]
        assert result.highs[row] < 4 * result.lows[row]


def test_a_loader_of_one_batch_has_nothing_to_compare() -> None:
    noise = GradientNoiseScale()
    fit([noise], accumulate_grad_batches=1, batch_size=NUM, max_epochs=4)
    assert noise.result is not None
    assert noise.result.noise_scale is None
    assert str(noise.result) == (
        "Gradient noise scale not known. No step was measured: an epoch has one batch, which cannot be compared. Use"
        " smaller batches."
    )


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_resumed_run_continues_the_averages(tmp_path: Path) -> None:
    whole = GradientNoiseScale()
    fit([whole], max_epochs=4)
    half = GradientNoiseScale()
    writer = ModelCheckpoint(dirpath=tmp_path, filename="half", every_n_epochs=2, save_top_k=-1)
    model = make_model()
    fit([half, writer], model, max_epochs=2, enable_checkpointing=True)
    assert half.result is not None
    assert half.result.num_observations == 6
    resumed, model = GradientNoiseScale(), make_model()
    state = torch.load(tmp_path / "half.ckpt", weights_only=True)
    assert state["global_step"] == 6
    again = ModelCheckpoint(dirpath=tmp_path / "again", every_n_epochs=2, save_top_k=-1)
    fit([resumed, again], model, max_epochs=4, enable_checkpointing=True, ckpt_path=tmp_path / "half.ckpt")
    assert resumed.result is not None
    assert resumed.result.num_observations == 12
    assert resumed.result.steps == tuple(range(1, 13))
    expected = [observe(window) for window in windows(model)]
    estimator = NoiseScaleEstimator(0.98)
    estimator.load_state_dict(half.state_dict()["estimator"])
    for step in expected:
        estimator.update(*step)
    assert resumed.result.noise_scale == pytest.approx(estimator.noise_scale().value, rel=1e-3)
    assert resumed.result.reason == estimator.noise_scale().reason


def test_copies_pickles_states_and_a_second_fit() -> None:
    noise = GradientNoiseScale()
    for empty in (noise, copy.deepcopy(noise), pickle.loads(pickle.dumps(noise))):
        assert empty.result is None
    fit([noise], max_epochs=4)
    assert noise.result is not None
    first = noise.result
    loaded = GradientNoiseScale()
    loaded.load_state_dict(noise.state_dict())
    for other in (copy.deepcopy(noise), pickle.loads(pickle.dumps(loaded)), loaded):
        assert other.result is not None
        assert other.result.to_dict() == first.to_dict()
    fit([noise], max_epochs=4)
    assert noise.result.to_dict() == first.to_dict()  # the same training again


@pytest.mark.parametrize(
    "change",
    [
        {"version": 7},
        {"estimator": {}},
        {"result": {"steps": [1]}},
        {"result": "no"},
        {"other": 1},
    ],
)
def test_a_wrong_state_is_refused_with_a_sentence(change: dict[str, Any]) -> None:
    noise = GradientNoiseScale()
    fit([noise])
    before = noise.state_dict()
    with pytest.raises((TypeError, ValueError), match=r"[Ee]xpected.*in the state of GradientNoiseScale"):
        noise.load_state_dict({**before, **change})
    assert noise.state_dict() == before


class ReachesTwice(pl.LightningModule):
    """Two backward passes for one loss."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(FEATURES, CLASSES)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def backward(self, loss: Tensor) -> None:
        loss.backward(retain_graph=True)
        loss.backward()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Manual(ReachesTwice):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


@pytest.mark.parametrize(
    ("callbacks", "model", "message"),
    [
        ([GradientNoiseScale(), GradientNoiseScale()], make_model, "expected one in a Trainer, but got 2"),
        ([GradientNoiseScale()], Manual, "expected automatic optimization"),
        ([GradientNoiseScale()], lambda: make_model(optimizer="LBFGS"), "LBFGS"),
        ([GradientNoiseScale()], ReachesTwice, "one backward pass"),
    ],
)
def test_what_cannot_be_measured_is_refused(callbacks: list[Any], model: Any, message: str) -> None:
    options = {"accumulate_grad_batches": 1} if model is Manual else {}
    module = model()
    with pytest.raises(MisconfigurationException, match=message):
        fit(callbacks, module, **options)
    assert not any(p._backward_hooks for p in module.parameters())


def test_it_does_not_act_in_a_rehearsal_of_another_callback() -> None:
    noise, alone = GradientNoiseScale(), GradientNoiseScale()
    finder = LRFinder(
        min_lr=1e-4, num_training_steps=20, suggestion="half", num_repeats=1, zoom=False, update_attr=False
    )
    fit([finder, noise], max_epochs=4)
    fit([alone], max_epochs=4)
    assert noise.result is not None
    assert alone.result is not None
    assert noise.result.to_dict() == alone.result.to_dict()


def test_the_scaler_shows_it_as_a_row_that_decides_nothing() -> None:
    limits: Any = {"min_steps_per_epoch": 1, "min_training_steps": 1, "min_step_share": 0.01}
    given: Any = {
        "objective": "memory",
        "min_per_class": 4,
        "init_val": 12,
        "max_val": 12,
        "round_to": 1,
        "limits": limits,
    }
    given["class_options"] = {"num_classes": CLASSES}
    scalers = [BatchSizeScaler(noise_scale=noise_scale, **given) for noise_scale in (True, False)]
    models = [fit([scaler], accumulate_grad_batches=1, batch_size=8) for scaler in scalers]
    assert [len(model.seen) for model in models] == [16, 16]  # two epochs of 8 batches of 12
    for ours, theirs in zip(models[0].seen, models[1].seen, strict=True):
        assert all(map(torch.equal, ours[0], theirs[0]))
    found, plain = (scaler.result for scaler in scalers)
    assert found is not None
    assert plain is not None
    assert [bound.name for bound in found.bounds[:-1]] == [bound.name for bound in plain.bounds]
    assert found.batch_size == plain.batch_size == 12
    row = found.bounds[-1]
    assert (row.name, row.kind) == ("noise scale", "advised up to")
    low, high = (float(number) for number in row.detail.partition("(")[2].partition(")")[0].split(" to "))
    assert row.size is not None
    assert low <= row.size <= high
    assert low <= exact(models[0].seen[0][0]) <= high
    assert found.num_steps == plain.num_steps + 10
    assert "noise scale: advised up to" in str(found)


class StepsByHand(Manual):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return loss

    def backward(self, loss: Tensor) -> None:
        loss.backward()


@pytest.mark.parametrize(
    ("package", "model", "reason"),
    [
        ("pytorch_lightning", lambda: make_model(optimizer="LBFGS"), "LBFGS"),
        ("pytorch_lightning", lambda: make_model(twice=True), "one backward pass for a batch"),
        ("lightning.pytorch", lambda: make_model("lightning.pytorch", twice=True), "one backward pass for a batch"),
        ("pytorch_lightning", StepsByHand, "automatic optimization"),
    ],
    ids=["LBFGS", "twice", "twice in lightning", "manual"],
)
def test_where_it_cannot_be_measured_the_scaler_says_so_and_goes_on(package: str, model: Any, reason: str) -> None:
    module = model()
    limits: Any = {"min_steps_per_epoch": 1, "min_training_steps": 1, "min_step_share": 0.01}
    options: Any = {"min_per_class": 0, "init_val": 12, "max_val": 12, "round_to": 1, "limits": limits}
    scaler = BatchSizeScaler(noise_scale=True, lr_scaling=None, **options)
    fit([scaler], module, package, accumulate_grad_batches=1)
    assert scaler.result is not None
    assert scaler.optimal_batch_size == scaler.result.batch_size_used  # which one depends on the speed of the machine
    row = scaler.result.bounds[-1]
    assert (row.name, row.size) == ("noise scale", None)
    assert row.detail.startswith("not known: expected ")
    assert reason in row.detail
    assert not any(p._backward_hooks for p in module.parameters())


def ordered(num: int, batch_size: int = BATCH, shuffle: bool = False) -> Any:
    return DataLoader(TensorDataset(X[:num], Y[:num]), batch_size=batch_size, shuffle=shuffle)


class Stream(IterableDataset[Any]):
    """The same samples in each pass, of which the loader shows nothing."""

    def __iter__(self) -> Any:
        return iter([(X[i], Y[i]) for i in range(32)])


@pytest.mark.parametrize(
    ("options", "num"),
    [
        ({"overfit_batches": 4}, 1),
        ({"data": ordered(64)}, 1),
        ({"data": ordered(90, batch_size=4)}, 3),
        ({"data": DataLoader(Stream(), batch_size=4)}, 1),
        ({"data": ordered(32), "accumulate_grad_batches": 4}, 1),
        ({"data": ordered(90), "accumulate_grad_batches": 4}, 3),
    ],
    ids=["overfitting", "one step", "three steps", "stream", "accumulated", "three accumulated"],
)
@pytest.mark.filterwarnings("ignore:You requested to overfit but enabled train dataloader shuffling")
def test_repetitions_of_the_same_batches_show_no_error(options: dict[str, Any], num: int) -> None:
    noise = GradientNoiseScale()
    fit([noise], **{"accumulate_grad_batches": 1, "max_epochs": 10, **options})
    result = noise.result
    assert result is not None
    assert result.num_observations >= 10
    assert all(math.isnan(value) for value in result.noise_scales)
    assert result.interval == (0.0, math.inf)
    assert f"The measured steps repeat {num}, with equal batches" in str(result)


@pytest.mark.parametrize("sampler", [None, "custom"])
def test_different_batches_in_a_fixed_order_and_own_batch_samplers_are_measured(sampler: str | None) -> None:
    """An own batch sampler may draw as it likes, though the loader then has a sequential sampler too."""
    indices = [torch.randperm(NUM)[:BATCH].tolist() for _ in range(20)]
    data: Any = ordered(90, batch_size=4) if sampler is None else DataLoader(TensorDataset(X, Y), batch_sampler=indices)
    noise = GradientNoiseScale(decay=1)
    fit([noise], accumulate_grad_batches=2, max_epochs=3, data=data)
    assert noise.result is not None
    assert noise.result.reason is None or "not above zero" in noise.result.reason


@pytest.mark.parametrize("num_batches", [2, 9, 17])
def test_a_rehearsal_measures_the_steps_that_were_asked_for_where_an_epoch_ends_with_one_batch(
    num_batches: int,
) -> None:
    noise = GradientNoiseScale(num_training_steps=8, milestones=(0,))
    fit([noise], accumulate_grad_batches=1, data=ordered(5 * num_batches, batch_size=5, shuffle=True))
    assert noise.result is not None
    assert noise.result.num_observations == 8
    # Ten samples are halved in 126 ways, so that two of eight steps may be equal.
    reasons = ("not above zero", "repeat 7") if num_batches == 2 else ("not above zero",)
    assert noise.result.reason is None or any(reason in noise.result.reason for reason in reasons)


def test_the_batch_size_is_the_mean_number_of_samples_of_a_step() -> None:
    indices = [list(range(i, i + size)) for i, size in [(0, 16), (16, 16), (32, 16), (48, 1)] * 2]
    data: Any = DataLoader(TensorDataset(X, Y), batch_sampler=indices)
    accumulating, rehearsing, uneven = GradientNoiseScale(), GradientNoiseScale(), GradientNoiseScale()
    fit([accumulating], data=data)
    fit([rehearsing], data=data, accumulate_grad_batches=1)
    fit([uneven])  # three steps of an epoch: 32, 32 and 26 samples
    sizes = [0 if one.result is None else one.result.batch_size for one in (accumulating, rehearsing, uneven)]
    assert sizes == [49, 12, 30]


def test_gradients_that_are_not_finite_and_those_out_of_range_are_counted() -> None:
    class Scaled(pl.LightningModule):
        """The loss is multiplied by a factor from the fourth step on."""

        def __init__(self, factor: float, since: int = 0) -> None:
            super().__init__()
            self.net, self.factor, self.since = nn.Linear(FEATURES, CLASSES), factor, since

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            return loss * (self.factor if self.trainer.global_step >= self.since else 1.0)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.0)

    def text(model: Any, **options: Any) -> str:
        noise = GradientNoiseScale()
        fit([noise], model, max_epochs=4, **options)
        return str(noise.result)

    assert "No measured step had a finite gradient.\n  12 of 12 measured steps do not count" in text(Scaled(math.nan))
    diverged = text(Scaled(math.nan, since=3))
    assert "3 observations show no error" in diverged
    assert "9 of 12 measured steps do not count" in diverged
    assert "30 of 30 measured steps do not count" in text(Scaled(math.inf), accumulate_grad_batches=1)
    assert "above the range of float32" in text(Scaled(1e25))
    tiny = text(Scaled(1e-25))
    assert "12 equal observations show no error.\n  12 of 12 measured steps have a gradient of zero" in tiny
    assert "below the range of float32" in tiny


def test_an_estimate_that_is_not_continued_says_so() -> None:
    noise = GradientNoiseScale()
    scheduler = pl.callbacks.GradientAccumulationScheduler({0: 4, 4: 1})
    fit([noise, scheduler], max_epochs=6, accumulate_grad_batches=1)
    result = noise.result
    assert result is not None
    assert result.steps[-1] == 12
    (note,) = result.notes
    assert "The last 24 steps that were due had one batch each" in note
    assert "after step 12" in note
    loaded = GradientNoiseScale()
    loaded.load_state_dict(noise.state_dict())
    assert loaded.result is not None
    assert loaded.result.to_dict() == result.to_dict()
    usual = GradientNoiseScale()
    fit([usual], max_epochs=4, accumulate_grad_batches=11)  # the last step of an epoch has one batch
    assert usual.result is not None
    assert usual.result.notes == ()


class WeightsFirst(pl.LightningModule):
    """Batches whose first tensor has no sample."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(FEATURES, CLASSES)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        *_, x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("accumulate", [4, 1])
def test_samples_are_counted_by_the_tensor_that_agrees_with_the_loader(accumulate: int) -> None:
    def loader(first: Any) -> Any:
        def collate(rows: Any) -> Any:
            x, y = default_collate(rows)
            return [*first(x), x, y]

        return DataLoader(TensorDataset(X, Y), batch_size=BATCH, shuffle=True, collate_fn=collate)

    results = []
    for first in (lambda x: [], lambda x: [torch.ones(CLASSES)], lambda x: [torch.ones(CLASSES), x.T]):
        torch.manual_seed(0)
        noise = GradientNoiseScale()
        fit([noise], WeightsFirst(), accumulate_grad_batches=accumulate, data=loader(first))
        assert noise.result is not None
        results.append(noise.result.to_dict())
        assert noise.result.notes == ()
    assert results[0] == results[1] == results[2]

    class Hidden(WeightsFirst):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step([batch[0].T, batch[1].flatten()], batch_idx)

    noise = GradientNoiseScale()
    data = DataLoader(
        TensorDataset(X, Y), BATCH, collate_fn=lambda rows: [(c := default_collate(rows))[0].T, c[1].view(1, -1)]
    )
    fit([noise], Hidden(), accumulate_grad_batches=accumulate, data=data)
    assert noise.result is not None
    (note,) = noise.result.notes
    assert "has the 8 samples that the loader states" in note
    assert f"so {FEATURES} are counted" in note


@pytest.mark.parametrize(
    ("noise", "options", "words"),
    [
        (GradientNoiseScale(milestones=()), {}, "Use `accumulate_grad_batches`, or `milestones=None`"),
        (GradientNoiseScale(milestones=(7,)), {}, "no epoch of `milestones` has begun"),
        (GradientNoiseScale(), {"fast_dev_run": True}, "because `fast_dev_run` is not a training"),
        (GradientNoiseScale(), {"batch_size": NUM, "accumulate_grad_batches": 4}, "each step had one batch"),
    ],
    ids=["never", "later", "fast_dev_run", "one batch"],
)
def test_where_nothing_is_measured_the_reason_is_named(noise: Any, options: dict[str, Any], words: str) -> None:
    fit([noise], **{"accumulate_grad_batches": 1, **options})
    assert str(noise.result).startswith("Gradient noise scale not known. No step was measured")
    assert words in str(noise.result)


def test_a_size_that_is_only_reported_is_not_said_to_be_set() -> None:
    limits: Any = {"min_steps_per_epoch": 1, "min_training_steps": 1, "min_step_share": 0.01}
    texts = []
    for update_attr in (True, False):
        scaler = BatchSizeScaler(
            min_per_class=0, init_val=12, max_val=12, round_to=1, limits=limits, update_attr=update_attr
        )
        fit([scaler], accumulate_grad_batches=1)
        texts.append(str(scaler.result))
    assert "learning rate scaled: 0.1 x 1.5" in texts[0]
    assert "learning rate would be scaled: 0.1 x 1.5" in texts[1]
    assert all("At this size the training has 16 optimizer steps instead of 24" in text for text in texts)
