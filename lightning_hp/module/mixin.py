"""ClassifierMixin: the training of a classifier, for any LightningModule that computes logits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

from torch import Tensor, nn
from typing_extensions import override

from lightning_hp.functional.checks import check_choice, check_factor, check_int, check_number, check_options
from lightning_hp.module.batches import split_batch
from lightning_hp.module.class_weights import weights_of_training
from lightning_hp.module.losses import check_values, class_weights_tensor, classification_loss
from lightning_hp.module.metrics import ClassCounter, build_metrics, probabilities, update_metrics
from lightning_hp.module.optimizers import build_optimizer, check_optimizer, has_weight_decay
from lightning_hp.module.parameter_groups import check_lr_ratios, parameter_groups
from lightning_hp.module.schedules import Interval, Schedule
from lightning_hp.nn.head import Task, num_logits
from lightning_hp.reporting import log_table

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule as _LightningModule
else:
    # Without a base class at run time the mixin works in both namespaces of Lightning.
    _LightningModule = object


class ClassifierMixin(_LightningModule):
    """Steps, loss, metrics, optimizer and schedule of a classifier; you write ``forward``, which returns logits.

    Put it before ``LightningModule`` of ``pytorch_lightning`` or ``lightning.pytorch`` in the bases of your class, and
    pass its arguments to ``super().__init__``. Every method can be overridden.

    It logs ``train_loss_step`` in each step and, over the epoch, ``train_loss``, ``train_accuracy``, ``train_f1`` and
    the same for ``val`` and ``test``; with more than ``top_k`` classes ``accuracy_top5`` too. Metrics are computed at
    the end of the epoch, over all processes.

    The learning rate is ``self.lr``. The learning rate of each parameter group is a fixed multiple of it, and so is the
    peak of a cycle, so that ``LRFinder``, ``BatchSizeScaler`` and you change them all by assigning ``self.lr``.

    Args:
        *args: Passed to the next class, as are other named arguments.
        num_classes: Number of classes, or of labels for ``"multilabel"``; 2 for ``"binary"``.
        task: ``"multiclass"``: cross-entropy; ``"binary"``: binary cross-entropy of one logit; ``"multilabel"``: binary
            cross-entropy of each label.
        lr: The learning rate, > 0.
        optimizer: The name of an optimizer in ``torch.optim``, in upper or lower case.
        weight_decay: Weight decay, >= 0; not applied to normalisation layers, biases, class tokens and position
            embeddings, nor to what a model names in timm's ``no_weight_decay()``. ``None``: the optimizer's own
            default.
        scheduler: The name of a schedule in ``torch.optim.lr_scheduler``, in upper or lower case; ``None``: a constant
            learning rate.
        warmup_steps: Number of optimizer steps, or fraction of the training (< 1), of a linear warm-up. It is a factor
            on the schedule.
        label_smoothing: The probability that is spread evenly over all classes, >= 0 and < 1.
        class_weights: The weight of each class in the loss, > 0; for the other tasks the weight of the positive labels.
            ``"balanced"``: from the labels of the training data, so that each class has the same share; not for
            ``"multilabel"``.
        lr_ratios: Factors on ``lr`` for parts of the model, by their path: ``{"backbone": 0.1}``. If several parts
            contain a parameter, the longest path applies.
        layer_decay: The factor from the learning rate of each block of the backbone to that of the block below it, > 0
            and <= 1; the head has ``lr``. Without a submodule ``backbone`` the blocks are those of the model, and the
            last one has ``lr``. ``None``: all have one rate. It multiplies with ``lr_ratios``.
        top_k: k of an additional top-k accuracy, >= 1; ``None``: none.
        optimizer_options: Other arguments of the optimizer: ``{"momentum": 0.9}``.
        scheduler_options: Arguments of the schedule: ``{"eta_min": 1e-6}``. If the length of ``CosineAnnealingLR``,
            ``LinearLR``, ``OneCycleLR`` or ``PolynomialLR`` is missing, it is that of the training, and the schedule
            advances in every step. As in Lightning's scheduler configuration, ``"interval"``: ``"step"`` or
            ``"epoch"`` (if missing: epoch, except for these and ``CyclicLR``), and ``"monitor"``: the logged value that
            ``ReduceLROnPlateau`` follows (if missing: ``"val_loss"``).
        **kwargs: Passed to the next class.

    Attributes:
        lr: The learning rate.
        task: The task.
        num_classes: Number of classes or labels.
        class_weights: The class weights as a tensor, or ``None``; a buffer, which is in checkpoints if it is
            ``"balanced"``.
        class_scores: After ``test``: precision, recall, F1 and number of samples of each class, by the key of
            ``metrics``, shape (classes, 4).
        metrics: torchmetrics by stage, index of the loader and name (``metrics["val_0"]["f1"]``), an ``nn.ModuleDict``.

    Raises:
        TypeError: If an argument is of the wrong type, or the mixin comes after ``LightningModule`` in the bases.
        ValueError: If an argument is out of range, or a name is unknown.

    Note:
        ``"balanced"`` reads the labels that the dataset carries, or else all its samples once, up to 100,000, on each
        process. At the end of ``test`` a table of the scores of each class is logged.

        Metrics add a few counts of small tensors to a step. On an accelerator only the first batch of a stage
        synchronizes with the device, to check its labels; on the CPU the labels of every batch are checked. Labels of
        another form (sequences, boxes), several optimizers and manual optimization need an own ``training_step``.

    Example:
        >>> import torch, pytorch_lightning as pl
        >>> class LinearClassifier(ClassifierMixin, pl.LightningModule):
        ...     def __init__(self, width=20, lr=0.1):
        ...         super().__init__(num_classes=3, lr=lr, optimizer="SGD", scheduler="CosineAnnealingLR")
        ...         self.save_hyperparameters()
        ...         self.layer = nn.Linear(width, 3)
        ...     def forward(self, x):
        ...         return self.layer(x)
        >>> x = torch.randn(256, 20)
        >>> data = torch.utils.data.TensorDataset(x, x[:, :3].argmax(1))
        >>> trainer = pl.Trainer(max_epochs=5, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        ...                      enable_model_summary=False, accelerator="cpu")
        >>> loader = torch.utils.data.DataLoader(data, batch_size=16)
        >>> trainer.fit(LinearClassifier(), loader, loader)
        >>> trainer.callback_metrics["val_accuracy"] > 0.7
        tensor(True)

    """

    #: Keys of `metrics` (stage and loader) whose labels need no further check.
    _checked: frozenset[str] = frozenset()

    def __init__(
        self,
        *args: Any,
        num_classes: int,
        task: Task = "multiclass",
        lr: float = 1e-3,
        optimizer: str = "AdamW",
        weight_decay: float | None = None,
        scheduler: str | None = None,
        warmup_steps: float = 0,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | float | Tensor | Literal["balanced"] | None = None,
        lr_ratios: Mapping[str, float] | None = None,
        layer_decay: float | None = None,
        top_k: int | None = 5,
        optimizer_options: Mapping[str, Any] | None = None,
        scheduler_options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.task: Task = check_choice("task", task, get_args(Task))
        self.num_classes = check_int("num_classes", num_classes, 1)
        num_logits(self.task, self.num_classes)  # raises if the two do not fit
        self.lr = check_factor("lr", lr, above=0)
        if weight_decay is not None:
            weight_decay = check_factor("weight_decay", weight_decay, minimum=0, also="None")
        options = check_options("optimizer_options", optimizer_options, "a dict of arguments of the optimizer")
        schedule = Schedule(scheduler, {} if scheduler_options is None else scheduler_options, warmup_steps)
        schedule.check(check_optimizer(optimizer, self.lr, weight_decay, options))
        self._optimizer = (optimizer, weight_decay, options)
        self._schedule = schedule
        self._lr_ratios = check_lr_ratios(lr_ratios)
        if layer_decay is not None:
            layer_decay = check_number("layer_decay", layer_decay, above=0, maximum=1, also="None")
        self._layer_decay = layer_decay
        self._label_smoothing = check_number("label_smoothing", label_smoothing, minimum=0, below=1)
        is_balanced = isinstance(class_weights, str) and class_weights == "balanced"
        if is_balanced and self.task == "multilabel":
            raise ValueError("Expected `class_weights` to be numbers for task 'multilabel', but got 'balanced'.")
        given = [1.0] * num_logits(self.task, self.num_classes) if is_balanced else class_weights
        weights = class_weights_tensor(self.task, self.num_classes, given)
        self.register_buffer("class_weights", weights, persistent=is_balanced)
        self._is_balanced, self._has_counted = is_balanced, False
        self._top_k = None if top_k is None else check_int("top_k", top_k, 1, also="None")
        self.class_scores: dict[str, Tensor] = {}
        self._class_counts = nn.ModuleDict()
        self.metrics = nn.ModuleDict({f"{stage}_0": self.configure_metrics() for stage in ("train", "val", "test")})

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        before = cls.__mro__[: cls.__mro__.index(ClassifierMixin)]
        if any(base.__name__ == "LightningModule" for base in before):
            raise TypeError(
                f"Expected ClassifierMixin before LightningModule in the bases of {cls.__name__}, but got it after. "
                f"Write: class {cls.__name__}(ClassifierMixin, LightningModule)."
            )

    @override
    def setup(self, stage: str) -> None:
        """Counts the classes of the training data for ``class_weights="balanced"``."""
        super().setup(stage)
        if stage == "fit" and self._is_balanced:
            assert isinstance(self.class_weights, Tensor)
            self.class_weights.copy_(weights_of_training(self, self.task, self.num_classes))
            self._has_counted = True

    @override
    def on_test_epoch_end(self) -> None:
        """Logs a table of precision, recall, F1 and number of samples of each class, for each loader."""
        super().on_test_epoch_end()
        for key, counts in self._class_counts.items():
            assert isinstance(counts, ClassCounter)
            scores = self.class_scores[key] = counts.compute().cpu()
            counts.reset()
            rows = [[number, *row[:3], int(row[3])] for number, row in enumerate(scores.tolist())]
            name = "test" if key == "test_0" else key
            header = ("class", "precision", "recall", "f1", "samples")
            log_table(self.trainer, f"{name}/classes", header, rows, self.trainer.global_step)

    def split_batch(self, batch: Any, has_labels: bool = True) -> tuple[Any, Any]:
        """Splits a batch into inputs and labels: a pair, or a mapping with ``labels``. Override it for other batches.

        Args:
            batch: The batch of the loader.
            has_labels: ``False`` in `predict_step`: labels may be missing, and are then ``None``.

        Returns:
            Inputs and labels. Inputs in a tuple or a mapping are passed to ``forward`` as several arguments.

        Raises:
            TypeError: If the batch has another form.

        """
        return split_batch(batch, has_labels)

    def compute_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Computes the mean loss of a batch.

        Args:
            logits: What ``forward`` returns.
            labels: The labels of the batch.

        Returns:
            The loss, shape ``()``.

        Raises:
            ValueError: If the shapes of logits and labels do not match.

        """
        weights = self.class_weights.to(logits.dtype) if isinstance(self.class_weights, Tensor) else None
        return classification_loss(self.task, logits, labels, weights, self._label_smoothing)

    def configure_metrics(self) -> nn.ModuleDict:
        """Builds the metrics of one stage and loader.

        Returns:
            New torchmetrics, by the names under which they are logged.

        """
        return build_metrics(self.task, self.num_classes, self._top_k)

    def update_metrics(self, metrics: nn.ModuleDict, logits: Tensor, labels: Tensor) -> None:
        """Counts a batch.

        Args:
            metrics: What `configure_metrics` returned, for the current stage and loader.
            logits: What ``forward`` returns.
            labels: The labels of the batch.

        """
        update_metrics(metrics, self.task, logits, labels)

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of a batch; logs it and counts the metrics."""
        return self._step(batch, "train", 0)

    @override
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """The loss of a batch; logs it and counts the metrics, separately for each loader."""
        return self._step(batch, "val", dataloader_idx)

    @override
    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """The loss of a batch; logs it and counts the metrics, separately for each loader."""
        return self._step(batch, "test", dataloader_idx)

    @override
    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Computes the probabilities of a batch with or without labels.

        Args:
            batch: The batch of the loader.
            batch_idx: Not used.
            dataloader_idx: Not used.

        Returns:
            Shape (batch, num_classes); for ``"binary"`` (batch,), the probability of the positive class.

        Raises:
            TypeError: If the batch is of a form that ``split_batch`` does not know.

        """
        return probabilities(self.task, self._logits(self.split_batch(batch, has_labels=False)[0]))

    @override
    def configure_optimizers(self) -> Any:
        """Builds the optimizer with a multiple of ``self.lr`` for each parameter group, and its schedule.

        Returns:
            A list with the optimizer, and the list of Lightning's scheduler configurations.

        Raises:
            TypeError: If ``self.lr`` is not a number.
            ValueError: If ``self.lr`` is not finite and > 0, a path in ``lr_ratios`` contains no parameter, no
                parameter requires a gradient, or ``warmup_steps`` is more than the steps of the training.

        """
        self._refuse_long_warmup()
        name, weight_decay, options = self._optimizer
        lr = check_factor("lr", self.lr, above=0)
        decay = has_weight_decay(check_optimizer(name, lr, weight_decay, options))
        groups = parameter_groups(self, lr, self._lr_ratios, decay, self._layer_decay)
        optimizer = build_optimizer(name, groups, lr, weight_decay, options)
        return [optimizer], self._schedule.build(optimizer, self._training_length)

    def _step(self, batch: Any, stage: str, dataloader_idx: int) -> Tensor:
        if stage == "train" and self._is_balanced and not self._has_counted:
            raise RuntimeError(
                f"Expected `setup` of {type(self).__name__} to call `super().setup(stage)`, which counts the classes "
                "for class_weights='balanced', but it did not."
            )
        inputs, labels = self.split_batch(batch)
        key = f"{stage}_{dataloader_idx}"
        self._check_labels(key, labels)
        if key not in self.metrics:
            self.metrics[key] = self.configure_metrics().to(self.device)
        logits = self._logits(inputs)
        loss = self.compute_loss(logits, labels)
        metrics = self.metrics[key]
        assert isinstance(metrics, nn.ModuleDict)
        self.update_metrics(metrics, logits, labels)
        if stage == "test" and type(self).update_metrics is ClassifierMixin.update_metrics:
            if key not in self._class_counts:
                self._class_counts[key] = ClassCounter(self.task, self.num_classes).to(self.device)
            counts = self._class_counts[key]
            assert isinstance(counts, ClassCounter)
            counts.update(logits, labels)
        size = len(labels)
        if stage == "train":
            self.log("train_loss_step", loss, on_step=True, on_epoch=False, batch_size=size)
        self.log(f"{stage}_loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=size)
        for name, metric in metrics.items():
            self.log(
                f"{stage}_{name}",
                metric,  # type: ignore[arg-type] # the ModuleDict contains metrics
                on_step=False,
                on_epoch=True,
                prog_bar=stage == "val" and name == "accuracy",
                batch_size=size,
                metric_attribute=f"metrics.{key}.{name}",
            )
        return loss

    def _check_labels(self, key: str, labels: Any) -> None:
        """Checks labels for the default loss and metrics: on the CPU always, elsewhere once, as it synchronizes."""
        own = (type(self).compute_loss, type(self).update_metrics)
        if not {ClassifierMixin.compute_loss, ClassifierMixin.update_metrics} & set(own):
            return
        if key in self._checked:
            return
        check_values(self.task, self.num_classes, labels)
        if not labels.is_cpu:
            self._checked |= {key}

    def _logits(self, inputs: Any) -> Tensor:
        if isinstance(inputs, Mapping):
            logits = self(**inputs)
        else:
            logits = self(*inputs) if isinstance(inputs, (tuple, list)) else self(inputs)
        expected = num_logits(self.task, self.num_classes)
        is_vector = self.task == "binary" and isinstance(logits, Tensor) and logits.ndim == 1
        if not isinstance(logits, Tensor) or not (is_vector or (logits.ndim == 2 and logits.shape[1] == expected)):
            got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
            raise ValueError(
                f"Expected `forward` to return logits of shape (batch, {expected}) for task {self.task!r} with "
                f"{self.num_classes} classes, but got {got}."
            )
        return logits

    def _refuse_long_warmup(self) -> None:
        """Refuses a warm-up that does not end: the training would never reach its learning rate."""
        steps = self._schedule.warmup_steps
        if steps < 1:
            return
        try:
            trainer = self.trainer
        except RuntimeError:  # there is none: `configure_optimizers` is called by hand
            return
        total = trainer.estimated_stepping_batches
        if steps > total and not trainer.fast_dev_run:  # type: ignore[attr-defined] # set by Lightning
            raise ValueError(
                f"Expected `warmup_steps` to be at most {int(total)}, the optimizer steps of the training, but got "
                f"{int(steps)}. Pass a fraction of the training, such as 0.05, or train longer."
            )

    def _training_length(self, interval: Interval) -> int:
        """The length of the training, in optimizer steps or epochs."""
        length = self.trainer.estimated_stepping_batches if interval == "step" else self.trainer.max_epochs
        if length is None or not 0 < length < math.inf:
            raise ValueError(
                f"Expected a training of known length for {self._schedule.name or '`warmup_steps`'}, but it has "
                f"{length} {interval}s. Give the Trainer `max_epochs` or `max_steps`, or the length in "
                "`scheduler_options`."
            )
        return int(length)
