"""What LRFinder and BatchSizeScaler share: searching outside ``fit``, their state, and reporting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from lightning_utilities.core.rank_zero import rank_zero_info

from lightning_hp.functional.checks import check_bool, wrong_type
from lightning_hp.rehearsal import reason_not_to_rehearse, rehearse_outside_fit
from lightning_hp.reporting import cli_config, log_figure, log_scalars, log_table
from lightning_hp.trainer import lightning_package, misconfiguration

if TYPE_CHECKING:
    import pytorch_lightning as pl


class FinderResult(Protocol):
    """What ``Finder`` needs of a result."""

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Header and rows of its summary."""

    def to_dict(self) -> dict[str, Any]:
        """The result in plain types."""


_Result = TypeVar("_Result", bound=FinderResult)


class Finder(Generic[_Result]):
    """A callback that finds a value before the training, sets it, and reports it.

    Attributes:
        sets: Name of the hyperparameter that is set. A callback whose value it depends on has to come before this one.
        result: The result of the last search, or ``None`` before one.

    """

    sets: ClassVar[str]
    #: First part of the names of what is logged.
    _tag: ClassVar[str]
    _result_type: ClassVar[Any]

    def __init__(self) -> None:
        super().__init__()
        self.result: _Result | None = None
        # What was set and where, in plain types: for a second `fit` and for a resumed run. Empty: nothing was set.
        self._applied: dict[str, Any] = {}

    def find(
        self,
        trainer: pl.Trainer,
        model: pl.LightningModule,
        train_dataloaders: Any = None,
        datamodule: pl.LightningDataModule | None = None,
    ) -> _Result:
        """Runs the search alone: sets nothing, logs nothing, trains nothing.

        Args:
            trainer: A Trainer that is not running. Its strategy, precision and accumulation are used.
            model: The module.
            train_dataloaders: As for ``Trainer.fit``.
            datamodule: As for ``Trainer.fit``.

        Returns:
            The result.

        Raises:
            TypeError: If ``trainer`` is no Trainer, or ``model`` no LightningModule.
            MisconfigurationException: If the training cannot be rehearsed, or the Trainer does not train
                (``fast_dev_run``, ``max_steps=0``).

        """
        lightning_package(trainer)  # raises for anything but a Trainer
        if not any(base.__name__ == "LightningModule" for base in type(model).__mro__):
            wrong_type("model", "a LightningModule", model)
        if (reason := reason_not_to_rehearse(trainer)) is not None:
            raise misconfiguration(trainer, f"Expected a training to rehearse, but there is none, {reason}.")
        self.result = rehearse_outside_fit(trainer, model, self._search, train_dataloaders, datamodule)
        return self.result

    def save_config(
        self, path: str | PathLike[str], *, subclass_mode_model: bool = False, subclass_mode_data: bool = False
    ) -> None:
        """Writes what was set as YAML that ``LightningCLI`` takes, ``--config found.yaml``, instead of a search.

        Call it after ``fit``, on rank zero. The values are those of the arguments of the model, the datamodule and the
        Trainer, under the names that they have in ``hparams``, or else as attributes.

        Args:
            path: The file; it is replaced if it exists.
            subclass_mode_model: As in ``LightningCLI``: the model is given by ``class_path`` and ``init_args``.
            subclass_mode_data: The same for the datamodule.

        Raises:
            ValueError: If nothing was set, or a value is kept in the optimizers or the loaders alone.

        """
        modes = {
            "model": check_bool("subclass_mode_model", subclass_mode_model),
            "data": check_bool("subclass_mode_data", subclass_mode_data),
        }
        if not isinstance(path, (str, PathLike)):
            wrong_type("path", "a path", path)
        if not self._applied:
            raise ValueError(
                f"Expected values that a `fit` has set, but {type(self).__name__} has set none. Call it after `fit`,"
                " without `update_attr=False`."
            )
        import yaml  # type: ignore[import-untyped]

        text = yaml.safe_dump(cli_config(*_set_values(self._applied), modes), sort_keys=False)
        Path(path).write_text(text, encoding="utf-8")

    def state_dict(self) -> dict[str, Any]:
        """What was found and set, in plain types."""
        return {"applied": self._applied, "result": None if self.result is None else self.result.to_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what was found and set."""
        self._applied = state_dict["applied"]
        result = state_dict["result"]
        self.result = None if result is None else self._result_type.from_dict(result)

    def _search(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> _Result:
        """Searches at ``on_fit_start`` without setting anything."""
        raise NotImplementedError

    def _applied_in(self, trainer: pl.Trainer, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
        """What was set in the run that a ``fit`` resumes from a checkpoint; empty if nothing."""
        if trainer.state.fn != "fit":
            return {}
        state: dict[str, Any] = checkpoint.get("callbacks", {}).get(self.state_key, {})  # type: ignore[attr-defined]
        applied: dict[str, Any] = state.get("applied", {})
        return applied

    def _log(self, message: str) -> None:
        rank_zero_info(f"{type(self).__name__}: {message}")

    def _log_result(
        self,
        trainer: pl.Trainer,
        scalars: Mapping[str, float | None],
        tables: Mapping[str, tuple[list[str], list[list[Any]]]],
        figures: Mapping[str, Callable[[], Any]],
    ) -> None:
        """Writes a result to the Trainer's loggers; figures are drawn only where there is a logger."""
        step = trainer.global_step
        log_scalars(trainer, {f"{self._tag}/{name}": value for name, value in scalars.items()}, step)
        for name, (header, rows) in tables.items():
            log_table(trainer, f"{self._tag}/{name}", header, rows, step)
        if trainer.is_global_zero and trainer.loggers:
            for name, draw in figures.items():
                log_figure(trainer, f"{self._tag}/{name}", draw(), step)


def _set_values(applied: Mapping[str, Any]) -> tuple[list[tuple[Any, list[tuple[str, str]]]], dict[str, Any]]:
    """Each value that a finder set, with its places; and the arguments of the Trainer."""
    values: list[tuple[Any, list[tuple[str, str]]]] = []
    trainer = {}
    if "batch_size" in applied:
        record = applied["batch_size"]
        values.append((record["batch_size"], [(owner, path) for owner, path in record["places"]]))
        if applied["accumulate_grad_batches"] != 1:
            trainer["accumulate_grad_batches"] = applied["accumulate_grad_batches"]
    if applied["lr"] is not None:
        home = applied["lr_home"] if "lr_home" in applied else applied["home"]
        values.append((applied["lr"], [("model", path) for path in home]))
    return values, trainer
