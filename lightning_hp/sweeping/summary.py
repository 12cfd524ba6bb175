"""The summary of a sweep beside the logs of its trainings, for TensorBoard."""

from __future__ import annotations

from pathlib import Path

from lightning_hp.reporting import log_figure, log_table
from lightning_hp.results.sweep import SweepResult


class _Writer:
    """A Trainer in name: one logger with a writer of TensorBoard."""

    is_global_zero = True

    def __init__(self, folder: str) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.experiment = SummaryWriter(folder)
        self.loggers = [self]


def log_summary(result: SweepResult, logdir: str) -> None:
    """Writes table, effects and figure of a sweep to ``logdir/summary``, in the place of an earlier summary.

    Args:
        result: The sweep.
        logdir: Folder of the sweep.

    """
    folder = Path(logdir, "summary")
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    writer = _Writer(str(folder))
    try:
        header, rows = result.table()
        log_table(writer, "sweep/settings", header, rows, 0)
        writer.experiment.add_text("sweep/summary", "\n".join(f"    {line}" for line in str(result).splitlines()), 0)
        effects = [
            [effect.subject, str(effect.best), effect.effect, effect.margin, ", ".join(map(str, effect.ties))]
            for effect in result.effects.values()
        ]
        columns = ["subject", "best", "best - worst", "±", "cannot be told from the best"]
        log_table(writer, "sweep/effects", columns, effects, 0)
        log_figure(writer, "sweep/effects", result.plot(), 0)
    finally:
        writer.experiment.close()
    result_file = Path(logdir, "summary", "recommended.yaml")
    result.to_yaml(result_file)
