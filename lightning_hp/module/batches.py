"""What a batch holds: the inputs of the model, and the labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

# By these names Hugging Face, timm and the readers of image folders call what we ask for.
_LABELS = ("labels", "label")
_IMAGES = ("image", "images", "input", "inputs", "x")


def split_batch(batch: Any, has_labels: bool = True) -> tuple[Any, Any]:
    """Inputs and labels of a batch: an (inputs, labels) pair, or a mapping that holds ``labels``.

    Args:
        batch: The batch. The inputs of a pair may be a tensor, a tuple of them or a mapping.
        has_labels: ``False``: labels may be missing, as in data to predict.

    Returns:
        Inputs and labels. Labels that are missing are ``None``. A mapping whose only input is called ``image``,
        ``images``, ``input``, ``inputs`` or ``x`` gives that tensor; any other gives the mapping without the labels.

    Raises:
        TypeError: If the batch is of another form.

    Example:
        >>> import torch
        >>> inputs, labels = split_batch({"input_ids": torch.zeros(2, 5), "labels": torch.tensor([0, 1])})
        >>> list(inputs), labels
        (['input_ids'], tensor([0, 1]))

    """
    if isinstance(batch, Mapping):
        label = next((name for name in _LABELS if name in batch), None)
        inputs: Any = {name: value for name, value in batch.items() if name not in _LABELS}
        if inputs and (label is not None or not has_labels):
            if len(inputs) == 1 and next(iter(inputs)) in _IMAGES:
                inputs = next(iter(inputs.values()))
            return inputs, None if label is None else batch[label]
        found = f"a mapping with {', '.join(map(repr, batch)) or 'nothing'}"
    elif isinstance(batch, (tuple, list)):
        if len(batch) == 2:
            return batch[0], batch[1]
        if len(batch) == 1 and not has_labels:
            return batch[0], None
        found = f"a {type(batch).__name__} of {len(batch)}"
    elif isinstance(batch, Tensor) and not has_labels:
        return batch, None
    else:
        found = f"a {type(batch).__name__}"
    raise TypeError(
        f"Expected a batch to be a pair (inputs, labels) or a mapping with 'labels', but got {found}. Override "
        "`split_batch` to say which part is which."
    )
