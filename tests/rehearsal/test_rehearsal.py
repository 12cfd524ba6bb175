"""A rehearsal runs the training's own steps and restores every state, also after an exception."""

from __future__ import annotations

import copy
import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning as pl
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException as LightningMisconfiguration
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from lightning_hp.rehearsal import BEFORE_EPOCH, Rehearsal
from lightning_hp.snapshot import RandomState, Snapshot
from tests.callbacks.contract import TRAININGS, Rehearse, Training, loader
from tests.training import Net, Samples, Stream, assert_identical, assert_same_training, train

SAME_STEPS = (
    "plain",
    "shuffle",
    "dropout",
    "bf16_mixed",
    "fp16_scaler",
    "fp64",
    "augmentation",
    "workers",
    "short_loader",
    "manual",
)


@pytest.mark.parametrize("training", [t for t in TRAININGS if t.name in SAME_STEPS], ids=lambda training: training.name)
def test_the_rehearsed_steps_are_the_first_steps_of_the_training(training: Training) -> None:
    """The losses of the rehearsal, at the user's own rate, are the losses that the training then has."""
    torch.manual_seed(5)
    rehearse = Rehearse(num_steps=2)
    run = train(training.module_class(**training.module), [rehearse], training.loader(), **training.trainer())
    batch_losses = [values["train_loss_step"] for _, values in run.metrics if "train_loss_step" in values]
    assert rehearse.losses[:2] == batch_losses[:2]


@pytest.mark.parametrize("training", [t for t in TRAININGS if t.name in SAME_STEPS], ids=lambda training: training.name)
def test_rewound_to_the_same_batches_the_steps_are_again_the_first_of_the_training(training: Training) -> None:
    """Three times, however far the steps before went: beyond the first pass over the data, too."""

    class Again(Rehearse):
        def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            with Rehearsal(trainer, pl_module) as rehearsal:
                for num_steps in (3, 9, 2):
                    rehearsal.rewind(same_batches=True)
                    self.losses += rehearsal.read([rehearsal.step() for _ in range(num_steps)])[:2]

    torch.manual_seed(5)
    rehearse = Again()
    run = train(training.module_class(**training.module), [rehearse], training.loader(), **training.trainer())
    batch_losses = [values["train_loss_step"] for _, values in run.metrics if "train_loss_step" in values]
    assert rehearse.losses == 3 * batch_losses[:2]


def test_with_accumulation_a_step_is_all_its_batches_and_its_loss_their_mean() -> None:
    class Watch(Rehearse):
        def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            with Rehearsal(trainer, pl_module) as rehearsal:
                loss = rehearsal.step()
                self.batches = len(pl_module.seen)
                rehearsal.rewind()
            model = copy.deepcopy(pl_module.cpu())
            features, labels = Samples().features[:64], Samples().labels[:64]
            with torch.no_grad():
                noise = [0.01 * torch.randn(16, 8, generator=model.noise) for _ in range(4)]
                logits = [model(part + n) for part, n in zip(features.split(16), noise, strict=True)]
                means = [torch.nn.functional.cross_entropy(o, y) for o, y in zip(logits, labels.split(16), strict=True)]
            self.difference = abs(float(loss) - float(sum(means) / 4))

    watch = Watch()
    train(Net(), [watch], loader(), accumulate_grad_batches=4)
    assert watch.batches == 4
    assert watch.difference < 1e-6


def test_with_accumulation_the_steps_of_a_later_epoch_have_all_their_batches() -> None:
    """Ten batches an epoch: the counter of the first epoch, which ended at ten, does not shorten a step."""

    class Later(pl.Callback):
        batches: tuple[int, ...] = ()

        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.current_epoch == 1:
                with Rehearsal(trainer, pl_module, BEFORE_EPOCH) as rehearsal:
                    for _ in range(3):
                        before = len(pl_module.seen)
                        rehearsal.step()
                        self.batches += (len(pl_module.seen) - before,)
                        rehearsal.rewind()

    later = Later()
    train(Net(), [later], loader(dataset=Samples(160)), accumulate_grad_batches=4)
    assert later.batches == (4, 4, 2)  # the last step ends the data


