"""SAM for its user: refusals, failures, warnings, logs, checkpoints. That it is exact is in test_sam_exact."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning as pl
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException as LightningMisconfiguration
from pytorch_lightning.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

import lightning_hp.functional as hpf
from lightning_hp import SAM, LRFinder
from tests.callbacks.contract import loader, mixed_fp16
from tests.callbacks.sam_by_hand import Wrapped, make_net
from tests.training import MemoryLogger, Net, Run, Samples, Stream, assert_identical, assert_same_training, train

RHO = 0.2


def net(module_class: type[pl.LightningModule] = Net, **kwargs: Any) -> Any:
    torch.manual_seed(5)
    return module_class(**kwargs)


def fit(callbacks: list[Any], module: pl.LightningModule | None = None, **kwargs: Any) -> Run:
    data = kwargs.pop("loader") if "loader" in kwargs else loader(shuffle=True)
    return train(net() if module is None else module, callbacks, data, **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"rho": -0.1}, "`rho` to be a finite number >= 0, but got -0.1"),
        ({"rho": float("nan")}, "`rho` to be a finite number >= 0, but got nan"),
        ({"rho": 10**400}, "`rho` to be a finite number >= 0, but got 1000"),
        ({"eta": -1.0}, "`eta` to be a finite number >= 0, but got -1.0"),
        ({"interval": 0}, "`interval` to be an int >= 1, but got 0"),
        ({"start": 1.0}, "`start` to be a number >= 0 and < 1, or 'decay', but got 1.0"),
        ({"start": "late"}, "`start` to be 'decay', or a number >= 0 and < 1, but got 'late'"),
        ({"warmup": 2}, "`warmup` to be a number >= 0 and <= 1, but got 2"),
        ({"params": "bias"}, "`params` to be one of 'all', 'norm', or a function of .*, but got 'bias'"),
    ],
)
def test_arguments_of_a_wrong_value_are_refused_at_construction(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"Expected {message}"):
        SAM(**kwargs)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"rho": "a"}, "`rho` to be a finite number >= 0, but got 'a'"),
        ({"rho": None}, "`rho` to be a finite number >= 0, but got None"),
        ({"rho": True}, "`rho` to be a finite number >= 0, but got True"),
        ({"eta": "x"}, "`eta` to be a finite number >= 0, but got 'x'"),
        ({"interval": "2"}, "`interval` to be an int >= 1, but got '2'"),
        ({"interval": 2.0}, "`interval` to be an int >= 1, but got 2.0"),
        ({"start": None}, "`start` to be a number >= 0 and < 1, or 'decay', but got None"),
        ({"warmup": None}, "`warmup` to be a number >= 0 and <= 1, but got None"),
        ({"adaptive": "yes"}, "`adaptive` to be True or False, but got 'yes'"),
        ({"sync_perturbation": 1}, "`sync_perturbation` to be True or False, but got 1"),
        ({"skip_nonfinite": None}, "`skip_nonfinite` to be True or False, but got None"),
        ({"params": torch.ones(2)}, "`params` to be one of 'all', 'norm', or a function of .*, but got tensor"),
        ({"params": None}, "`params` to be one of 'all', 'norm', or a function of .*, but got None"),
    ],
)
def test_arguments_of_a_wrong_type_are_refused_at_construction(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=f"Expected {message}"):
        SAM(**kwargs)


# What cannot work is refused before the first step.


class DrawsItself(Net):
    def training_step(self, dataloader_iter: Any) -> None:
        raise AssertionError("not reached")


class BySecondOrder(Net):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters())


class GSAM(torch.optim.SGD):
    """An optimizer that is SAM itself and needs a closure."""


class TwoSteps(torch.optim.SGD):
    def first_step(self) -> None: ...


@pytest.mark.filterwarnings("ignore:You are using the `dataloader_iter` step flavor")
@pytest.mark.parametrize(
    ("module", "sam", "trainer", "message"),
    [
        (lambda: net(manual=True), {}, {}, "expected automatic optimization"),
        (lambda: net(DrawsItself), {}, {}, "one with `dataloader_iter`"),
        (lambda: net(BySecondOrder), {}, {}, "got LBFGS"),
        (lambda: with_optimizer(GSAM), {}, {}, "got GSAM, which is SAM already"),
        (lambda: with_optimizer(TwoSteps), {}, {}, "got TwoSteps, which is SAM already"),
        (net, {"warmup": 0.1}, {"max_epochs": -1}, "expected a training with an end"),
        (net, {"params": lambda name, p: False}, {}, "expected the function `params` to choose .* of the 0 that"),
        (net, {"params": lambda name, p: False, "start": 0.9}, {}, "Names here are like 'body.0.weight'"),
        (
            lambda: frozen(net()),
            {"params": lambda name, p: "body" in name},
            {},
            "the optimizer trains none of the 2 that it chose",
        ),
        (net, {"params": "norm"}, {}, "params='norm' to choose parameters that are trained"),
    ],
)
def test_what_cannot_work_is_refused(module: Any, sam: Any, trainer: Any, message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message) as refusal:
        fit([SAM(**sam)], module(), **trainer)
    assert "0x" not in str(refusal.value)


def frozen(module: Any) -> Any:
    module.body.requires_grad_(False)
    return module


def test_two_of_them_are_refused_and_the_same_one_twice_is_one() -> None:
    with pytest.raises(MisconfigurationException, match="expected one SAM, but got 2"):
        fit([SAM(rho=RHO), SAM(rho=0.1)])
    sam = SAM(rho=RHO)
    assert_same_training(fit([sam, sam]), fit([SAM(rho=RHO)]))


def with_optimizer(optimizer: type[torch.optim.Optimizer]) -> pl.LightningModule:
    class Configured(Net):
        def configure_optimizers(self) -> Any:
            return optimizer(self.parameters(), lr=0.1)

    return net(Configured)


def test_the_refusal_is_of_the_trainers_own_namespace() -> None:
    class Manual(lightning.pytorch.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 3)
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None: ...

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = lightning.pytorch.Trainer(callbacks=[SAM()], max_epochs=1, accelerator="cpu", barebones=True)
    with pytest.raises(LightningMisconfiguration, match="expected automatic optimization"):
        trainer.fit(Manual(), loader())


def test_it_trains_the_same_in_the_other_namespace() -> None:
    def build(base: Any) -> Any:
        class Model(base):
            def __init__(self) -> None:
                super().__init__()
                torch.manual_seed(5)
                self.layer = nn.Linear(8, 3)

            def training_step(self, batch: Any) -> Any:  # without batch_idx, which is allowed
                return {"loss": nn.functional.cross_entropy(self.layer(batch[0]), batch[1])}

            def configure_optimizers(self) -> Any:
                return torch.optim.SGD(self.parameters(), lr=0.1)

        return Model()

    weights = []
    for package in (pl, lightning.pytorch):
        module = build(package.LightningModule)
        trainer = package.Trainer(max_epochs=1, callbacks=[SAM(rho=RHO)], accelerator="cpu", barebones=True)
        trainer.fit(module, loader())
        weights.append(module.layer.weight.detach())
    assert torch.equal(*weights)
    without = build(pl.LightningModule)
    pl.Trainer(max_epochs=1, accelerator="cpu", barebones=True).fit(without, loader())
    assert not torch.equal(weights[0], without.layer.weight)


def test_a_training_of_unknown_length_is_fine_unless_a_share_of_it_is_asked_for() -> None:
    assert fit([SAM(rho=RHO)], loader=loader(dataset=Stream())).global_step == 12
    with pytest.raises(MisconfigurationException, match="expected a training whose length is known"):
        fit([SAM(rho=RHO, warmup=0.5)], loader=loader(dataset=Stream()))
    assert fit([SAM(rho=RHO), GradientAccumulationScheduler({0: 2, 1: 3})]).global_step == 5


# Numbers that are not finite.


class Breaks(Wrapped):
    """The loss breaks in one step: in the first pass and so in both, or at w + e only."""

    def __init__(self, where: str, optimizer: str = "adamw") -> None:
        super().__init__(make_net(dropout=0.0), optimizer)
        self.where = where
        self.home: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        weight = self.net[0].weight.detach().clone()
        if batch_idx == 3 and (self.where == "both" or not torch.equal(weight, self.at_home)):
            return loss * float("inf")
        return loss

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.at_home = self.net[0].weight.detach().clone()
        if batch_idx in (3, 4):
            optimizer = self.optimizers().optimizer
            self.home.append(copy.deepcopy((list(self.net.parameters()), optimizer.state_dict()["state"])))


@pytest.mark.parametrize("optimizer", ["adamw", "momentum"])
@pytest.mark.parametrize("where", ["both", "second"])
def test_a_step_that_is_not_finite_is_skipped_with_one_warning(where: str, optimizer: str) -> None:
    """In common implementations the weights are NaN from here on."""
    module = Breaks(where, optimizer)
    with pytest.warns(UserWarning, match="not finite at step 3, and the optimizer step was skipped") as caught:
        run = fit([SAM(rho=RHO)], module, gradient_clip_val=1.0)
    assert len([w for w in caught if "not finite" in str(w.message)]) == 1  # of the two epochs
    (weights, state), (weights_after, state_after) = module.home[:2]
    assert_identical([w.detach() for w in weights_after], [w.detach() for w in weights], "weights")
    assert_identical(state_after, state, "optimizer")
    assert all(torch.isfinite(w).all() for w in run.weights.values())
    assert run.global_step == 12


def test_steps_that_are_not_finite_can_be_allowed() -> None:
    run = fit([SAM(rho=RHO, skip_nonfinite=False)], Breaks("both"))
    assert not torch.isfinite(run.weights["net.0.weight"]).all()


@pytest.mark.parametrize("where", ["both", "second"])
def test_the_gradient_scaler_skips_the_step_and_lowers_its_scale(where: str) -> None:
    module = Breaks(where)
    plugins = mixed_fp16()
    scaler = plugins["plugins"][0].scaler
    scaler.load_state_dict({**scaler.state_dict(), "scale": 4.0, "growth_interval": 1000})
    run = fit([SAM(rho=RHO)], module, max_epochs=1, **plugins)
    assert run.precision["scale"] == 2.0
    assert_identical([w.detach() for w in module.home[1][0]], [w.detach() for w in module.home[0][0]], "weights")
    assert all(torch.isfinite(w).all() for w in run.weights.values())


# Failures between the passes.


class Fails(Net):
    error: BaseException = RuntimeError("a bug at w + e")

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        home = self.head.weight.detach().clone()
        loss = super().training_step(batch, batch_idx)
        if batch_idx == 2 and not torch.equal(home, self.home):
            raise self.error
        return loss

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.home = self.head.weight.detach().clone()
        self.whole = copy.deepcopy(dict(self.state_dict()))


class Interrupted(Fails):
    error = KeyboardInterrupt()


@pytest.mark.parametrize(("module_class", "raised"), [(Fails, RuntimeError), (Interrupted, SystemExit)])
def test_after_a_failure_in_the_second_pass_the_weights_are_restored(module_class: Any, raised: Any) -> None:
    module, sam, logger = net(module_class), SAM(rho=RHO), MemoryLogger()
    trainer = pl.Trainer(max_epochs=1, callbacks=[sam], logger=logger, enable_checkpointing=False, accelerator="cpu",
                         enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1)  # fmt: skip
    with pytest.raises(raised):
        trainer.fit(module, loader(), loader())
    now = module.state_dict()
    assert_identical({n: now[n] for n in module.whole if "accuracy" not in n}, dict(module.whole), "weights")
    assert "log" not in vars(module)
    assert "training_step" not in vars(trainer.strategy)
    assert trainer.loggers == [logger]
    clean = {n: v for n, v in vars(SAM(rho=RHO)).items() if n not in ("_warned", "_writes")}
    assert {n: vars(sam)[n] for n in clean} == clean, "nothing of the run is kept"
    assert len(module.seen) == 3, "the second pass has not changed the user's list"
    module_class.error, error = None, module_class.error
    try:
        module.home = None
        fit([sam], net(), max_epochs=1)  # the same callback is used again
    finally:
        module_class.error = error


def test_an_interrupt_of_the_restoring_does_not_leave_the_weights_at_w_plus_e(monkeypatch: pytest.MonkeyPatch) -> None:
    restore, calls = hpf.Perturbation.restore, []

    def interrupted(self: hpf.Perturbation) -> None:
        calls.append(self)
        if len(calls) == 1:
            raise KeyboardInterrupt
        restore(self)

    monkeypatch.setattr(hpf.Perturbation, "restore", interrupted)
    module = net()
    before = copy.deepcopy(dict(module.named_parameters()))
    with pytest.raises(SystemExit):
        fit([SAM(rho=RHO)], module)
    assert len(calls) > 1
    assert_identical(dict(module.named_parameters()), before, "weights")


# Side effects of the second pass on the user's objects.


class Keeps(Net):
    """State in every place where users keep it."""

    def __init__(self) -> None:
        super().__init__(batch_norm=True, dropout=0.2)
        self.count = 0
        self.meter = Meter()
        self.history: dict[str, list[float]] = {"loss": []}
        self.register_buffer("bank", torch.zeros(600_000))  # over 1 MiB: saved only if its version changes
        self.teacher = copy.deepcopy(self.head).requires_grad_(False)
        self.fresh: Tensor | None = None

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.count += 1
        self.meter.update(1.0)
        self.history["loss"].append(1.0)
        self.bank[self.count] += 1
        self.fresh = torch.full((2,), float(self.count))
        with torch.no_grad():
            self.teacher.weight.mul_(0.9).add_(0.1)
        self.logger.log_metrics({"by_hand/x": float(self.count)}, step=self.count)
        return loss


class Meter:
    def __init__(self) -> None:
        self.total, self.values = 0.0, []

    def update(self, value: float) -> None:
        self.total += value
        self.values.append(value)


def test_what_a_step_writes_is_written_once() -> None:
    torch.manual_seed(5)
    module = Keeps()
    teacher = module.teacher.weight.detach().clone()
    run = fit([SAM(rho=RHO)], module)
    assert module.count == module.meter.total == len(module.meter.values) == len(module.history["loss"]) == 12
    assert len(module.seen) == 12
    assert module.bank.sum() == 12
    assert module.fresh is not None
    assert module.fresh.tolist() == [12.0, 12.0]
    assert int(module.body[1].num_batches_tracked) == 12
    expected = teacher
    for _ in range(12):
        expected = expected * 0.9 + 0.1
    assert torch.allclose(module.teacher.weight, expected)
    logger = run.trainer.logger
    assert [m["by_hand/x"] for _, m in logger.metrics if "by_hand/x" in m] == list(range(1, 13))
    assert_identical(run.noise, fit([], net(Net, dropout=0.2)).noise, "the module's own generator")


class PopsFromIt(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        labels = batch.pop("labels")
        return nn.functional.cross_entropy(self(batch["features"]), labels)


class WritesIntoIt(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        batch["features"] *= 2
        return nn.functional.cross_entropy(self(batch["features"]), batch["labels"])


class WithGraph(Net):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return {**batch, "features": self.body[0](batch["features"])} if self.trainer.training else batch

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.head(batch["features"]), batch["labels"])


def as_dict(samples: list[Any]) -> dict[str, Tensor]:
    features, labels, _ = torch.utils.data.default_collate(samples)
    return {"features": features, "labels": labels}


def test_a_step_may_modify_the_containers_of_its_batch_but_not_the_tensors() -> None:
    kwargs: dict[str, Any] = {"loader": loader(collate_fn=as_dict), "max_epochs": 1, "limit_val_batches": 0}
    assert fit([SAM()], net(PopsFromIt), **kwargs).global_step == 6
    with pytest.raises(MisconfigurationException, match="written in place"):
        fit([SAM()], net(WritesIntoIt), **kwargs)
    with pytest.raises(MisconfigurationException, match="a tensor that is part of one"):
        fit([SAM()], net(WithGraph), **kwargs)


class Halves(pl.Callback):
    """Modifies gradients after the backward pass, as SAM does, and the batch before the step."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        batch[0].add_(torch.randn_like(batch[0]))

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        for parameter in pl_module.parameters():
            if parameter.grad is not None:
                parameter.grad *= 0.5


