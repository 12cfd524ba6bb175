"""Classifier: backbone, head, loss, metrics and optimizer from one configuration."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

import lightning_hp
from lightning_hp.functional.checks import check_whole
from lightning_hp.hyperparameters import stated_batch_size
from lightning_hp.module.mixin import ClassifierMixin
from lightning_hp.module.parameter_groups import check_paths
from lightning_hp.module.plain_types import plain
from lightning_hp.module.schedules import Interval
from lightning_hp.nn import Backbone, ClassifierHead
from lightning_hp.nn.backbone.pooling import Pooling
from lightning_hp.nn.backbone.sources import is_source
from lightning_hp.nn.head import Task
from lightning_hp.reporting import log_run
from lightning_hp.trainer import batch_size_of

#: Whether weights come from a checkpoint, so that those of the pretraining need not be fetched.
_IS_LOADING: ContextVar[bool] = ContextVar("is_loading", default=False)

_OF_THE_MIXIN = tuple(
    name
    for name, parameter in inspect.signature(ClassifierMixin).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
)

_HEAD_DEFAULTS = {
    name: plain(name, parameter.default)
    for name, parameter in inspect.signature(ClassifierHead).parameters.items()
    if parameter.default is not inspect.Parameter.empty and name != "task"
}
_STAGES = ("val", "train", "test")

# Who tunes and trains, in the order in which they act, and the argument that asks for it.
_SUITE = {"find_batch_size": "BatchSizeScaler", "find_lr": "LRFinder", "sam": "SAM"}


class Classifier(ClassifierMixin, pl.LightningModule):
    """A classifier that is ready to use: a backbone by name, a head by its options, the rest by names and numbers.

    All arguments are hyperparameters in plain types. They are in the checkpoint, which loads with torch's safe loading;
    they are what ``LightningCLI`` reads from YAML; and TensorBoard shows them in its HParams tab beside the loss and
    the metrics, with the learning rate and the batch size that were used.

    Args:
        backbone: What [`Backbone`][lightning_hp.Backbone] takes: a name such as ``"resnet50"``, ``"timm:<name>"`` or
            ``"hf:<name or folder>"``, or a module of yours; or a ``Backbone``. A module is not written into the
            hyperparameters: ``Classifier.load_from_checkpoint(path, backbone=module)`` gives it again.
        num_classes: Number of classes, or of labels for ``"multilabel"``; two for ``"binary"``.
        head_options: Options of [`ClassifierHead`][lightning_hp.ClassifierHead], such as ``n_hidden_units``.
        pretrained: Load the weights of a named backbone.
        pooling: How features are pooled, see [`Backbone`][lightning_hp.Backbone].
        task: ``"multiclass"``, ``"binary"`` (one logit) or ``"multilabel"``.
        lr: The learning rate, > 0: that of the head.
        batch_size: For loaders that are built with it, ``DataLoader(data, model.batch_size)``. What the training loader
            has is recorded when the training starts.
        optimizer: The name of an optimizer in ``torch.optim``.
        optimizer_kwargs: Its other arguments.
        weight_decay: Weight decay, not on norms and biases; ``None``: the optimizer's own default.
        lr_ratios: Parts that learn at a multiple of ``lr``: ``{"backbone": 0.1}``.
        scheduler: The name of a schedule in ``torch.optim.lr_scheduler``.
        scheduler_kwargs: Its arguments; a length that is missing is that of the training.
        scheduler_interval: ``"step"`` or ``"epoch"``, see [`ClassifierMixin`][lightning_hp.ClassifierMixin].
        monitor: The logged value that ``ReduceLROnPlateau`` follows.
        warmup_steps: Optimizer steps, or the share of the training (< 1), of a linear warm-up.
        label_smoothing: The share of certainty that is spread over the answers, >= 0 and < 1.
        class_weights: The weight of each class in the loss; that of the positive answers for the other tasks.
        top_k: Also count how often the class is among this many; ``None``: do not.
        find_batch_size: Tune with [`BatchSizeScaler`][lightning_hp.BatchSizeScaler] before the training; a dictionary:
            with these arguments.
        find_lr: Likewise with [`LRFinder`][lightning_hp.LRFinder].
        sam: Train with ``SAM``, likewise.

    Attributes:
        backbone: The [`Backbone`][lightning_hp.Backbone].
        head: The [`ClassifierHead`][lightning_hp.ClassifierHead].
        lr: The learning rate, as in ``hparams``.
        batch_size: The batch size, as in ``hparams``.

    Shape:
        What the backbone takes to logits (batch, num_classes), or (batch, 1) for ``"binary"``.

    Raises:
        TypeError: If an argument is not of its kind.
        ValueError: If it is out of its range, or a name is not known.

    Costs what backbone and head cost, and a few counts of small tensors in a step for the metrics.

    Where it does not help: models whose head is not behind one vector of features; ``lightning.pytorch``, whose Trainer
    does not take modules of ``pytorch_lightning``: there use [`ClassifierMixin`][lightning_hp.ClassifierMixin].

    Source: the parts name theirs.

    Example:
        >>> from lightning_hp import Classifier
        >>> model = Classifier(
        ...     "squeezenet1_1", 35, pretrained=False, head_options={"n_hidden_units": 64, "activation_fn": nn.ReLU()},
        ...     lr_ratios={"backbone": 0.1}, scheduler="OneCycleLR",
        ... )
        >>> model.hparams.head_options
        {'n_hidden_units': 64, 'activation_fn': 'ReLU'}
        >>> import torch
        >>> model(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 35])

    """

    def __init__(
        self,
        backbone: str | nn.Module,
        num_classes: int,
        head_options: dict[str, Any] | None = None,
        *,
        pretrained: bool = True,
        pooling: Pooling = "auto",
        task: Task = "multiclass",
        lr: float = 1e-3,
        batch_size: int | None = None,
        optimizer: str = "AdamW",
        optimizer_kwargs: dict[str, Any] | None = None,
        weight_decay: float | None = None,
        lr_ratios: dict[str, float] | None = None,
        scheduler: str | None = None,
        scheduler_kwargs: dict[str, Any] | None = None,
        scheduler_interval: Interval | None = None,
        monitor: str = "val_loss",
        warmup_steps: float = 0,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | float | Tensor | None = None,
        top_k: int | None = 5,
        find_batch_size: bool | dict[str, Any] = False,
        find_lr: bool | dict[str, Any] = False,
        sam: bool | dict[str, Any] = False,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__", "backbone")}
        mine = {name: plain(name, value) for name, value in given.items()}
        _refuse_stand_in(backbone)
        super().__init__(**{name: mine[name] for name in _OF_THE_MIXIN})
        if batch_size is not None:
            mine["batch_size"] = check_whole("batch_size", mine["batch_size"], least=1)
        mine["pretrained"] = pretrained and is_source(backbone)  # of a module nobody but its maker knows
        self.hparams.update({"backbone": _name_of(backbone), **mine})
        self.configure_callbacks()  # refuses their arguments now

        options = mine["head_options"] or {}
        if not isinstance(options, dict) or options.keys() - _HEAD_DEFAULTS.keys():
            raise ValueError(
                f"Expected `head_options` to be options of ClassifierHead, out of {', '.join(_HEAD_DEFAULTS)}, but got"
                f" {head_options!r}."
            )
        with torch.device("meta"):  # no numbers, no dice: a backbone may take a while, and this is refused at once
            ClassifierHead(1, num_classes, task=task, **options)
        if not isinstance(backbone, Backbone):
            backbone = Backbone(backbone, pretrained=pretrained and not _IS_LOADING.get(), pooling=pooling)
        self.backbone = backbone
        self.head = ClassifierHead(backbone.feature_dim, num_classes, task=task, **options)
        check_paths(self, self._lr_ratios)

    @property
    def lr(self) -> float:
        """The learning rate; the hyperparameter and nothing beside it."""
        lr: float = self.hparams["lr"]
        return lr

    @lr.setter
    def lr(self, lr: float) -> None:
        self.hparams["lr"] = lr

    @property
    def batch_size(self) -> int | None:
        """The batch size; ``None`` until it is known."""
        batch_size: int | None = self.hparams["batch_size"]
        return batch_size

    @batch_size.setter
    def batch_size(self, batch_size: int) -> None:
        self.hparams["batch_size"] = batch_size

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Logits for what the backbone takes: tensors, names, or one mapping of names."""
        logits: Tensor = self.head(self.backbone(*args, **kwargs))
        return logits

    def configure_callbacks(self) -> list[pl.Callback]:
        """The callbacks that ``find_batch_size``, ``find_lr`` and ``sam`` ask for; they act after the Trainer's own."""
        callbacks: list[pl.Callback] = []
        for argument, name in _SUITE.items():
            options = self.hparams[argument]
            if not isinstance(options, (bool, dict)):
                raise TypeError(
                    f"Expected `{argument}` to be True, False or a dictionary of arguments, but got {options!r}."
                )
            if options is False:
                continue
            try:
                callbacks.append(getattr(lightning_hp, name)(**(options if isinstance(options, dict) else {})))
            except (TypeError, ValueError) as error:
                raise type(error)(f"`{argument}` is for {name}: {error}") from error
        return callbacks

    def on_fit_start(self) -> None:
        """Logs the hyperparameters, when those who tune have set them and before Lightning logs a datamodule's."""
        super().on_fit_start()
        size = stated_batch_size(self.trainer)
        if size is not None:
            self.batch_size = size
        of_the_data = dict(getattr(getattr(self.trainer, "datamodule", None), "hparams", {}))
        names = [f"{stage}_{name}" for stage in _STAGES for name in ("loss", *self.configure_metrics())]
        hparams = {**of_the_data, **self.hparams}
        columns = {name: str(value) if isinstance(value, dict) else value for name, value in hparams.items()}
        columns["head_options"] = _HEAD_DEFAULTS | (self.hparams["head_options"] or {})
        log_run(self.trainer, hparams, names, columns)

    def on_train_start(self) -> None:
        """Records the batch size of the loader that is trained with."""
        super().on_train_start()
        size = batch_size_of(self.trainer.train_dataloader)
        if size is not None:
            self.batch_size = size

    @classmethod
    def load_from_checkpoint(cls, *args: Any, **kwargs: Any) -> Classifier:
        """As in Lightning. The weights are those of the checkpoint, and none of a pretraining are fetched.

        Args:
            *args: As for ``LightningModule.load_from_checkpoint``.
            **kwargs: Likewise, with arguments that are to be others than in the checkpoint; ``backbone`` has to be
                among them if it was a module of yours.

        """
        token = _IS_LOADING.set(True)
        try:
            model: Classifier = super().load_from_checkpoint(*args, **kwargs)
        finally:
            _IS_LOADING.reset(token)
        return model


def _name_of(backbone: Any) -> str:
    """The name that makes the backbone again, or one in angle brackets that only says what it was."""
    if is_source(backbone):
        return str(backbone)
    name = f"Backbone {backbone.name}" if isinstance(backbone, Backbone) else type(backbone).__name__
    return f"<{name}>"


def _refuse_stand_in(backbone: Any) -> None:
    if isinstance(backbone, str) and backbone.startswith("<"):
        raise ValueError(
            f"Expected `backbone` to be a name or a module, but got {backbone!r}: the checkpoint is of a Classifier "
            "whose backbone was a module. Make that module and pass it: "
            "Classifier.load_from_checkpoint(path, backbone=module)."
        )
