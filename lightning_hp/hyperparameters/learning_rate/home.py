"""Finds the attribute of the module that the parameter groups follow: the home of the learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lightning_utilities.core.rank_zero import rank_zero_info
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_hp.functional.checks import check_instance
from lightning_hp.hyperparameters.attributes import (
    NamedAttribute,
    NotWritableError,
    Place,
    as_number,
    check_path,
    find_attribute,
)
from lightning_hp.hyperparameters.learning_rate.numbers import ConfiguredOptimizers
from lightning_hp.hyperparameters.learning_rate.probe import ProbeResult, probe_attribute
from lightning_hp.trainer import misconfiguration

if TYPE_CHECKING:
    import pytorch_lightning as pl

_NAMES = ("lr", "learning_rate")
_INSTEAD = "in the optimizers"

#: Used where an attribute holds no rate yet (``lr=None`` or 0, to be found). Any value shows the ratios of the groups.
PLACEHOLDER_LR = 1e-3


@dataclass(frozen=True)
class Home:
    """Where a module keeps its learning rate.

    Args:
        attribute: The attribute, in all its places.
        probe: What follows it.

    """

    attribute: NamedAttribute
    probe: ProbeResult

    def __str__(self) -> str:
        return str(self.attribute)

    @property
    def value(self) -> float | None:
        """The rate in the attribute; ``None`` if ``configure_optimizers`` chooses it."""
        return as_number(self.attribute.read())

    @property
    def paths(self) -> tuple[str, ...]:
        """The dotted path from the module to each place: ``("lr", "hparams.lr")``."""
        return self.attribute.paths


def find_home(trainer: pl.Trainer, pl_module: pl.LightningModule, attr_name: str, try_rescale: bool) -> Home | None:
    """Finds the attribute that the parameter groups follow.

    Args:
        trainer: A Trainer inside ``fit``.
        pl_module: Its module.
        attr_name: The name that the user gave, or ``""`` for ``lr`` and ``learning_rate``.
        try_rescale: Also determine whether the schedule can be rescaled midway.

    Returns:
        The home, or ``None`` if no group follows an attribute of the usual names that can be written.

    Raises:
        MisconfigurationException: If ``attr_name`` names nothing, no number, or nothing that a group follows; if a
            group depends on the attribute other than in proportion; if the groups follow two different values.

    """
    for name in (attr_name,) if attr_name else _NAMES:
        attribute = _with_numbers(trainer, find_attribute(name, model=pl_module).writable(_INSTEAD), bool(attr_name))
        # Places with different values are different numbers; the groups may follow any of them.
        candidates = [attribute] if attribute.agrees else [NamedAttribute(name, (place,)) for place in attribute.places]
        probed = [_probe_home(trainer, pl_module, candidate, try_rescale) for candidate in candidates]
        homes = [home for home in probed if home is not None]
        if len(homes) > 1:
            found = " and ".join(f"{home} = {home.value}" for home in homes)
            raise misconfiguration(
                trainer,
                f"Expected one learning rate, got two that the optimizers follow: {found}. Build all groups on one of"
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


def check_home(name: str, paths: Any, attr_name: str) -> list[str]:
    """The paths of a learning rate in a record, which may come from anyone's checkpoint.

    Args:
        name: The entry of the record, for the message.
        paths: What came: :attr:`Home.paths` as a list.
        attr_name: The name that the user gives now, or ``""`` for ``lr`` and ``learning_rate``.

    Returns:
        The paths.

    Raises:
        TypeError: If it is no list of str.
        ValueError: If a learning rate of these names is not looked for at one of the paths.

    """
    check_instance(name, paths, (list, tuple), "a list of paths")
    names = (attr_name,) if attr_name else _NAMES
    return [check_path(f"{name}[{index}]", path, names) for index, path in enumerate(paths)]


def write_home(pl_module: pl.LightningModule, lr: float, paths: tuple[str, ...]) -> None:
    """Writes the learning rate of an earlier run into the module, before the optimizers of a resumed run are built.

    Args:
        pl_module: The module.
        lr: The rate.
        paths: :attr:`Home.paths` of that run; places that hold no learning rate in this module are skipped.

    """
    places = tuple(filter(Place.exists, (Place("model", pl_module, path) for path in paths)))
    NamedAttribute("learning rate", tuple(filter(_holds_rate, places))).writable(_INSTEAD).write(lr)


def base_lr(trainer: pl.Trainer, configured: ConfiguredOptimizers, home: Home | None, midway: bool) -> float:
    """The learning rate that the existing optimizers and schedulers were built on, as a value of the home.

    Without a home it is that of the first group with a rate > 0.

    Raises:
        MisconfigurationException: If all rates are zero. With a home this is allowed before the training.

    """
    base_lrs = configured.base_lrs()
    ratios = dict.fromkeys(base_lrs, 1.0) if home is None else home.probe.ratios
    for index, base in base_lrs.items():
        if base > 0 and index in ratios:
            schedulers = configured.schedulers_of(index[0])
            is_forgotten = bool(schedulers) and all(isinstance(one, ReduceLROnPlateau) for one in schedulers)
            if is_forgotten and home is not None and home.value:  # this scheduler does not record its initial rate
                return home.value
            return base / ratios[index]
    if home is not None and not midway:
        return PLACEHOLDER_LR
    names = ", ".join(sorted({type(optimizer).__name__ for optimizer in configured.optimizers}))
    raise misconfiguration(
        trainer,
        f"Expected a parameter group with a learning rate > 0, but all rates of {names} are 0. Give it another; before"
        " the training an `lr` attribute of the module that the optimizer is built on may be 0.",
    )


def _with_numbers(trainer: pl.Trainer, attribute: NamedAttribute, is_named: bool) -> NamedAttribute:
    """Keeps the places that can hold a rate."""
    numeric = tuple(filter(_holds_rate, attribute.places))
    if is_named and len(numeric) < len(attribute.places):
        other = next(place for place in attribute.places if place not in numeric)
        raise misconfiguration(trainer, f"Expected `{other}` to be a number, got {other.read()!r}.")
    return NamedAttribute(attribute.name, numeric)


def _holds_rate(place: Place) -> bool:
    """Whether a place holds a number, or ``None``, for which ``configure_optimizers`` chooses the number."""
    value = place.read()
    return value is None or as_number(value) is not None


def _probe_home(
    trainer: pl.Trainer, pl_module: pl.LightningModule, attribute: NamedAttribute, try_rescale: bool
) -> Home | None:
    if not attribute:
        return None
    value = as_number(attribute.read()) or PLACEHOLDER_LR
    try:
        result = probe_attribute(trainer, pl_module, attribute, value, try_rescale)
    except NotWritableError as error:  # a setter that accepts its own value only
        rank_zero_info(f"{error}. It keeps its value, and another one is set {_INSTEAD}.")
        return None
    for (optimizer, group), (lr, lr_at_half) in result.not_proportional.items():
        raise misconfiguration(
            trainer,
            f"Expected each learning rate to be proportional to {attribute} or independent of it, but group {group} of"
            f" optimizer {optimizer} has {lr:.4g} at {value:.4g} and {lr_at_half:.4g} at {value / 2:.4g}. Make it a"
            " multiple, or rename the attribute: the rate is then set in the optimizers themselves.",
        )
    return Home(attribute, result) if result.ratios else None
