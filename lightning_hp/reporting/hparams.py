"""Hyperparameters on the loggers, and on TensorBoard's HParams tab.

How the tab is filled (``tensorboard/plugins/hparams/backend_context.py``): a run appears in it by a summary *session
start* with its hyperparameters; of several in one run the first counts. The columns come from a summary *experiment*,
from any one run that has one: if several have one, it is left to chance which. If none has one, the columns are the
hyperparameters of all runs, and all scalars. Therefore no run writes a summary of the experiment: where the scalars to
show are named, there is one for all runs, in a file of its own in the folder of the runs.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

from fsspec.core import url_to_fs  # type: ignore[import-untyped]

from lightning_hp.reporting.loggers import HasLoggers, active_loggers, experiment_of

#: TensorBoard reads every file with "tfevents" in its name.
_FILE = "events.out.tfevents.0.hparams"

#: What each logger has got. A logger may refuse another value (MLflow does), so the first one stays.
_LOGGED: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()


def log_run(trainer: HasLoggers, params: Mapping[str, Any], metrics: Sequence[str] | None = None) -> None:
    """Logs the hyperparameters of a run, each name once to each logger, and adds the run to TensorBoard's HParams tab.

    No value of a metric is written: the tab shows the last one that the run logs under its name.

    Args:
        trainer: The Trainer.
        params: Names and values.
        metrics: Names of the scalars that the tab shows, in this order. ``None``: those of the other runs in the
            folder, or all.

    Note:
        In the tab nested names become ``outer/inner``; values other than numbers and strings become strings. The names
        are added to those of the other runs in the file ``events.out.tfevents.0.hparams``, see :func:`log_columns`.

    Example:
        >>> import pytorch_lightning as pl
        >>> trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
        >>> log_run(trainer, {"lr": 0.01}, ["val_accuracy"])  # without a logger nothing is written

    """
    for logger in active_loggers(trainer):
        new = {name: value for name, value in params.items() if name not in _LOGGED.get(logger, ())}
        _LOGGED.setdefault(logger, set()).update(new)
        if not _is_tensorboard(logger):
            if new:
                logger.log_hyperparams(new)
            continue
        logger.log_hyperparams(new, {})  # without metrics this writes hparams.yaml only
        cells = _flatten(params)
        start = _protobufs().plugin.SessionStartInfo()
        for name, value in cells.items():
            setattr(start.hparams[name], _KINDS[type(value)][0], value)
        _write(logger, "session_start_info", start)
        log_columns(_folder(logger), cells, metrics)


def log_end(
    trainer: HasLoggers, params: Mapping[str, Any], metrics: Sequence[str] | None = None, *, failed: bool
) -> None:
    """Logs to TensorBoard's HParams tab whether a run has ended or failed.

    Args:
        trainer: The Trainer.
        params: As for :func:`log_run`. The columns are added again: a run that started at the same time may have
            replaced them.
        metrics: As for :func:`log_run`.
        failed: Whether it failed.

    """
    for logger in filter(_is_tensorboard, active_loggers(trainer)):
        status = "STATUS_FAILURE" if failed else "STATUS_SUCCESS"
        _write(logger, "session_end_info", _protobufs().plugin.SessionEndInfo(status=status))
        log_columns(_folder(logger), params, metrics)


def log_columns(folder: str | os.PathLike[str], params: Mapping[str, Any], metrics: Sequence[str] | None) -> None:
    """Adds names to the columns of TensorBoard's HParams tab, in a file of their own in the folder of the runs.

    Args:
        folder: The folder that TensorBoard is started with, or one in it.
        params: Names of hyperparameters with a value of each, which decides how the column is sorted.
        metrics: Names of scalars, to be added in this order. ``None``: no file is created, since without one the tab
            shows all; if there is one, the names of the hyperparameters are added.

    Note:
        TensorBoard reads the columns once: one that is running shows new ones after it was started again.

    """
    files, path = url_to_fs(f"{os.fspath(folder)}/{_FILE}")
    if metrics is None and not files.exists(path):
        return
    api = _protobufs().api
    experiment = _read_experiment(files.cat_file(path)) if files.exists(path) else api.Experiment()
    before = experiment.SerializeToString(deterministic=True)
    types = {info.name: info for info in experiment.hparam_infos}
    for name, value in _flatten(params).items():
        kind = _KINDS[type(value)][1]
        if name not in types:
            experiment.hparam_infos.append(api.HParamInfo(name=name, type=kind))
        elif types[name].type != kind:
            types[name].type = _KINDS[str][1]
    shown = {info.name.tag for info in experiment.metric_infos}
    new = [name for name in dict.fromkeys(metrics or ()) if name not in shown]
    experiment.metric_infos.extend(api.MetricInfo(name=api.MetricName(tag=name)) for name in new)
    if experiment.SerializeToString(deterministic=True) != before:
        _replace(files, path, _event_file(_summary("experiment", experiment)))


#: How a value is stored in a session start, and the type of its column (tensorboard.plugins.hparams.api_pb2.DataType).
_KINDS: dict[type, tuple[str, Any]] = {
    str: ("string_value", 1),
    bool: ("bool_value", 2),
    int: ("number_value", 3),
    float: ("number_value", 3),
}


def _flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested names joined by a slash, with values that the HParams tab accepts."""
    flat: dict[str, Any] = {}
    for name, value in params.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{name}/")
        else:
            flat[f"{prefix}{name}"] = _cell(value)
    return flat


