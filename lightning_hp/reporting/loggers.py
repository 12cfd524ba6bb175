"""One way to put scalars, figures, tables and hyperparameters on whatever loggers a Trainer has.

Loggers are known by what they can do, not by their class, so both Lightning namespaces and loggers of your own work. A
logger that has no way to show something is left alone, only the process of rank zero writes, and without a logger
nothing happens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure
    from numpy.typing import NDArray


class HasLoggers(Protocol):
    """What is asked of a Trainer."""

    @property
    def loggers(self) -> Sequence[Any]:
        """Its loggers."""

    @property
    def is_global_zero(self) -> bool:
        """Whether this process writes."""


def log_scalars(trainer: HasLoggers, scalars: Mapping[str, float | None], step: int) -> None:
    """Logs numbers; those that are ``None`` are left out.

    Args:
        trainer: The Trainer.
        scalars: Name and value.
        step: The global step that they belong to.

    Costs one write. Does not go through ``self.log``, so it works outside a training step; it cannot be monitored.

    Source: the loggers' own ``log_metrics``.

    Example:
        >>> import pytorch_lightning as pl
        >>> trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
        >>> log_scalars(trainer, {"lr_found": 0.01, "lr_used": None}, step=0)  # no logger: nothing happens

    """
    known = {name: float(value) for name, value in scalars.items() if value is not None}
    for logger in writing_loggers(trainer) if known else ():
        logger.log_metrics(known, step=step)


def log_figure(trainer: HasLoggers, tag: str, figure: Figure | SubFigure, step: int) -> None:
    """Logs a matplotlib figure: on TensorBoard as a figure, on loggers with ``log_image`` (W&B) as an image.

    Args:
        trainer: The Trainer.
        tag: Its name.
        figure: The figure. It is drawn, not changed.
        step: The global step that it belongs to.

    Costs some 100 ms of drawing. Does not help on loggers of numbers alone, such as CSV.

    Source: ``SummaryWriter.add_figure`` of torch and ``WandbLogger.log_image`` of Lightning.

    Example:
        >>> import pytorch_lightning as pl
        >>> from matplotlib.figure import Figure
        >>> trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
        >>> log_figure(trainer, "lr_finder", Figure(), step=0)  # no logger: nothing happens

    """
    for logger in writing_loggers(trainer):
        if callable(getattr(logger, "log_image", None)):
            logger.log_image(key=tag, images=[_pixels(figure)], step=step)
        elif callable(add_image := getattr(experiment_of(logger), "add_image", None)):
            # The image rather than `add_figure`, which draws the same but loads pyplot and closes the figure.
            add_image(tag, _pixels(figure), step, dataformats="HWC")


def log_table(trainer: HasLoggers, tag: str, header: Sequence[str], rows: Iterable[Sequence[Any]], step: int) -> None:
    """Logs a small table: on TensorBoard as text, on loggers with ``log_table`` (W&B) as a table.

    Args:
        trainer: The Trainer.
        tag: Its name.
        header: Names of the columns.
        rows: One entry for each column; numbers are shown with four digits, ``None`` as a dash.
        step: The global step that it belongs to.

    Raises:
        ValueError: If a row is not as long as the header.

    Costs one write. Does not help on loggers of numbers alone, such as CSV.

    Source: ``SummaryWriter.add_text`` of torch and ``WandbLogger.log_table`` of Lightning.

    Example:
        >>> import pytorch_lightning as pl
        >>> trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
        >>> log_table(trainer, "rules", ["rule", "lr"], [["fall", 0.01]], step=0)  # no logger: nothing happens

    """
    cells = [[_cell(entry) for entry in row] for row in rows]
    if any(len(row) != len(header) for row in cells):
        lengths = sorted({len(row) for row in cells})
        raise ValueError(f"Expected rows of {len(header)} entries like the header, but got rows of {lengths}.")
    for logger in writing_loggers(trainer):
        if callable(getattr(logger, "log_table", None)):
            logger.log_table(key=tag, columns=list(header), data=cells, step=step)
        elif callable(add_text := getattr(experiment_of(logger), "add_text", None)):
            lines = [list(header), ["---"] * len(header), *cells]
            add_text(tag, "\n".join(f"| {' | '.join(line)} |" for line in lines), step)


def writing_loggers(trainer: HasLoggers) -> Sequence[Any]:
    """The loggers of the process that writes; none on the others."""
    return list(trainer.loggers) if trainer.is_global_zero else []


def experiment_of(logger: Any) -> Any:
    """The writer behind a logger, if it has one: a user's own logger need not."""
    return getattr(logger, "experiment", None)


def _pixels(figure: Figure | SubFigure) -> NDArray[np.uint8]:
    """The figure as it would be saved, shape (height, width, 3)."""
    buffer = BytesIO()
    whole = figure.figure  # a part of a figure is shown in its place
    whole.savefig(buffer, format="rgba", dpi="figure")
    width, height = whole.canvas.get_width_height()
    return np.frombuffer(buffer.getvalue(), dtype=np.uint8).reshape(height, width, 4)[..., :3].copy()


def _cell(entry: Any) -> str:
    text = "-" if entry is None else f"{entry:.4g}" if isinstance(entry, float) else str(entry)
    return text.replace("|", "\\|").replace("\n", " ")
