"""Hyperparameters on the loggers, and on TensorBoard's HParams tab."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_hp.reporting.loggers import HasLoggers, active_loggers, experiment_of


def log_run(
    trainer: HasLoggers, params: Mapping[str, Any], metrics: Sequence[str], columns: Mapping[str, Any] | None = None
) -> None:
    """Logs the hyperparameters of a run; on TensorBoard's HParams tab they appear beside the named metrics.

    No value of a metric is written: the tab shows the last one that the run logs under its name. TensorBoard takes the
    columns of the tab from the first run that it reads, so all runs of a folder should have the same names.

    Args:
        trainer: The Trainer.
        params: Names and values. Nested names become ``outer/inner``; values other than numbers and strings become
            strings.
        metrics: Names of scalars.
        columns: What the tab shows instead of ``params``, so that runs with different ``params`` have the same names.

    Note:
        The tab shows only the first call of a run.

    Example:
        >>> import pytorch_lightning as pl
        >>> trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
        >>> log_run(trainer, {"lr": 0.01}, ["val_accuracy"])  # without a logger nothing is written

    """
    for logger in active_loggers(trainer):
        experiment = experiment_of(logger)
        if not hasattr(experiment, "file_writer"):
            logger.log_hyperparams(dict(params))
            continue
        from torch.utils.tensorboard.summary import hparams

        logger.log_hyperparams(dict(params), {})  # without metrics this writes hparams.yaml only
        names: Any = dict.fromkeys(metrics, 0.0)  # `hparams` uses the names only
        for summary in hparams(_flatten(params if columns is None else columns), names):  # type: ignore[no-untyped-call]
            experiment._get_file_writer().add_summary(summary)  # noqa: SLF001 - of torch; reopens a closed writer


def log_hyperparams(trainer: HasLoggers, params: Mapping[str, Any]) -> None:
    """Adds hyperparameters to those of the loggers, or replaces them; ``None`` is left out.

    Args:
        trainer: The Trainer.
        params: Names and values.

    Note:
        Does not change ``hparams`` of the module.

    Example:
        >>> import pytorch_lightning as pl
        >>> trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
        >>> log_hyperparams(trainer, {"lr": 0.01})  # without a logger nothing is written

    """
    known = {name: value for name, value in params.items() if value is not None}
    for logger in active_loggers(trainer) if known else ():
        logger.log_hyperparams(known)


def _flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested names joined by a slash, with values that the HParams tab accepts."""
    flat: dict[str, Any] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}/")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return flat
