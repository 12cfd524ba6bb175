"""What LRFinder and BatchSizeScaler share: searching outside ``fit``, their state, and reporting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from lightning_utilities.core.rank_zero import rank_zero_info

from lightning_hp.callbacks.finder_state import STATE_VERSION, check_state, naming_the_checkpoint
from lightning_hp.callbacks.hparams_logger import HParamsLogger
from lightning_hp.callbacks.run_record import RunRecord, used_hparams
from lightning_hp.functional.checks import check_bool, wrong_type
from lightning_hp.rehearsal import reason_not_to_rehearse, rehearse_outside_fit
from lightning_hp.reporting import cli_config, log_figure, log_scalars, log_table
from lightning_hp.trainer import lightning_package, misconfiguration
from lightning_hp.trainer.base_classes import Callback

if TYPE_CHECKING:
    import pytorch_lightning as pl


class FinderResult(Protocol):
    """What ``Finder`` needs of a result."""

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Header and rows of its summary."""

    def to_dict(self) -> dict[str, Any]:
        """The result in plain types."""


_Result = TypeVar("_Result", bound=FinderResult)
_Method = TypeVar("_Method", bound=Callable[..., Any])


def refused_twice_in_setup(state_dict: _Method) -> _Method:
    """Marks a ``state_dict`` of a callback of which ``setup`` refuses a second one.

    Lightning refuses two callbacks of a class that overrides ``state_dict`` when the Trainer is constructed, with a
    sentence about the key of their state. It looks behind ``__wrapped__`` to see whether the method is overridden.
    """
    state_dict.__wrapped__ = Callback.state_dict  # type: ignore[attr-defined]
    return state_dict


