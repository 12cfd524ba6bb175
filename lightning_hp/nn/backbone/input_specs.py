"""What a model takes: from the user's example, from what its library says of it, or from its first layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_hp.nn.backbone.dry_run import Spec

#: Sizes of an image that are tried where nothing says which one it is; the usual one first.
IMAGE_SIZES = (224, 32, 28, 64, 96, 128, 160, 256, 299, 384, 512)

_TOKENS = 8
_SAMPLES = 16_000


def spec_of(example_input: Any) -> Spec:
    """The shapes and types of a batch.

    Raises:
        TypeError: If it is no tensor, no sequence of tensors and no mapping of names to tensors.
        ValueError: If a tensor has no batch axis.

    """
    if isinstance(example_input, Mapping):
        named: list[tuple[str | None, Any]] = list(example_input.items())
    elif isinstance(example_input, (list, tuple)):
        named = [(None, value) for value in example_input]
    else:
        named = [(None, example_input)]
    if not named or any(not isinstance(value, Tensor) for _, value in named):
        kinds = ", ".join(type(value).__name__ for _, value in named) or "nothing"
        raise TypeError(
            f"Expected `example_input` to be a tensor, or a mapping of names to tensors, but got {kinds}. "
            "Leave labels out."
        )
    if any(value.ndim < 1 for _, value in named):
        raise ValueError(
            "Expected each tensor of `example_input` to have a batch axis first, but got one without axes."
        )
    return Spec(tuple((name, tuple(value.shape[1:]), value.dtype) for name, value in named))


def image_specs(model: nn.Module, size: int | None = None) -> list[Spec]:
    """Inputs for a torchvision, timm or user model, the likeliest first.

    Args:
        model: The model.
        size: Side of the images that its weights were trained on, if known.

    """
    first = _first_layer(model)
    dtype = _dtype(model)
    if told := _told_by_timm(model):
        channels = first.in_channels if isinstance(first, nn.Conv2d) else told[0][0]
        likely = dict.fromkeys([*((channels, *shape[1:]) for shape in told), *told])
        return [Spec(((None, shape, dtype),)) for shape in likely]
    if isinstance(first, nn.Embedding):
        return [Spec(((None, (_TOKENS,), torch.long),))]
    if isinstance(first, nn.Linear):
        return [Spec(((None, (first.in_features,), dtype),)), Spec(((None, (_TOKENS, first.in_features), dtype),))]
    if isinstance(first, (nn.RNNBase, nn.RNNCellBase)):
        return [Spec(((None, (_TOKENS, first.input_size), dtype),))]
    if isinstance(first, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        axes, channels = len(first.kernel_size), first.in_channels
    else:
        axes, channels = 2, 3
    shapes: list[tuple[int, ...]] = [(side,) * axes for side in ((size,) if size else IMAGE_SIZES)]
    if axes == 2 and not size:
        shapes = [*_known_sizes(model), *shapes]
    # A stem may unfold its patches before the first layer: then the channels are not those of an image.
    many = [channels] if channels == 3 else [channels, 3]
    unique = dict.fromkeys((count, *shape) for count in many for shape in shapes)
    return [Spec(((None, shape, dtype),)) for shape in unique]


def hugging_face_specs(model: Any) -> list[Spec]:
    """Inputs for a Hugging Face model, by its configuration."""
    name, config, dtype = model.main_input_name, model.config, _dtype(model)
    if name == "input_ids":
        return [Spec((("input_ids", (_TOKENS,), torch.long),))]
    if name == "input_values":
        return [Spec((("input_values", (_SAMPLES,), dtype),))]
    if name == "pixel_values":
        channels = getattr(config, "num_channels", 3)
        told = _pair(getattr(config, "image_size", None))
        sizes = [*([told] if told else []), *((side, side) for side in IMAGE_SIZES)]
        return [Spec((("pixel_values", (channels, *size), dtype),)) for size in sizes]
    return []


def _known_sizes(model: nn.Module) -> list[tuple[int, ...]]:
    """Sizes that a model tells, as the transformers of torchvision do."""
    told = [getattr(model, name, None) for name in ("image_size", "img_size")]
    return [size for size in map(_pair, told) if size]


def _told_by_timm(model: Any) -> list[tuple[int, int, int]]:
    """Channels, height and width: those it was built for, then those of its configuration."""
    config = getattr(model, "pretrained_cfg", None)
    size = config.get("input_size") if isinstance(config, Mapping) else None
    if not size:
        return []
    built = _pair(getattr(getattr(model, "patch_embed", None), "img_size", None))
    channels, height, width = size
    return [*([(channels, *built)] if built else []), (channels, height, width)]


def _pair(size: Any) -> tuple[int, int] | None:
    if isinstance(size, int) and size > 0:
        return (size, size)
    return (int(size[0]), int(size[1])) if isinstance(size, Sequence) and len(size) == 2 else None


def _first_layer(model: nn.Module) -> nn.Module | None:
    """The first module with weights whose kind tells what it takes, in the order of definition."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.Embedding, nn.RNNBase, nn.RNNCellBase)
    return next((part for part in model.modules() if isinstance(part, kinds)), None)


def _dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
