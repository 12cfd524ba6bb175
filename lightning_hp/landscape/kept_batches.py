"""The batches that a landscape is measured on: the first ones of the training, as its steps got them."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from lightning_hp.rehearsal.recorder import num_samples_of


class KeptBatches:
    """Copies of the first batches that it is shown, until they hold a number of samples.

    Args:
        num_samples: Enough samples.

    Attributes:
        batches: Pairs of a batch and its number of samples.

    """

    def __init__(self, num_samples: int) -> None:
        self._wanted = num_samples
        self.batches: list[tuple[Any, int]] = []

    @property
    def num_samples(self) -> int:
        """The samples of all batches."""
        return sum(size for _, size in self.batches)

    @property
    def is_full(self) -> bool:
        """Whether there are enough samples."""
        return self.num_samples >= self._wanted

    def show(self, batch: Any) -> None:
        """Keeps a copy of a batch, unless there are enough. Where the samples cannot be counted, a batch is one."""
        if not self.is_full:
            size = num_samples_of(batch)
            if size != 0:
                self.batches.append((copy.deepcopy(batch), 1 if size is None else size))


def fingerprint(batches: Iterable[Any]) -> str:
    """A short hash of the tensors in batches, by which landscapes of other samples are told apart."""
    digest = hashlib.sha1(usedforsecurity=False)
    for leaf in tree_leaves(list(batches)):
        if isinstance(leaf, Tensor) and leaf.layout == torch.strided:
            digest.update(leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]
