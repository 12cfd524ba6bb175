"""What SAM observes of a training: the scalars it logs, numbers that are not finite, and a loss that does not fall."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_hp.functional.sharpness.schedule import is_stuck

# SAM often begins slowly. Whether a training is stuck is judged after this share of it and this number of steps; after
# the last number of steps if its length is unknown.
_MIN_SHARE, _MIN_STEPS, _MIN_STEPS_OF_UNKNOWN_LENGTH = 0.5, 100, 1000
_NUM_FIRST_STEPS = 16


@dataclass
class SAMMonitor:
    """Observations of one training. Tensors stay on their device until they are read."""

    _scalars: dict[str, list[Tensor]] = field(default_factory=dict)
    _is_nonfinite: Tensor | None = None
    _first_losses: list[Tensor] = field(default_factory=list)
    _epoch_loss: Tensor | None = None
    _epoch_steps: int = 0

    def add_scalars(self, scalars: dict[str, Tensor]) -> None:
        """Adds the scalars of one batch to those of the present optimizer step."""
        for name, value in scalars.items():
            self._scalars.setdefault(name, []).append(value.float())

    def pop_scalars(self) -> dict[str, float]:
        """The means over the batches of the optimizer step; empty if there are none. Waits for an accelerator."""
        scalars, self._scalars = self._scalars, {}
        if not scalars:
            return {}
        means = torch.stack([torch.stack(values).mean() for values in scalars.values()])
        return dict(zip(scalars, means.tolist(), strict=True))  # one transfer for all

    def add_finiteness(self, norm: Tensor, perturbed_loss: Tensor) -> None:
        """Records whether the gradient norm at w and the loss at w + e(w) are finite."""
        is_nonfinite = (~(torch.isfinite(norm) & torch.isfinite(perturbed_loss.to(norm.device)))).float()
        previous = self._is_nonfinite
        self._is_nonfinite = is_nonfinite if previous is None else torch.maximum(previous, is_nonfinite)

    def pop_nonfinite(self) -> Tensor | None:
        """1 if a number of the optimizer step was not finite, else 0, shape ``()``; ``None`` if SAM did not act."""
        is_nonfinite, self._is_nonfinite = self._is_nonfinite, None
        return is_nonfinite

    def add_loss(self, loss: Tensor, global_step: int) -> None:
        """Records the loss at w of one batch."""
        self._epoch_steps += 1
        if global_step < _NUM_FIRST_STEPS:
            self._first_losses.append(loss.float())
        self._epoch_loss = loss.float() if self._epoch_loss is None else self._epoch_loss + loss

    def pop_epoch(self) -> tuple[Tensor | None, int]:
        """The sum of the losses of an epoch, and their number."""
        epoch = (self._epoch_loss, self._epoch_steps)
        self._epoch_loss, self._epoch_steps = None, 0
        return epoch

    def is_stuck(self, loss: float, num_classes: int | None) -> bool:
        """Whether the mean loss of an epoch is no better than the first losses, or than guessing."""
        first_losses = [float(first) for first in self._first_losses]
        return all(map(math.isfinite, [*first_losses, loss])) and is_stuck(first_losses, loss, num_classes)


def can_be_judged(global_step: int, num_training_steps: float) -> bool:
    """Whether enough of the training is over to tell a slow start from a training that is stuck."""
    if math.isinf(num_training_steps):
        return global_step >= _MIN_STEPS_OF_UNKNOWN_LENGTH
    return global_step >= max(_MIN_STEPS, _MIN_SHARE * num_training_steps)