def test_other_callbacks_modify_the_gradient_at_w_plus_e_in_any_order_of_callbacks() -> None:
    first, last = fit([Halves(), SAM(rho=RHO)]), fit([SAM(rho=RHO), Halves()])
    assert_same_training(first, last)
    with pytest.raises(AssertionError):
        assert_identical(first.weights, fit([SAM(rho=RHO)]).weights, "weights")


def test_a_step_without_sam_is_one_pass_and_the_copy_is_freed_before_a_validation() -> None:
    class Counting(Net):
        passes = 0

        def forward(self, features: Any) -> Any:
            self.passes_of()
            return super().forward(features)

        def passes_of(self) -> None:
            type(self).passes += self.training

    sam = SAM(rho=RHO, interval=3)

    class Look(pl.Callback):
        def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
            assert sam._perturbation is None

    Counting.passes = 0
    fit([sam, Look()], net(Counting))
    assert Counting.passes == 12 + 4


# Checkpoints.


class Own(Net):
    """Seeds each step, so that a resumed run can be compared."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        torch.manual_seed(100 + self.global_step)
        self.noise.manual_seed(self.global_step)


def epochs(number: int, callbacks: list[Any], folder: Path, ckpt_path: Path | None = None) -> Run:
    saver = ModelCheckpoint(folder, filename=f"{number}", save_top_k=-1)
    return fit([*callbacks, saver], net(Own, batch_norm=True, dropout=0.3, optimizer="adamw", scheduler="cosine"),
               loader=loader(), max_epochs=number, enable_checkpointing=True, ckpt_path=ckpt_path)  # fmt: skip


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_resumed_run_is_the_uninterrupted_one_and_sam_can_be_switched(tmp_path: Path) -> None:
    """Some wrappers of optimizers lose Adam's moments in a checkpoint."""
    whole = epochs(4, [SAM(rho=RHO)], tmp_path / "whole")
    epochs(2, [SAM(rho=RHO)], tmp_path / "half")
    resumed = epochs(4, [SAM(rho=RHO)], tmp_path / "half", tmp_path / "half" / "2.ckpt")
    for name in ("weights", "optimizer", "schedulers", "global_step"):
        assert_identical(getattr(resumed, name), getattr(whole, name), name)
    # On and off: the file is that of the optimizer without SAM.
    epochs(2, [], tmp_path / "without")
    with_sam, without = (torch.load(tmp_path / f / "2.ckpt", weights_only=False) for f in ("half", "without"))
    assert with_sam.keys() == without.keys()
    assert with_sam["callbacks"].keys() == without["callbacks"].keys()
    assert with_sam["optimizer_states"][0]["state"].keys() == without["optimizer_states"][0]["state"].keys()
    off = epochs(4, [], tmp_path / "half", tmp_path / "half" / "2.ckpt")
    on = epochs(4, [SAM(rho=RHO)], tmp_path / "without", tmp_path / "without" / "2.ckpt")
    assert off.global_step == on.global_step == 24
    late = epochs(4, [SAM(rho=RHO, start=0.5)], tmp_path / "late")
    assert_identical(on.weights, late.weights, "switched on after half of the training, by resuming and by `start`")


