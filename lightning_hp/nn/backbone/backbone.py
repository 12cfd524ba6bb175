"""Backbone: any classification model as a map from inputs to features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from torch import Tensor, nn
from typing_extensions import override

from lightning_hp.functional.checks import check_bool, check_choice, check_int, check_str
from lightning_hp.nn.backbone.dry_run import BATCH_SIZE, DryRun
from lightning_hp.nn.backbone.input_specs import InputSpec, example_input_spec
from lightning_hp.nn.backbone.pooling import Pooling, mask_of_vectors, pool, states_of
from lightning_hp.nn.backbone.remove_head import check_model, is_tested_library, library_of, log_removed, remove_head
from lightning_hp.nn.backbone.sources import is_source, load
from lightning_hp.nn.backbone.speed import InferenceSpeed, measure_inference_speed

# Larger batches overflow inside torch.
_MAX_BATCHES = 2**31 - 1
_POOLS_TOKENS = ("mean", "max", "cls", "last")


class Backbone(nn.Module):
    """Any model of torchvision, timm, Hugging Face or your own, without its head: from inputs to one vector per sample.

    The head is removed, the output of the rest is pooled, and the width of the features is determined by one run on
    tensors that have a shape but no data. The model that you pass is not changed; the backbone holds a copy.

    Args:
        model: A module; or a name: ``"resnet50"`` (torchvision), ``"ResNet50_Weights.IMAGENET1K_V1"`` or that entry
            itself, ``"timm:<name>"``, ``"hf:<name or folder>"``.
        pretrained: For a name: load its weights, from this machine or over the network. Has no effect on a module.
        pooling: How the vectors of tokens or of places in an image become one vector. ``"mean"``, ``"max"``, ``"cls"``
            (the first token), ``"last"`` (the last token that is no padding: for causal language models), ``"pooler"``
            (the model's own). An ``attention_mask`` leaves padding out; that of a speech model of Hugging Face may
            be of samples. ``"auto"``: as the model does, if it pools
            without a dense layer of its own; else the class token of a vision transformer that has one; else the mean.
        head: ``"auto"``; the path of the head (``"classifier.3"``); or ``None``: the model returns features already.
            Operations of the model after its head, such as a softmax in ``forward``, are applied to the features.
        example_input: A batch as the model takes it: a tensor, several tensors in a tuple, or a mapping of names to
            tensors. Only shapes and types are used. ``None``: what the library of the model says, or else what its
            first layer takes, with common image sizes.
        feature_dim: Width of the features, >= 1, if you know it. It is compared with the width that the run gives, and
            used without a check if the model cannot be run.
        copy: ``False``: remove the head from the module that you passed, to save the memory of a copy. The head stays
            removed if the model is refused afterwards. A model built from a name is never copied.

    Attributes:
        model: The model without its head. Freeze it or read its parameters here.
        feature_dim: Width of the features.
        pooling: How the output is pooled; ``None`` if the model pools.
        removed: What was removed, one line for each module.
        name: The name that was given, or the class of the model.

    Shape:
        From the inputs of the model to features (batch, feature_dim). A mapping is passed as named arguments.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of its range, it is not certain what the head is, the model cannot be run, or
            it does not return one row for each sample.
        ModuleNotFoundError: If a name needs timm or transformers and it is not installed.
        ConnectionError: If weights are not on this machine and cannot be downloaded.

    Note:
        The head is the module at the path ``head``, if you name one. In timm models their own ``reset_classifier``
        removes it. In Hugging Face models the base model has none (of an encoder and a decoder, the encoder is used).
        In all others, and where that removes nothing, the output is followed back to the linear layers that it comes
        from, whatever their names. A model that ends in features is left as it is. If this is not certain (a last layer
        called ``projection``, logits that are normalised), the model is refused and you have to pass ``head``. What was
        removed is logged, as a warning if the model is from none of these libraries, and listed in ``removed``.

        The construction takes a copy of the model without its head, and between milliseconds and about three seconds.
        The forward pass is that of the model. A dense layer that only feeds a pooler that is not used is removed too,
        so that every weight gets a gradient.

        Detection, segmentation, generation, and models that take raw text are not supported. Of an MLP head only the
        last linear layer is removed; pass its path to remove all of it. Of two models in one (CLIP) pass the part that
        you want.

    References:
        timm, ``reset_classifier``; Hugging Face transformers, ``base_model``.

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
        pooling: Pooling = "auto",
        head: str | None = "auto",
        example_input: Any = None,
        feature_dim: int | None = None,
        copy: bool = True,
    ) -> None:
        super().__init__()
        pretrained = check_bool("pretrained", pretrained)
        pooling = check_choice("pooling", pooling, get_args(Pooling))
        head = None if head is None else check_str("head", head, what="'auto', a path", also="None")
        spec = None if example_input is None else example_input_spec(example_input)
        if feature_dim is not None:
            feature_dim = check_int("feature_dim", feature_dim, 1, also="None")
        copy = check_bool("copy", copy)
        self.name = model if isinstance(model, str) else str(model) if is_source(model) else type(model).__name__
        image_size = None
        if is_source(model):
            (model, image_size), copy = load(model, pretrained), False
        check_model(model)
        if isinstance(model, Backbone):
            raise ValueError("Expected a model, but got a Backbone, whose head is already removed. Use it as it is.")

        headless = remove_head(model, head, spec, image_size, make_copy=copy, must_run=feature_dim is None)
        self.model = headless.model
        self.removed = headless.removed
        self._library = library_of(self.model)
        self._channels_last = getattr(self.model, "output_fmt", None) == "NHWC"
        self.pooling: str | None = None if pooling == "auto" else pooling
        self.feature_dim = feature_dim or 0
        self._spec: InputSpec | None = None
        if headless.dry_run is not None:
            self.pooling = self._choose_pooling(pooling, headless.output)
            self._spec = headless.dry_run.spec
            self._remove_unused_pooler(headless.dry_run)
            self.feature_dim = self._width_of(headless.output)
            if feature_dim is not None and feature_dim != self.feature_dim:
                raise ValueError(
                    f"Expected `feature_dim` to be the width that the model returns for {self._spec}, "
                    f"{self.feature_dim}, but got {feature_dim}. If that input is not yours, pass `example_input`."
                )
            if not is_tested_library(model):
                self._check_width_in_training(headless.dry_run)
        self.training = self.model.training
        log_removed(model, self.removed, self.feature_dim)

    @override
    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Computes the features of a batch.

        Args:
            *args: What the model takes: tensors, or one mapping of names to tensors.
            **kwargs: Named tensors.

        Returns:
            Features of shape (batch, feature_dim).

        Raises:
            ValueError: If the model returns features of another shape.

        """
        if len(args) == 1 and isinstance(args[0], Mapping):
            kwargs, args = {**args[0], **kwargs}, ()
        output = self.model(*args, **kwargs, **self._options())
        mask = kwargs.get("attention_mask")
        if mask is not None and self.pooling in _POOLS_TOKENS:
            mask = mask_of_vectors(self.model, mask, states_of(output).shape[1])
        features = pool(output, self.pooling, mask, self._channels_last)
        if features.ndim != 2 or features.shape[1] != self.feature_dim:
            raise ValueError(
                f"Expected features of shape (batch, {self.feature_dim}), but the model gave {tuple(features.shape)}. "
                "If their width follows from the size of the input, build the backbone with your `example_input`."
            )
        return features

    def inference_speed(
        self, *, batch_size: int = 32, num_batches: int = 20, example_input: Any = None
    ) -> InferenceSpeed:
        """Measures the latency of one sample and the throughput of a batch.

        The model is measured on its device, in evaluation mode and without gradients. Modes, buffers and the global
        random state are unchanged afterwards.

        Args:
            batch_size: Samples in a batch for the throughput, >= 1.
            num_batches: Number of timed batches for each of the two, >= 1, after three that are not timed.
            example_input: A batch whose shapes are used. ``None``: those of the run that determined the width.

        Returns:
            Speed and size, to compare, print and log.

        Raises:
            TypeError: If an argument is of the wrong type.
            ValueError: If an argument is out of its range, no input is known, or the model is on the meta device.

        Note:
            It takes ``2 * num_batches + 6`` forward passes.

        Example:
            >>> import torch
            >>> backbone = Backbone("squeezenet1_1", pretrained=False)
            >>> speed = backbone.inference_speed(batch_size=2, num_batches=1, example_input=torch.zeros(1, 3, 64, 64))
            >>> print(speed)
            squeezenet1_1, 0.72 M parameters, 512 features: ... ms for one sample, ... samples/s in batches of 2
              input (3, 64, 64), float32 on cpu

        """
        batch_size = check_int("batch_size", batch_size, 1, _MAX_BATCHES)
        num_batches = check_int("num_batches", num_batches, 1, _MAX_BATCHES)
        spec = self._spec if example_input is None else example_input_spec(example_input)
        if spec is None:
            raise ValueError("Expected `example_input`, since the model was never run, but got None.")
        return measure_inference_speed(self, spec, self.name, self.feature_dim, batch_size, num_batches)

    @override
    def extra_repr(self) -> str:
        """Width, pooling and what was removed, for ``print``."""
        return f"feature_dim={self.feature_dim}, pooling={self.pooling!r}, removed={list(self.removed)}"

    def _options(self) -> dict[str, bool]:
        return {"return_dict": True} if self._library == "hf" else {}

    def _choose_pooling(self, pooling: Pooling, output: Any) -> str | None:
        """How to pool an output; refuses a choice that does not suit its shape."""
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
        if axes not in (3, 4) or (axes == 3 and pooling == "auto" and self._library != "hf"):
            raise ValueError(
                f"Expected features of shape (batch, width), but the model gives {tuple(states_of(output).shape)}. If "
                "that is (batch, tokens, width), say how to pool it: pooling='mean', 'max', 'cls' or 'last'."
            )
        if pooling != "auto":
            return pooling
        has_class_token = any("cls_token" in name for name, _ in self.model.named_parameters())
        return "cls" if axes == 3 and has_class_token else "mean"

    def _has_dense_pooler(self) -> bool:
        """Whether the pooler has a dense layer, which was trained for another task or, in many checkpoints, never."""
        pooler = getattr(self.model, "pooler", None)
        return isinstance(pooler, nn.Module) and any(isinstance(part, nn.Linear) for part in pooler.modules())

    def _remove_unused_pooler(self, dry_run: DryRun) -> None:
        """Removes a dense pooler whose output is not used: DDP fails on parameters without a gradient."""
        if self.pooling == "pooler" or self._library != "hf" or not self._has_dense_pooler():
            return
        pooler, self.model.pooler = self.model.pooler, None  # type: ignore[assignment]
        try:
            dry_run(dry_run.copy_of(self.model), **self._options())
        except Exception:  # noqa: BLE001 - a model that does not run without its pooler keeps it
            self.model.pooler = pooler
        else:
            self.removed += (f"pooler: {type(pooler).__name__}, which pooling={self.pooling!r} does not use",)

    def _width_of(self, output: Any) -> int:
        """The width of the features that follow from the output of a dry run."""
        features = pool(output, self.pooling, None, self._channels_last)
        if features.ndim != 2 or features.shape[0] != BATCH_SIZE or not features.is_floating_point():
            raise ValueError(
                f"Expected features of shape ({BATCH_SIZE}, width) for {BATCH_SIZE} samples, but got "
                f"{tuple(features.shape)} of {features.dtype}. The first axis has to be the batch."
            )
        return features.shape[1]

    def _check_width_in_training(self, dry_run: DryRun) -> None:
        """Refuses a model that returns features of another width in training mode."""
        width = self._width_of(dry_run(dry_run.copy_of(self.model), training=True))
        if width != self.feature_dim:
            raise ValueError(f"Expected features of one width, but got {width} in training, else {self.feature_dim}.")
