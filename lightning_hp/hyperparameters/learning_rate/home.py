"""The home of the learning rate: the attribute of the user's module that the parameter groups follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning_hp.hyperparameters.attributes import NamedAttribute, Place, as_number, find_attribute
from lightning_hp.hyperparameters.learning_rate.probe import Probe, probe
from lightning_hp.trainer import misconfiguration

if TYPE_CHECKING:
    import pytorch_lightning as pl

_NAMES = ("lr", "learning_rate")
#: Stands in where an attribute holds no rate yet (``lr=None`` or 0: "choose for me").
SOME_RATE = 1e-3


@dataclass(frozen=True)
class Home:
    """Where a module keeps its learning rate.

    Args:
        attribute: The attribute, in all its places.
        probe: What follows it.

    """

    attribute: NamedAttribute
    probe: Probe

    def __str__(self) -> str:
        return str(self.attribute)

    @property
    def value(self) -> float | None:
        """The rate that is there; ``None`` if it is left to ``configure_optimizers``."""
        return as_number(self.attribute.read())

    @property
    def paths(self) -> tuple[str, ...]:
        """The dotted ways from the module to each place: ``("lr", "hparams.lr")``."""
        return self.attribute.paths


def find_home(trainer: pl.Trainer, pl_module: pl.LightningModule, attr_name: str, try_scaling: bool) -> Home | None:
    """Finds the attribute that the parameter groups follow.

    Args:
        trainer: A Trainer inside ``fit``.
        pl_module: Its module.
        attr_name: The name that the user gave, or ``""`` for ``lr``, ``learning_rate``.
        try_scaling: Also try whether the schedule can be rebased midway.

    Returns:
        The home, or ``None`` if no group follows an attribute of the usual names.

    Raises:
        MisconfigurationException: If ``attr_name`` names nothing, no number, or nothing that a group follows; if a
            group depends on the attribute other than in proportion; if the groups follow two different values.

    """
    for name in (attr_name,) if attr_name else _NAMES:
        attribute = _with_numbers(trainer, find_attribute(name, model=pl_module), bool(attr_name))
        # Two places with different values are two numbers: which of them is it?
        candidates = [attribute] if attribute.agrees else [NamedAttribute(name, (place,)) for place in attribute.places]
        homes = [
            home for home in (_probed(trainer, pl_module, one, try_scaling) for one in candidates) if home is not None
        ]
        if len(homes) > 1:
            held = " and ".join(f"{home} = {home.value}" for home in homes)
            raise misconfiguration(
                trainer,
                f"Expected one learning rate, got two that the optimizers follow: {held}. Build all groups on one of"
                " them, at a ratio of your choice, or make them equal.",
            )
        if homes:
            return homes[0]
        if attr_name and attribute:
            raise misconfiguration(
                trainer,
                f"Expected the optimizers to follow {attribute}, but another value there changes none of their"
                " learning rates. Use it in `configure_optimizers`, or leave `attr_name` empty: the rate is then set in"
                " the optimizers themselves.",
            )
    if attr_name:
        raise misconfiguration(
            trainer,
            f"Expected `attr_name` to name a number of the model, got {attr_name!r}: there is neither"
            f" `model.{attr_name}` nor `model.hparams.{attr_name}` that can be written. Correct the name, or leave it"
            " empty.",
        )
    return None


def write_home(pl_module: pl.LightningModule, lr: float, paths: tuple[str, ...]) -> None:
    """Writes a rate where a finished search has found the home to be, before any optimizer exists (on resume).

    Args:
        pl_module: The module.
        lr: The rate.
        paths: :attr:`LearningRate.home.paths <Home.paths>` of the search; places that the module does not have are
            left out.

    """
    places = (Place("model", pl_module, path) for path in paths)
    NamedAttribute("learning rate", tuple(filter(Place.exists, places))).write(lr)


def _with_numbers(trainer: pl.Trainer, attribute: NamedAttribute, is_named: bool) -> NamedAttribute:
    """The places that hold a number, or ``None``, which leaves the number to ``configure_optimizers``."""
    numeric = tuple(
        place for place in attribute.places if (value := place.read()) is None or as_number(value) is not None
    )
    if is_named and len(numeric) < len(attribute.places):
        other = next(place for place in attribute.places if place not in numeric)
        raise misconfiguration(trainer, f"Expected `{other}` to be a number, got {other.read()!r}.")
    return NamedAttribute(attribute.name, numeric)


def _probed(
    trainer: pl.Trainer, pl_module: pl.LightningModule, attribute: NamedAttribute, try_scaling: bool
) -> Home | None:
    if not attribute:
        return None
    at = as_number(attribute.read()) or SOME_RATE
    seen = probe(trainer, pl_module, attribute, at, try_scaling)
    for (optimizer, group), (before, after) in seen.odd.items():
        raise misconfiguration(
            trainer,
            f"Expected each learning rate to be proportional to {attribute} or independent of it, but group {group} of"
            f" optimizer {optimizer} has {before:.4g} at {at:.4g} and {after:.4g} at {at / 2:.4g}. Make it a multiple,"
            " or rename the attribute: the rate is then set in the optimizers themselves.",
        )
    return Home(attribute, seen) if seen.ratios else None
