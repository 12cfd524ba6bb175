"""Do the batches of a trial have its size? An attribute that nobody reads must not be believed.

the loader states another size                   -> no
the samples counted in the first batch are right -> yes
torch forms the batches of the stated size       -> yes, unless a stream ended before the first one was full
the number of batches follows the size           -> yes, unless the batch has the samples of the original size
otherwise                                        -> no
"""

from __future__ import annotations

from typing import Any, NamedTuple

from lightning_hp.hyperparameters import BatchSize
from lightning_hp.trainer import batch_size_of, forms_its_batches, length_of


class Verdict(NamedTuple):
    """Whether batches have their size.

    Attributes:
        counted: Whether the tensors of a batch show how many samples it has.
        problem: Why they do not have it, as a message for the user; ``None`` if they have.
    """

    counted: bool
    problem: str | None = None


class VerifiedBatches:
    """Compares the batches of each trial with its size.

    Args:
        loader: The first training loader before the search.
        batch_size: The batch size of the training.

    """

    def __init__(self, loader: Any, batch_size: BatchSize) -> None:
        self._batch_size = batch_size
        self._size = batch_size_of(loader) or round(batch_size.value * batch_size.ratio)
        self._length = length_of(loader)
        self._followed = False

    def check(self, size: int, loader: Any, counted: int | None, pass_is_over: bool) -> Verdict:
        """Compares the batches of a trial.

        Args:
            size: The batch size of the trial.
            loader: Its first loader.
            counted: The samples of its first batch by its tensors; ``None`` if it has none.
            pass_is_over: Whether the data ended with the batches of the first step.

        Returns:
            Whether they have the size.

        """
        stated = batch_size_of(loader)
        wanted = round(size * self._batch_size.ratio)
        if stated is not None and abs(stated - wanted) > 1:
            return Verdict(False, _other_size(size, wanted, stated))
        wanted = stated or wanted
        if counted == wanted:
            return Verdict(True)
        if forms_its_batches(loader):
            ended = pass_is_over and counted is not None and counted < wanted and length_of(loader) is None
            return Verdict(False, _other_size(size, wanted, counted) if ended else None)
        if counted != self._size and self._length_follows(wanted, length_of(loader)):
            return Verdict(False)
        return Verdict(False, _unknown_size(size) if counted is None else _other_size(size, wanted, counted))

    def _length_follows(self, wanted: int, length: int | None) -> bool:
        """Whether the numbers of batches at the original size and at this one are those of the same data."""
        if length is None or self._length is None:
            return False
        fewest, most = (self._length - 1) * self._size, (self._length + 1) * self._size
        follows = fewest < (length + 1) * wanted and (length - 1) * wanted < most
        self._followed |= follows and length != self._length
        # An equal number of batches shows nothing, unless it was seen to change at another size.
        return follows and (self._followed or wanted == self._size)


def _other_size(size: int, wanted: int, got: int | None) -> str:
    return (
        f"Expected batches of {wanted} samples from the loaders at batch size {size}, but got one of {got}. Build the"
        " loaders with the batch size of the model or the datamodule, without a limit of their own; your own batch"
        " sampler has to read its `batch_size` in each pass. For a shorter stream, set `max_val`."
    )


def _unknown_size(size: int) -> str:
    return (
        f"Expected loaders that show that their batches have {size} samples at batch size {size}, but their batches"
        " contain no tensors to count and their number of batches does not follow the size. Give the loader a"
        " `__len__` that counts batches, use a DataLoader with a batch size, or set the batch size by hand."
    )
