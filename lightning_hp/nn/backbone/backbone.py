"""Backbone: any classification model as a map from inputs to features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from torch import Tensor, nn

from lightning_hp.functional.checks import check_whole
from lightning_hp.nn.backbone.dry_run import BATCH, DryRun, Spec
from lightning_hp.nn.backbone.input_specs import spec_of
from lightning_hp.nn.backbone.pooling import Pooling, pool, states_of
from lightning_hp.nn.backbone.remove_head import check_model, is_of_a_library, kind_of, report, strip
from lightning_hp.nn.backbone.sources import is_source, load
from lightning_hp.nn.backbone.speed import InferenceSpeed, inference_speed


class Backbone(nn.Module):
    """Any model of torchvision, timm, Hugging Face or your own, without its head: inputs to one vector for each sample.

    The old head is removed, what is left is pooled, and how wide the features are is found by running the model once
    on tensors that have a shape and no numbers. The model that you pass is not changed: the backbone holds a copy.

    How the head is found: by your ``head``; in timm models by their own ``reset_classifier``; in Hugging Face models by
    taking the base model (of an encoder and a decoder, the encoder); in all others by following the output back to the
    linear layers it comes from, whatever their names. A model that ends in features is left as it is. Where that is
    not certain (a last layer called ``projection``, logits that are normalised) it is refused, and ``head`` has to
    say. What was removed is logged, as a warning if the model is of no known library, and kept in `removed`.

    Args:
        model: A module; or a name: ``"resnet50"`` (torchvision), ``"ResNet50_Weights.IMAGENET1K_V1"`` or that entry
            itself, ``"timm:<name>"``, ``"hf:<name or folder>"``.
        pretrained: For a name: load its weights, from this machine or over the network. Not for a module.
        head: ``"auto"``, the path of the head (``"classifier.3"``), or ``None``: the model gives features already. What
            a model does behind its head, such as a softmax in ``forward``, it then does to the features.
        pooling: How the vectors of tokens or places become one. ``"mean"``, ``"max"``, ``"cls"`` (the first token),
            ``"last"`` (the last one that is no padding: for causal language models), ``"pooler"`` (the model's own).
            Padding is left out by the ``attention_mask``. ``"auto"``: as the model does, if it pools without a dense
            layer of its own; the class token of a vision transformer that has one; else the mean.
        feature_dim: Width of the features, if you know it. It is checked where the model runs without numbers; where
            it does not, it is believed.
        example_input: A batch as the model takes it: a tensor, several in a tuple, or a mapping of names to tensors.
            Only shapes and types are looked at. Left out, it is taken from what the library says, or from the first
            layer and usual image sizes.
        copy: ``False``: take the head off the module you passed, to save the memory of a copy; it stays off if the
            model is refused after that. A model made from a name is never copied.

    Attributes:
        model: The stripped model: freeze it, or read its parameters, here.
        feature_dim: Width of the features.
        pooling: How they are pooled; ``None`` if the model does it.
        removed: What was removed, one line for each module.
        name: The name that was given, or the class of the model.

    Shape:
        Whatever the model takes to features (batch, feature_dim). A mapping is passed on as named arguments.

    Raises:
        TypeError: If an argument is not of its kind.
        ValueError: If the head cannot be told, the model cannot be run, or does not give one row for each sample.
        ModuleNotFoundError: If a name needs timm or transformers and it is not installed.
        ConnectionError: If weights are not on this machine and cannot be fetched.

    Costs a copy of the model without its head and some milliseconds to a second; the forward pass is the model's own. A
    dense layer that would only feed the unused pooler is removed too, so that each weight gets a gradient.

    Where it does not help: detection, segmentation and generation; models that take raw text; heads that are more than
    their last linear layer (of an MLP head the hidden layers stay; name its path to remove it). Of two models in one
    (CLIP) pass the part that is wanted.

    Source: ours; the protocols are timm's ``reset_classifier`` and Hugging Face's ``base_model``.

    Example:
        >>> import torch
        >>> from lightning_hp import Backbone, ClassifierHead
        >>> backbone = Backbone("resnet18", pretrained=False)
        >>> backbone.feature_dim, backbone.removed
        (512, ('fc: Linear(in_features=512, out_features=1000, bias=True)',))
        >>> classifier = torch.nn.Sequential(backbone, ClassifierHead(backbone.feature_dim, 5))
        >>> classifier(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 5])

    """

    def __init__(
        self,
        model: Any,
        *,
        pretrained: bool = True,
        head: str | None = "auto",
        pooling: Pooling = "auto",
        feature_dim: int | None = None,
        example_input: Any = None,
        copy: bool = True,
    ) -> None:
        super().__init__()
        if pooling not in get_args(Pooling):
            raise ValueError(f"Expected `pooling` to be one of {', '.join(get_args(Pooling))}, but got {pooling!r}.")
        if head is not None and not isinstance(head, str):
            raise TypeError(f"Expected `head` to be 'auto', a path or None, but got {head!r}.")
        if feature_dim is not None:
            feature_dim = check_whole("feature_dim", feature_dim, least=1)
        spec = None if example_input is None else spec_of(example_input)
        self.name = model if isinstance(model, str) else str(model) if is_source(model) else type(model).__name__
        size = None
        if is_source(model):
            (model, size), copy = load(model, pretrained), False
        check_model(model)
        if isinstance(model, Backbone):
            raise ValueError("Expected a model, but got a Backbone, whose head is off already. Use it as it is.")

        stripped = strip(model, head, spec, size, copied=copy, must_run=feature_dim is None)
        self.model = stripped.model
        self.removed = stripped.removed
        self._kind = kind_of(self.model)
        self._channels_last = getattr(self.model, "output_fmt", None) == "NHWC"
        self.pooling: str | None = None if pooling == "auto" else pooling
        self.feature_dim = int(feature_dim or 0)
        self._spec: Spec | None = None
        if stripped.dry_run is not None:
            self.pooling = self._choose_pooling(pooling, stripped.output)
            self._spec = stripped.dry_run.spec
            self._drop_unused_pooler(stripped.dry_run)
            self.feature_dim = self._width_of(stripped.output)
            if feature_dim is not None and feature_dim != self.feature_dim:
                raise ValueError(
                    f"Expected `feature_dim` to be what the model gives for {self._spec}, {self.feature_dim}, but got "
                    f"{feature_dim}. If that input is not yours, pass `example_input`."
                )
            if not is_of_a_library(model):
                self._check_training(stripped.dry_run)
        self.training = self.model.training
        report(model, self.removed, self.feature_dim)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Features of shape (batch, feature_dim) for what the model takes: tensors, names, or one mapping of names."""
        if len(args) == 1 and isinstance(args[0], Mapping):
            kwargs, args = {**args[0], **kwargs}, ()
        features = pool(
            self.model(*args, **kwargs, **self._options()),
            self.pooling,
            kwargs.get("attention_mask"),
            self._channels_last,
        )
        if features.ndim != 2 or features.shape[1] != self.feature_dim:
            raise ValueError(
                f"Expected features of shape (batch, {self.feature_dim}), but the model gave {tuple(features.shape)}. "
                "If their width follows from the size of the input, build the backbone with your `example_input`."
            )
        return features

    def inference_speed(
        self, *, batch_size: int = 32, num_batches: int = 20, example_input: Any = None
    ) -> InferenceSpeed:
        """How fast the features come: latency of one sample, throughput of a batch, size.

        Args:
            batch_size: Samples in a batch for the throughput, >= 1.
            num_batches: Batches that are timed, >= 1, after three that are not.
            example_input: A batch whose shapes are used; left out, the input of the dry run.

        Returns:
            A result to compare, print and log.

        Raises:
            ValueError: If an argument is out of its range, or no input is known.

        Costs ``2 * num_batches + 6`` forward passes where the model is now, in evaluation mode and without gradients.
        Modes, buffers and random streams are as before.

        Example:
            >>> import torch
            >>> backbone = Backbone("squeezenet1_1", pretrained=False)
            >>> speed = backbone.inference_speed(batch_size=2, num_batches=1, example_input=torch.zeros(1, 3, 64, 64))
            >>> print(speed)
            squeezenet1_1, 0.72 M parameters, 512 features: ... ms for one sample, ... samples/s in batches of 2
              input (3, 64, 64), float32 on cpu

        """
        spec = self._spec if example_input is None else spec_of(example_input)
        if spec is None:
            raise ValueError("Expected `example_input`, since the model was never run, but got None.")
        return inference_speed(self, spec, self.name, self.feature_dim, batch_size, num_batches)

    def extra_repr(self) -> str:
        """Width, pooling and what was removed, for ``print``."""
        return f"feature_dim={self.feature_dim}, pooling={self.pooling!r}, removed={list(self.removed)}"

    def _options(self) -> dict[str, bool]:
        return {"return_dict": True} if self._kind == "hf" else {}

    def _choose_pooling(self, pooling: Pooling, output: Any) -> str | None:
        """The way to pool, refused where there is nothing to be pooled that way."""
        own = output.get("pooler_output") if isinstance(output, Mapping) else None
        if pooling == "pooler" or (pooling == "auto" and own is not None and not self._has_dense_pooler()):
            pool(output, "pooler", None)
            return "pooler"
        axes = states_of(output).ndim
        if axes == 2:
            if pooling != "auto":
                raise ValueError(
                    f"Expected a model that leaves something to pool for pooling={pooling!r}, but it gives one vector "
                    "for each sample. Pass pooling='auto'; timm models take `global_pool` when they are created."
                )
            return None
        if axes == 4 and pooling in ("cls", "last"):
            raise ValueError(f"Expected 'mean', 'max' or 'auto' for a map of features, but got pooling={pooling!r}.")
        if axes not in (3, 4) or (axes == 3 and pooling == "auto" and self._kind != "hf"):
            raise ValueError(
                f"Expected features of shape (batch, width), but the model gives {tuple(states_of(output).shape)}. If "
                "that is (batch, tokens, width), say how to pool it: pooling='mean', 'max', 'cls' or 'last'."
            )
        if pooling != "auto":
            return pooling
        has_class_token = any("cls_token" in name for name, _ in self.model.named_parameters())
        return "cls" if axes == 3 and has_class_token else "mean"

    def _has_dense_pooler(self) -> bool:
        """A dense layer was trained for another task, or never: many checkpoints come without it."""
        pooler = getattr(self.model, "pooler", None)
        return isinstance(pooler, nn.Module) and any(isinstance(part, nn.Linear) for part in pooler.modules())

    def _drop_unused_pooler(self, dry_run: DryRun) -> None:
        """A pooler whose output nobody takes gets no gradient, which DDP does not stand."""
        if self.pooling == "pooler" or self._kind != "hf" or not self._has_dense_pooler():
            return
        pooler, self.model.pooler = self.model.pooler, None  # type: ignore[assignment]
        try:
            dry_run(dry_run.twin(self.model), **self._options())
        except Exception:  # noqa: BLE001 - a model that cannot do without it keeps it
            self.model.pooler = pooler
        else:
            self.removed += (f"pooler: {type(pooler).__name__}, which pooling={self.pooling!r} does not use",)

    def _width_of(self, output: Any) -> int:
        """The width of the features that come of an output of a dry run."""
        features = pool(output, self.pooling, None, self._channels_last)
        if features.ndim != 2 or features.shape[0] != BATCH or not features.is_floating_point():
            raise ValueError(
                f"Expected features of shape ({BATCH}, width) for {BATCH} samples, but got {tuple(features.shape)} of "
                f"{features.dtype}. The first axis has to be the batch."
            )
        return features.shape[1]

    def _check_training(self, dry_run: DryRun) -> None:
        """A model may return something else while it is trained."""
        width = self._width_of(dry_run(dry_run.twin(self.model), training=True))
        if width != self.feature_dim:
            raise ValueError(f"Expected features of one width, but got {width} in training, else {self.feature_dim}.")
