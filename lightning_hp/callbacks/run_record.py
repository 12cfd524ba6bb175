"""The record of a run: which hyperparameters were used, who records them, and when.

Lightning records ``hparams`` by itself after ``on_fit_start``. It does not know a value that is kept in the optimizers
or the loaders alone, and a logger may refuse to change a value that is recorded. So whoever has something to add
records everything, at the end of ``on_fit_start``, and Lightning's own record is left out in this ``fit``. There is one
such callback in a ``fit``: the last ``HParamsLogger``, without one the last finder, if one has set a value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from typing import Any

from lightning_hp.hyperparameters import stated_batch_size
from lightning_hp.reporting import log_end, log_run
from lightning_hp.trainer import logged_hparams, logs_hparams


class RunRecord:
    """The record that a callback writes in a ``fit``. It is started and ended once."""

    def __init__(self) -> None:
        self._autolog: bool | None = None  # of the Trainer, before Lightning's own record was switched off
        self._written: tuple[Mapping[str, Any], Sequence[str] | None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the record of a run was started and not ended."""
        return self._written is not None

    def start(self, trainer: Any, params: Mapping[str, Any], metrics: Sequence[str] | None = None) -> None:
        """Writes the hyperparameters to the loggers.

        Args:
            trainer: The Trainer, at ``on_fit_start``.
            params: Names and values, see :func:`used_hparams`.
            metrics: What the HParams tab shows, see :func:`~lightning_hp.reporting.log_run`.

        """
        self._written = params, metrics
        log_run(trainer, params, metrics)

    def replace_lightning(self, trainer: Any) -> None:
        """Leaves out Lightning's own record in this ``fit``; what else it does at that point is done here."""
        if trainer.enable_autolog_hparams:
            self._autolog, trainer.enable_autolog_hparams = True, False
            for logger in trainer.loggers:
                logger.log_graph(trainer.lightning_module)
                logger.save()

    def release(self, trainer: Any) -> None:
        """Lets Lightning record again, in later calls of the Trainer."""
        if self._autolog is not None:
            trainer.enable_autolog_hparams, self._autolog = self._autolog, None

    def end(self, trainer: Any, failed: bool) -> None:
        """Writes whether the run has failed, if its record was started."""
        self.release(trainer)
        if self._written is not None:
            written, self._written = self._written, None
            log_end(trainer, *written, failed=failed)


def used_hparams(trainer: Any, params: Mapping[str, Any] | None = None, *, complete: bool = False) -> dict[str, Any]:
    """What the training of a Trainer uses.

    Args:
        trainer: The Trainer.
        params: More names and values; they replace the user's own.
        complete: Whether a learning rate and a batch size are added where neither the hyperparameters nor a callback
            have one.

    Returns:
        The hyperparameters of the module and the datamodule that the user lets Lightning log; ``params``; and above
        all what the callbacks have set and are set to. Those and a module that have something to add have a method
        ``used_hparams``.

    """
    module, datamodule = trainer.lightning_module, getattr(trainer, "datamodule", None)
    used = {**_own(module), **_own(datamodule), **(params or {})}
    for owner in (module, *trainer.callbacks):
        if hasattr(owner, "used_hparams"):
            for name, value in owner.used_hparams().items():
                used[_known_as(name, used)] = value
    if complete:
        for name, value in (("lr", _lr(trainer)), ("batch_size", _batch_size(trainer))):
            if value is not None and used.get(_known_as(name, used)) is None:
                used[name] = value
        if trainer.accumulate_grad_batches != 1:
            used.setdefault("accumulate_grad_batches", trainer.accumulate_grad_batches)
    return used


def _own(owner: Any) -> dict[str, Any]:
    """The user's hyperparameters, a copy."""
    if owner is None:
        return {}
    if logs_hparams(owner):
        hparams = owner.hparams_initial
    elif logged_hparams(owner) is None:  # written by hand, without `save_hyperparameters(logger=False)`
        hparams = owner.hparams
    else:
        return {}
    # LightningCLI's `_class_path` is internal, as all names that begin so.
    return {name: deepcopy(value) for name, value in hparams.items() if not str(name).startswith("_")}


def _known_as(name: str, hparams: Mapping[str, Any]) -> str:
    """The user's name of a value."""
    return "learning_rate" if name == "lr" and "lr" not in hparams and "learning_rate" in hparams else name


def _lr(trainer: Any) -> float | None:
    """The rate that the first parameter group is built on."""
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    found = (groups[0].get(name) for name in ("max_lr", "initial_lr", "lr")) if groups else ()
    return next((float(lr) for lr in found if lr is not None), None)


def _batch_size(trainer: Any) -> int | None:
    with suppress(Exception):  # a run may have failed before it had loaders
        return stated_batch_size(trainer)
    return None
