"""Output for the user: scalars, figures, tables and hyperparameters on the loggers, and a progress bar."""

from lightning_hp.reporting.config import cli_config
from lightning_hp.reporting.hparams import log_columns, log_end, log_run
from lightning_hp.reporting.loggers import log_figure, log_scalars, log_table
from lightning_hp.reporting.progress import progress_bar

__all__ = [
    "cli_config",
    "log_columns",
    "log_end",
    "log_figure",
    "log_run",
    "log_scalars",
    "log_table",
    "progress_bar",
]