class Finder(Generic[_Result]):
    """A callback that finds a value before the training, sets it, and reports it.

    Attributes:
        sets: Name of the hyperparameter that is set. A callback whose value it depends on has to come before this one.
        result: The result of the last search, or ``None`` before one.

    """

    sets: ClassVar[str]
    #: Not part of a training step, and not to be observed in one.
    changes_gradients = False
    #: First part of the names of what is logged.
    _tag: ClassVar[str]
    _result_type: ClassVar[Any]
    #: The entries of the state besides its version.
    _state_fields: ClassVar[tuple[str, ...]] = ("applied", "result")

    def __init__(self, may_consume_data: bool) -> None:
        super().__init__()
        self._may_consume_data = check_bool("may_consume_data", may_consume_data)
        self.result: _Result | None = None
        # What was set and where, in plain types: for a second `fit` and for a resumed run. Empty: nothing was set.
        self._applied: dict[str, Any] = {}
        self._searches = True
        self._record = RunRecord()

    def reuse(self, state_dict: Mapping[str, Any]) -> None:
        """Lets this finder set what another one of its kind has found, at the start of each ``fit``, without a search.

        Args:
            state_dict: The ``state_dict()`` of the finder that searched, for a model of the same kind.

        """
        self.load_state_dict(dict(state_dict))
        self._searches = False

    def find(
        self,
        trainer: pl.Trainer,
        model: pl.LightningModule,
        train_dataloaders: Any = None,
        datamodule: pl.LightningDataModule | None = None,
        update_attr: bool = False,
    ) -> _Result:
        """Runs the search alone: logs nothing, trains nothing, and sets nothing unless it is asked to.

        Args:
            trainer: A Trainer that is not running. Its strategy, precision and accumulation are used.
            model: The module.
            train_dataloaders: As for ``Trainer.fit``.
            datamodule: As for ``Trainer.fit``.
            update_attr: Whether what was found is set, for any training that follows: in the attributes of the model
                and the datamodule, and the accumulation in the Trainer. This argument alone decides, not that of the
                constructor.

        Returns:
            The result.

        Raises:
            TypeError: If ``trainer`` is no Trainer, ``model`` no LightningModule, or ``update_attr`` no bool.
            MisconfigurationException: If the training cannot be rehearsed, or the Trainer does not train
                (``fast_dev_run``, ``max_steps=0``); with ``update_attr``, before any step, if a value is kept in the
                optimizers or the loaders alone, which do not outlive the call.

        """
        loaders, data = checked_call(trainer, model, train_dataloaders, datamodule, update_attr)
        if (reason := reason_not_to_rehearse(trainer)) is not None:
            raise misconfiguration(trainer, f"Expected a training to rehearse, but there is none, {reason}.")
        search = partial(self._search, update_attr=update_attr)
        self.result = result = rehearse_outside_fit(trainer, model, search, loaders, data)
        if update_attr:
            self._set_outside_fit(trainer, model, data, result)
        return result

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

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Raises if the Trainer has two of this class."""
        same = {id(callback) for callback in trainer.callbacks if isinstance(callback, type(self))}  # type: ignore[attr-defined]
        if len(same) > 1:
            name = type(self).__name__
            raise misconfiguration(
                trainer,
                f"Expected one {name} in a Trainer, but got {len(same)}: the last would search again and replace what"
                f" the others have set. Remove all but one; to compare settings, call `{name}(...).find(trainer,"
                " model)` with each.",
            )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Searches before the training, then records what was set, if nothing else in this ``fit`` does."""
        self._before_training(trainer, pl_module)
        if self._records(trainer):
            self._record.start(trainer, used_hparams(trainer))
            self._record.replace_lightning(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Switches Lightning's own record on again."""
        self._record.release(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Marks the run as failed, where this callback has recorded it."""
        self._record.end(trainer, failed=True)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Marks the run as ended, where this callback has recorded it."""
        if stage == "fit":
            self._record.end(trainer, failed=False)

    def used_hparams(self) -> dict[str, Any]:
        """What was set and is in use, by the names under which it is recorded; empty if nothing was set."""
        raise NotImplementedError

    @refused_twice_in_setup
    def state_dict(self) -> dict[str, Any]:
        """What was found and set, in plain types."""
        result = None if self.result is None else self.result.to_dict()
        return {"version": STATE_VERSION, "applied": self._applied, "result": result}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what was found and set.

        Raises:
            TypeError: If an entry is of the wrong type.
            ValueError: If the state is of another version, or an entry has a value that no search leaves.

        """
        with naming_the_checkpoint(type(self).__name__):
            state = self._read_state(state_dict)
        self._applied, self.result = state["applied"], state["result"]

    def _read_state(self, state: Any) -> dict[str, Any]:
        """The checked entries of a state; ``applied`` in plain types, the results as results."""
        entries = check_state(state, self._state_fields)
        applied, result = entries["applied"], entries["result"]
        if not isinstance(applied, Mapping):
            wrong_type("state['applied']", "a dict", applied)
        entries["applied"] = self._check_applied("state['applied']", applied) if applied else {}
        entries["result"] = None if result is None else self._result_type.from_dict(result)
        return entries

    def _check_applied(self, name: str, applied: Any) -> dict[str, Any]:
        """What was set and where, in plain types; raises unless a search of this callback could have set it."""
        raise NotImplementedError

    def _before_training(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Searches, sets and reports; in a resumed run it uses what was found before."""
        raise NotImplementedError

    def _records(self, trainer: Any) -> bool:
        """Whether the record of this ``fit`` is written here, see ``run_record``."""
        finders = [callback for callback in trainer.callbacks if isinstance(callback, Finder)]
        is_recorded = any(isinstance(callback, HParamsLogger) for callback in trainer.callbacks)
        return (
            finders[-1:] == [self]
            and any(finder.used_hparams() for finder in finders)
            and not is_recorded
            and trainer.enable_autolog_hparams
        )

    def _search(self, trainer: pl.Trainer, pl_module: pl.LightningModule, update_attr: bool) -> _Result:
        """Searches at ``on_fit_start``; with ``update_attr`` it sets what was found there, and notes it."""
        raise NotImplementedError

    def _set_outside_fit(self, trainer: Any, model: Any, datamodule: Any, result: _Result) -> None:
        """Sets what :meth:`_search` has noted, in objects that are as they were before it."""
        raise NotImplementedError

    def _refuse_to_set(self, trainer: pl.Trainer, what: str, keeper: str) -> None:
        """Raises for a value that no attribute keeps."""
        raise misconfiguration(
            trainer,
            f"Expected a {what} to set, but got one that is kept in the {keeper} alone, which do not outlive `find`."
            f" Let them be built from an attribute, or add {type(self).__name__} to the callbacks of `fit`.",
        )

    def _applied_in(self, trainer: pl.Trainer, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
        """What was set in the run that a ``fit`` resumes from a checkpoint, checked; empty if nothing."""
        if trainer.state.fn != "fit":
            return {}
        state = checkpoint.get("callbacks", {}).get(self.state_key)  # type: ignore[attr-defined]
        if state is None:
            return {}
        with naming_the_checkpoint(type(self).__name__):
            applied: dict[str, Any] = self._read_state(state)["applied"]
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


def named_hparams(name: str, value: Any, paths: Iterable[str]) -> dict[str, Any]:
    """A value by its names in ``hparams``, or by ``name`` if it is kept elsewhere; nested ones are recorded there."""
    in_hparams = [path.removeprefix("hparams.") for path in paths if path.startswith("hparams.")]
    return {key: value for key in in_hparams or [name] if "." not in key}


def checked_call(trainer: Any, model: Any, loaders: Any, datamodule: Any, update_attr: bool) -> tuple[Any, Any]:
    """Checks what a ``find`` was given; returns the loaders and the datamodule, which may come in their place."""
    lightning_package(trainer)  # raises for anything but a Trainer
    if not _is_a("LightningModule", model):
        wrong_type("model", "a LightningModule", model)
    check_bool("update_attr", update_attr)
    return (None, loaders) if _is_a("LightningDataModule", loaders) else (loaders, datamodule)


def _is_a(name: str, thing: Any) -> bool:
    """Whether an object is of this class of either package."""
    return any(base.__name__ == name for base in type(thing).__mro__)


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