# In a rehearsal.


def finder(**kwargs: Any) -> LRFinder:
    return LRFinder(
        **{"min_lr": 1e-4, "max_lr": 10.0, "num_training_steps": 70, "num_repeats": 1, "zoom": False, **kwargs}
    )


@pytest.mark.parametrize("order", [1, -1])
def test_a_learning_rate_is_found_with_sam_acting(order: int) -> None:
    without_sam, under_sam = finder(), finder()
    fit([without_sam], net())
    run = fit([under_sam, SAM(rho=0.3, start=0.9, warmup=0.1)][::order], net())
    (with_sam,), (without,) = under_sam.result.losses, without_sam.result.losses
    assert with_sam[0] == without[0], "the loss is recorded at w"
    assert with_sam[1:30] != without[1:30], "SAM acts with the full radius, although in the training it starts later"
    assert_same_training(run, fit([SAM(rho=0.3, start=0.9, warmup=0.1)], net(lr=under_sam.optimal_lr)))


def test_a_rehearsal_in_the_middle_leaves_no_trace() -> None:
    def sam() -> SAM:
        return SAM(rho=RHO, warmup=0.5)

    watching = finder(update_attr=False, milestones=(1,))
    module = {"batch_norm": True, "dropout": 0.3}
    assert_same_training(fit([watching, sam()], net(**module)), fit([sam()], net(**module)))
    assert watching.result is not None


