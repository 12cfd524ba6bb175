"""What a model takes: from the user's example, from the description by its library, or from its first layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

#: Sizes of an image that are tried if the model does not tell its own; the most common one first.
IMAGE_SIZES = (224, 32, 28, 64, 96, 128, 160, 256, 299, 384, 512)

_NUM_TOKENS = 8
_NUM_AUDIO_SAMPLES = 16_000


@dataclass(frozen=True)
class InputSpec:
    """What a model takes: for each input its name (``None``: positional), its shape without the batch, its dtype."""

    inputs: tuple[tuple[str | None, tuple[int, ...], torch.dtype], ...]

    def __str__(self) -> str:
        return ", ".join(f"{name or 'input'} {tuple(shape)}" for name, shape, _ in self.inputs)

    def without_masks(self) -> InputSpec:
        """The same without attention masks; Hugging Face models read their values to look for padding."""
        return InputSpec(tuple(entry for entry in self.inputs if entry[0] is None or "attention_mask" not in entry[0]))

    def make(self, batch_size: int, device: torch.device | str) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Positional and named inputs of these shapes: zeros, and ones for a mask, so that nothing is padding."""
        args, kwargs = [], {}
        for name, shape, dtype in self.inputs:
            fill = torch.ones if name is not None and "mask" in name else torch.zeros
            value = fill((batch_size, *shape), dtype=dtype, device=device)
            if name is None:
                args.append(value)
            else:
                kwargs[name] = value
        return args, kwargs


def example_input_spec(example_input: Any) -> InputSpec:
    """The shapes and types of a batch.

    Args:
        example_input: A tensor, a sequence of tensors, or a mapping of names to tensors.

    Returns:
        Names, shapes without the batch, and types.

    Raises:
        TypeError: If it is anything else.
        ValueError: If a tensor has no batch axis.

    """
    if isinstance(example_input, Mapping):
        named: list[tuple[str | None, Any]] = list(example_input.items())
    elif isinstance(example_input, (list, tuple)):
        named = [(None, value) for value in example_input]
    else:
        named = [(None, example_input)]
    if not named or any(not isinstance(value, Tensor) or not isinstance(name, str | None) for name, value in named):
        kinds = ", ".join(type(value).__name__ for _, value in named) or "nothing"
        raise TypeError(
            f"Expected `example_input` to be a tensor, or a mapping of names to tensors, but got {kinds}. "
            "Leave labels out."
        )
    if any(value.ndim < 1 for _, value in named):
        raise ValueError(
            "Expected each tensor of `example_input` to have a batch axis first, but got one without axes."
        )
    return InputSpec(tuple((name, tuple(value.shape[1:]), value.dtype) for name, value in named))


def image_specs(model: nn.Module, size: int | None = None) -> list[InputSpec]:
    """Possible inputs of a model of torchvision, of timm or of the user, most likely first.

    Args:
        model: The model.
        size: Side of the images that its weights were trained on, if known.

    Returns:
        The inputs to try.

    """
    first = _first_layer(model)
    dtype = _dtype_of(model)
    if shapes_of_timm := _shapes_of_timm(model):
        channels = first.in_channels if isinstance(first, nn.Conv2d) else shapes_of_timm[0][0]
        likely = dict.fromkeys([*((channels, *shape[1:]) for shape in shapes_of_timm), *shapes_of_timm])
        return [InputSpec(((None, shape, dtype),)) for shape in likely]
    if isinstance(first, nn.Embedding):
        return [InputSpec(((None, (_NUM_TOKENS,), torch.long),))]
    if isinstance(first, nn.Linear):
        width = first.in_features
        return [InputSpec(((None, shape, dtype),)) for shape in ((width,), (_NUM_TOKENS, width))]
    if isinstance(first, (nn.RNNBase, nn.RNNCellBase)):
        return [InputSpec(((None, (_NUM_TOKENS, first.input_size), dtype),))]
    if isinstance(first, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        axes, channels = len(first.kernel_size), first.in_channels
    else:
        axes, channels = 2, 3
    shapes: list[tuple[int, ...]] = [(side,) * axes for side in ((size,) if size else IMAGE_SIZES)]
    if axes == 2 and not size:
        shapes = [*_image_size_attributes(model), *shapes]
    # A stem may unfold its patches before the first layer, which then has more channels than the image.
    channel_counts = [channels] if channels == 3 else [channels, 3]
    unique = dict.fromkeys((count, *shape) for count in channel_counts for shape in shapes)
    return [InputSpec(((None, shape, dtype),)) for shape in unique]


def hugging_face_specs(model: Any) -> list[InputSpec]:
    """Possible inputs of a Hugging Face model, from its configuration."""
    name, config, dtype = model.main_input_name, model.config, _dtype_of(model)
    if name == "input_ids":
        return [InputSpec((("input_ids", (_NUM_TOKENS,), torch.long),))]
    if name == "input_values":
        return [InputSpec((("input_values", (_NUM_AUDIO_SAMPLES,), dtype),))]
    if name == "pixel_values":
        channels = getattr(config, "num_channels", 3)
        configured = _pair(getattr(config, "image_size", None))
        sizes = [*([configured] if configured else []), *((side, side) for side in IMAGE_SIZES)]
        return [InputSpec((("pixel_values", (channels, *size), dtype),)) for size in sizes]
    return []


def _image_size_attributes(model: nn.Module) -> list[tuple[int, ...]]:
    """Image sizes that a model has as attributes, as the transformers of torchvision do."""
    sizes = [_pair(getattr(model, name, None)) for name in ("image_size", "img_size")]
    return [size for size in sizes if size]


def _shapes_of_timm(model: Any) -> list[tuple[int, int, int]]:
    """Channels, height and width: those that the model was built for, then those of its configuration."""
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
    """The first registered module with weights whose class tells what it takes."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.Embedding, nn.RNNBase, nn.RNNCellBase)
    return next((part for part in model.modules() if isinstance(part, kinds)), None)


def _dtype_of(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
