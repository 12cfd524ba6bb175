"""BatchSizeScaler: the batch size for this hardware, this model and these classes, with the learning rate scaled."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args
from weakref import WeakKeyDictionary

from typing_extensions import override

from lightning_hp.callbacks.finder import Finder, checked_call, named_hparams
from lightning_hp.functional.batch_size.search import RoundTo
from lightning_hp.functional.checks import (
    check_bool,
    check_choice,
    check_fields,
    check_int,
    check_number,
    check_options,
    check_str,
    wrong_value,
)
from lightning_hp.functional.learning_rate.parameter_free import parameter_free_name
from lightning_hp.hyperparameters import (
    BatchSize,
    LearningRate,
    Warmup,
    apply_record,
    check_home,
    check_record,
    rebuild_optimizers,
    write_home,
)
from lightning_hp.rehearsal import (
    consuming_data,
    evaluation_loop,
    reason_not_to_rehearse,
    rehearse_outside_fit,
)
from lightning_hp.results import BatchSizeResult
from lightning_hp.trainer import count_seconds, is_resuming, misconfiguration, release_loaders
from lightning_hp.trainer.base_classes import Callback
from lightning_hp.tuning.batch_size import (
    BatchSizeLimits,
    ClassOptions,
    Objective,
    Scaling,
    SearchSettings,
    find_batch_size,
)

if TYPE_CHECKING:
    import pytorch_lightning as pl

#: The function of the Trainer whose batch size is found.
Stage = Literal["fit", "validate", "test", "predict"]

# The learning rate that was set in a module, and the effective batch size for which it is right: a second search over
# the same module must not scale it twice. And the samples of a step before the first search: a
# training keeps a share of the steps that it had then, or else each search would take more of them.
_SCALED: WeakKeyDictionary[pl.LightningModule, tuple[float | None, int, int]] = WeakKeyDictionary()


class BatchSizeScaler(Finder[BatchSizeResult], Callback):
    """Finds the batch size for your hardware, your model and your classes, and scales the learning rate with it.

    Before the training starts, BatchSizeScaler runs real training steps (your model, data, optimizer, precision and
    strategy) at growing batch sizes. It chooses the **smallest batch that is as fast as any**, because a larger one
    does not shorten an epoch and only reduces the number of optimizer steps. So that the noise of the timings rarely
    decides, only a quarter of your size, your size, four times that and so on are compared, and up to 30 % of the
    throughput are given up for a smaller one. This size is **raised** until every class occurs ``min_per_class``
    times in an optimizer step. It is **lowered** to what memory, the data and ``max_val`` allow, and so that the
    training keeps a quarter of its optimizer steps. A size is set only if it was run, together with a batch of the
    validation. Then everything is restored bit for bit, and the size is set. With k times the samples in an
    optimizer step the learning rate is multiplied by k, for Adam and its variants by the square root of k.

    The size is set where your loaders read it: in an attribute or hyperparameter ``batch_size`` of the model or the
    datamodule, if the loaders follow it; otherwise in the loaders, which are rebuilt with the same dataset, sampler,
    collation, workers and generator. Optimizers and schedulers are built again, since the length of a schedule may
    depend on the number of steps. A resumed run does not search again.

    Args:
        objective: ``"throughput"``: as above; ``"memory"``: the largest batch that the bounds allow.
        min_per_class: How often every class should occur in an optimizer step, >= 0; 0: the classes do not count.
        init_val: The first size that is tried, >= 1; in ``fit`` at most twice that, such that your size is four times,
            16 times, ... the first.
        max_val: The largest size that may be tried, >= 1.
        round_to: ``1``: any size; ``m``: multiples of m (and powers of two below m); ``"power"``: powers of two;
            ``"half_power"``: those and the sizes half-way between them (32, 48, 64, 96). ``None``: your present size, a
            quarter, four times, 16 times, ... of it, and a limit, on the grid of ``"half_power"``; with
            ``objective="memory"`` any size.
        effective_batch_size: Samples of an optimizer step, fixed: micro-batches that fit are accumulated to it, and the
            learning rate is not scaled. ``None``: not fixed.
        lr_scaling: How the learning rate changes if an optimizer step has k times the samples. ``"linear"``: it is
            multiplied by k. ``"sqrt"``: it is multiplied by the square root of k. ``"auto"``: ``"sqrt"`` is used for
            Adam and its variants, and ``"linear"`` for other optimizers. ``None``: it is not changed.
        base_batch_size: The effective batch size for which your learning rate is right, >= 1. ``None``: the present
            one.
        warmup: Raises the learning rate from its base value over the first epochs: ``True`` for as long as is advised
            (five epochs from k = 8 on under linear scaling, a tenth of the training at most), or a number of optimizer
            steps, >= 1.
        margin: Share of the batch that is subtracted where memory is the limit, >= 0 and < 1.
        steps_per_trial: Optimizer steps at each size, >= 2.
        update_attr: Whether the values that were found are set. ``False``: they are only reported.
        batch_arg_name: Where your model or datamodule keeps its batch size, if not in ``batch_size``. A resumed run
            needs the same name.
        attr_name: Where your model keeps its learning rate, if not in ``lr`` or ``learning_rate``; the same holds.
        class_options: How the classes are counted; a dictionary with any of these keys:

            - ``num_classes``: their number, >= 1, also where some of them have no samples; ``None``: those that occur
              in the labels of the dataset.
            - ``coverage``: the probability that a step contains every class ``min_per_class`` times, > 0 and < 1;
              ``None``: on average, ``min_per_class`` times the classes.
            - ``read_labels``: whether every sample is read once where the dataset has no labels of its own; ``False``.
        limits: What a larger batch may cost; a dictionary with any of these keys:

            - ``min_steps_per_epoch``: optimizer steps that an epoch keeps, >= 1; 10.
            - ``min_training_steps``: optimizer steps that the training keeps, >= 1; 250. The present batch size is
              allowed in any case.
            - ``min_step_share``: share of your present optimizer steps that the training keeps, > 0 and <= 1; 0.25, and
              with ``objective="memory"`` no such share.
            - ``within``: share of the best throughput that is given up for a smaller batch, > 0 and < 1; 0.3, and 0.15
              with ``round_to``, ``effective_batch_size`` or ``objective="memory"`` and outside of ``fit``.
            - ``memory_share``: share of the free memory that may be used, > 0 and <= 1; 0.9.
        may_consume_data: Whether the search may draw from data that cannot be started again, such as an endless random
            stream: the training then gets later samples. ``False``: such data is refused.
        noise_scale: Whether the gradient noise scale at the first weights is measured at the size that was found, by 80
            batches more, and shown as a further row. It is advice, and decides nothing; see
            [`GradientNoiseScale`][lightning_hp.GradientNoiseScale], which measures it along the training.

    Attributes:
        optimal_batch_size: The size that was found, samples in a batch of one process, or ``None``.
        result: The whole [`BatchSizeResult`][lightning_hp.BatchSizeResult], or ``None`` where there was no search.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of its range.
        MisconfigurationException: In ``fit``, before any step, if the training cannot be rehearsed, if its batches
            cannot be resized, if it comes after a callback that sets the learning rate, if ``effective_batch_size``
            cannot be reached, if the length of a schedule does not follow the number of steps, if a step writes a
            learning rate that does not follow that of the module, or if every allowed size ends an epoch with a batch
            of one sample that cannot be trained with. Later, if the batches of a size do not show that they have it,
            or not even the smallest batch fits.

    Note:
        Place it before ``LRFinder``, which then finds the learning rate at the new size. The learning rate that
        ``LRFinder`` reports as "before" is the scaled one.

        The search takes ``steps_per_trial`` training steps in some five to twenty trials: a size is repeated, up to
        six times, where the noise of the timings leaves the choice open. A step takes as
        long as a step of ``fit`` at that size. A step of one sample is added with batch normalisation, and four
        steps where the module has an ``optimizer_step`` of its own. One copy of the weights and the optimizer state
        is kept in host memory.

        The rule for the classes is a rule of thumb for balanced classes. Scaling the learning rate is a guess beyond 16
        times the batch, and wrong beyond the critical batch size of a task: use ``LRFinder`` there. Memory that grows
        later in the training (longer texts, a second validation set) is not measured; lower ``memory_share``.

        Where the classes need more samples than memory allows, batches are accumulated; normalisation layers then still
        see the micro-batch. [`ClassBalancedBatchSampler`][lightning_hp.ClassBalancedBatchSampler] guarantees every
        class in every batch.

        A figure, two tables and the scalars ``batch_size_scaler/found``, ``batch_size_scaler/used``,
        ``batch_size_scaler/before``, ``batch_size_scaler/effective`` and ``batch_size_scaler/lr_scaled`` are written to
        the Trainer's loggers.

    References:
        Goyal et al., *Accurate, Large Minibatch SGD*, 2017 (linear scaling, warm-up). Krizhevsky, *One weird trick for
        parallelizing convolutional neural networks*, 2014 (square root).

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

    sets = "batch_size"
    _tag = "batch_size_scaler"
    _result_type: ClassVar[Any] = BatchSizeResult

    def __init__(
        self,
        objective: Objective = "throughput",
        min_per_class: int = 3,
        init_val: int = 8,
        max_val: int = 8192,
        round_to: RoundTo | None = None,
        effective_batch_size: int | None = None,
        lr_scaling: Scaling | None = "auto",
        base_batch_size: int | None = None,
        warmup: bool | int = False,
        margin: float = 0.03,
        steps_per_trial: int = 3,
        update_attr: bool = True,
        batch_arg_name: str = "",
        attr_name: str = "",
        class_options: ClassOptions | None = None,
        limits: BatchSizeLimits | None = None,
        may_consume_data: bool = False,
        noise_scale: bool = False,
    ) -> None:
        super().__init__(may_consume_data)
        self._settings = SearchSettings(
            objective=objective,
            min_per_class=min_per_class,
            init_val=init_val,
            max_val=max_val,
            round_to=round_to,
            effective_batch_size=effective_batch_size,
            lr_scaling=lr_scaling,
            base_batch_size=base_batch_size,
            warmup=warmup,
            margin=margin,
            steps_per_trial=steps_per_trial,
            noise_scale=noise_scale,
            **_check_keys("class_options", class_options, ClassOptions),
            **_check_keys("limits", limits, BatchSizeLimits),
        )
        self._update_attr = check_bool("update_attr", update_attr)
        self._batch_arg_name = check_str("batch_arg_name", batch_arg_name, what='a name, or "" for `batch_size`')
        self._attr_name = check_str("attr_name", attr_name, what='a name, or "" for `lr` and `learning_rate`')
        self._evaluated: BatchSize | None = None
        self._running_warmup: Warmup | None = None

    @property
    def optimal_batch_size(self) -> int | None:
        """The size that was found in the last search, or ``None``."""
        return None if self.result is None else self.result.batch_size

    @override
    def find(
        self,
        trainer: pl.Trainer,
        model: pl.LightningModule,
        train_dataloaders: Any = None,
        datamodule: pl.LightningDataModule | None = None,
        update_attr: bool = False,
        stage: Stage = "fit",
    ) -> BatchSizeResult:
        """Runs the search alone: logs nothing, trains nothing, and sets nothing unless it is asked to.

        Args:
            trainer: A Trainer that is not running. Its strategy, precision and accumulation are used.
            model: The module.
            train_dataloaders: As for ``Trainer.fit``; with another ``stage`` the loaders of that one.
            datamodule: As for ``Trainer.fit``.
            update_attr: Whether what was found is set, for any run that follows: in the attributes of the model and the
                datamodule, and the accumulation in the Trainer. This argument alone decides, not that of the
                constructor. With another ``stage`` than ``"fit"`` it is the batch size alone, and also that of the
                training if its loaders read the same attribute.
            stage: ``"fit"``, or ``"validate"``, ``"test"`` or ``"predict"``: the batch size of that loop is found.

        Returns:
            The result.

        Raises:
            TypeError: If ``trainer`` is no Trainer, ``model`` no LightningModule, or ``update_attr`` no bool.
            ValueError: If ``stage`` is none of these.
            MisconfigurationException: If the run cannot be rehearsed, or the Trainer does not train (``fast_dev_run``,
                ``max_steps=0``); with ``update_attr``, before any step, if a value is kept in the optimizers or the
                loaders alone, which do not outlive the call.

        """
        if check_choice("stage", stage, get_args(Stage)) == "fit":
            return super().find(trainer, model, train_dataloaders, datamodule, update_attr)
        loaders, data = checked_call(trainer, model, train_dataloaders, datamodule, update_attr)
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise misconfiguration(
                trainer, f"Expected batches of `{stage}` to rehearse, but got `fast_dev_run`. Use a Trainer without it."
            )
        records: list[dict[str, Any]] = []

        def search(running: pl.Trainer, pl_module: pl.LightningModule) -> BatchSizeResult:
            batch_size = BatchSize.locate(running, pl_module, self._batch_arg_name, evaluation_loop(running))
            if update_attr and batch_size.home is None:
                self._refuse_to_set(running, "batch size", "loaders")
            result = find_batch_size(running, pl_module, batch_size, self._settings, learning_rate=None)
            if update_attr:
                batch_size.apply(result.batch_size)
                records.append(batch_size.record)
                result = result.with_used(result.batch_size, None)
            return result

        self.result = result = rehearse_outside_fit(trainer, model, search, loaders, data, stage)
        owner: Any = SimpleNamespace(datamodule=data)  # attributes only, so it needs no loops
        for record in records:
            apply_record(owner, model, record)
        return result

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Raises if it comes after a callback that sets the learning rate, or if there is a second one."""
        super().setup(trainer, pl_module, stage)
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        for callback in callbacks[: callbacks.index(self)] if self in callbacks else ():
            if getattr(callback, "sets", None) == "lr":
                raise misconfiguration(
                    trainer,
                    f"Expected BatchSizeScaler before {type(callback).__name__}, but got it after: the learning rate"
                    " would be found for another batch size than is trained with. Change their order in"
                    " `callbacks`; those of a module's `configure_callbacks` come after the Trainer's own.",
                )

    @override
    def used_hparams(self) -> dict[str, Any]:
        """What was set, by the names under which it is recorded; empty if nothing was."""
        if not self._applied:
            return {}
        size, lr, steps = (self._applied[name] for name in ("batch_size", "lr", "accumulate_grad_batches"))
        return {
            **named_hparams("batch_size", size["batch_size"], [path for _, path in size["places"]]),
            **({} if lr is None else named_hparams("lr", lr, self._applied["lr_home"])),
            **({} if steps == 1 else {"accumulate_grad_batches": steps}),
        }

    @override
    def _before_training(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Searches before the training. A resumed run uses what was found before."""
        if is_resuming(trainer):
            size = self._applied["batch_size"]["batch_size"] if self._applied else None
            used = "batch size is not changed" if size is None else f"training continues with batch size {size}"
            self._log(f"a resumed run does not search; the {used}.")
            return
        if (reason := reason_not_to_rehearse(trainer)) is not None:
            self._log(f"skipped, {reason}; the batch size is not changed.")
            return
        is_other_model = bool(self._applied) and pl_module not in _SCALED
        if self._searches and (trainer.current_epoch == 0 or is_other_model):
            self._tune(trainer, pl_module)
        elif self._applied:
            self._apply_again(trainer, pl_module)

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """In ``Trainer.validate``: finds the batch size of its loaders."""
        self._tune_evaluation(trainer, pl_module, "validate")

    @override
    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """In ``Trainer.test``: finds the batch size of its loaders."""
        self._tune_evaluation(trainer, pl_module, "test")

    @override
    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """In ``Trainer.predict``: finds the batch size of its loaders."""
        self._tune_evaluation(trainer, pl_module, "predict")

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the warm-up, after the other callbacks have rehearsed."""
        super().on_train_start(trainer, pl_module)
        steps = self._applied.get("warmup_steps", 0)
        if trainer.global_step < steps:
            self._running_warmup = Warmup(
                trainer.optimizers,
                self._applied["warmup_start"],
                steps,
                steps_done=lambda: trainer.global_step,
                # In the rehearsal of another finder this callback does not act, and neither does the warm-up.
                is_on=lambda: self in trainer.callbacks,  # type: ignore[attr-defined]
            )

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Releases loaders and optimizers: Lightning does not call ``teardown`` after an error."""
        super().on_exception(trainer, pl_module, exception)
        self._release(trainer)

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Releases the loaders and the optimizers of this run."""
        super().teardown(trainer, pl_module, stage)
        self._release(trainer)

    def _release(self, trainer: pl.Trainer) -> None:
        release_loaders(trainer)
        if self._evaluated is not None:  # the batch size of an evaluation is not that of the training
            self._evaluated.revert()
            self._evaluated = None
        if self._running_warmup is not None:
            self._running_warmup.remove()
            self._running_warmup = None

    @override
    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Sets what was found before the loaders and optimizers of the resumed run are built."""
        if applied := self._applied_in(trainer, checkpoint):
            apply_record(trainer, pl_module, applied["batch_size"])
            trainer.accumulate_grad_batches = applied["accumulate_grad_batches"]
            if applied["lr_home"]:
                write_home(pl_module, applied["lr"], tuple(applied["lr_home"]))

    @override
    def _check_applied(self, name: str, applied: Any) -> dict[str, Any]:
        keys = ("batch_size", "accumulate_grad_batches", "lr", "lr_home", "warmup_steps", "warmup_start")
        fields = check_fields(name, applied, keys)
        lr, home = fields["lr"], check_home(f"{name}['lr_home']", fields["lr_home"], self._attr_name)
        if lr is not None:
            lr = check_number(f"{name}['lr']", lr, above=0, also="None")
        elif home:
            wrong_value(f"{name}['lr_home']", "[], since no learning rate was set", home)
        return {
            "batch_size": check_record(f"{name}['batch_size']", fields["batch_size"], self._batch_arg_name),
            "accumulate_grad_batches": check_int(f"{name}['accumulate_grad_batches']", fields[keys[1]], 1),
            "lr": lr,
            "lr_home": home,
            "warmup_steps": check_int(f"{name}['warmup_steps']", fields["warmup_steps"], 0),
            "warmup_start": check_number(f"{name}['warmup_start']", fields["warmup_start"], above=0, maximum=1),
        }

    def _tune(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Searches, sets what was found, and reports."""
        batch_size = BatchSize.locate(trainer, pl_module, self._batch_arg_name)
        learning_rate = self._learning_rate(trainer, pl_module, read_only=not self._update_attr)
        result = self._find(trainer, pl_module, batch_size, learning_rate, caller=self)
        count_seconds(trainer, result.seconds)
        if self._update_attr:
            result = self._apply(trainer, pl_module, batch_size, learning_rate, result)
        self.result = result
        self._report(trainer, result)

    def _tune_evaluation(self, trainer: pl.Trainer, pl_module: pl.LightningModule, function: str) -> None:
        """Searches and sets the batch size of a loop that does not train."""
        if trainer.state.fn != function or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        batch_size = BatchSize.locate(trainer, pl_module, self._batch_arg_name, evaluation_loop(trainer))
        result = find_batch_size(trainer, pl_module, batch_size, self._settings, learning_rate=None, caller=self)
        if self._update_attr:
            self._evaluated = batch_size
            batch_size.apply(result.batch_size)
            result = result.with_used(result.batch_size, None)
        self.result = result
        self._report(trainer, result)

    def _learning_rate(self, trainer: Any, pl_module: pl.LightningModule, read_only: bool) -> LearningRate | None:
        """Where the learning rate is kept; ``None`` if it is not scaled."""
        fixed = self._settings.effective_batch_size is not None or self._settings.lr_scaling is None
        if fixed or any(map(parameter_free_name, trainer.optimizers)):
            return None
        for optimizer in trainer.optimizers:
            if any(group.get("lr") is None for group in optimizer.param_groups):
                raise misconfiguration(
                    trainer,
                    "Expected every parameter group to have a learning rate to scale, but got none in"
                    f" {type(optimizer).__name__}. Give it one, or use `lr_scaling=None` to find the batch size alone.",
                )
        learning_rate = LearningRate.locate(trainer, pl_module, self._attr_name, read_only=read_only)
        if not learning_rate.value > 0:
            raise misconfiguration(
                trainer,
                f"Expected a learning rate > 0 to scale with the batch size, but got {learning_rate.value:g} in"
                f" {type(trainer.optimizers[0]).__name__}. Give it another, or use `lr_scaling=None` to find the batch"
                " size alone; an LRFinder after it finds a rate.",
            )
        return learning_rate

    def _apply(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch_size: BatchSize,
        learning_rate: LearningRate | None,
        result: BatchSizeResult,
    ) -> BatchSizeResult:
        """Sets batch size, accumulation and learning rate, in this order: schedules are built on all three."""
        own_step = _own_step(trainer, pl_module, batch_size)
        batch_size.apply(result.batch_size)
        changed = result.accumulate_grad_batches != result.accumulate_before
        accumulate = result.accumulate_grad_batches if changed else trainer.accumulate_grad_batches
        trainer.accumulate_grad_batches = accumulate
        lr, home = result.lr_scaled, list[str]()
        if learning_rate is None or lr is None:
            rebuild_optimizers(trainer)
        else:
            learning_rate.apply(lr, rebuild=True)
            home = [] if learning_rate.home is None else [*learning_rate.home.paths]
        warmup_start = 1.0 if lr is None or not result.lr_before else min(1.0, result.lr_before / lr)
        self._applied = self._check_applied(
            "applied",
            {
                "batch_size": batch_size.record,
                "accumulate_grad_batches": accumulate,
                "lr": lr,
                "lr_home": home,
                "warmup_steps": result.warmup_steps,
                "warmup_start": warmup_start,
            },
        )
        result = result.with_used(result.batch_size, lr)
        _SCALED[pl_module] = result.lr_used, result.effective_batch_size, own_step
        return result

    def _find(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch_size: BatchSize,
        learning_rate: LearningRate | None,
        caller: Any = None,
    ) -> BatchSizeResult:
        lr, settings = None if learning_rate is None else learning_rate.value, self._settings
        scaled, step, _ = _SCALED.get(pl_module, (None, None, None))
        settings = replace(settings, own_step=_own_step(trainer, pl_module, batch_size))
        if settings.base_batch_size is None and lr is not None and lr == scaled:
            settings = replace(settings, base_batch_size=step)  # the rate was scaled before, to this size
        with consuming_data(self._may_consume_data):
            return find_batch_size(trainer, pl_module, batch_size, settings, learning_rate, caller)

    def _apply_again(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Sets the values again in a second ``fit``, which has the user's loaders and rebuilt optimizers."""
        batch_size = BatchSize.locate(trainer, pl_module, self._batch_arg_name)
        is_known = pl_module in _SCALED
        if is_known and batch_size.value == self._applied["batch_size"]["batch_size"]:
            return
        batch_size.apply(self._applied["batch_size"]["batch_size"])
        trainer.accumulate_grad_batches = self._applied["accumulate_grad_batches"]
        lr = self._applied["lr"]
        if lr is None or (is_known and self._applied["lr_home"]):
            rebuild_optimizers(trainer)
        else:
            LearningRate.locate(trainer, pl_module, self._attr_name).apply(lr, rebuild=True)

    @override
    def _search(self, trainer: pl.Trainer, pl_module: pl.LightningModule, update_attr: bool) -> BatchSizeResult:
        batch_size = BatchSize.locate(trainer, pl_module, self._batch_arg_name)
        learning_rate = self._learning_rate(trainer, pl_module, read_only=not update_attr)
        if update_attr:
            if batch_size.home is None:
                self._refuse_to_set(trainer, "batch size", "loaders")
            if learning_rate is not None and learning_rate.home is None:
                self._refuse_to_set(trainer, "learning rate", "optimizers")
            if self._settings.warmup:
                raise misconfiguration(
                    trainer,
                    "Expected `warmup=False` for a `find` that sets what it finds, but got a warm-up, which the"
                    " callback runs during the training. Add BatchSizeScaler to the callbacks of `fit` instead.",
                )
        result = self._find(trainer, pl_module, batch_size, learning_rate)
        return self._apply(trainer, pl_module, batch_size, learning_rate, result) if update_attr else result

    @override
    def _set_outside_fit(self, trainer: Any, model: Any, datamodule: Any, result: BatchSizeResult) -> None:
        # Attributes only, so what stands for the Trainer needs no loops.
        owner: Any = SimpleNamespace(datamodule=datamodule)
        apply_record(owner, model, self._applied["batch_size"])
        trainer.accumulate_grad_batches = self._applied["accumulate_grad_batches"]
        if self._applied["lr_home"]:
            write_home(model, self._applied["lr"], tuple(self._applied["lr_home"]))

    def _report(self, trainer: pl.Trainer, result: BatchSizeResult) -> None:
        self._log(str(result))
        self._log_result(
            trainer,
            scalars={
                "found": result.batch_size,
                "used": result.batch_size_used,
                "before": result.batch_size_before,
                "effective": result.effective_batch_size,
                "lr_scaled": result.lr_scaled,
            },
            tables={"summary": result.table(), "trials": result.trials_table()},
            figures={"search": lambda: result.plot()[0].figure},
        )


def _own_step(trainer: Any, pl_module: pl.LightningModule, batch_size: BatchSize) -> int:
    """Samples of an optimizer step before the first search over this module; now, if there was none."""
    present = batch_size.value * trainer.accumulate_grad_batches * trainer.world_size
    _, step, own = _SCALED.get(pl_module, (None, None, None))
    return own if own is not None and present == step else present


def _check_keys(name: str, options: Any, kind: type) -> dict[str, Any]:
    """A dictionary with any of the keys of a ``TypedDict``."""
    return check_options(name, options, "a dict of options", kind.__annotations__.keys())