# Logs and warnings.


def test_norm_sharpness_and_radius_reach_tensorboard(tmp_path: Path) -> None:
    module = Wrapped(make_net(norm=False, dropout=0.0))
    start = copy.deepcopy(module.net)
    logger = TensorBoardLogger(tmp_path, name="", version="")
    fit([SAM(rho=RHO)], module, logger=logger, log_every_n_steps=5, accumulate_grad_batches=1, max_epochs=2)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    steps = {
        name: [event.step for event in events.Scalars(f"sam/{name}")] for name in ("grad_norm", "sharpness", "rho")
    }
    assert set(map(tuple, steps.values())) == {(4, 9)}
    assert [event.step for event in events.Scalars("train_loss_step")] == [4, 9]
    assert [event.value for event in events.Scalars("sam/rho")] == pytest.approx([RHO, RHO])
    # The reference: four steps of SAM, then the values of the fifth.
    optimizer = torch.optim.SGD(start.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    norm = sharpness = 0.0
    for x, y in module.batches[:5]:
        home = copy.deepcopy(start.state_dict())
        loss = nn.functional.cross_entropy(start(x), y)
        gradients = torch.autograd.grad(loss, list(start.parameters()))
        norm = float(torch.cat([g.flatten() for g in gradients]).norm())
        with torch.no_grad():
            for p, g in zip(start.parameters(), gradients, strict=True):
                p += RHO * g / norm
        there = nn.functional.cross_entropy(start(x), y)
        sharpness = float(there.detach() - loss.detach())
        optimizer.zero_grad()
        there.backward()
        start.load_state_dict(home)
        optimizer.step()
    assert events.Scalars("sam/grad_norm")[0].value == pytest.approx(norm, rel=1e-4)
    assert events.Scalars("sam/sharpness")[0].value == pytest.approx(sharpness, rel=1e-3)
    assert sharpness > 0


def test_the_gradient_norm_is_on_its_own_scale_under_accumulation_and_a_scaler() -> None:
    def first_norm(**kwargs: Any) -> float:
        module = Wrapped(make_net(norm=False, dropout=0.0))
        run = fit([SAM(rho=RHO)], module, loader=loader(), max_epochs=1, log_every_n_steps=1, **kwargs)
        return next(v["sam/grad_norm"] for _, v in run.trainer.logger.metrics if "sam/grad_norm" in v)

    full_precision = first_norm()
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    fp16 = {"plugins": [MixedPrecision("16-mixed", "cpu", scaler=scaler)]}
    assert first_norm(**fp16) == pytest.approx(full_precision, rel=0.05)
    assert first_norm(accumulate_grad_batches=2) == pytest.approx(full_precision, rel=0.4)


def test_nothing_is_logged_without_an_interval_or_a_logger() -> None:
    run = fit([SAM(rho=RHO)], log_every_n_steps=0)
    assert not any(name.startswith("sam/") for _, v in run.trainer.logger.metrics for name in v)
    assert fit([SAM(rho=RHO)], logger=False).global_step == 12


def test_a_loss_that_does_not_fall_is_warned_of_once() -> None:
    digits = {"loader": loader(shuffle=True, dataset=Samples(400)), "max_epochs": 6, "limit_val_batches": 0}
    with pytest.warns(
        UserWarning, match=r"no better than at the start or than guessing.*rho=30 is too large"
    ) as caught:
        fit([SAM(rho=30.0)], net(lr=0.02), **digits)
    assert len([w for w in caught if "SAM" in str(w.message)]) == 1
    # A warning here would be an error. With a late start there are no first losses, and later ones need not fall.
    fit([SAM(rho=0.05)], net(lr=0.02), **digits)
    fit([SAM(rho=0.05, start=0.5)], net(lr=0.02), **digits)


def test_weights_of_16_bits_are_warned_of_with_the_share_that_does_not_move() -> None:
    with pytest.warns(UserWarning, match=r"SAM: \d+% of the weights are not changed by rho=0.05"):
        fit([SAM(rho=0.05)], net(), precision="bf16-true", max_epochs=1)


# Copies, pickles, the command line.


def test_it_can_be_copied_pickled_and_used_in_a_second_fit() -> None:
    sam = SAM(rho=RHO, interval=2)
    once = fit([sam], net())
    for copied in (sam, copy.deepcopy(sam), pickle.loads(pickle.dumps(sam))):
        assert_same_training(fit([copied], net()), once)
    assert sam.state_dict() == {}
    assert [type(callback) for callback in once.trainer.callbacks] == [SAM]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # LightningCLI calls what jsonargparse deprecates
def test_lightning_cli_builds_it_from_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["train.py"])
    config = tmp_path / "config.yaml"
    config.write_text(
        "trainer:\n  accelerator: cpu\n  barebones: true\n  callbacks:\n"
        "    - class_path: lightning_hp.SAM\n      init_args: {rho: 0.3, params: norm, warmup: 0.1}\n"
    )
    cli = LightningCLI(Net, run=False, args=["--config", str(config), "--seed_everything=1"], save_config_callback=None)
    sam = next(callback for callback in cli.trainer.callbacks if isinstance(callback, SAM))
    assert (sam._rho, sam._params, sam._warmup) == (0.3, "norm", 0.1)


