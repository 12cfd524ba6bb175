"""PruningCallback: reports a metric to an Optuna trial after each validation, and ends trainings that are poor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from typing_extensions import override

from lightning_hp.functional.checks import check_bool, check_str, wrong_type
from lightning_hp.trainer import misconfiguration
from lightning_hp.trainer.base_classes import Callback

if TYPE_CHECKING:
    import optuna
    import pytorch_lightning as pl


class PruningCallback(Callback):
    """Reports a metric to an Optuna trial after each epoch, and ends the training if the trial should be pruned.

    The process of rank zero reports and decides; all processes stop in the same epoch. The training ends as with early
    stopping; then ``fit`` raises ``optuna.TrialPruned``, on every process.

    Args:
        trial: The trial, as an objective gets it, or one of a study on disk.
        monitor: A metric that the module logs. It is reported once an epoch: after the validation, if it is logged
            there, else at the end of the epoch. The step of the report is the epoch.
        raises: Whether ``fit`` raises; otherwise ``is_pruned`` says what was decided.

    Raises:
        TypeError: If an argument is of the wrong type.
        MisconfigurationException: At the end of ``fit``, if no metric of this name was logged.

    Note:
        Costs one write to the storage per epoch. Without Optuna's own callback, any storage works with several
        processes: only rank zero needs it.

    Example:
        >>> import optuna
        >>> def objective(trial):
        ...     trainer = pl.Trainer(callbacks=[PruningCallback(trial, "val_loss")])
        ...     trainer.fit(model)
        ...     return trainer.callback_metrics["val_loss"].item()
        >>> study = optuna.create_study(pruner=optuna.pruners.MedianPruner())  # study.optimize(objective)

    """

    def __init__(self, trial: optuna.Trial, monitor: str, raises: bool = True) -> None:
        super().__init__()
        if not (callable(getattr(trial, "report", None)) and callable(getattr(trial, "should_prune", None))):
            wrong_type("trial", "an Optuna trial", trial)
        self._trial = trial
        self._monitor = check_str("monitor", monitor)
        self._raises = check_bool("raises", raises)
        self._reported = -1
        self.is_pruned = False

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reports, unless the validation is the check before training."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and self._monitor in trainer.callback_metrics:
            self._report(trainer)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reports a metric that no validation of this epoch has reported."""
        if self._reported != trainer.current_epoch and self._monitor in trainer.callback_metrics:
            self._report(trainer)

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Raises ``optuna.TrialPruned`` if the training was ended."""
        if self._reported < 0 and self._raises:
            logged = ", ".join(sorted(trainer.callback_metrics)) or "nothing"
            raise misconfiguration(trainer, f"Expected the training to log `{self._monitor}`, but it logs {logged}.")
        if self.is_pruned and self._raises:
            import optuna

            raise optuna.TrialPruned(f"Pruned after epoch {self._reported}.")

    def _report(self, trainer: pl.Trainer) -> None:
        """Reports once per epoch, and stops all processes if the trial should be pruned."""
        epoch = trainer.current_epoch
        should_stop = False
        if trainer.is_global_zero and epoch > self._reported:
            self._trial.report(float(trainer.callback_metrics[self._monitor]), step=epoch)
            should_stop = self._trial.should_prune()
        self._reported = epoch
        if trainer.world_size > 1:
            should_stop = bool(trainer.strategy.broadcast(torch.tensor(should_stop), src=0))
        if should_stop:
            self.is_pruned = trainer.should_stop = True
