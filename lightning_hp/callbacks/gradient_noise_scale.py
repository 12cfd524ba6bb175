"""GradientNoiseScale: how noisy the gradients of a training are, and what this says about its batch size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor
from typing_extensions import override

from lightning_hp.callbacks.finder import refused_twice_in_setup
from lightning_hp.callbacks.finder_state import STATE_VERSION, check_state, naming_the_checkpoint
from lightning_hp.functional.batch_size.noise_scale import NoiseScale
from lightning_hp.functional.checks import check_bool, check_int, check_iterable, check_number
from lightning_hp.rehearsal import (
    BEFORE_EPOCH,
    Rehearsal,
    consuming_data,
    is_accumulation_scheduler,
    reason_not_to_rehearse,
)
from lightning_hp.reporting import log_figure, log_scalars, log_table
from lightning_hp.results import NoiseScaleResult
from lightning_hp.trainer import LoopLoaders, is_resuming, misconfiguration
from lightning_hp.trainer.base_classes import Callback
from lightning_hp.tuning.noise_scale import (
    Norms,
    Observations,
    SampleCounter,
    StepMeter,
    has_second_pass,
    num_distinct_steps,
    refuse_for_noise_scale,
    refuse_optimizer_for_noise_scale,
    rehearse_noise_scale,
)

if TYPE_CHECKING:
    import pytorch_lightning as pl

# Norms that wait to be read, where nothing is logged.
_MAX_UNREAD = 256

# Rows of the result; of more every second is left out.
_MAX_ROWS = 512


class GradientNoiseScale(Callback):
    """Measures the gradient noise scale: up to about which batch size a larger batch saves optimizer steps.

    At the noise scale the noise of a gradient is as large as the gradient itself. Far below it, a training with k times
    the batch and k times the learning rate needs about a k-th of the steps; far above it, a larger batch saves nearly
    none (McCandlish et al., 2018). The callback sets nothing and changes no bit of the training. It compares gradients
    of two batch sizes:

    - with ``accumulate_grad_batches``, those of the micro-batches with their mean;
    - under DDP, those of the processes with their mean, at one all-reduce of four numbers in each measured step;
    - in other trainings it rehearses: at the beginning of some epochs it accumulates batches to steps, measures them
      and restores everything.

    Args:
        every: Measures each ``every``-th optimizer step, beginning with the first, >= 1. Not used where it rehearses.
        decay: Weight of a measured step relative to the next one, > 0 and <= 1: 0.98 averages over about the last 100
            steps, 1 over all. Not used where it rehearses.
        milestones: Epochs before which it rehearses; ``None``: 0, 1, 2, 4, 8 and so on. ``()``: never.
        num_training_steps: Steps of a rehearsal, >= 8.
        num_micro_batches: Batches that each of them accumulates, >= 2.
        may_consume_data: Whether a rehearsal may draw from data that cannot be started again, such as an endless random
            stream: the training then gets later samples. ``False``: such data is refused.

    Attributes:
        result: The [`NoiseScaleResult`][lightning_hp.NoiseScaleResult] up to now; ``None`` before a training.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of its range.
        MisconfigurationException: Before the first step, for manual optimization, FSDP2 and strategies other than
            single device and DDP, LBFGS, lazy layers that have seen no batch, and a second ``GradientNoiseScale``;
            where it rehearses, for what cannot be rehearsed. In the first measured step, if a batch has no tensor, or
            two gradients of one parameter arrive.

    Note:
        Use it as advice: an order of magnitude, and an upper one. In seven measured trainings the critical batch size
        was as large once, and 2.3 to 9 times smaller in the others. It depends on the learning rate of the path, and
        often grows by a factor of ten during a training.

        Gradients are measured before clipping. Together with ``SAM`` they are those at w, not at w + e(w), which takes
        the memory of one more gradient; under DDP each process then compares its own micro-batches. With a gradient
        scaler, steps that it skips do not count. Losses are taken for means over the samples of a batch, whose number
        is the first dimension of its first tensor, or of the first one that agrees with the loader's ``batch_size``.

        The interval is that of random batches: where a loader without shuffling repeats fewer than eight steps, it is
        not known.

        A measured step computes the norm of each parameter's gradient. Norms are read from an accelerator where they
        are logged, every ``log_every_n_steps``, and in a checkpoint. Logs ``noise_scale/estimate``, ``noise_scale/low``
        and ``noise_scale/high``; at the end of the training a table and a figure.

    References:
        McCandlish et al., *An Empirical Model of Large-Batch Training*, 2018.

    Example:
        >>> import torch, pytorch_lightning as pl
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> from lightning_hp import GradientNoiseScale
        >>> class Model(pl.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = torch.nn.Linear(20, 3)
        ...     def training_step(self, batch, batch_idx):
        ...         x, y = batch
        ...         return torch.nn.functional.cross_entropy(self.layer(x), y)
        ...     def configure_optimizers(self):
        ...         return torch.optim.SGD(self.parameters(), lr=0.1)
        >>> x = torch.randn(4096, 20, generator=torch.Generator().manual_seed(0))
        >>> loader = DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=16, shuffle=True)
        >>> noise = GradientNoiseScale()
        >>> trainer = pl.Trainer(max_epochs=1, accumulate_grad_batches=8, callbacks=[noise], logger=False,
        ...                      enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        ...                      accelerator="cpu")
        >>> trainer.fit(Model(), loader)
        >>> 3 < noise.result.noise_scale < 100
        True

    """

    #: Only watches, and not to be observed in a rehearsed step.
    changes_gradients = False

    def __init__(
        self,
        every: int = 1,
        decay: float = 0.98,
        milestones: Sequence[int] | None = None,
        num_training_steps: int = 10,
        num_micro_batches: int = 8,
        may_consume_data: bool = False,
    ) -> None:
        super().__init__()
        self._every = check_int("every", every, 1)
        self._decay = check_number("decay", decay, above=0, maximum=1)
        self._milestones: frozenset[int] | None = None
        if milestones is not None:
            epochs = check_iterable("milestones", milestones, "a sequence of epochs, ints >= 0", also="None")
            self._milestones = frozenset(check_int(f"milestones[{i}]", epoch, 0) for i, epoch in enumerate(epochs))
        self._num_training_steps = check_int("num_training_steps", num_training_steps, 8)
        self._num_micro_batches = check_int("num_micro_batches", num_micro_batches, 2)
        self._may_consume_data = check_bool("may_consume_data", may_consume_data)
        self._reset()

    def _reset(self) -> None:
        """Sets everything that belongs to one training to its initial value."""
        self._observations = Observations(self._decay)
        self._history: list[tuple[int, NoiseScale]] = []
        self._source = ""
        self._reason = "No step was measured."  # where there is no history
        self._loaded_notes: tuple[str, ...] | None = None
        self._sample_note: str | None = None
        self._num_single = 0  # the last steps that had one batch each
        self._num_distinct: int | None = None
        self._unread: list[tuple[int, Norms]] = []  # with the step
        self._counter = SampleCounter([])
        self._meter: StepMeter | None = None
        self._global_step = self._num_logged = 0
        self._keeps_sum = False

    @property
    def result(self) -> NoiseScaleResult | None:
        """The result up to now; ``None`` before a training. Waits for an accelerator."""
        self._read()
        if not self._source:
            return None
        rows = self._history
        return NoiseScaleResult(
            steps=tuple(step for step, _ in rows),
            noise_scales=tuple(math.nan if row.value is None else row.value for _, row in rows),
            lows=tuple(row.low for _, row in rows),
            highs=tuple(row.high for _, row in rows),
            source=self._source,
            batch_size=self._observations.batch_size,
            num_observations=self._observations.observed,
            reason=rows[-1][1].reason if rows else self._observations.reason or self._reason,
            notes=self._notes() if self._loaded_notes is None else self._loaded_notes,
        )

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuses what cannot be measured."""
        if stage != "fit":
            return
        refuse_for_noise_scale(trainer, pl_module)
        all_of_them = [c for c in trainer.callbacks if isinstance(c, GradientNoiseScale)]  # type: ignore[attr-defined]
        if len(all_of_them) > 1:
            raise misconfiguration(
                trainer,
                f"GradientNoiseScale: expected one in a Trainer, but got {len(all_of_them)}, which would log under the"
                " same names. Leave one in `callbacks`.",
            )

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuses optimizers that cannot be measured. Moves itself to the front, before what changes gradients."""
        refuse_optimizer_for_noise_scale(trainer, pl_module)
        if not is_resuming(trainer):
            self._reset()
        others = [callback for callback in trainer.callbacks if callback is not self]  # type: ignore[attr-defined]
        trainer.callbacks = [self, *others]  # type: ignore[attr-defined]

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Decides which gradients are compared: the finders have set the accumulation now."""
        accumulates = trainer.accumulate_grad_batches > 1 or any(map(is_accumulation_scheduler, trainer.callbacks))  # type: ignore[attr-defined]
        source = "accumulation" if accumulates else "processes" if trainer.world_size > 1 else "rehearsal"
        repeats = has_second_pass(trainer)
        if source == "processes" and repeats:
            source = "rehearsal"  # each process has one gradient at w only
        if self._source not in ("", source):
            self._reset()  # resumed under other conditions
        self._source, self._keeps_sum = source, repeats
        self._loaded_notes, self._counter = None, SampleCounter(LoopLoaders(trainer).running)
        self._num_logged = self._logs_before(trainer)

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Rehearses, where neither processes nor micro-batches can be compared."""
        if self._source != "rehearsal":
            return
        if (reason := reason_not_to_rehearse(trainer)) is not None:
            self._reason = f"No step was measured, {reason}. Train without it."
        elif self._is_due(trainer.current_epoch):
            self._rehearse(trainer, pl_module)
        elif self._milestones is not None and not self._milestones:
            self._reason = (
                "No step was measured: a step has one batch, and `milestones=()` excludes rehearsals. Use"
                " `accumulate_grad_batches`, or `milestones=None`."
            )
        elif self._milestones and trainer.current_epoch < min(self._milestones):
            self._reason = "No step was measured: no epoch of `milestones` has begun."

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begins to measure a step that is due."""
        if self._source == "rehearsal":
            return
        if self._meter is None and trainer.global_step % self._every == 0:
            self._global_step = trainer.global_step
            self._meter = StepMeter(trainer, self._counter, self._keeps_sum)
            num_batches, accumulate = trainer.num_training_batches, trainer.accumulate_grad_batches
            self._num_distinct = num_distinct_steps(LoopLoaders(trainer).running, num_batches, accumulate)
            self._meter.add_hooks()
        if self._meter is not None:
            self._meter.on_train_batch_start(batch)

    @override
    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Begins a micro-batch."""
        if self._meter is not None:
            self._meter.on_before_backward()

    @override
    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Ends a micro-batch."""
        if self._meter is not None:
            self._meter.on_after_backward()

    @override
    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        """Ends the measured step, before clipping."""
        if self._meter is not None:
            self._meter.on_before_optimizer_step()

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the norms of a measured step, and logs every ``log_every_n_steps``."""
        if self._meter is None or not (self._meter.is_ended or trainer.global_step > self._global_step):
            return
        self._meter.remove()
        norms, self._meter = self._meter.norms, None
        if norms is None:
            self._num_single += 1
            self._reason = "No step was measured: each step had one batch. Accumulate more, or use smaller batches."
        else:
            self._num_single = 0
            self._unread.append((trainer.global_step, norms))
        is_logged = self._logs_before(trainer) > self._num_logged
        if is_logged or len(self._unread) >= _MAX_UNREAD:
            self._read()
        if is_logged and self._history:
            self._num_logged = self._logs_before(trainer)
            self._log(trainer)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs a table and a figure, and says what follows."""
        self._release()
        result = self.result
        if result is None:
            return
        rank_zero_info(f"GradientNoiseScale: {result}")
        if not result.steps:
            return
        log_table(trainer, "noise_scale/summary", *result.table(), trainer.global_step)
        if trainer.is_global_zero and trainer.loggers:
            log_figure(trainer, "noise_scale", result.plot().figure, trainer.global_step)

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Removes the hooks: the Trainer does not call ``teardown``."""
        self._release()

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Removes the hooks."""
        self._release()

    @override
    @refused_twice_in_setup
    def state_dict(self) -> dict[str, Any]:
        """What was measured, in plain types."""
        result = self.result
        return {
            "version": STATE_VERSION,
            "estimator": self._observations.estimator.state_dict(),
            "counts": self._observations.state_dict(),
            "result": None if result is None else result.to_dict(),
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what was measured.

        Raises:
            TypeError: If an entry is of the wrong type.
            ValueError: If the state is of another version, or an entry is out of its range.

        """
        with naming_the_checkpoint("GradientNoiseScale"):
            entries = check_state(state_dict, ("estimator", "counts", "result"))
            observations = Observations(self._decay)
            observations.estimator.load_state_dict(entries["estimator"])
            observations.load_state_dict(entries["counts"])
            saved = entries["result"]
            result = None if saved is None else NoiseScaleResult.from_dict(saved)
        self._reset()
        self._observations = observations
        if result is not None:
            self._source, self._loaded_notes = result.source, result.notes
            self._reason = result.reason or self._reason
            rows = zip(result.steps, result.noise_scales, result.lows, result.highs, strict=True)
            self._history = [
                (step, NoiseScale(None if math.isnan(value) else value, low, high, math.nan, math.nan, 0))
                for step, value, low, high in rows
            ]
            if self._history:
                step, last = self._history[-1]
                self._history[-1] = (step, replace(last, reason=result.reason))

    def _is_due(self, epoch: int) -> bool:
        return epoch & (epoch - 1) == 0 if self._milestones is None else epoch in self._milestones

    def _rehearse(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measures at the present weights, by steps that are undone."""
        moment = replace(BEFORE_EPOCH, caller=self, end_epoch=trainer.current_epoch + 1)  # the noise of this epoch
        with consuming_data(self._may_consume_data), Rehearsal(trainer, pl_module, moment) as rehearsal:
            num_steps, num_micro_batches = self._num_training_steps, self._num_micro_batches
            found = rehearse_noise_scale(rehearsal, num_steps, num_micro_batches, self._observations)
        self._sample_note = found.note
        if found.num_measured:
            self._note_down(trainer.global_step, found.scale)
            self._log(trainer)
        else:
            self._reason = found.scale.reason or self._reason

    def _read(self) -> None:
        """Reads the norms from the device, in their order, and adds them to the averages."""
        unread, self._unread = self._unread, []
        for step, norms in unread:
            if self._observations.add(norms) is not None:
                self._note_down(step, self._observations.noise_scale(self._num_distinct))

    def _note_down(self, step: int, scale: NoiseScale) -> None:
        """Adds an estimate to those of the training."""
        if self._history and self._history[-1][0] == step:
            self._history.pop()
        self._history.append((step, scale))
        if len(self._history) > _MAX_ROWS:
            self._history = [*self._history[:-1:2], self._history[-1]]

    def _notes(self) -> tuple[str, ...]:
        """What limits the result, a sentence each."""
        notes = self._observations.notes()
        if (note := self._sample_note or self._counter.note) is not None:
            notes.append(note)
        if self._history and self._num_single > 1:  # the last step of an epoch may have one batch
            notes.append(
                f"The last {self._num_single} steps that were due had one batch each, which cannot be compared; the"
                f" estimate is that after step {self._history[-1][0]}. Accumulate two batches or more."
            )
        return tuple(notes)

    def _log(self, trainer: pl.Trainer) -> None:
        if not self._history:
            return
        last = self._history[-1][1]
        high = None if math.isinf(last.high) else last.high
        known = {"estimate": last.value, "low": last.low, "high": high}
        log_scalars(trainer, {f"noise_scale/{name}": value for name, value in known.items()}, trainer.global_step)

    def _logs_before(self, trainer: Any) -> int:
        """How often a training has logged up to now; 0 without a logger."""
        interval = trainer.log_every_n_steps
        return trainer.global_step // interval if interval and trainer.loggers else 0

    def _release(self) -> None:
        if self._meter is not None:
            self._meter.remove()
            self._meter = None