def _cell(value: Any) -> bool | int | float | str:
    """A value of the HParams tab. A function or class is its name; a number that is not finite would be left out."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # of NumPy or torch
        value = value.item()
    if type(value) in _KINDS and (not isinstance(value, float) or math.isfinite(value)):
        return value  # type: ignore[no-any-return]
    return str(getattr(value, "__qualname__", value))


def _is_tensorboard(logger: Any) -> bool:
    """Whether a logger writes with ``SummaryWriter``; the stand-ins of a logger have any attribute, their class not."""
    return hasattr(type(experiment_of(logger)), "_get_file_writer")


def _folder(logger: Any) -> str:
    """Where the columns of all runs of a logger are written.

    A user gives ``save_dir`` for all names and versions; where that is the working directory, which also holds other
    things, ``save_dir/name``.
    """
    inside, below = str(logger.save_dir), str(logger.root_dir)
    is_local = "://" not in inside
    return below if is_local and Path(inside).resolve() == Path.cwd() else inside


def _protobufs() -> Any:
    """TensorBoard's messages; ``tensorboard.plugins.hparams.summary``, which is made for them, imports tensorflow."""
    from tensorboard.compat.proto import event_pb2, summary_pb2  # type: ignore[import-untyped]
    from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2  # type: ignore[import-untyped]

    return SimpleNamespace(api=api_pb2, plugin=plugin_data_pb2, summary=summary_pb2, event=event_pb2)


def _summary(kind: str, content: Any) -> Any:
    """A summary of the plugin, as ``torch.utils.tensorboard.summary.hparams`` builds it."""
    messages = _protobufs()
    data = messages.plugin.HParamsPluginData(version=0, **{kind: content}).SerializeToString()
    metadata = messages.summary.SummaryMetadata(plugin_data={"plugin_name": "hparams", "content": data})
    return messages.summary.Summary(value=[{"tag": f"_hparams_/{kind}", "metadata": metadata}])


def _write(logger: Any, kind: str, content: Any) -> None:
    experiment_of(logger)._get_file_writer().add_summary(_summary(kind, content))  # noqa: SLF001 - reopens a closed one


def _event_file(summary: Any) -> bytes:
    """An event file with one summary."""
    from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

    event, file = _protobufs().event.Event, BytesIO()
    records = RecordWriter(file)
    for one in (event(file_version="brain.Event:2"), event(summary=summary)):
        records.write(one.SerializeToString())
    return file.getvalue()


def _read_experiment(data: bytes) -> Any:
    """The experiment in a file that :func:`_event_file` wrote."""
    messages = _protobufs()
    *_, last = _records(data)
    content = messages.event.Event.FromString(last).summary.value[0].metadata.plugin_data.content
    return messages.plugin.HParamsPluginData.FromString(content).experiment


def _records(data: bytes) -> Iterator[bytes]:
    """The records of an event file: length (8 bytes), its checksum (4), the record, its checksum (4)."""
    position = 0
    while position < len(data):
        (length,) = struct.unpack_from("<Q", data, position)
        yield data[position + 12 : position + 12 + length]
        position += length + 16


def _replace(files: Any, path: str, data: bytes) -> None:
    """Replaces a file at once: others may read it at the same time."""
    files.makedirs(path.rpartition("/")[0], exist_ok=True)
    part = f"{path.rpartition('/')[0]}/.{os.getpid()}.part"
    files.pipe_file(part, data)
    files.mv(part, path)
