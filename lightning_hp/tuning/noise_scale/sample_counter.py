"""How many samples a batch has: the first dimension of its first tensor, or of the one that agrees with the loader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_hp.rehearsal.recorder import sizes_in
from lightning_hp.trainer import batch_size_of, forms_its_batches, samples_of


class SampleCounter:
    """Counts the samples of batches.

    Where torch forms the batches, the loader states their size: then the tensor counts whose first dimension was equal
    to it, so that one with weights of the classes or with time first, before the samples, does not.

    Args:
        loaders: The training loaders; the first one counts.

    """

    def __init__(self, loaders: Sequence[Any]) -> None:
        loader = loaders[0] if loaders else None
        size = batch_size_of(loader) if forms_its_batches(loader) else None
        # A data set smaller than a batch has one that is not full.
        self._stated = None if size is None else min(size, samples_of(loader) or size)
        self._index = 0
        self._agrees = self._stated is None
        self._first: int | None = None

    def count(self, batch: Any) -> int | None:
        """The samples of a batch; ``None`` if it contains no tensor."""
        sizes = list(sizes_in(batch))
        if not self._agrees and self._stated in sizes:
            self._agrees, self._index = True, sizes.index(self._stated)
        counted = sizes[self._index] if self._index < len(sizes) else None
        self._first = self._first or counted
        return counted

    @property
    def note(self) -> str | None:
        """A sentence where no tensor agrees with the loader; ``None`` if one does, or nothing was counted."""
        if self._agrees or self._first is None:
            return None
        return (
            f"No tensor of a batch has the {self._stated} samples that the loader states in its first dimension, so"
            f" {self._first} are counted; the noise scale is in these."
        )
