"""Inputs and labels of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

#: Keys of the labels in a batch of Hugging Face, timm and image datasets. They are fewer than those of a sample of a
#: dataset (`data/samples.py`), since an input of the model may be called ``y`` or ``target``.
BATCH_LABEL_KEYS = ("labels", "label")
#: Keys of an only input that is passed to the model by position.
INPUT_KEYS = ("image", "images", "input", "inputs", "x")


def split_batch(batch: Any, has_labels: bool = True) -> tuple[Any, Any]:
    """Splits a batch into inputs and labels.

    Args:
        batch: A pair (inputs, labels), or a mapping with the key ``"labels"`` or ``"label"``. The inputs of a pair may
            be a tensor, a tuple of tensors or a mapping.
        has_labels: ``False``: labels may be missing, as in data for prediction.

    Returns:
        Inputs and labels. Missing labels are ``None``. If the only input of a mapping has the key ``image``,
        ``images``, ``input``, ``inputs`` or ``x``, the inputs are its value; otherwise they are the mapping without the
        labels.

    Raises:
        TypeError: If the batch has another form.

    Example:
        >>> import torch
        >>> inputs, labels = split_batch({"input_ids": torch.zeros(2, 5), "labels": torch.tensor([0, 1])})
        >>> list(inputs), labels
        (['input_ids'], tensor([0, 1]))

    """
    if isinstance(batch, Mapping):
        label_key = next((key for key in BATCH_LABEL_KEYS if key in batch), None)
        inputs: Any = {key: value for key, value in batch.items() if key not in BATCH_LABEL_KEYS}
        if inputs and (label_key is not None or not has_labels):
            if len(inputs) == 1 and next(iter(inputs)) in INPUT_KEYS:
                inputs = next(iter(inputs.values()))
            return inputs, None if label_key is None else batch[label_key]
        got = f"a mapping with {', '.join(map(repr, batch)) or 'nothing'}"
    elif isinstance(batch, (tuple, list)):
        if len(batch) == 2:
            return batch[0], batch[1]
        if len(batch) == 1 and not has_labels:
            return batch[0], None
        got = f"a {type(batch).__name__} of {len(batch)}"
    elif isinstance(batch, Tensor) and not has_labels:
        return batch, None
    else:
        got = f"a {type(batch).__name__}"
    raise TypeError(
        f"Expected a batch to be a pair (inputs, labels) or a mapping with 'labels', but got {got}. Override "
        "`split_batch` to say which part is which."
    )