@pytest.mark.parametrize("params", [lambda parameter: True, nn.Linear, 3, None])
def test_params_is_a_function_of_name_and_parameter(params: Any) -> None:
    with pytest.raises(TypeError, match="Expected `params` to be one of 'all', 'norm', or a function"):
        SAM(params=params)


def test_params_has_to_return_true_or_false() -> None:
    with pytest.raises(TypeError, match="Expected `the result of `params`` to be True or False, but got 'yes'"):
        fit([SAM(params=lambda name, parameter: "yes")])


class LazyParameter(Net):
    def __init__(self) -> None:
        super().__init__()
        self.lazy = nn.LazyLinear(8)


class LazyBuffer(Net):
    def __init__(self) -> None:
        super().__init__()
        self.lazy = nn.LazyBatchNorm1d(affine=False)


class LazyInConfigureModel(Net):
    def configure_model(self) -> None:
        self.lazy = nn.LazyLinear(8)


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.parametrize("module_class", [LazyParameter, LazyBuffer, LazyInConfigureModel])
def test_lazy_layers_are_refused_with_a_sentence(module_class: Any) -> None:
    with pytest.raises(MisconfigurationException, match=r"SAM: expected initialized parameters, but got .*lazy\."):
        fit([SAM()], module_class())


class Groups(Net):
    """Parameter groups with keys of their own."""

    keys: Any = ()
    make: Any = torch.optim.SGD

    def configure_optimizers(self) -> Any:
        parts = zip((self.body, self.head), self.keys, strict=True)
        return type(self).make([{"params": list(part.parameters()), **keys} for part, keys in parts], lr=0.01)


