"""Which of the two Lightning packages a Trainer comes from, and what is read from it.

``pytorch_lightning`` and ``lightning.pytorch`` are the same code twice, with two sets of classes and exceptions.
Whatever is taken from Lightning at run time is taken from the package of the Trainer at hand.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from lightning_hp.functional.checks import wrong_type

if TYPE_CHECKING:
    import pytorch_lightning as pl


#: The names under which Lightning is installed.
NAMESPACES = ("pytorch_lightning", "lightning.pytorch")


def package_of(trainer: Any) -> str | None:
    """The name of the Lightning package of a Trainer, or ``None`` if it is no Trainer."""
    for base in trainer.__class__.__mro__:  # `type` of a weak reference to a Trainer is not the Trainer's
        package, dot, _ = base.__module__.partition(".trainer.")
        if base.__name__ == "Trainer" and dot:
            return str(package)
    return None


def lightning_package(trainer: pl.Trainer) -> str:
    """The package of ``trainer``: ``"pytorch_lightning"`` or ``"lightning.pytorch"``.

    Raises:
        TypeError: If it is no Trainer.

    Example:
        >>> import pytorch_lightning as pl
        >>> lightning_package(pl.Trainer(logger=False, enable_checkpointing=False, barebones=True))
        'pytorch_lightning'

    """
    package = package_of(trainer)
    if package is not None:
        return package
    return wrong_type("trainer", "a Trainer of `pytorch_lightning` or `lightning.pytorch`", trainer)


def lightning_module_of(trainer: pl.Trainer, name: str) -> ModuleType:
    """The Python module ``name`` of the Lightning package that ``trainer`` belongs to."""
    return import_module(f"{lightning_package(trainer)}.{name}")


def misconfiguration(trainer: pl.Trainer, message: str) -> Exception:
    """A ``MisconfigurationException`` of the Trainer's own package, so that its user can catch it."""
    return misconfiguration_type(trainer)(message)


def misconfiguration_type(trainer: pl.Trainer) -> type[Exception]:
    """The class ``MisconfigurationException`` of the Trainer's own package."""
    kind: type[Exception] = lightning_module_of(trainer, "utilities.exceptions").MisconfigurationException
    return kind


def logged_hparams(owner: object) -> Any:
    """The copy of ``hparams`` that Lightning logs, made when they were saved; ``None`` if there is none."""
    return getattr(owner, "_hparams_initial", None)


def logs_hparams(owner: object) -> bool:
    """Whether ``hparams`` were saved with ``save_hyperparameters``, without ``logger=False``."""
    return bool(getattr(owner, "_log_hyperparams", False))


def is_resuming(trainer: pl.Trainer) -> bool:
    """Whether the running ``fit`` continues from a checkpoint (``ckpt_path``, or found by a cluster's requeue)."""
    return trainer.ckpt_path is not None or bool(trainer._checkpoint_connector._loaded_checkpoint)
