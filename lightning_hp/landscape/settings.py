"""What of a loss landscape is measured, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lightning_hp.functional.checks import check_bool, check_choice, check_int, check_iterable, check_number
from lightning_hp.results.fields import set_fields

#: Of two directions the landscape shows the plane that they span.
DIRECTIONS = ("random", "trajectory", "hessian")


@dataclass(frozen=True)
class LandscapeSettings:
    """What of a loss landscape is measured.

    Attributes:
        directions: ``"random"``, ``"trajectory"`` or ``"hessian"``.
        radius: The surface reaches from -radius to radius along both directions; ``None``: 1, or as far as the path.
        resolution: Points along each direction, odd, so that one of them is the model itself.
        num_pairs: Pairs of random directions.
        batch_norm: ``"running"`` or ``"batch"``: statistics of the normalisation layers.
        coarse: Whether three quarters of the points are interpolated.
        budget: Seconds for the surfaces, or ``None``.
        num_eigenvalues: Leading eigenvalues of the Hessian to compute.
        radii: Distances at which the rise of the loss is measured.
        seed: Seed of the random directions.

    """

    directions: Literal["random", "trajectory", "hessian"] = "random"
    radius: float | None = None
    resolution: int = 21
    num_pairs: int = 1
    batch_norm: Literal["running", "batch"] = "running"
    coarse: bool = False
    budget: float | None = None
    num_eigenvalues: int = 1
    radii: Sequence[float] = (0.05, 0.5)
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("directions", self.directions, DIRECTIONS)
        if self.radius is not None:
            set_fields(self, radius=check_number("radius", self.radius, above=0, also="None"))
        check_int("resolution", self.resolution, 3)
        if self.resolution % 2 == 0:
            raise ValueError(
                "Expected an odd `resolution`, so that the model itself is a point of the surface, but got"
                f" {self.resolution}."
            )
        check_bool("coarse", self.coarse)
        if self.coarse and self.resolution < 7:
            raise ValueError(f"Expected a `resolution` of 7 or more with `coarse`, but got {self.resolution}.")
        check_int("num_pairs", self.num_pairs, 1)
        if self.num_pairs > 1 and self.directions != "random":
            raise ValueError(
                f"Expected `num_pairs` of 1 with directions={self.directions!r}, which are one pair, but got"
                f" {self.num_pairs}."
            )
        check_choice("batch_norm", self.batch_norm, ("running", "batch"))
        if self.budget is not None:
            set_fields(self, budget=check_number("budget", self.budget, above=0, also="None"))
        check_int("num_eigenvalues", self.num_eigenvalues, 0, 100)
        radii = check_iterable("radii", self.radii, "a list of distances above 0")
        set_fields(self, radii=tuple(check_number(f"radii[{i}]", r, above=0) for i, r in enumerate(radii)))
        check_int("seed", self.seed, 0)


def check_num_samples(value: Any) -> int:
    """The number of samples that the loss is a mean over."""
    return check_int("num_samples", value, 1)