class StopHereError(Exception):
    """A user's bug."""


def _everything(trainer: pl.Trainer, module: Net) -> dict[str, Any]:
    """All that a rehearsal could disturb, as values and as identities."""
    state = torch.get_rng_state(), module.noise.get_state()
    return copy.deepcopy(
        {
            "weights": module.state_dict(),
            "buffers": dict(module.named_buffers()),
            "gradients": {name: parameter.grad for name, parameter in module.named_parameters()},
            "optimizer": [optimizer.state_dict() for optimizer in trainer.optimizers],
            "attributes": {"seen": module.seen, "hooks": module.hook_calls, "names": sorted(vars(module))},
            "metric": {"tp": module.accuracy.tp, "count": module.accuracy._update_count},
            "streams": state,
            "flags": {
                "training": [child.training for child in module.modules()],
                "step": trainer.global_step,
                "epoch": trainer.current_epoch,
                "stop": trainer.should_stop,
                "accumulate": trainer.accumulate_grad_batches,
                "grad": torch.is_grad_enabled(),
            },
            "identities": [
                id(thing)
                for thing in (
                    trainer.fit_loop,
                    trainer.callbacks,
                    trainer.logger,
                    trainer.profiler,
                    trainer._logger_connector,
                    *trainer.callbacks,
                    *module.parameters(),
                    *trainer.optimizers,
                )
            ],
        }
    )


