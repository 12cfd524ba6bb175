"""PruningCallback: reports a metric to an Optuna trial after each validation, and ends trainings that are poor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from typing_extensions import override

from lightning_hp.functional.checks import check_bool, check_str, wrong_type
from lightning_hp.trainer import logs_now, misconfiguration, start_method
from lightning_hp.trainer.base_classes import Callback

if TYPE_CHECKING:
    import optuna
    import pytorch_lightning as pl


class PruningCallback(Callback):
    """Reports a metric to an Optuna trial after each epoch, and ends the training if the trial should be pruned.

    The process of rank zero reports and decides; all processes stop in the same epoch. The training ends as with early
    stopping; then ``fit`` raises ``optuna.TrialPruned``, on every process. Exceptions do not come back from processes
    that the Trainer starts (``ddp_spawn``, ``ddp_fork``): use ``raises=False`` and see ``is_pruned`` after ``fit``.

    Args:
        trial: The trial, as an objective gets it, or one of a study on disk.
        monitor: A metric that the module logs. It is reported once an epoch: after the first validation, if it is
            logged there, else at the end of the epoch. Epochs in which it is not logged have no report. The step of the
            report is the epoch.
        raises: Whether ``fit`` raises; otherwise ``is_pruned`` says what was decided.

    Raises:
        TypeError: If an argument is of the wrong type.
        MisconfigurationException: At the end of ``fit``, if no metric of this name was logged. At its start, if the
            Trainer starts processes and ``raises`` is true, or the trial is in memory, which they do not share.

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
        # In shared memory: the processes of `ddp_spawn` and `ddp_fork` get copies of everything else.
        self._is_pruned = torch.zeros((), dtype=torch.bool).share_memory_()  # type: ignore[no-untyped-call]

    @property
    def is_pruned(self) -> bool:
        """Whether the training was ended."""
        return bool(self._is_pruned)

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses what does not come back from processes that the Trainer starts."""
        if stage != "fit" or (method := start_method(trainer)) is None:
            return
        import optuna

        if isinstance(getattr(self._trial, "storage", None), optuna.storages.InMemoryStorage):
            raise misconfiguration(
                trainer,
                "Expected a study with a `storage` on disk, because the processes that the Trainer starts by"
                f" `{method}` do not share one in memory.",
            )
        if self._raises:
            raise misconfiguration(
                trainer,
                f"Expected `raises=False`, because an exception does not come back from processes that the Trainer"
                f" starts by `{method}`. After `fit`: `if callback.is_pruned: raise optuna.TrialPruned`.",
            )

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reports, unless the validation is the check before training."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and logs_now(trainer, self._monitor):
            self._report(trainer)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reports a metric that no validation of this epoch has reported."""
        if self._reported != trainer.current_epoch and logs_now(trainer, self._monitor):
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
            self._is_pruned.fill_(True)
            trainer.should_stop = True
