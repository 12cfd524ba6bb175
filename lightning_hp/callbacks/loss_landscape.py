"""LossLandscape: draws the loss around the weights of the training, at its end or every few epochs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Literal

from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from typing_extensions import override

from lightning_hp.callbacks.landscape_refusals import refuse_iterators, refuse_setting
from lightning_hp.functional.checks import check_bool, check_callable, check_int
from lightning_hp.landscape import (
    KeptBatches,
    LandscapeSettings,
    NoLandscapeError,
    Path,
    Share,
    TrainingPath,
    evaluated,
    fingerprint,
    measure,
    no_trace,
    same_on_all_ranks,
    step_loss,
)
from lightning_hp.landscape.settings import check_num_samples
from lightning_hp.memory import is_out_of_memory
from lightning_hp.reporting import log_figure, log_scalars, log_table, progress_bar
from lightning_hp.results.landscape import LandscapeResult
from lightning_hp.trainer import misconfiguration, reduce_over_ranks
from lightning_hp.trainer.base_classes import Callback

if TYPE_CHECKING:
    import pytorch_lightning as pl

_TAG = "loss_landscape"


class LossLandscape(Callback):
    """Measures and draws the loss around the weights, at the end of ``fit`` or every few epochs.

    The loss is that of ``training_step`` in evaluation mode, in the precision of the Trainer, on the first batches of
    the training, which are kept. The training does not change by a single bit.

    Args:
        every_n_epochs: Draws after every n-th epoch too; ``None``: at the end of ``fit`` only.
        directions: ``"random"``: random directions, each filter with the norm of the model's filter. ``"trajectory"``:
            the plane in which the training moved most, with its path; weights are copied to host memory during the
            training. ``"hessian"``: the two directions of the largest curvature.
        num_samples: Batches are kept until they hold so many samples, >= 1. Surfaces from 512 samples differ by about
            5 % from those of 1000.
        resolution: Points along each direction, odd, >= 3. A surface evaluates its square.
        radius: The surface reaches from -radius to radius along both directions, > 0, in units of the directions: for
            random ones 1 is the norm of the weights, for the others it is a distance. ``None``: 1; around a path a
            little further than the path on each side.
        num_pairs: Pairs of random directions, >= 1. The figure shows their spread.
        batch_norm: What normalisation layers use at other weights: ``"running"``: their running statistics, as in
            validation. ``"batch"``: the statistics of each batch, as in training. The pictures differ.
        coarse: Whether only every second row and column is evaluated, a quarter of the points, and the rest
            interpolated, which changes the loss by about 1 % on average.
        budget: Seconds for all surfaces, > 0; what is missing then is interpolated from coarser points. ``None``: no
            limit.
        num_eigenvalues: Leading eigenvalues of the Hessian to compute, >= 0.
        radii: Distances from the weights at which the rise of the loss is measured, each > 0.
        max_path_points: The most copies of the weights with ``directions="trajectory"``, >= 3, evenly spaced.
        loss: A function of module and batch that returns the mean loss of the batch; ``None``: the loss of
            ``training_step``.
        html: Whether a page with the surface, which can be rotated, is written into the folder of the logs. Needs
            ``pip install 'lightning-hp[plotly]'``.
        seed: Seed of the random directions, >= 0.

    Attributes:
        result: The last landscape, a :class:`LandscapeResult`, or ``None``.
        results: All landscapes by the number of the optimizer step after which they were measured.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of its range.
        MisconfigurationException: At the start of ``fit``, if the weights are sharded, a layer is lazy, or the step is
            not a function of its batch (manual optimization, ``dataloader_iter``) and ``loss`` is not given. Before the
            first step, which is tried on its batch, if it cannot be evaluated, or the module holds an iterator. When it
            draws, if the step returns no loss.

    Note:
        A surface costs ``resolution**2 x num_pairs`` forward passes over the kept samples, which several processes
        share. An eigenvalue costs 10 to 50 gradients of a gradient, each about four forward passes; each radius costs a
        gradient and eleven forward passes. Memory: the kept batches, two copies of the weights while it draws, and with
        ``"trajectory"`` ``max_path_points`` copies in host memory. The path begins anew when a training is resumed.

    References:
        Li et al., *Visualizing the Loss Landscape of Neural Nets*, 2018.

    Example:
        >>> import pytorch_lightning as pl
        >>> import torch
        >>> class Model(pl.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = torch.nn.Linear(2, 1)
        ...     def training_step(self, batch, batch_idx):
        ...         return (self.layer(batch) - 1).square().mean()
        ...     def configure_optimizers(self):
        ...         return torch.optim.SGD(self.parameters(), lr=0.1)
        >>> landscape = LossLandscape(directions="trajectory", resolution=11, num_samples=32)
        >>> trainer = pl.Trainer(max_epochs=1, callbacks=[landscape], accelerator="cpu", logger=False,
        ...                      enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
        >>> trainer.fit(Model(), torch.utils.data.DataLoader(torch.randn(64, 2), batch_size=16))
        >>> landscape.result.surfaces[0].shape, landscape.result.path.shape[1]
        ((11, 11), 2)

    """

    #: Not part of a training step, and not to be observed in one.
    changes_gradients = False

    def __init__(
        self,
        every_n_epochs: int | None = None,
        *,
        directions: Literal["random", "trajectory", "hessian"] = "random",
        num_samples: int = 512,
        resolution: int = 21,
        radius: float | None = None,
        num_pairs: int = 1,
        batch_norm: Literal["running", "batch"] = "running",
        coarse: bool = False,
        budget: float | None = None,
        num_eigenvalues: int = 1,
        radii: Sequence[float] = (0.05, 0.5),
        max_path_points: int = 50,
        loss: Callable[[Any, Any], Any] | None = None,
        html: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if every_n_epochs is not None:
            every_n_epochs = check_int("every_n_epochs", every_n_epochs, 1, also="None")
        self._every_n_epochs = every_n_epochs
        self._num_samples = check_num_samples(num_samples)
        self._settings = LandscapeSettings(
            directions, radius, resolution, num_pairs, batch_norm, coarse, budget, num_eigenvalues, radii, seed
        )
        self._max_path_points = check_int("max_path_points", max_path_points, 3)
        self._loss = None if loss is None else check_callable("loss", loss, what="a function of module and batch")
        self._html = check_bool("html", html)
        if html and find_spec("plotly") is None:
            raise ModuleNotFoundError(
                "Expected `plotly` with `html`, but it is not installed. Run: pip install 'lightning-hp[plotly]'"
            )
        self.results: dict[int, LandscapeResult] = {}
        self._kept = KeptBatches(self._num_samples)
        self._path: TrainingPath | None = None
        self._is_tried = False

    @property
    def result(self) -> LandscapeResult | None:
        """The last landscape."""
        return self.results[max(self.results)] if self.results else None

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuses what it cannot measure, and forgets an earlier ``fit``."""
        refuse_setting(trainer, pl_module, has_loss=self._loss is not None)
        self.results = {}
        self._kept = KeptBatches(self._num_samples)
        self._path = None
        self._is_tried = False

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes where the path begins."""
        if self._settings.directions == "trajectory" and trainer.is_global_zero:
            steps = trainer.estimated_stepping_batches
            every = 1 if math.isinf(steps) else max(1, math.ceil(steps / (self._max_path_points - 2)))
            self._path = TrainingPath(self._max_path_points, every)
            self._path.show(list(pl_module.parameters()), trainer.global_step)

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the first batches, and tries whether the step can be evaluated."""
        self._kept.show(batch)
        if not self._is_tried and self._kept.batches:
            self._is_tried = True
            self._try(trainer, pl_module)

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Follows the path."""
        if self._path is not None:
            self._path.show(list(pl_module.parameters()), trainer.global_step)

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws, if it is time."""
        if self._every_n_epochs is not None and (trainer.current_epoch + 1) % self._every_n_epochs == 0:
            self._draw(trainer, pl_module, trainer.current_epoch)

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the model that the training has left; the kept batches and the path are freed."""
        if trainer.global_step not in self.results:
            self._draw(trainer, pl_module, max(0, trainer.current_epoch - 1))
        self._kept, self._path = KeptBatches(self._num_samples), None

    def _try(self, trainer: Any, module: Any) -> None:
        """Evaluates the first batch: what cannot be evaluated is refused now, not after the training."""
        try:
            with no_trace(trainer, module) as iterators:
                refuse_iterators(trainer, iterators, has_loss=self._loss is not None)
                evaluated(step_loss(trainer, module, self._kept.batches, self._settings.batch_norm, self._loss))
        except Exception as error:
            if type(error).__name__ == "MisconfigurationException" or is_out_of_memory(error):
                raise
            raise misconfiguration(
                trainer,
                "LossLandscape: expected a loss that can be computed in evaluation mode, but"
                f" {'`training_step`' if self._loss is None else '`loss`'} raised {type(error).__name__}: {error}. Give"
                " a function of module and batch as `loss`.",
            ) from error

    def _draw(self, trainer: Any, module: Any, epoch: int) -> None:
        if not self._kept.batches:
            return
        settings = self._settings
        if trainer.fast_dev_run:
            settings = replace(settings, resolution=3, coarse=False, num_pairs=1)
        try:
            result = self._measure(trainer, module, settings, epoch)
        except NoLandscapeError as error:
            rank_zero_warn(f"LossLandscape: no landscape, because {error}.")
            return
        self.results[trainer.global_step] = result
        rank_zero_info(f"LossLandscape: {result}")
        self._report(trainer, result)

    def _measure(self, trainer: Any, module: Any, settings: LandscapeSettings, epoch: int) -> LandscapeResult:
        callbacks = trainer.callbacks
        sum_over_ranks = partial(reduce_over_ranks, trainer, operation="sum")
        with (
            no_trace(trainer, module) as iterators,
            same_on_all_ranks(trainer, module, self._kept.batches) as batches,
            progress_bar(trainer, "LossLandscape", "points") as advance,
        ):
            refuse_iterators(trainer, iterators, has_loss=self._loss is not None)
            return measure(
                step_loss(trainer, module, batches, settings.batch_norm, self._loss, callbacks),
                _trained(module),
                settings,
                path=self._common_path(trainer, module),
                share=Share(trainer.global_rank, trainer.world_size, sum_over_ranks),
                advance=advance,
                num_frozen=sum(parameter.numel() for parameter in module.parameters() if not parameter.requires_grad),
                num_samples=sum(size for _, size in batches),
                data=fingerprint(batch for batch, _ in batches),
                loss_name="training_step" if self._loss is None else getattr(self._loss, "__qualname__", "loss"),
                epoch=epoch,
                step=trainer.global_step,
            )

    def _common_path(self, trainer: Any, module: Any) -> Path | None:
        """The path of the process of rank zero, without the weights at its end."""
        if self._settings.directions != "trajectory":
            return None
        points = None if self._path is None else self._path.before(trainer.global_step)
        if trainer.world_size > 1:
            points = trainer.strategy.broadcast(points, src=0)
        return Path(list(module.parameters()), points or [])

    def _report(self, trainer: pl.Trainer, result: LandscapeResult) -> None:
        step = trainer.global_step
        numbers = {name: value for name, value in result.numbers().items() if math.isfinite(value)}
        log_scalars(trainer, {f"{_TAG}/{name}": value for name, value in numbers.items()}, step)
        log_table(trainer, f"{_TAG}/numbers", ["quantity", "value"], list(result.numbers().items()), step)
        if trainer.is_global_zero and trainer.loggers:
            log_figure(trainer, f"{_TAG}/surface", result.plot(), step)
            for logger in trainer.loggers if self._html else ():
                if isinstance(folder := getattr(logger, "log_dir", None), (str, PathLike)):
                    result.to_html(f"{fspath(folder)}/{_TAG}_step_{step}.html")


def _trained(module: Any) -> list[Any]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