def grouped(*keys: dict[str, Any], make: Any = torch.optim.SGD) -> Any:
    return net(type("Grouped", (Groups,), {"keys": keys, "make": make}))


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ({"sam_rho": -1}, ValueError, "`sam_rho of parameter group 1` to be a finite number >= 0, but got -1"),
        ({"sam_rho": "0.1"}, TypeError, "`sam_rho of parameter group 1` to be a finite number >= 0, but got '0.1'"),
        ({"rho": 0.1}, MisconfigurationException, "radius of a parameter group as `sam_rho`, but got `rho` in group 1"),
    ],
)
def test_a_radius_of_a_group_that_is_none_is_refused_before_the_first_step(keys: Any, error: Any, message: str) -> None:
    module = grouped({}, keys)
    with pytest.raises(error, match=message):
        fit([SAM()], module)
    assert module.seen == []


def test_the_rho_of_another_optimizer_is_no_radius() -> None:
    one, other = (fit([SAM(rho=RHO)], grouped({}, keys, make=torch.optim.Adadelta)) for keys in ({}, {"sam_rho": RHO}))
    assert_identical(one.module.state_dict(), other.module.state_dict(), "weights")


def test_groups_of_radius_zero_train_as_without_sam_and_a_radius_can_change() -> None:
    class Change(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            for group in trainer.optimizers[0].param_groups:
                group["sam_rho"] = RHO * trainer.current_epoch

    off = fit([SAM(rho=RHO)], grouped({"sam_rho": 0}, {"sam_rho": 0}), max_epochs=1)
    plain = fit([], grouped({}, {}), max_epochs=1)
    assert_identical(off.module.state_dict(), plain.module.state_dict(), "weights")
    logger = MemoryLogger()
    fit([Change(), SAM(rho=RHO)], grouped({}, {"sam_rho": 0}), max_epochs=3, logger=logger)
    radii = [values["sam/rho"] for _, values in logger.metrics if "sam/rho" in values]
    assert radii == pytest.approx([RHO] * 6 + [2 * RHO] * 6)
