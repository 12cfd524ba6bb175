"""BatchSizeScaler: the batch size for this hardware, this model and these classes, with the learning rate scaled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args
from weakref import WeakKeyDictionary

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info

from lightning_hp.functional.batch_size.search import RoundTo
from lightning_hp.functional.checks import expect, is_between, is_count
from lightning_hp.functional.learning_rate.parameter_free import is_parameter_free
from lightning_hp.hyperparameters import (
    BatchSize,
    LearningRate,
    Warmup,
    apply_record,
    release_loaders,
    renew_optimizers,
    write_home,
)
from lightning_hp.plotting import plot_batch_size
from lightning_hp.rehearsal import evaluation_loop, name_undecided_callbacks, reason_not_to_rehearse, rehearse_alone
from lightning_hp.reporting import log_figure, log_hyperparams, log_scalars, log_table
from lightning_hp.results import BatchSizeResult
from lightning_hp.trainer import is_resuming, misconfiguration
from lightning_hp.tuning.batch_size import Asked, Objective, Scaling, find_batch_size

#: With fewer optimizer steps a larger batch lost more than half a point of accuracy at equal epochs, whatever the rate.
ENOUGH_STEPS = 250

# The learning rate that was set in a module, and the samples of a step that it is right for: a second search over the
# same module must not scale it twice.
_RIGHT_FOR: WeakKeyDictionary[pl.LightningModule, tuple[float | None, int]] = WeakKeyDictionary()


class BatchSizeScaler(pl.Callback):
    """Finds the batch size for your hardware, your model and your classes, and scales the learning rate with it.

    Before the training starts it rehearses it: real steps of your model, data, optimizer, precision and strategy at
    growing batch sizes. It takes the **smallest batch that is as fast as any**, since beyond it a larger one makes no
    epoch shorter and only takes steps away; **raised** until every class comes ``min_per_class`` times in an optimizer
    step; **lowered** to what memory, the data and ``max_val`` allow. No size is set that was not run, with a batch of
    the validation. Then everything is put back, bit for bit, the size is set, and with k times the samples in a step
    the learning rate becomes k times as large (for Adam and its kin by the square root of k).

    The size is set where your loaders take it from: an attribute or hyperparameter ``batch_size`` of the model or the
    datamodule that they follow, or else the loaders themselves, which are rebuilt with the same dataset, sampler,
    collation, workers and generator. Optimizers and schedulers are built anew, since a schedule may be as long as the
    training has steps. A resumed run does not search again.

    Where the classes need more than memory allows, batches are accumulated; normalisation layers then still see the
    micro-batch. [`ClassBalancedBatchSampler`][lightning_hp.ClassBalancedBatchSampler] shows every class for certain.

    Put it before ``LRFinder``, which then finds the learning rate at that size: its "before" is the scaled one.

    Args:
        min_per_class: How often every class should come in an optimizer step, >= 0; 0 asks nothing.
        coverage: The probability that all of them do, > 0 and < 1. ``None``: on average, ``min_per_class`` times the
            classes.
        num_classes: How many classes there are; ``None``: read from the labels that the dataset carries.
        effective_batch_size: Samples for one optimizer step, fixed: micro-batches that fit are accumulated to it, and
            the learning rate stays. ``None``: free.
        base_batch_size: The effective batch size that your learning rate is right for, >= 1. ``None``: the present one.
        lr_scaling: ``"linear"``: k times the batch, k times the rate; ``"sqrt"``: its square root times; ``"auto"``:
            ``"sqrt"`` for Adam and its kin, else ``"linear"``, as measured; ``None``: the rate stays.
        warmup: Raise the rate from the base rate over the first epochs: ``True`` for as long as is advised (five epochs
            from k = 8 on under linear scaling, a tenth of the training at most), or a number of optimizer steps.
        objective: ``"throughput"``: as above; ``"memory"``: the largest batch that the bounds allow.
        init_val: The first size that is tried, >= 1.
        max_val: The largest size that may be tried, >= 1.
        round_to: ``1``: any size, ``m``: multiples of m (and powers of two below m), ``"power"``: powers of two.
        min_steps_per_epoch: Optimizer steps that an epoch should still have, >= 1.
        min_training_steps: Optimizer steps that the whole training should still have, >= 1. Your own batch size is
            allowed whatever these two say.
        within: Share of the best throughput to give away for a smaller batch, > 0 and < 1.
        steps_per_trial: Optimizer steps at each size, >= 2.
        memory_share: Share of the free memory to use, > 0 and <= 1.
        margin: Share of the batch to take off where memory is the limit, >= 0 and < 1.
        read_labels: Read every sample once where the dataset does not carry its labels.
        update_attr: Set what was found. ``False``: only report it.
        batch_arg_name: Where your model or datamodule keeps its batch size, if not in ``batch_size``.
        attr_name: Where your model keeps its learning rate, if not in ``lr`` or ``learning_rate``.

    Attributes:
        optimal_batch_size: The size that was found: samples in a batch of one process, or ``None``.
        result: The whole [`BatchSizeResult`][lightning_hp.BatchSizeResult], or ``None`` where none was searched.

    Raises:
        ValueError: If an argument is out of its range or not of its kind.
        MisconfigurationException: In ``fit``, before any step, if the training cannot be rehearsed, if its batches
            cannot be resized, if it comes after a callback that sets the learning rate, if ``effective_batch_size``
            cannot be reached; and if not even the smallest batch fits.

    Costs ``steps_per_trial`` training steps at some six sizes, each as long as a step of ``fit`` at that size, and one
    copy of the weights and the optimizer state in host memory.

    Where it does not help: the rule of classes is a rule of practice, for balanced classes. Scaling the rate is a guess
    beyond 16 times the batch, and wrong beyond the critical batch size of a task: let ``LRFinder`` find it. Memory that
    grows later in the training (longer texts, a second validation set) is not seen; lower ``memory_share``.

    Source: Goyal et al., *Accurate, Large Minibatch SGD*, 2017 (linear scaling, warm-up); Krizhevsky, *One weird trick
    for parallelizing convolutional neural networks*, 2014 (sqrt). The search and the rule of classes are ours.

    Example:
        >>> import torch, pytorch_lightning as pl
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> from lightning_hp import BatchSizeScaler
        >>> class Model(pl.LightningModule):
        ...     def __init__(self, lr=0.01):
        ...         super().__init__()
        ...         self.save_hyperparameters()
        ...         self.layer = torch.nn.Linear(20, 5)
        ...     def training_step(self, batch, batch_idx):
        ...         x, y = batch
        ...         return torch.nn.functional.cross_entropy(self.layer(x), y)
        ...     def configure_optimizers(self):
        ...         return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)
        >>> x = torch.randn(2000, 20)
        >>> loader = DataLoader(TensorDataset(x, x[:, :5].argmax(1)), batch_size=4, shuffle=True)
        >>> scaler, model = BatchSizeScaler(max_val=64), Model()
        >>> trainer = pl.Trainer(max_epochs=3, callbacks=[scaler], logger=False, enable_checkpointing=False,
        ...                      enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
        >>> trainer.fit(model, loader)
        >>> 15 <= scaler.optimal_batch_size <= 64  # three of each of five classes
        True
        >>> model.hparams.lr == 0.01 * scaler.optimal_batch_size / 4
        True

    """

    #: What it sets: a callback that changes what this depends on has to come before it.
    sets = "batch_size"

    def __init__(
        self,
        min_per_class: int = 3,
        coverage: float | None = None,
        num_classes: int | None = None,
        effective_batch_size: int | None = None,
        base_batch_size: int | None = None,
        lr_scaling: Scaling | None = "auto",
        warmup: bool | int = False,
        objective: Objective = "throughput",
        init_val: int = 8,
        max_val: int = 8192,
        round_to: RoundTo = 1,
        min_steps_per_epoch: int = 10,
        min_training_steps: int = ENOUGH_STEPS,
        within: float = 0.05,
        steps_per_trial: int = 3,
        memory_share: float = 0.9,
        margin: float = 0.03,
        read_labels: bool = False,
        update_attr: bool = True,
        batch_arg_name: str = "",
        attr_name: str = "",
    ) -> None:
        super().__init__()
        counts = {"min_per_class": (min_per_class, 0), "init_val": (init_val, 1), "max_val": (max_val, 1)}
        counts |= {"min_steps_per_epoch": (min_steps_per_epoch, 1), "min_training_steps": (min_training_steps, 1)}
        counts |= {"steps_per_trial": (steps_per_trial, 2)}
        for name, (count, least) in counts.items():
            expect(is_count(count, least), f"`{name}` to be an int >= {least}", count)
        optional = {"num_classes": num_classes, "effective_batch_size": effective_batch_size}
        optional |= {"base_batch_size": base_batch_size}
        for name, value in optional.items():
            expect(value is None or is_count(value, 1), f"`{name}` to be an int >= 1 or None", value)
        within_0_1 = coverage is None or (is_between(coverage, 0, 1) and coverage not in (0, 1))
        expect(within_0_1, "`coverage` > 0 and < 1, or None", coverage)
        expect(lr_scaling is None or lr_scaling in get_args(Scaling), _one_of("lr_scaling", Scaling), lr_scaling)
        expect(isinstance(warmup, bool) or is_count(warmup, 1), "`warmup` to be a bool or steps >= 1", warmup)
        expect(objective in get_args(Objective), _one_of("objective", Objective), objective)
        expect(round_to == "power" or is_count(round_to, 1), "`round_to` to be an int >= 1 or 'power'", round_to)
        expect(is_between(within, 0, 1) and within not in (0, 1), "`within` > 0 and < 1", within)
        expect(is_between(memory_share, 0, 1) and memory_share != 0, "`memory_share` > 0 and <= 1", memory_share)
        expect(is_between(margin, 0, 1) and margin != 1, "`margin` >= 0 and < 1", margin)
        for name, flag in (("read_labels", read_labels), ("update_attr", update_attr)):
            expect(isinstance(flag, bool), f"`{name}` to be True or False", flag)
        for name, path in (("batch_arg_name", batch_arg_name), ("attr_name", attr_name)):
            expect(isinstance(path, str), f'`{name}` to be a name, or "" for the usual ones', path)
        self._asked = Asked(
            min_per_class=min_per_class,
            coverage=coverage,
            num_classes=num_classes,
            read_labels=read_labels,
            max_val=max_val,
            min_steps_per_epoch=min_steps_per_epoch,
            min_training_steps=min_training_steps,
            effective_batch_size=effective_batch_size,
            init_val=init_val,
            round_to=round_to,
            objective=objective,
            within=within,
            margin=margin,
            steps_per_trial=steps_per_trial,
            memory_share=memory_share,
            base_batch_size=base_batch_size,
            lr_scaling=lr_scaling,
            warmup=warmup,
        )
        self._update_attr = update_attr
        self._batch_arg_name = batch_arg_name
        self._attr_name = attr_name
        self.optimal_batch_size: int | None = None
        self.result: BatchSizeResult | None = None
        # What was applied and where, in plain types: for a second `fit` and for a resumed run.
        self._applied: dict[str, Any] = {}
        self._evaluated: BatchSize | None = None
        self._running_warmup: Warmup | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses a place behind a callback that sets the learning rate."""
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        for callback in callbacks[: callbacks.index(self)] if self in callbacks else ():
            if getattr(callback, "sets", None) == "lr":
                raise misconfiguration(
                    trainer,
                    f"Expected BatchSizeScaler before {type(callback).__name__}, got it behind: the learning rate would"
                    " be found for a batch size that is then another. Change their order in `callbacks`.",
                )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Searches before the training, unless it continues one: then what was found is used again."""
        if is_resuming(trainer):
            used = (
                f"goes on with batch size {self._applied['batch_size']['batch_size']}" if self._applied else "is yours"
            )
            rank_zero_info(f"BatchSizeScaler: a resumed run does not search; the training {used}.")
            return
        if (why := reason_not_to_rehearse(trainer)) is not None:
            rank_zero_info(f"BatchSizeScaler: skipped, {why}; the batch size is yours.")
            return
        if trainer.current_epoch == 0:
            self._tune(trainer, pl_module)
        elif self._applied:
            self._apply_again(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """In ``Trainer.validate``: finds the size of its batches."""
        self._tune_evaluation(trainer, pl_module, "validate")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """In ``Trainer.test``: finds the size of its batches."""
        self._tune_evaluation(trainer, pl_module, "test")

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """In ``Trainer.predict``: finds the size of its batches."""
        self._tune_evaluation(trainer, pl_module, "predict")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begins the warm-up, when all that rehearses is done."""
        steps = self._applied.get("warmup_steps", 0)
        if trainer.global_step < steps:
            self._running_warmup = Warmup(
                trainer.optimizers,
                self._applied["warmup_start"],
                steps,
                steps_done=lambda: trainer.global_step,
                # A finder that rehearses later steps without the callbacks that only watch, and without warm-up.
                is_on=lambda: self in trainer.callbacks,  # type: ignore[attr-defined]
            )

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Lightning does not tear down after an error."""
        self._let_go(trainer)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Lets go of the loaders and the optimizers of this run."""
        self._let_go(trainer)

    def _let_go(self, trainer: pl.Trainer) -> None:
        release_loaders(trainer)
        if self._evaluated is not None:  # a size for an evaluation is not the training's
            self._evaluated.revert()
            self._evaluated = None
        if self._running_warmup is not None:
            self._running_warmup.remove()
            self._running_warmup = None

    def find(
        self,
        trainer: pl.Trainer,
        model: pl.LightningModule,
        train_dataloaders: Any = None,
        datamodule: pl.LightningDataModule | None = None,
    ) -> BatchSizeResult:
        """Runs the search alone and returns what it found; sets nothing, logs nothing, trains nothing.

        Args:
            trainer: A Trainer that is not running. Its strategy, precision and accumulation are used.
            model: The module.
            train_dataloaders: As for ``Trainer.fit``.
            datamodule: As for ``Trainer.fit``.

        Returns:
            The result.

        Raises:
            MisconfigurationException: If the training cannot be rehearsed, or not even the smallest batch fits.

        """

        def act(trainer: pl.Trainer, pl_module: pl.LightningModule) -> BatchSizeResult:
            batch_size = BatchSize.locate(trainer, pl_module, self._batch_arg_name)
            learning_rate = self._learning_rate(trainer, pl_module, read_only=True)
            lr = None if learning_rate is None else learning_rate.value
            return find_batch_size(trainer, pl_module, batch_size, self._asked, lr)

        self.result = rehearse_alone(trainer, model, act, train_dataloaders, datamodule)
        self.optimal_batch_size = self.result.batch_size
        return self.result

    def state_dict(self) -> dict[str, Any]:
        """What was found, in plain types."""
        return {
            "optimal_batch_size": self.optimal_batch_size,
            "applied": self._applied,
            "result": None if self.result is None else self.result.to_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remembers what was found before."""
        self.optimal_batch_size = state_dict["optimal_batch_size"]
        self._applied = state_dict["applied"]
        result = state_dict["result"]
        self.result = None if result is None else BatchSizeResult.from_dict(result)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Sets what was found before loaders and optimizers of the resumed run are built."""
        applied = checkpoint.get("callbacks", {}).get(self.state_key, {}).get("applied")
        if applied and trainer.state.fn == "fit":
            apply_record(trainer, pl_module, applied["batch_size"])
            trainer.accumulate_grad_batches = applied["accumulate_grad_batches"]
            if applied["lr_home"]:
                write_home(pl_module, applied["lr"], tuple(applied["lr_home"]))

    def _tune(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find, apply, report."""
        name_undecided_callbacks("BatchSizeScaler", trainer)
        batch_size = BatchSize.locate(trainer, pl_module, self._batch_arg_name)
        learning_rate = self._learning_rate(trainer, pl_module, read_only=not self._update_attr)
        lr, asked = None if learning_rate is None else learning_rate.value, self._asked
        scaled, step = _RIGHT_FOR.get(pl_module, (None, None))
        if asked.base_batch_size is None and lr is not None and lr == scaled:
            asked = replace(asked, base_batch_size=step)  # it was scaled before, and is not right for the loader's size
        result = find_batch_size(trainer, pl_module, batch_size, asked, lr)
        if self._update_attr:
            result = self._apply(trainer, batch_size, learning_rate, result)
            _RIGHT_FOR[pl_module] = result.lr_used, result.effective_batch_size
        self.result, self.optimal_batch_size = result, result.batch_size
        self._report(trainer, result)
        if self._update_attr:
            # With a home they are in the module's hyperparameters, which Lightning logs by itself.
            own_size = batch_size.home is not None
            own_lr = learning_rate is None or learning_rate.home is not None
            log_hyperparams(
                trainer,
                {
                    "batch_size": None if own_size else result.batch_size_used,
                    "lr": None if own_lr else result.lr_used,
                },
            )

    def _tune_evaluation(self, trainer: pl.Trainer, pl_module: pl.LightningModule, function: str) -> None:
        """The size of the batches of a loop that does not train."""
        if trainer.state.fn != function or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        batch_size = BatchSize.locate(trainer, pl_module, self._batch_arg_name, evaluation_loop(trainer))
        result = find_batch_size(trainer, pl_module, batch_size, self._asked, lr=None)
        if self._update_attr:
            self._evaluated = batch_size
            batch_size.apply(result.batch_size)
            result = result.used(result.batch_size, None)
        self.result, self.optimal_batch_size = result, result.batch_size
        self._report(trainer, result)

    def _learning_rate(self, trainer: Any, pl_module: pl.LightningModule, read_only: bool) -> LearningRate | None:
        """Where the learning rate lives, if it is to be scaled."""
        fixed = self._asked.effective_batch_size is not None or self._asked.lr_scaling is None
        if fixed or any(map(is_parameter_free, trainer.optimizers)):
            return None
        return LearningRate.locate(trainer, pl_module, self._attr_name, read_only=read_only)

    def _apply(
        self,
        trainer: pl.Trainer,
        batch_size: BatchSize,
        learning_rate: LearningRate | None,
        result: BatchSizeResult,
    ) -> BatchSizeResult:
        """Sets the size, the accumulation and the rate, in this order: schedules are built on all three."""
        batch_size.apply(result.batch_size)
        changed = result.accumulate_grad_batches != result.accumulate_before
        accumulate = result.accumulate_grad_batches if changed else trainer.accumulate_grad_batches
        trainer.accumulate_grad_batches = accumulate
        lr, home = result.lr_scaled, list[str]()
        if learning_rate is None or lr is None:
            renew_optimizers(trainer)
        else:
            learning_rate.apply(lr, renew=True)
            home = [] if learning_rate.home is None else [*learning_rate.home.paths]
        self._applied = {
            "batch_size": batch_size.record,
            "accumulate_grad_batches": accumulate,
            "lr": lr,
            "lr_home": home,
            "warmup_steps": result.warmup_steps,
            "warmup_start": 1.0 if lr is None or not result.lr_before else min(1.0, result.lr_before / lr),
        }
        return result.used(result.batch_size, lr)

    def _apply_again(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A second ``fit`` gets the user's loaders, and rebuilt optimizers whose rate may have no home."""
        batch_size = BatchSize.locate(trainer, pl_module, self._batch_arg_name)
        is_known = pl_module in _RIGHT_FOR
        if is_known and batch_size.value == self._applied["batch_size"]["batch_size"]:
            return
        batch_size.apply(self._applied["batch_size"]["batch_size"])
        trainer.accumulate_grad_batches = self._applied["accumulate_grad_batches"]
        lr = self._applied["lr"]
        if lr is None or (is_known and self._applied["lr_home"]):
            renew_optimizers(trainer)
        else:
            LearningRate.locate(trainer, pl_module, self._attr_name).apply(lr, renew=True)

    def _report(self, trainer: pl.Trainer, result: BatchSizeResult) -> None:
        """Puts the answer where the user looks: the terminal and the loggers."""
        rank_zero_info(f"BatchSizeScaler: {result}")
        step = trainer.global_step
        scalars: dict[str, float | None] = {
            "found": result.batch_size,
            "used": result.batch_size_used,
            "before": result.batch_size_before,
            "effective": result.effective_batch_size,
            "lr_scaled": result.lr_scaled,
        }
        log_scalars(trainer, {f"batch_size_scaler/{name}": value for name, value in scalars.items()}, step)
        log_table(trainer, "batch_size_scaler/summary", *result.table(), step)
        log_table(trainer, "batch_size_scaler/trials", *result.trials_table(), step)
        if trainer.is_global_zero and trainer.loggers:
            figure: Any = plot_batch_size(result)[0].figure
            log_figure(trainer, "batch_size_scaler/search", figure, step)


def _one_of(name: str, kind: Any) -> str:
    return f"`{name}` to be one of {', '.join(get_args(kind))}"
