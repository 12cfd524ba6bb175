"""Classifier: backbone, head, loss, metrics and optimizer from one configuration."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_hp.callbacks import SAM, BatchSizeScaler, HParamsLogger, LRFinder
from lightning_hp.functional.checks import check_bool, check_factor, check_int, check_options, wrong_type
from lightning_hp.hyperparameters import stated_batch_size
from lightning_hp.module.mixin import ClassifierMixin
from lightning_hp.module.parameter_groups import check_paths
from lightning_hp.module.plain_types import to_plain_types
from lightning_hp.nn import Backbone, ClassifierHead
from lightning_hp.nn.backbone.sources import is_source
from lightning_hp.nn.head import Task
from lightning_hp.trainer import batch_size_of
from lightning_hp.trainer.base_classes import Callback, LightningModule

#: Whether a checkpoint is being loaded, so that pretrained weights are not needed.
_IS_LOADING: ContextVar[bool] = ContextVar("is_loading", default=False)

_MIXIN_ARGUMENTS = tuple(
    name
    for name, parameter in inspect.signature(ClassifierMixin).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
)
_HEAD_DEFAULTS = {
    name: to_plain_types(name, parameter.default)
    for name, parameter in inspect.signature(ClassifierHead).parameters.items()
    if parameter.default is not inspect.Parameter.empty and name != "task"
}
# Options of Backbone that a configuration can express and that are no arguments of their own.
_BACKBONE_OPTIONS = ("head", "pooling", "feature_dim")
_STAGES = ("val", "train", "test")
# The callbacks behind arguments, in the order in which they act.
_CALLBACKS = {"find_batch_size": BatchSizeScaler, "find_lr": LRFinder, "sam": SAM}


class Classifier(ClassifierMixin, LightningModule):
    """A classifier that is ready to use: a backbone by name and a head by its options, with the training of both.

    All arguments are hyperparameters in plain Python types. The checkpoint contains them and loads with torch's safe
    loading, ``LightningCLI`` reads them from YAML, and TensorBoard shows them in its HParams tab beside the loss and
    the metrics, with the learning rate and the batch size that were used.

    The numbers and names that are usually tuned are arguments of their own. Each part of the classifier takes the rest
    as a dictionary: ``head_options``, ``backbone_options``, ``optimizer_options``, ``scheduler_options``.

    Args:
        backbone: What [`Backbone`][lightning_hp.Backbone] takes: a name such as ``"resnet50"``, ``"timm:<name>"`` or
            ``"hf:<name or folder>"``, or a module; or a ``Backbone``. A module is not stored in the hyperparameters:
            ``Classifier.load_from_checkpoint(path, backbone=module)`` passes it again.
        num_classes: Number of classes, or of labels for ``"multilabel"``; 2 for ``"binary"``.
        head_options: Arguments of [`ClassifierHead`][lightning_hp.ClassifierHead]: ``{"n_hidden_units": 256}``.
        lr: The learning rate, > 0. It is that of the head if ``lr_ratios`` names the backbone.
        batch_size: Batch size for loaders that use it, ``DataLoader(data, model.batch_size)``, >= 1. The batch size of
            the training loader is recorded here when the training starts.
        optimizer: The name of an optimizer in ``torch.optim``.
        weight_decay: Weight decay, >= 0; not applied to normalisation layers, biases, class tokens and position
            embeddings, nor to what a model names in timm's ``no_weight_decay()``. ``None``: the optimizer's own
            default.
        scheduler: The name of a schedule in ``torch.optim.lr_scheduler``; ``None``: a constant learning rate.
        warmup_steps: Number of optimizer steps, or fraction of the training (< 1), of a linear warm-up.
        pretrained: Whether to load the weights of a named backbone.
        task: ``"multiclass"``, ``"binary"`` (one logit) or ``"multilabel"``.
        label_smoothing: The probability that is spread evenly over all classes, >= 0 and < 1.
        class_weights: The weight of each class in the loss, > 0; for the other tasks the weight of the positive labels.
            ``"balanced"``: from the labels of the training data, so that each class has the same share.
        lr_ratios: Factors on ``lr`` for parts of the model: ``{"backbone": 0.1}``.
        layer_decay: The factor from the learning rate of each block of the backbone to that of the block below it, > 0
            and <= 1: 0.75 in BEiT and timm. The head has ``lr``. ``None``: all blocks have one rate.
        find_batch_size: Whether to run [`BatchSizeScaler`][lightning_hp.BatchSizeScaler] before the training; a
            dictionary: with these arguments.
        find_lr: The same for [`LRFinder`][lightning_hp.LRFinder].
        sam: Whether to train with [`SAM`][lightning_hp.SAM]; a dictionary: with these arguments.
        top_k: k of an additional top-k accuracy, >= 1; ``None``: none.
        backbone_options: Arguments of [`Backbone`][lightning_hp.Backbone]: ``pooling``, ``head``, ``feature_dim``.
        optimizer_options: Other arguments of the optimizer: ``{"momentum": 0.9}``.
        scheduler_options: Arguments of the schedule, and the ``interval`` and ``monitor`` of Lightning's scheduler
            configuration, see [`ClassifierMixin`][lightning_hp.ClassifierMixin].

    Attributes:
        backbone: The [`Backbone`][lightning_hp.Backbone].
        head: The [`ClassifierHead`][lightning_hp.ClassifierHead].
        lr: The learning rate, as in ``hparams``.
        batch_size: The batch size, as in ``hparams``.

    Shape:
        What the backbone takes to logits (batch, num_classes), or (batch, 1) for ``"binary"``.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of range, or a name is unknown.

    Note:
        It costs what backbone and head cost, and a few counts of small tensors in a step for the metrics. It does not
        fit models whose head takes more than one vector of features.

    Example:
        >>> from lightning_hp import Classifier
        >>> model = Classifier(
        ...     "squeezenet1_1", 35, {"n_hidden_units": 64, "activation_fn": nn.ReLU()}, pretrained=False,
        ...     scheduler="OneCycleLR", lr_ratios={"backbone": 0.1},
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
        lr: float = 1e-3,
        batch_size: int | None = None,
        optimizer: str = "AdamW",
        weight_decay: float | None = None,
        scheduler: str | None = None,
        warmup_steps: float = 0,
        pretrained: bool = True,
        task: Task = "multiclass",
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | float | Tensor | Literal["balanced"] | None = None,
        lr_ratios: dict[str, float] | None = None,
        layer_decay: float | None = None,
        find_batch_size: bool | dict[str, Any] = False,
        find_lr: bool | dict[str, Any] = False,
        sam: bool | dict[str, Any] = False,
        top_k: int | None = 5,
        backbone_options: dict[str, Any] | None = None,
        optimizer_options: dict[str, Any] | None = None,
        scheduler_options: dict[str, Any] | None = None,
    ) -> None:
        arguments = {name: value for name, value in locals().items() if name not in ("self", "__class__", "backbone")}
        _check_backbone(backbone)
        hparams = {name: to_plain_types(name, value) for name, value in arguments.items()}
        super().__init__(**{name: hparams[name] for name in _MIXIN_ARGUMENTS})
        hparams["lr"] = self.lr
        if batch_size is not None:
            hparams["batch_size"] = check_int("batch_size", hparams["batch_size"], 1, also="None")
        pretrained = check_bool("pretrained", hparams["pretrained"])
        hparams["pretrained"] = pretrained and is_source(backbone)  # a module may have its weights from anywhere
        self._hparams_logger: HParamsLogger | None = None
        self.hparams.update({"backbone": _name_of(backbone), **hparams})
        self.configure_callbacks()  # checks their arguments

        head_options = check_options(
            "head_options", hparams["head_options"], "a dict of arguments of ClassifierHead", _HEAD_DEFAULTS
        )
        with torch.device("meta"):  # checks the options before a backbone is loaded; draws no random numbers
            head = ClassifierHead(1, self.num_classes, task=self.task, **head_options)
        options = check_options(
            "backbone_options", hparams["backbone_options"], "a dict of arguments of Backbone", _BACKBONE_OPTIONS
        )
        if not isinstance(backbone, Backbone):
            backbone = Backbone(backbone, pretrained=pretrained and not _IS_LOADING.get(), **options)
        elif options:
            raise ValueError(f"Expected no `backbone_options` for a Backbone that is built already, but got {options}.")
        check_paths(nn.ModuleDict({"backbone": backbone, "head": head}), self._lr_ratios)
        self.backbone = backbone
        self.head = ClassifierHead(backbone.feature_dim, self.num_classes, task=self.task, **head_options)

    @property
    def lr(self) -> float:
        """The learning rate, stored in ``hparams`` only."""
        lr: float = self.hparams["lr"]
        return lr

    @lr.setter
    def lr(self, lr: float) -> None:
        self.hparams["lr"] = check_factor("lr", lr, above=0)

    @property
    def batch_size(self) -> int | None:
        """The batch size, stored in ``hparams`` only; ``None`` until it is known."""
        batch_size: int | None = self.hparams["batch_size"]
        return batch_size

    @batch_size.setter
    def batch_size(self, batch_size: int | None) -> None:
        self.hparams["batch_size"] = None if batch_size is None else check_int("batch_size", batch_size, 1, also="None")

    @override
    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Computes the logits of a batch.

        Args:
            *args: What the backbone takes: tensors, or one mapping of names to tensors.
            **kwargs: Named tensors.

        Returns:
            Logits of shape (batch, num_classes), or (batch, 1) for ``"binary"``.

        Raises:
            ValueError: If the backbone returns features of another shape than that of its construction.

        """
        logits: Tensor = self.head(self.backbone(*args, **kwargs))
        return logits

    @override
    def configure_callbacks(self) -> list[Callback]:
        """Builds the callbacks of ``find_batch_size``, ``find_lr`` and ``sam``; they act after those of the Trainer.

        Returns:
            The callbacks, in the order in which they act; empty if none was asked for.

        Raises:
            TypeError: If an argument of a callback is of the wrong type.
            ValueError: If an argument of a callback is out of its range.

        """
        callbacks: list[Callback] = []
        for argument, callback_class in _CALLBACKS.items():
            options = self.hparams[argument]
            if not isinstance(options, (bool, Mapping)):
                wrong_type(argument, f"True, False or a dictionary of arguments of {callback_class.__name__}", options)
            if options is False:
                continue
            try:
                callbacks.append(callback_class(**({} if options is True else options)))
            except (TypeError, ValueError) as error:
                kind = TypeError if isinstance(error, TypeError) else ValueError
                raise kind(
                    f"Expected `{argument}` to be arguments of {callback_class.__name__}, but got {options}: {error}"
                ) from error
        return callbacks

    @override
    def setup(self, stage: str) -> None:
        """Adds an ``HParamsLogger`` for this ``fit``, if the Trainer has none."""
        super().setup(stage)
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        if stage == "fit" and not any(isinstance(callback, HParamsLogger) for callback in callbacks):
            names = [f"{stage}_{name}" for stage in _STAGES for name in ("loss", *self.configure_metrics())]
            self._hparams_logger = HParamsLogger(metrics=names)
            self.trainer.callbacks = [*callbacks, self._hparams_logger]  # type: ignore[attr-defined]

    @override
    def teardown(self, stage: str) -> None:
        """Removes the ``HParamsLogger`` of this ``fit``."""
        super().teardown(stage)
        callbacks: list[Any] = self.trainer.callbacks  # type: ignore[attr-defined]
        self.trainer.callbacks = [one for one in callbacks if one is not self._hparams_logger]  # type: ignore[attr-defined]
        self._hparams_logger = None

    def used_hparams(self) -> dict[str, Any]:
        """What the loaders state, whatever ``batch_size`` was given; for the record of a run."""
        size = stated_batch_size(self.trainer)
        return {} if size is None else {"batch_size": size}

    @override
    def on_fit_start(self) -> None:
        """Records the batch size that the training loader states."""
        super().on_fit_start()
        size = stated_batch_size(self.trainer)
        if size is not None:
            self.batch_size = size

    @override
    def on_train_start(self) -> None:
        """Records the batch size of the training loader."""
        super().on_train_start()
        size = batch_size_of(self.trainer.train_dataloader)
        if size is not None:
            self.batch_size = size

    @override
    @classmethod
    def load_from_checkpoint(cls, *args: Any, **kwargs: Any) -> Classifier:
        """Loads a checkpoint as Lightning does, without loading pretrained weights first.

        Args:
            *args: Arguments of ``LightningModule.load_from_checkpoint``.
            **kwargs: The same, and hyperparameters that replace those of the checkpoint. ``backbone`` is required if it
                was a module.

        Returns:
            The classifier.

        """
        token = _IS_LOADING.set(True)
        try:
            model: Classifier = super().load_from_checkpoint(*args, **kwargs)
        finally:
            _IS_LOADING.reset(token)
        return model


def _name_of(backbone: Any) -> str:
    """A name from which the backbone can be built again, or a description in angle brackets."""
    if is_source(backbone):
        return str(backbone)
    name = f"Backbone {backbone.name}" if isinstance(backbone, Backbone) else type(backbone).__name__
    return f"<{name}>"


def _check_backbone(backbone: Any) -> None:
    if isinstance(backbone, str) and backbone.startswith("<"):
        raise ValueError(
            f"Expected `backbone` to be a name or a module, but got {backbone!r}: the checkpoint is of a Classifier "
            "whose backbone was a module. Build that module and pass it: "
            "Classifier.load_from_checkpoint(path, backbone=module)."
        )
    if not is_source(backbone) and not isinstance(backbone, nn.Module):
        wrong_type("backbone", "the name of a model, an entry of torchvision's weights or a module", backbone)