class Fails(Net):
    """Raises at a chosen point of a chosen batch."""

    def __init__(self, where: str, batch: int, error: type[BaseException] = StopHereError, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.where, self.batch, self.error, self.calls = where, batch, error, {}

    def _maybe_fail(self, where: str) -> None:
        self.calls[where] = self.calls.get(where, 0) + 1
        if where == self.where and self.calls[where] == self.batch:
            raise self.error("here")

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self._maybe_fail("before the forward")
        loss = super().training_step(batch, batch_idx)
        self._maybe_fail("after the forward")
        return loss

    def on_after_backward(self) -> None:
        self._maybe_fail("after the backward")

    def on_before_zero_grad(self, optimizer: Any) -> None:
        self._maybe_fail("before zero_grad")

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self._maybe_fail("after the step")

    def on_train_start(self) -> None:
        super().on_train_start()
        self._maybe_fail("on_train_start")


POINTS = ["before the forward", "after the forward", "after the backward", "before zero_grad", "after the step"]
FAILURES = [(point, batch) for point in POINTS for batch in (1, 2, 7)] + [("on_train_start", 1)]


@pytest.mark.parametrize(("where", "batch"), FAILURES)
def test_an_exception_anywhere_restores_everything_and_is_raised(where: str, batch: int) -> None:
    class Compare(Rehearse):
        def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            before = _everything(trainer, pl_module)
            with pytest.raises(StopHereError, match="here"):
                super().on_fit_start(trainer, pl_module)
            assert_identical(_everything(trainer, pl_module), before, "after the exception")
            self.compared = True
            raise StopHereError("enough")

    compare = Compare()
    module = Fails(where, batch, batch_norm=True, dropout=0.2, optimizer="adamw")
    with pytest.raises(StopHereError, match="enough"):
        train(module, [compare], loader(shuffle=True))
    assert compare.compared


def test_ctrl_c_restores_everything_and_interrupts() -> None:
    class Compare(Rehearse):
        def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            before = _everything(trainer, pl_module)
            with pytest.raises(KeyboardInterrupt):
                super().on_fit_start(trainer, pl_module)
            assert_identical(_everything(trainer, pl_module), before, "after Ctrl-C")
            raise KeyboardInterrupt

    with pytest.raises((SystemExit, KeyboardInterrupt)):  # Lightning turns it into an exit
        train(Fails("after the backward", 3, KeyboardInterrupt), [Compare()], loader(shuffle=True))


def test_after_a_failed_rehearsal_the_same_trainer_trains_as_if_nothing_had_been() -> None:
    module = Fails("after the step", 5)
    rehearse = Rehearse()
    with pytest.raises(StopHereError):
        train(module, [rehearse], loader(shuffle=True))
    torch.manual_seed(5)
    fresh = Net()
    module.load_state_dict(fresh.state_dict())
    module.seen, module.hook_calls, module.where = [], {}, "nowhere"
    module.noise.manual_seed(11)
    module.accuracy.reset()
    assert_same_training(train(module, [], loader(shuffle=True)), train(fresh, [], loader(shuffle=True)))


def test_gradients_that_exist_before_are_there_after() -> None:
    class Compare(Rehearse):
        def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            for parameter in pl_module.parameters():
                parameter.grad = torch.full_like(parameter, 3.0)
            before = [parameter.grad for parameter in pl_module.parameters()]
            super().on_fit_start(trainer, pl_module)
            after = [parameter.grad for parameter in pl_module.parameters()]
            self.same = all(a is b and bool((a == 3).all()) for a, b in zip(after, before, strict=True))

    compare = Compare()
    train(Net(), [compare], loader())
    assert compare.same


class Colour(enum.Enum):
    RED = 1


@dataclass
class Options:
    width: int = 3


def test_hyperparameters_that_no_checkpoint_can_hold_are_no_obstacle(tmp_path: Path) -> None:
    """The peer writes a checkpoint for its own use, and fails to read it back: UnpicklingError, weights perturbed."""

    class Rich(Net):
        def __init__(self, path: Path, colour: Colour, options: Options) -> None:
            super().__init__()
            self.save_hyperparameters("path", "colour", "options")

    rehearse = Rehearse()
    train(Rich(tmp_path, Colour.RED, Options()), [rehearse], loader())
    assert len(rehearse.losses) == 18


def test_no_file_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    class Look(Rehearse):
        def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            super().on_fit_start(trainer, pl_module)
            self.files = list(tmp_path.rglob("*"))

    look = Look()
    train(Net(), [look], loader(), default_root_dir=str(tmp_path))
    assert look.files == []


def test_a_module_that_writes_to_its_logger_writes_nothing_in_a_rehearsal(tmp_path: Path) -> None:
    class Writes(Net):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            assert Path(self.logger.log_dir).is_relative_to(tmp_path)
            self.logger.experiment.add_scalar("mine", 1.0, self.global_step)
            self.logger.experiment.file_writer.flush()
            with self.trainer.profiler.profile("mine"):
                return super().training_step(batch, batch_idx)

    class Watch(Rehearse):
        def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            writes: list[Any] = []
            experiment = trainer.logger.experiment
            original, experiment.add_scalar = experiment.add_scalar, lambda *args: writes.append(args)
            super().on_fit_start(trainer, pl_module)
            experiment.add_scalar = original
            self.writes, self.recorded = writes, dict(trainer.profiler.recorded_durations)

    watch = Watch()
    train(Writes(), [watch], loader(), logger=TensorBoardLogger(tmp_path), profiler="simple")
    assert watch.writes == []
    assert "mine" not in watch.recorded


class Counts(pl.Callback):
    """Only watches."""

    def __init__(self) -> None:
        self.calls = 0

    def on_train_batch_end(self, *args: Any) -> None:
        self.calls += 1

    def on_before_backward(self, *args: Any) -> None:
        self.calls += 1


def test_callbacks_that_only_watch_and_validation_never_see_a_rehearsal() -> None:
    class Validates(Net):
        validations = 0

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            type(self).validations += 1

    with_it, without_it = Counts(), Counts()
    train(Validates(), [with_it, Rehearse()], loader(), val_loader=loader())
    counted, Validates.validations = Validates.validations, 0
    train(Validates(), [without_it], loader(), val_loader=loader())
    assert with_it.calls == without_it.calls
    assert counted == Validates.validations


class ZeroGradients(pl.Callback):
    """Says that it is part of the step."""

    changes_gradients = True

    def __init__(self) -> None:
        self.calls = 0

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.calls += 1
        for parameter in pl_module.parameters():
            parameter.grad.zero_()


def test_a_callback_that_changes_the_gradients_acts_in_the_rehearsal_and_forgets_it() -> None:
    class Watch(Rehearse):
        def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            weight = pl_module.head.weight.clone()
            with Rehearsal(trainer, pl_module) as rehearsal:
                rehearsal.step()
                self.moved = not torch.equal(weight, pl_module.head.weight)

    watch, zero = Watch(), ZeroGradients()
    train(Net(), [watch, zero], loader(), max_epochs=1)
    assert not watch.moved
    assert zero.calls == 6  # those of the training


def test_the_modules_own_step_hooks_act() -> None:
    class Frozen(Net):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any) -> None:
            optimizer_closure()  # gradients, no update

        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return [batch[0] * 0, *batch[1:]]

    class Watch(Rehearse):
        def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            weight = pl_module.head.weight.clone()
            with Rehearsal(trainer, pl_module) as rehearsal:
                self.losses = rehearsal.read([rehearsal.step()])
                self.moved = not torch.equal(weight, pl_module.head.weight)
                self.seen = pl_module.last_features.abs().max()

    watch = Watch()
    train(Frozen(), [watch], loader())
    assert not watch.moved
    assert float(watch.seen) < 0.1


