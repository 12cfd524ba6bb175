"""Training steps of a rehearsal at given learning rates."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from lightning_hp.functional.learning_rate.range_test import has_exploded
from lightning_hp.hyperparameters import LearningRate
from lightning_hp.rehearsal import Rehearsal
from lightning_hp.tuning.notes import with_note

# Losses are read from the device once in this number of steps, so that steps are not synchronized. Steps whose loss
# explodes therefore go on a few steps too long.
_READ_INTERVAL = 8


@dataclass
class Stepper:
    """Runs training steps at given rates and counts them.

    Attributes:
        rehearsal: An open rehearsal.
        learning_rate: Sets the learning rate of each step with the ratios of the parameter groups.
        threshold: Ends steps once their loss stays above this multiple of the initial loss; ``None``: never. A loss
            that is not finite always ends them.
        on_step: Called after each step, for a progress bar.
        num_steps: Steps so far.

    """

    rehearsal: Rehearsal
    learning_rate: LearningRate
    threshold: float | None
    on_step: Callable[[], None]
    num_steps: int = 0

    def run(self, moments: Iterable[tuple[float, float | None]]) -> list[float]:
        """Runs one step for each moment, from where the rehearsal stands.

        Args:
            moments: For each step the rate at the peak of the schedule, and the part of the training that is done, or
                ``None`` for the peak.

        Returns:
            The training losses; fewer where the steps ended early. On several processes their mean. A step that raises
            an error because the weights are no longer finite ends the steps like a loss that is not finite.

        """
        losses: list[float] = []
        unread: list[Tensor] = []
        for lr, progress in moments:
            self.learning_rate.set_for_step(lr, progress)
            try:
                with with_note(f"LRFinder was trying a learning rate of {lr:.3g}."):
                    unread.append(self.rehearsal.step())
            except Exception:
                # With several processes the others would wait for this one.
                if self.rehearsal.trainer.world_size > 1 or not self.rehearsal.has_diverged():
                    raise
                return losses + self._read(unread)
            self.learning_rate.check_step_lr(lr)
            self.on_step()
            self.num_steps += 1
            if len(unread) == _READ_INTERVAL:
                losses += self._read(unread)
                unread = []
                if has_exploded(losses, self.threshold):
                    return losses
        return losses + self._read(unread)

    def _read(self, unread: list[Tensor]) -> list[float]:
        return self.rehearsal.read(unread) if unread else []
