"""Scalars, figures and tables on all loggers of a Trainer.

Loggers are recognised by their methods, not by their class, so that loggers of both Lightning namespaces and loggers
written by a user work. A logger that cannot show something is skipped. Only the process of rank zero writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from fsspec.core import url_to_fs  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import NDArray


class HasLoggers(Protocol):
    """What these functions need of a Trainer."""

    @property
    def loggers(self) -> Sequence[Any]:
        """The loggers of the Trainer."""

    @property
    def is_global_zero(self) -> bool:
        """Whether this process writes."""


def log_scalars(trainer: HasLoggers, scalars: Mapping[str, float | None], step: int) -> None:
    """Logs numbers; ``None`` is left out.

    Args:
        trainer: The Trainer.
        scalars: Names and values.
        step: The global step of the values.

    Note:
        Does not use ``self.log``: it works outside a training step, and a callback cannot monitor the values.

    Example:
        >>> import pytorch_lightning as pl
        >>> trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
        >>> log_scalars(trainer, {"lr_found": 0.01, "lr_used": None}, step=0)  # without a logger nothing is written

    """
    known = {name: float(value) for name, value in scalars.items() if value is not None}
    for logger in active_loggers(trainer) if known else ():
        logger.log_metrics(known, step=step)


def log_figure(trainer: HasLoggers, tag: str, figure: Figure | SubFigure, step: int) -> None:
    """Logs a matplotlib figure: on TensorBoard and on loggers with ``log_image`` (W&B), else as a PNG beside the log.

    Args:
        trainer: The Trainer.
        tag: Name of the image. As a file it is ``<log_dir>/<tag>_step_<step>.png``.
        figure: The figure, which is not changed.
        step: The global step of the figure.

    Note:
        Takes about 100 ms. A logger that shows no images, such as ``CSVLogger``, gets a file in its ``log_dir``; one
        without a ``log_dir`` is skipped. Without a logger nothing is written.

    Example:
        >>> import pytorch_lightning as pl
        >>> from matplotlib.figure import Figure
        >>> trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
        >>> log_figure(trainer, "lr_finder", Figure(), step=0)  # without a logger nothing is written

    """
    for logger in active_loggers(trainer):
        experiment = experiment_of(logger)  # creates the folder of the log
        if callable(getattr(logger, "log_image", None)):
            logger.log_image(key=tag, images=[_pixels(figure)], step=step)
        elif callable(add_image := getattr(experiment, "add_image", None)):
            # `add_figure` writes the same image, but it imports pyplot and closes the figure.
            add_image(tag, _pixels(figure), step, dataformats="HWC")
        elif isinstance(folder := getattr(logger, "log_dir", None), (str, PathLike)):
            _save(figure, f"{fspath(folder)}/{tag}_step_{step}.png")


def log_table(trainer: HasLoggers, tag: str, header: Sequence[str], rows: Iterable[Sequence[Any]], step: int) -> None:
    """Logs a small table: on TensorBoard as text, on loggers with ``log_table`` (W&B) as a table.

    Args:
        trainer: The Trainer.
        tag: Name of the table.
        header: Names of the columns.
        rows: One entry per column; floats are written with four digits, ``None`` as a dash.
        step: The global step of the table.

    Raises:
        ValueError: If a row is not as long as the header.

    Note:
        Loggers that take numbers only, such as ``CSVLogger``, are skipped.

    Example:
        >>> import pytorch_lightning as pl
        >>> trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
        >>> log_table(trainer, "rules", ["rule", "lr"], [["fall", 0.01]], step=0)  # without a logger nothing is written

    """
    cells = [[_cell(entry) for entry in row] for row in rows]
    if any(len(row) != len(header) for row in cells):
        lengths = sorted({len(row) for row in cells})
        raise ValueError(f"Expected rows of {len(header)} entries like the header, but got rows of {lengths}.")
    for logger in active_loggers(trainer):
        if callable(getattr(logger, "log_table", None)):
            logger.log_table(key=tag, columns=list(header), data=cells, step=step)
        elif callable(add_text := getattr(experiment_of(logger), "add_text", None)):
            lines = [list(header), ["---"] * len(header), *cells]
            add_text(tag, "\n".join(f"| {' | '.join(line)} |" for line in lines), step)


def active_loggers(trainer: HasLoggers) -> Sequence[Any]:
    """The loggers on rank zero; none on other processes."""
    return list(trainer.loggers) if trainer.is_global_zero else []


def experiment_of(logger: Any) -> Any:
    """The writer of a logger, or ``None``: a logger written by a user need not have one."""
    return getattr(logger, "experiment", None)


def _save(figure: Figure | SubFigure, url: str) -> None:
    """Writes a PNG, on this machine or where Lightning's loggers can write."""
    files, path = url_to_fs(url)
    files.makedirs(path.rpartition("/")[0], exist_ok=True)
    with files.open(path, "wb") as file:
        figure.figure.savefig(file, format="png", dpi="figure")


def _pixels(figure: Figure | SubFigure) -> NDArray[np.uint8]:
    """The figure as ``savefig`` draws it, shape (height, width, 3)."""
    buffer = BytesIO()
    whole = figure.figure  # the figure that a SubFigure belongs to
    whole.savefig(buffer, format="rgba", dpi="figure")
    width, height = whole.canvas.get_width_height()
    return np.frombuffer(buffer.getvalue(), dtype=np.uint8).reshape(height, width, 4)[..., :3].copy()


def cell_text(entry: Any) -> str:
    """An entry of a table as text: floats with four digits, ``None`` as a dash."""
    return "-" if entry is None else f"{entry:.4g}" if isinstance(entry, float) else str(entry)


def _cell(entry: Any) -> str:
    return cell_text(entry).replace("|", "\\|").replace("\n", " ")