def test_a_step_does_not_wait_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of ours reads a tensor's value: neither a transfer to the host nor a truth value."""

    class Quiet(Net):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

    class Watch(Rehearse):
        def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            reads: list[str] = []
            with Rehearsal(trainer, pl_module) as rehearsal, pytest.MonkeyPatch.context() as patch:
                rehearsal.step()
                for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__"):
                    original = getattr(torch.Tensor, name)
                    patch.setattr(
                        torch.Tensor, name, lambda *a, _f=original, _n=name, **k: (reads.append(_n), _f(*a, **k))[1]
                    )
                # (labels and indices of the next batch are collated on the host: only what follows counts)
                batch_reads = len(reads)
                rehearsal.step()
            self.reads = reads[batch_reads:]

    watch = Watch()
    data = torch.utils.data.TensorDataset(Samples().features, Samples().labels)
    train(Quiet(), [watch], torch.utils.data.DataLoader(data, batch_size=None, sampler=_Batches()))
    assert watch.reads == []


class _Batches(torch.utils.data.Sampler):
    def __iter__(self) -> Any:
        return iter([slice(0, 16), slice(16, 32), slice(32, 48), slice(48, 64)])

    def __len__(self) -> int:
        return 4


def test_a_compiled_module_is_compiled_as_often_as_without_it() -> None:
    def graphs(callbacks: list[Any]) -> int:
        compiled: list[int] = []

        def backend(graph: Any, inputs: Any) -> Any:
            compiled.append(1)
            return graph

        torch._dynamo.reset()
        module = Net(batch_norm=True, dropout=0.1)
        module.body = torch.compile(module.body, backend=backend)
        train(module, callbacks, loader())
        return len(compiled)

    assert graphs([Rehearse()]) == graphs([]) > 0
    torch._dynamo.reset()


