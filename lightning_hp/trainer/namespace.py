"""Which of the two Lightning packages a Trainer comes from, and what we need of it.

``pytorch_lightning`` and ``lightning.pytorch`` are the same code twice: two sets of classes and exceptions. Whatever
is taken from Lightning at run time is taken from the package of the Trainer at hand.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytorch_lightning as pl


def lightning_package(trainer: pl.Trainer) -> str:
    """The package of ``trainer``: ``"pytorch_lightning"`` or ``"lightning.pytorch"``.

    Example:
        >>> import pytorch_lightning as pl
        >>> lightning_package(pl.Trainer(logger=False, enable_checkpointing=False, barebones=True))
        'pytorch_lightning'

    """
    for base in type(trainer).__mro__:
        package, dot, _ = base.__module__.partition(".trainer.")
        if base.__name__ == "Trainer" and dot:
            return package
    raise TypeError(
        f"Expected a Trainer of `pytorch_lightning` or `lightning.pytorch`, got {type(trainer).__qualname__}."
    )


def lightning_module_of(trainer: pl.Trainer, name: str) -> ModuleType:
    """The module ``name`` of the Lightning package that ``trainer`` belongs to."""
    return import_module(f"{lightning_package(trainer)}.{name}")


def misconfiguration(trainer: pl.Trainer, message: str) -> Exception:
    """A ``MisconfigurationException`` that a user of this Trainer's package can catch."""
    error: Exception = lightning_module_of(trainer, "utilities.exceptions").MisconfigurationException(message)
    return error


def is_resuming(trainer: pl.Trainer) -> bool:
    """Whether the ``fit`` that runs continues from a checkpoint (given, or found again by a cluster's requeue)."""
    return trainer.ckpt_path is not None or bool(trainer._checkpoint_connector._loaded_checkpoint)
