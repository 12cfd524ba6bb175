"""What the measured steps of a training have shown: averages, and how many steps do not count and why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lightning_hp.functional.batch_size.noise_scale import MIN_OBSERVATIONS, NoiseScale, NoiseScaleEstimator
from lightning_hp.functional.checks import MAX_INT, check_fields, check_int, check_number, wrong_type
from lightning_hp.trainer import has_fixed_order
from lightning_hp.tuning.noise_scale.step_meter import Norms

_COUNTS = ("observed", "not_finite", "zero")


class Observations:
    """Averages over the steps that were measured.

    Args:
        decay: Weight of each observation relative to the next one, > 0 and <= 1.

    Attributes:
        estimator: The averages.
        observed: Steps in them, and in those before :meth:`start_again`.
        not_finite: Steps whose squared norm is not finite.
        zero: Steps whose squared norms are zero.
        samples: Samples of the observed steps.

    """

    def __init__(self, decay: float = 1.0) -> None:
        self._decay = decay
        self.estimator = NoiseScaleEstimator(decay)
        self.observed = self.not_finite = self.zero = 0
        self.samples = 0.0

    def start_again(self) -> None:
        """Starts other averages; the counts continue."""
        self.estimator = NoiseScaleEstimator(self._decay)

    def add(self, norms: Norms, num_batches: int | None = None) -> tuple[float, float] | None:
        """Reads the norms of a step from the device, and adds it.

        Args:
            norms: The norms.
            num_batches: Batches of a step of the training on all processes; ``None``: as many as this one has.

        Returns:
            The estimates of |G|^2 and of S; ``None`` if the step does not count.

        """
        found = norms.read()
        if found is None:
            self.not_finite += 1
            return None
        self.estimator.update(found.gradient, found.noise)
        self.observed += 1
        self.zero += found.gradient == found.noise == 0
        self.samples += found.num_samples * (1 if num_batches is None else num_batches / norms.num_batches)
        return found.gradient, found.noise

    @property
    def batch_size(self) -> int:
        """Mean number of samples of an optimizer step of the training; 1 if none was observed."""
        return max(1, round(self.samples / self.observed)) if self.observed else 1

    @property
    def reason(self) -> str | None:
        """Why no step that was measured counts; ``None`` if one does, or none was measured."""
        return "No measured step had a finite gradient." if self.not_finite and not self.observed else None

    def noise_scale(self, num_distinct: int | None = None) -> NoiseScale:
        """The present estimate, with its interval or the reason why it is not known.

        Args:
            num_distinct: Steps with different batches, of which all others are repetitions; ``None``: all.

        """
        scale = self.estimator.noise_scale()
        if not scale.num_observations:
            reason = self.reason or scale.reason
        elif num_distinct is not None and num_distinct < MIN_OBSERVATIONS <= scale.num_observations:
            reason = (
                f"The measured steps repeat {num_distinct}, with equal batches or equal gradients; at least"
                f" {MIN_OBSERVATIONS} different ones show an error. Shuffle the loader, or use smaller batches."
            )
        else:
            return scale
        return replace(scale, value=None, low=0.0, high=math.inf, reason=reason)

    def notes(self) -> list[str]:
        """One sentence on each kind of steps that show nothing."""
        measured, notes = self.observed + self.not_finite, []
        if self.not_finite:
            notes.append(
                f"{self.not_finite} of {measured} measured steps do not count: the squared norm of their gradient is"
                " not finite, since the gradient is not, or since it is above the range of float32."
            )
        if self.zero:
            notes.append(
                f"{self.zero} of {measured} measured steps have a gradient of zero, or one whose squared norm is below"
                " the range of float32."
            )
        return notes

    def state_dict(self) -> dict[str, Any]:
        """The counts, in plain types, without the averages."""
        return {**{name: getattr(self, name) for name in _COUNTS}, "samples": self.samples}

    def load_state_dict(self, state: Any) -> None:
        """Restores what :meth:`state_dict` returned.

        Raises:
            TypeError: If an entry is of the wrong type.
            ValueError: If an entry is missing, or negative.

        """
        if not isinstance(state, Mapping):
            wrong_type("counts", "a dict of counts", state)
        entries = check_fields("counts", state, (*_COUNTS, "samples"))
        checked = {name: check_int(f"counts[{name!r}]", entries[name], 0, MAX_INT) for name in _COUNTS}
        self.samples = check_number("counts['samples']", entries["samples"], minimum=0)
        for name, count in checked.items():
            setattr(self, name, count)


def num_distinct_steps(loaders: Sequence[Any], num_batches: float, accumulate: int) -> int | None:
    """Steps of an epoch with two batches or more, where each epoch has the same ones; ``None`` where others come.

    Args:
        loaders: The training loaders.
        num_batches: Batches of an epoch.
        accumulate: Batches of a step.

    """
    if math.isinf(num_batches) or not all(map(has_fixed_order, loaders)):
        return None
    full, rest = divmod(int(num_batches), accumulate)
    return full + (rest > 1)