def test_in_the_middle_of_a_training() -> None:
    class Later(Rehearse):
        def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            pass

        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            with Rehearsal(trainer, pl_module, BEFORE_EPOCH) as rehearsal:
                self.losses += rehearsal.read([rehearsal.step() for _ in range(9)])
            self.steps = [*getattr(self, "steps", []), trainer.global_step]

    for options in ({}, {"optimizer": "adamw", "batch_norm": True, "dropout": 0.3, "scheduler": "cosine"}):
        for loading in ({}, {"num_workers": 1, "persistent_workers": True}):
            torch.manual_seed(5)
            later = Later()
            with_it = train(Net(**options), [later], loader(shuffle=True, **loading), max_epochs=3)
            torch.manual_seed(5)
            assert_same_training(with_it, train(Net(**options), [], loader(shuffle=True, **loading), max_epochs=3))
            assert later.steps == [0, 6, 12]
            assert len(later.losses) == 27


def _generator() -> Any:
    yield from loader()


class _HoldsGenerator(torch.utils.data.IterableDataset):
    def __init__(self) -> None:
        self.stream = (sample for sample in [Samples()[i] for i in range(90)])

    def __iter__(self) -> Any:
        return self.stream


@pytest.mark.parametrize("data", [_generator, lambda: loader(dataset=_HoldsGenerator())], ids=["generator", "dataset"])
def test_data_that_cannot_be_started_again_is_refused_before_any_of_it_is_drawn(data: Any) -> None:
    module, source = Net(), data()
    with pytest.raises(MisconfigurationException, match=r"can be started again, but got .*generator"):
        train(module, [Rehearse()], source)
    assert module.seen == []
    batches = list(source)
    assert sum(len(batch[2]) for batch in batches) in (90, 96)  # all of it is still there


class TwoOptimizers(Net):
    """By hand, with or without telling what is brought down."""

    def __init__(self, tells: bool) -> None:
        super().__init__(manual=True)
        self.tells = tells

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), lr=self.lr) for part in (self.body, self.head)]

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor | None:
        loss = torch.nn.functional.cross_entropy(self(batch[0]), batch[1])
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
        return loss if self.tells else None


def test_two_optimizers_with_one_loss_are_rehearsed_and_without_are_refused() -> None:
    rehearse = Rehearse()
    train(TwoOptimizers(tells=True), [rehearse], loader())
    assert len(rehearse.losses) == 18
    with pytest.raises(MisconfigurationException, match="the loss that its 2 optimizers minimize together"):
        train(TwoOptimizers(tells=False), [Rehearse()], loader())


def test_by_hand_without_returning_the_loss() -> None:
    class Silent(Net):
        def training_step(self, batch: Any, batch_idx: int) -> None:
            super().training_step(batch, batch_idx)

    tells, silent = Rehearse(), Rehearse()
    torch.manual_seed(5)
    train(Net(manual=True), [tells], loader())
    torch.manual_seed(5)
    train(Silent(manual=True), [silent], loader())
    assert tells.losses == silent.losses


def test_batches_that_are_skipped_are_not_steps() -> None:
    class Skips(Net):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor | None:
            loss = super().training_step(batch, batch_idx)
            return None if batch_idx % 2 else loss

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
            return -1 if batch_idx == 4 else None

    rehearse = Rehearse()
    with pytest.warns(UserWarning, match="training_step` returned `None"):
        train(Skips(), [rehearse], loader())
    assert len(rehearse.losses) == 18


def test_a_training_that_never_steps_is_refused() -> None:
    class Never(Net):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return self(batch[0]).sum()

    with pytest.raises(MisconfigurationException, match="got 1000 batches without"):
        train(Never(manual=True), [Rehearse()], loader())


def test_a_strategy_that_keeps_state_elsewhere_is_refused_before_a_step() -> None:
    class Sharded(pl.strategies.ParallelStrategy):
        """Stands for DeepSpeed and its like: not one of those whose state we know where to find."""

    class Pretend(Rehearse):
        def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            rehearsal = Rehearsal(trainer, pl_module)
            real, trainer.strategy.__class__ = type(trainer.strategy), Sharded
            try:
                with rehearsal:
                    pass
            finally:
                trainer.strategy.__class__ = real

    module = Net()
    with pytest.raises(MisconfigurationException, match="got Sharded"):
        train(module, [Pretend()], loader())
    assert module.seen == []


