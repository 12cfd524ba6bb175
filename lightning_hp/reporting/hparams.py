"""Hyperparameters on the loggers, and TensorBoard's HParams tab."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_hp.reporting.loggers import HasLoggers, experiment_of, writing_loggers

if TYPE_CHECKING:
    pass


def log_run(
    trainer: HasLoggers, params: Mapping[str, Any], metrics: Sequence[str], columns: Mapping[str, Any] | None = None
) -> None:
    """Logs the hyperparameters of a run; on TensorBoard's HParams tab beside the scalars that they are to explain.

    No point of any metric is written: the tab shows the last one that the run logs under its name. All runs of a
    folder should have the same names, since the tab takes the columns from the first it reads.

    Args:
        trainer: The Trainer.
        params: Name and value; nested ones become ``outer/inner``, what is no number and no text becomes a text.
        metrics: Names of scalars.
        columns: What the tab shows in the place of ``params``, so that runs with other keys have the same names.

    Costs one write. Only the first call of a run is shown on the tab.

    Source: the loggers' own ``log_hyperparams`` and the summaries of ``torch.utils.tensorboard``.

    Example:
        >>> import pytorch_lightning as pl
        >>> trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
        >>> log_run(trainer, {"lr": 0.01}, ["val_accuracy"])  # no logger: nothing happens

    """
    for logger in writing_loggers(trainer):
        experiment = experiment_of(logger)
        if not hasattr(experiment, "file_writer"):
            logger.log_hyperparams(dict(params))
            continue
        from torch.utils.tensorboard.summary import hparams

        logger.log_hyperparams(dict(params), {})  # into hparams.yaml alone
        names: Any = dict.fromkeys(metrics, 0.0)  # the names are all that is taken
        for summary in hparams(_flat(params if columns is None else columns), names):  # type: ignore[no-untyped-call]
            experiment._get_file_writer().add_summary(summary)  # noqa: SLF001 - torch's; opens it anew after a `fit`


def log_hyperparams(trainer: HasLoggers, params: Mapping[str, Any]) -> None:
    """Adds to the hyperparameters that the loggers show, or replaces them; those that are ``None`` are left out.

    Args:
        trainer: The Trainer.
        params: Name and value.

    Costs one write. Does not change ``hparams`` of the module.

    Source: the loggers' own ``log_hyperparams``.

    Example:
        >>> import pytorch_lightning as pl
        >>> trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
        >>> log_hyperparams(trainer, {"lr": 0.01})  # no logger: nothing happens

    """
    known = {name: value for name, value in params.items() if value is not None}
    for logger in writing_loggers(trainer) if known else ():
        logger.log_hyperparams(known)


def _flat(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}/")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, (bool, int, float, str)) else str(value)
    return flat
