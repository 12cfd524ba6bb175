"""ClassifierMixin: what a classifier does with its logits, for any LightningModule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lightning_hp.functional.checks import check_whole, is_number
from lightning_hp.module.batches import split_batch
from lightning_hp.module.losses import check_values, class_weights_tensor, classification_loss
from lightning_hp.module.metrics import build_metrics, probabilities, update_metrics
from lightning_hp.module.optimizers import build_optimizer, check_optimizer, decays
from lightning_hp.module.parameter_groups import parameter_groups
from lightning_hp.module.schedules import Interval, Schedule
from lightning_hp.nn.head import Task, num_logits

if TYPE_CHECKING:
    from pytorch_lightning import LightningModule as _Lightning
else:
    # At run time it belongs to neither of the two Lightnings, and so to both.
    _Lightning = object


class ClassifierMixin(_Lightning):
    """Steps, loss, metrics, optimizer and schedule of a classifier; you write ``forward``, which gives logits.

    Put it in front of ``LightningModule``, of ``pytorch_lightning`` or of ``lightning.pytorch``, and give it its
    arguments in ``super().__init__``. Every method may be overridden.

    It logs ``train_loss_step`` in the steps and, over the epoch, ``train_loss``, ``train_accuracy``, ``train_f1`` and
    the same for ``val`` and ``test``; with more than ``top_k`` classes ``accuracy_top5`` too. Metrics count in the
    steps, without waiting for the device, and are computed at the end of the epoch, over all processes.

    The learning rate is ``self.lr``. Each parameter group is a fixed multiple of it, and so is the peak of a cycle, so
    that ``LRFinder``, ``BatchSizeScaler`` and you move them all by moving it.

    Args:
        *args: For the next class, as are other named arguments.
        num_classes: Number of classes, or of labels for ``"multilabel"``; two for ``"binary"``.
        task: ``"multiclass"``: cross-entropy; ``"binary"``: binary cross-entropy of one logit; ``"multilabel"``: binary
            cross-entropy of each label.
        lr: The learning rate, > 0.
        optimizer: The name of an optimizer in ``torch.optim``, in any case.
        optimizer_kwargs: Its other arguments: ``{"momentum": 0.9}``.
        weight_decay: Weight decay, not on norms and biases; ``None``: the optimizer's own default.
        lr_ratios: Parts of the model that learn at a multiple of ``lr``, by their path: ``{"backbone": 0.1}``. Of
            several that hold a parameter the longest path counts.
        scheduler: The name of a schedule in ``torch.optim.lr_scheduler``, in any case; ``None``: the rate stays.
        scheduler_kwargs: Its arguments. The length of ``CosineAnnealingLR``, ``LinearLR``, ``OneCycleLR`` and
            ``PolynomialLR`` is that of the training where it is missing, and they then move in every step.
        scheduler_interval: ``"step"`` or ``"epoch"``; ``None``: each epoch, but for those.
        monitor: The logged value that ``ReduceLROnPlateau`` follows.
        warmup_steps: Optimizer steps, or the share of the training (< 1), over which the rate rises in a straight line.
            It multiplies the schedule.
        label_smoothing: The share of certainty that is spread evenly over the answers, >= 0 and < 1.
        class_weights: The weight of each class in the loss, > 0; that of the positive answers for the other tasks.
        top_k: Also count how often the class is among this many of the largest logits; ``None``: do not.
        **kwargs: For the next class.

    Attributes:
        lr: The learning rate.
        task: The task.
        num_classes: Number of classes or labels.
        metrics: torchmetrics by stage, loader and name (``metrics["val_0"]["f1"]``), an ``nn.ModuleDict``.

    Raises:
        TypeError: If an argument is not of its kind, or the mixin stands behind ``LightningModule``.
        ValueError: If it is out of its range or a name is not known.

    Costs a few counts of small tensors in a step; nothing in it waits for the device.

    Where it does not help: labels of another form than these (sequences, boxes), several optimizers, manual
    optimization: override the step.

    Source: torch's losses and torchmetrics' metrics; see the card for what differs.

    Example:
        >>> import torch, pytorch_lightning as pl
        >>> class Probe(ClassifierMixin, pl.LightningModule):
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
        >>> trainer.fit(Probe(), loader, loader)
        >>> trainer.callback_metrics["val_accuracy"] > 0.7
        tensor(True)

    """

    def __init__(
        self,
        *args: Any,
        num_classes: int,
        task: Task = "multiclass",
        lr: float = 1e-3,
        optimizer: str = "AdamW",
        optimizer_kwargs: Mapping[str, Any] | None = None,
        weight_decay: float | None = None,
        lr_ratios: Mapping[str, float] | None = None,
        scheduler: str | None = None,
        scheduler_kwargs: Mapping[str, Any] | None = None,
        scheduler_interval: Interval | None = None,
        monitor: str = "val_loss",
        warmup_steps: float = 0,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | float | Tensor | None = None,
        top_k: int | None = 5,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        num_logits(task, num_classes)  # refuses what does not go together
        if not is_number(lr) or not 0 < lr < math.inf:
            raise ValueError(f"Expected `lr` to be a finite number > 0, but got {lr!r}.")
        if not is_number(label_smoothing) or not 0 <= label_smoothing < 1:
            raise ValueError(f"Expected `label_smoothing` to be a number >= 0 and < 1, but got {label_smoothing!r}.")
        for path, ratio in (lr_ratios or {}).items():
            if not is_number(ratio) or not 0 < ratio < math.inf:
                raise ValueError(
                    f"Expected `lr_ratios` to be finite and > 0, but got {ratio!r} for {path!r}. To keep a part as it "
                    "is, freeze it: `requires_grad_(False)`."
                )
        schedule = Schedule(scheduler, dict(scheduler_kwargs or {}), scheduler_interval, monitor, warmup_steps)
        schedule.check(check_optimizer(optimizer, lr, weight_decay, optimizer_kwargs or {}))
        self.task: Task = task
        self.num_classes = int(num_classes)
        self.lr = float(lr)
        self._optimizer = (optimizer, weight_decay, dict(optimizer_kwargs or {}))
        self._lr_ratios = dict(lr_ratios or {})
        self._schedule = schedule
        self._label_smoothing = float(label_smoothing)
        weights = class_weights_tensor(task, self.num_classes, class_weights)
        self.register_buffer("class_weights", weights, persistent=False)
        self._top_k = None if top_k is None else check_whole("top_k", top_k, least=1)
        self.metrics = nn.ModuleDict({f"{stage}_0": self.configure_metrics() for stage in ("train", "val", "test")})

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        before = cls.__mro__[: cls.__mro__.index(ClassifierMixin)]
        if any(base.__name__ == "LightningModule" for base in before):
            raise TypeError(
                f"Expected ClassifierMixin before LightningModule in the bases of {cls.__name__}, but got it behind. "
                f"Write: class {cls.__name__}(ClassifierMixin, LightningModule)."
            )

    def split_batch(self, batch: Any, has_labels: bool = True) -> tuple[Any, Any]:
        """Inputs and labels of a batch: a pair, or a mapping with ``labels``. Override it for batches of another form.

        Args:
            batch: What the loader gave.
            has_labels: ``False`` in `predict_step`: labels may be missing, and are then ``None``.

        """
        return split_batch(batch, has_labels)

    #: Stages whose labels have been looked at.
    _checked: frozenset[str] = frozenset()

    def compute_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a batch, a scalar."""
        weights = self.class_weights.to(logits.dtype) if isinstance(self.class_weights, Tensor) else None
        return classification_loss(self.task, logits, labels, weights, self._label_smoothing)

    def configure_metrics(self) -> nn.ModuleDict:
        """New metrics for one stage, by the names under which they are logged."""
        return build_metrics(self.task, self.num_classes, self._top_k)

    def update_metrics(self, metrics: nn.ModuleDict, logits: Tensor, labels: Tensor) -> None:
        """Lets the metrics of a stage count a batch."""
        update_metrics(metrics, self.task, logits, labels)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of a batch; logs it and counts the metrics."""
        return self._step(batch, "train", 0)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """The loss of a batch; logs it and counts the metrics, for each loader by itself."""
        return self._step(batch, "val", dataloader_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """As in validation."""
        return self._step(batch, "test", dataloader_idx)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Probabilities, with or without labels in the batch.

        Returns:
            Shape (batch, num_classes); for ``"binary"`` (batch,), the probability of the positive class.

        """
        return probabilities(self.task, self._logits(self.split_batch(batch, has_labels=False)[0]))

    def configure_optimizers(self) -> Any:
        """The optimizer over groups whose rates are multiples of ``self.lr``, and the schedule on it."""
        name, weight_decay, options = self._optimizer
        decay = decays(check_optimizer(name, self.lr, weight_decay, options))
        groups = parameter_groups(self, self.lr, self._lr_ratios, decay)
        optimizer = build_optimizer(name, groups, self.lr, weight_decay, options)
        return [optimizer], self._schedule.build(optimizer, self._length)

    def _step(self, batch: Any, stage: str, dataloader_idx: int) -> Tensor:
        inputs, labels = self.split_batch(batch)
        key = f"{stage}_{dataloader_idx}"
        if key not in self._checked and type(self).compute_loss is ClassifierMixin.compute_loss:
            check_values(self.task, self.num_classes, labels)  # of the first batch: later ones wait for nothing
            self._checked |= {key}
        if key not in self.metrics:
            self.metrics[key] = self.configure_metrics().to(self.device)
        logits = self._logits(inputs)
        loss = self.compute_loss(logits, labels)
        metrics = self.metrics[key]
        assert isinstance(metrics, nn.ModuleDict)
        self.update_metrics(metrics, logits, labels)
        size = len(labels)
        if stage == "train":
            self.log("train_loss_step", loss, on_step=True, on_epoch=False, batch_size=size)
        self.log(f"{stage}_loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=size)
        for name, metric in metrics.items():
            self.log(
                f"{stage}_{name}",
                metric,  # type: ignore[arg-type] # a Metric, in a dictionary of modules
                on_step=False,
                on_epoch=True,
                prog_bar=stage == "val" and name == "accuracy",
                batch_size=size,
                metric_attribute=f"metrics.{key}.{name}",
            )
        return loss

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
                f"Expected `forward` to give logits of shape (batch, {expected}) for task {self.task!r} with "
                f"{self.num_classes} classes, but got {got}."
            )
        return logits

    def _length(self, interval: Interval) -> int:
        """How long the training is, in optimizer steps or epochs."""
        length = self.trainer.estimated_stepping_batches if interval == "step" else self.trainer.max_epochs
        if length is None or not 0 < length < math.inf:
            raise ValueError(
                f"Expected a training of known length for {self._schedule.name or '`warmup_steps`'}, but it has "
                f"{length} {interval}s. Give the Trainer `max_epochs` or `max_steps`, or the length in "
                "`scheduler_kwargs`."
            )
        return int(length)