def test_no_training_batches_are_refused() -> None:
    with pytest.raises(MisconfigurationException, match="limit_train_batches=0"):
        train(Net(), [Rehearse()], loader(), limit_train_batches=0)


def test_no_optimizer_and_lazy_parameters_are_refused() -> None:
    class Nothing(Net):
        def configure_optimizers(self) -> None:
            return None

    class Lazy(Net):
        def __init__(self) -> None:
            super().__init__()
            self.extra = torch.nn.LazyLinear(3)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.body.parameters(), lr=0.1)

    with pytest.warns(UserWarning, match="no optimizer"), pytest.raises(MisconfigurationException, match="got none"):
        train(Nothing(), [Rehearse()], loader())
    with pytest.raises(MisconfigurationException, match="lazy ones: extra"):
        train(Lazy(), [Rehearse()], loader())


def test_the_other_namespace() -> None:
    """`lightning.pytorch` has a Trainer, a module and exceptions of its own."""

    class Other(lightning.pytorch.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(8, 3)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(self.layer(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    def fit(callbacks: list[Any], data: Any) -> dict[str, torch.Tensor]:
        torch.manual_seed(5)
        module = Other()
        trainer = lightning.pytorch.Trainer(
            accelerator="cpu", max_epochs=2, logger=False, enable_progress_bar=False, enable_checkpointing=False,
            enable_model_summary=False, callbacks=callbacks,
        )  # fmt: skip
        trainer.fit(module, data)
        return module.state_dict()

    assert_identical(fit([Rehearse()], loader(shuffle=True)), fit([], loader(shuffle=True)), "weights")
    with pytest.raises(LightningMisconfiguration, match="started again"):
        fit([Rehearse()], _generator())


def test_snapshot_and_streams_are_usable_alone() -> None:
    module = torch.nn.BatchNorm1d(3)
    snapshot, streams = Snapshot(module), RandomState()
    first = module(torch.randn(4, 3))
    snapshot.restore()
    streams.restore()
    assert torch.equal(first, module(torch.randn(4, 3)))


class Inside(pl.Callback):
    """Does something within a rehearsal at the start of a training."""

    def __init__(self, act: Any) -> None:
        self.act = act

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        with Rehearsal(trainer, pl_module) as rehearsal:
            self.act(rehearsal)


def _resized(size: int) -> Any:
    return torch.utils.data.DataLoader(Samples(), batch_size=size, shuffle=True)


def test_other_loaders_from_the_start_and_the_training_is_as_without() -> None:
    seen: list[Any] = []

    def act(rehearsal: Rehearsal) -> None:
        module = rehearsal._module
        for size in (32, 8):
            rehearsal.restart(lambda size=size: _resized(size), accumulate_grad_batches=2)
            assert module.seen == []  # from the start
            rehearsal.step()
            seen.append((rehearsal.first_batch, rehearsal.num_samples, len(module.seen)))
            assert [loader.batch_size for loader in rehearsal.loaders] == [size]

    torch.manual_seed(5)
    run = train(Net(dropout=0.3, batch_norm=True), [Inside(act)], loader(shuffle=True))
    torch.manual_seed(5)
    assert_same_training(run, train(Net(dropout=0.3, batch_norm=True), [], loader(shuffle=True)))
    assert seen == [(32, 64, 2), (8, 16, 2)]


def test_what_the_loaders_write_into_the_module_is_there_in_the_steps_and_gone_afterwards() -> None:
    def act(rehearsal: Rehearsal) -> None:
        module = rehearsal._module

        def build() -> Any:
            module.batch_size = 8
            return _resized(8)

        rehearsal.restart(build)
        rehearsal.step()
        assert module.batch_size == 8

    run = train(Net(), [Inside(act)], loader())
    assert not hasattr(run.module, "batch_size")


def test_after_an_error_in_a_step_it_begins_again() -> None:
    class FailsOnce(Net):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            if len(batch[0]) == 32:
                raise StopHereError
            return super().training_step(batch, batch_idx)

    def act(rehearsal: Rehearsal) -> None:
        rehearsal.restart(lambda: _resized(32))
        with pytest.raises(StopHereError):
            rehearsal.step()
        rehearsal.restart(lambda: _resized(8))
        rehearsal.step()

    torch.manual_seed(5)
    run = train(FailsOnce(dropout=0.3), [Inside(act)], loader(shuffle=True), precision="bf16-mixed")
    torch.manual_seed(5)
    assert_same_training(run, train(FailsOnce(dropout=0.3), [], loader(shuffle=True), precision="bf16-mixed"))


def test_one_batch_of_the_validation_leaves_no_trace() -> None:
    class Validates(Net):
        validated = 0

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            assert not self.training
            assert not torch.is_grad_enabled()
            type(self).validated += 1
            super().validation_step(batch, batch_idx)

    def act(rehearsal: Rehearsal) -> None:
        rehearsal.step()
        Validates.validated = 0
        assert rehearsal.validate()
        assert Validates.validated == 1
        assert rehearsal._module.training
        assert rehearsal.trainer.training
        rehearsal.rewind()
        rehearsal.step()

    torch.manual_seed(5)
    run = train(Validates(dropout=0.3, batch_norm=True), [Inside(act)], loader(shuffle=True))
    torch.manual_seed(5)
    assert_same_training(run, train(Validates(dropout=0.3, batch_norm=True), [], loader(shuffle=True)))


def test_without_a_validation_there_is_no_batch_of_it() -> None:
    train(Net(), [Inside(lambda rehearsal: _expect_none(rehearsal))], loader(), limit_val_batches=0)


def _expect_none(rehearsal: Rehearsal) -> None:
    assert not rehearsal.validate()


@pytest.mark.parametrize(
    ("options", "per_epoch", "planned"),
    [
        ({"max_epochs": 3}, 6, 18),
        ({"max_epochs": 3, "accumulate_grad_batches": 4}, 2, 6),
        ({"max_epochs": 3, "max_steps": 7}, 6, 7),
        ({"max_epochs": 3, "limit_train_batches": 2}, 2, 6),
        ({"max_epochs": -1, "max_steps": 50}, 6, 50),
        ({"max_epochs": -1}, 6, None),
        ({"max_epochs": 3, "loader": "stream"}, None, None),
        ({"max_epochs": 3, "max_steps": 7, "loader": "stream"}, None, 7),
        ({"max_epochs": 3, "epoch": 1}, 6, 12),
        ({"max_epochs": 3, "max_steps": 10, "epoch": 1}, 6, 4),
    ],
)
def test_how_many_steps_the_training_still_has(options: dict[str, Any], per_epoch: Any, planned: Any) -> None:
    epoch, kind = options.pop("epoch", 0), options.pop("loader", "")
    seen = []

    class Watch(pl.Callback):
        changes_gradients = False

        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.current_epoch == epoch:
                with Rehearsal(trainer, pl_module, BEFORE_EPOCH) as rehearsal:
                    seen.append((rehearsal.steps_per_epoch, rehearsal.planned_steps))
                    rehearsal.step()
                    seen.append((rehearsal.steps_per_epoch, rehearsal.planned_steps))
                trainer.should_stop = True

    data = torch.utils.data.DataLoader(Stream(), batch_size=16) if kind == "stream" else loader()
    train(Net(), [Watch()], data, **options)
    assert seen == [(per_epoch, planned)] * 2


# Hooks before the first batch.


class MakesFolder(Net):
    """Writes to disk, which no rehearsal undoes."""

    def __init__(self, folder: Path, hook: str, exist_ok: bool = False) -> None:
        super().__init__()
        self.folder, self.hook, self.exist_ok = folder, hook, exist_ok

    def _maybe_make(self, hook: str) -> None:
        if hook == self.hook:
            (self.folder / "figures").mkdir(exist_ok=self.exist_ok)
            with (self.folder / "calls").open("a") as file:
                file.write("x")

    def on_fit_start(self) -> None:
        self._maybe_make("on_fit_start")

    def on_train_start(self) -> None:
        super().on_train_start()
        self._maybe_make("on_train_start")

    def on_train_epoch_start(self) -> None:
        self._maybe_make("on_train_epoch_start")


@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_start", "on_train_epoch_start"])
def test_a_hook_that_cannot_be_called_twice_is_named_before_any_step(hook: str, tmp_path: Path) -> None:
    module = MakesFolder(tmp_path, hook)
    with pytest.raises(MisconfigurationException, match=f"a hook `{hook}` .* got FileExistsError in the second"):
        train(module, [Rehearse()], loader())
    assert module.seen == []


def test_a_hook_is_called_twice_however_often_the_rehearsal_rewinds(tmp_path: Path) -> None:
    def act(rehearsal: Rehearsal) -> None:
        for number in range(5):
            rehearsal.step()
            rehearsal.rewind(same_batches=bool(number % 2))

    train(MakesFolder(tmp_path, "on_train_start", exist_ok=True), [Inside(act)], loader())
    assert (tmp_path / "calls").read_text() == "xxx"  # and once in the training


class Prepares(Net):
    """Hooks that the steps depend on: they set weights, draw random numbers, and choose the samples of the epoch."""

    def on_fit_start(self) -> None:
        torch.nn.init.eye_(self.head.weight)

    def on_train_start(self) -> None:
        super().on_train_start()
        self.scale = 1 + float(torch.rand(()))
        self.size = self.trainer.train_dataloader.batch_size

    def on_train_epoch_start(self) -> None:
        samples = self.trainer.train_dataloader.dataset
        samples.epoch = getattr(samples, "epoch", 0) + 1
        samples.features = samples.features.roll(samples.epoch, 1)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        assert len(batch[0]) == self.size
        self.scale += 0.1
        return super().training_step(batch, batch_idx) * self.scale


def test_what_the_hooks_prepare_is_there_in_every_pass_and_done_once_in_the_training() -> None:
    losses: list[list[float]] = []

    def act(rehearsal: Rehearsal) -> None:
        for number in (2, 3, 9):
            losses.append(rehearsal.read([rehearsal.step() for _ in range(number)])[:2])
            assert rehearsal._module.scale > 1
            rehearsal.rewind(same_batches=True)
        head = rehearsal._module.head.weight.clone()
        rehearsal.step()
        rehearsal.rewind()
        assert torch.equal(rehearsal._module.head.weight, head)
        rehearsal.restart(lambda: _resized(8))
        rehearsal.step()
        assert rehearsal._module.size == 8

    def fit(*callbacks: Any) -> Any:
        torch.manual_seed(5)
        return train(Prepares(dropout=0.3), list(callbacks), loader(shuffle=True), max_epochs=2)

    run = fit(Inside(act))
    plain = fit()
    assert_same_training(run, plain)
    first = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: Any) -> None:
            first.append(float(outputs["loss"]))

    fit(Watch())
    assert losses == [first[:2]] * 3


def test_a_second_snapshot_shares_what_has_not_changed() -> None:
    layers = torch.nn.ModuleList(torch.nn.Linear(3, 3) for _ in range(2))
    first = Snapshot(layers)
    torch.nn.init.ones_(layers[0].weight)
    second = Snapshot(layers, earlier=first)
    shared = {id(values) for values in first._values.values()} & {id(values) for values in second._values.values()}
    assert len(shared) == 3
    for snapshot, is_one in ((first, False), (second, True)):
        torch.nn.init.zeros_(layers[0].weight)
        snapshot.restore()
        assert bool((layers[0].weight == 1).all()) is is_one
