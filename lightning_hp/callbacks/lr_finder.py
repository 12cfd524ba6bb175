"""LRFinder: find the learning rate on the training that you will really run."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any, Literal, get_args

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info

from lightning_hp.functional.checks import expect, is_count
from lightning_hp.functional.learning_rate.parameter_free import is_parameter_free
from lightning_hp.functional.learning_rate.range_test import lr_range
from lightning_hp.functional.learning_rate.suggestion import falling_part, suggest_lr
from lightning_hp.hyperparameters import LearningRate, write_home
from lightning_hp.plotting import plot_lr_find
from lightning_hp.rehearsal import (
    HOOKS_BEFORE_EPOCH,
    HOOKS_BEFORE_FIT,
    Rehearsal,
    name_undecided_callbacks,
    reason_not_to_rehearse,
    rehearse_alone,
)
from lightning_hp.reporting import log_figure, log_hyperparams, log_scalars, log_table, progress_bar
from lightning_hp.results import LRFindResult
from lightning_hp.trainer import is_resuming
from lightning_hp.tuning.learning_rate import range_test

#: Steps in which the learning rate grows tenfold: what the suggestion rule was measured at. A slower sweep has trained
#: more when it reaches the same rate, which moves the answer down; extra steps are better spent on repeats.
STEPS_PER_DECADE = 14

# Fewer points than this are no curve.
_MIN_STEPS = 10

Rule = Literal["auto", "fall", "one_cycle", "steepest", "valley", "slide", "minimum", "half"]


class LRFinder(pl.Callback):
    """Finds a learning rate by a range test on your own training, sets it, and leaves no other trace.

    Before the training starts it rehearses it: real steps of your model, data, optimizer, precision and strategy, with
    gradient accumulation, at learning rates that rise from ``min_lr`` to ``max_lr``. From the losses it reads the rate
    at which two thirds of the fall are done, puts everything back, bit for bit, and sets that rate: in the model's
    ``lr`` (or ``learning_rate``) if it has one, so that optimizers and schedulers are built on it, or in the
    optimizers and schedulers themselves. The ratios between parameter groups stay. When the curve shows no learning
    it sets nothing, says so once, and the training goes on with your rate.

    Callbacks only watch, unless they say otherwise: one that freezes layers, mixes samples or edits gradients acts in
    the rehearsal if it has the class attribute ``changes_gradients = True``. A callback of yours that could and does
    not say is named once.

    The figure, a table and the scalars ``lr_finder/lr_found`` and ``lr_finder/lr_used`` go to the Trainer's loggers;
    the rate that was set is in the hyperparameters that they log and in the checkpoint. A resumed run does not search
    again.

    Args:
        min_lr: The smallest learning rate tried, > 0. It should be so small that nothing is learned.
        max_lr: The largest learning rate tried, > ``min_lr``.
        num_training_steps: Optimizer steps of one sweep, >= 10. ``None``: 14 for each factor of ten.
        mode: ``"exponential"``: each step multiplies the rate; ``"linear"``: each step adds to it.
        early_stop_threshold: Ends a sweep when its loss stays above this multiple of the initial loss, > 1;
            ``None``: only when the loss is not finite.
        num_repeats: Sweeps that are read, >= 1, from the same weights over different batches: their median counts. One
            sweep is mostly right, but now and then a few odd batches mislead it.
        suggestion: How the curve is read. ``"auto"``: ``"one_cycle"`` if the schedule is ``OneCycleLR``, else
            ``"fall"``. ``"fall"``: two thirds of the fall. ``"one_cycle"``: a peak rate, between a quarter of the
            fall and the edge of the explosion. The rules of other finders: ``"steepest"`` (per factor of the rate),
            ``"valley"``, ``"slide"``, ``"minimum"`` (a tenth of the rate at the minimum), ``"half"`` (half-way down).
            All are computed, and marked in the figure.
        zoom: Look twice: one sweep (``num_repeats`` where one is too noisy) finds the part where the loss falls, and
            ``num_repeats`` sweeps of half as many steps over that part alone are read. ``False``: read
            ``num_repeats`` sweeps over the whole range.
        update_attr: Set the rate that was found. ``False``: only report it.
        attr_name: Where your model keeps its learning rate, if not in ``lr`` or ``learning_rate``: the name of an
            attribute or of an entry in ``hparams``; dots reach into nested ones.
        milestones: Epochs before which to search. ``(0,)``: before the training. At a later epoch the search starts
            from the weights and the optimizer state of that moment. What it finds is the rate that the schedule is
            built on: one that has decayed to a tenth goes on at a tenth of it.

    Attributes:
        optimal_lr: The rate that was found, or ``None``.
        result: The whole [`LRFindResult`][lightning_hp.LRFindResult], or ``None`` where none was searched: before
            ``fit``, under ``fast_dev_run``, when nothing will be trained.

    Raises:
        ValueError: If an argument is out of its range or not of its kind.
        MisconfigurationException: In ``fit``, before any step, if the training cannot be rehearsed (data that cannot be
            started again, a strategy other than single device, DDP and FSDP2, lazy layers without a shape), if there is
            no learning rate, or if a schedule could not be moved to another rate.

    Costs some 280 training steps by default (112, then 3 times 56), each as long as a step of ``fit`` takes, and one
    copy of the weights and the optimizer state in host memory.

    Where it does not help: parameter-free optimizers (Prodigy, D-Adaptation, DoG) are skipped, their ``lr`` is not a
    learning rate. Fine-tuning a pretrained transformer often wants a rate far below where its loss falls fastest:
    compare with a short real training. Long warm-ups make larger rates safe than a sweep can see.

    Source: Smith, *Cyclical Learning Rates for Training Neural Networks*, 2017 (the range test). The rule that reads
    the curve is ours, measured against real trainings; see the card.

    Example:
        >>> import torch, pytorch_lightning as pl
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> from lightning_hp import LRFinder
        >>> class Model(pl.LightningModule):
        ...     def __init__(self, lr=1e-3):
        ...         super().__init__()
        ...         self.save_hyperparameters()
        ...         self.layer = torch.nn.Linear(20, 3)
        ...     def training_step(self, batch, batch_idx):
        ...         x, y = batch
        ...         return torch.nn.functional.cross_entropy(self.layer(x), y)
        ...     def configure_optimizers(self):
        ...         return torch.optim.SGD(self.parameters(), lr=self.hparams.lr)
        >>> _ = torch.manual_seed(0)
        >>> x = torch.randn(512, 20)
        >>> loader = DataLoader(TensorDataset(x, x[:, :3].argmax(1)), batch_size=32, shuffle=True)
        >>> finder, model = LRFinder(), Model()
        >>> trainer = pl.Trainer(max_epochs=1, callbacks=[finder], logger=False, enable_checkpointing=False,
        ...                      enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
        >>> trainer.fit(model, loader)
        >>> 0.03 < finder.optimal_lr < 3
        True
        >>> model.hparams.lr == finder.optimal_lr
        True

    """

    #: What it sets: a callback that changes what this depends on has to come before it.
    sets = "lr"

    def __init__(
        self,
        min_lr: float = 1e-7,
        max_lr: float = 10.0,
        num_training_steps: int | None = None,
        mode: Literal["exponential", "linear"] = "exponential",
        early_stop_threshold: float | None = 4.0,
        num_repeats: int = 3,
        suggestion: Rule = "auto",
        zoom: bool = True,
        update_attr: bool = True,
        attr_name: str = "",
        milestones: Sequence[int] = (0,),
    ) -> None:
        super().__init__()
        for name, lr in (("min_lr", min_lr), ("max_lr", max_lr)):
            expect(isinstance(lr, Real), f"`{name}` to be a number", lr)
        steps = _num_steps(num_training_steps, min_lr, max_lr)
        self._lrs: list[float] = lr_range(min_lr, max_lr, steps, mode).tolist()
        threshold = early_stop_threshold
        expect(threshold is None or threshold > 1, "`early_stop_threshold` > 1 or None", threshold)
        expect(is_count(num_repeats, 1), "`num_repeats` to be an int >= 1", num_repeats)
        expect(suggestion in get_args(Rule), f"`suggestion` to be one of {', '.join(get_args(Rule))}", suggestion)
        expect(isinstance(attr_name, str), '`attr_name` to be a name, or "" for `lr`, `learning_rate`', attr_name)
        expect(_are_epochs(milestones), "`milestones` to be a sequence of epochs >= 0", milestones)
        self._early_stop_threshold = early_stop_threshold
        self._num_repeats = num_repeats
        self._suggestion = suggestion
        self._zoom = zoom
        self._update_attr = update_attr
        self._attr_name = attr_name
        self._milestones = frozenset(milestones)
        self.optimal_lr: float | None = None
        self.result: LRFindResult | None = None
        # The rate that was set, and where in the model: for a second `fit` and for a resumed run.
        self._applied: float | None = None
        self._home: tuple[str, ...] = ()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Searches before the training, unless it continues one: then what was found is used again."""
        if is_resuming(trainer):
            return
        if (why := _reason_to_skip(trainer)) is not None:
            rank_zero_info(f"LRFinder: skipped, {why}.")
            return
        if self._milestones:
            name_undecided_callbacks("LRFinder", trainer)
        if self._update_attr and max(self._milestones, default=0) > trainer.current_epoch:
            # A schedule that cannot be moved midway is refused now, not in the middle of the night.
            LearningRate.locate(trainer, pl_module, self._attr_name, also_midway=True)
        if trainer.current_epoch in self._milestones:
            self._tune(trainer, pl_module, HOOKS_BEFORE_FIT)
        elif self._applied is not None:
            # A second `fit` goes on with rebuilt optimizers; a rate that has no home in the model must be set again.
            learning_rate = LearningRate.locate(trainer, pl_module, self._attr_name)
            if learning_rate.value != self._applied:
                learning_rate.apply(self._applied)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Searches anew at the later milestones."""
        if trainer.current_epoch > 0 and trainer.current_epoch in self._milestones and not _reason_to_skip(trainer):
            self._tune(trainer, pl_module, HOOKS_BEFORE_EPOCH)

    def find(
        self,
        trainer: pl.Trainer,
        model: pl.LightningModule,
        train_dataloaders: Any = None,
        datamodule: pl.LightningDataModule | None = None,
    ) -> LRFindResult:
        """Runs the range test alone and returns what it found; sets nothing, logs nothing, trains nothing.

        Args:
            trainer: A Trainer that is not running. Its strategy, precision and accumulation are used.
            model: The module.
            train_dataloaders: As for ``Trainer.fit``.
            datamodule: As for ``Trainer.fit``.

        Returns:
            The result; ``suggestion`` is ``None`` and ``reason`` says why if the curve shows no learning.

        Raises:
            MisconfigurationException: If the training cannot be rehearsed.

        """

        def act(trainer: pl.Trainer, pl_module: pl.LightningModule) -> LRFindResult:
            learning_rate = LearningRate.locate(trainer, pl_module, self._attr_name, read_only=True)
            return self._find(trainer, pl_module, learning_rate, HOOKS_BEFORE_FIT)

        self.result = rehearse_alone(trainer, model, act, train_dataloaders, datamodule)
        self.optimal_lr = self.result.suggestion
        return self.result

    def state_dict(self) -> dict[str, Any]:
        """What was found, in plain types."""
        return {
            "optimal_lr": self.optimal_lr,
            "applied": self._applied,
            "home": list(self._home),
            "result": None if self.result is None else self.result.to_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remembers what was found before."""
        self.optimal_lr = state_dict["optimal_lr"]
        self._applied, self._home = state_dict["applied"], tuple(state_dict["home"])
        result = state_dict["result"]
        self.result = None if result is None else LRFindResult.from_dict(result)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Sets the model's learning rate to what was found, before the optimizers of the resumed run are built."""
        found = checkpoint.get("callbacks", {}).get(self.state_key)
        if found and found["home"] and trainer.state.fn == "fit":
            write_home(pl_module, found["applied"], tuple(found["home"]))

    def _tune(self, trainer: pl.Trainer, pl_module: pl.LightningModule, hooks: Sequence[str]) -> None:
        """Find, apply, report."""
        learning_rate = LearningRate.locate(trainer, pl_module, self._attr_name, read_only=not self._update_attr)
        result = self._find(trainer, pl_module, learning_rate, hooks)
        if result.suggestion is None:
            rank_zero_info(f"LRFinder: the learning rate stays {result.lr_before:.3g}. {result.reason}")
        elif self._update_attr:
            learning_rate.apply(result.suggestion)
            self._applied = result.suggestion
            self._home = () if learning_rate.home is None else learning_rate.home.paths
            result = result.used(result.suggestion)
        self.result, self.optimal_lr = result, result.suggestion
        self._report(trainer, result)
        if result.lr_used != result.lr_before and learning_rate.home is None:
            # With a home the rate is in the module's hyperparameters, which Lightning logs by itself.
            log_hyperparams(trainer, {"lr": result.lr_used})

    def _find(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, learning_rate: LearningRate, hooks: Sequence[str]
    ) -> LRFindResult:
        rule = self._suggestion
        if rule == "auto":
            rule = "one_cycle" if learning_rate.is_one_cycle else "fall"
        with (
            progress_bar(trainer, "Finding the learning rate", "steps") as on_step,
            Rehearsal(trainer, pl_module, hooks) as rehearsal,
        ):

            def sweep(lrs: Sequence[float], num_repeats: int) -> list[list[float]]:
                return range_test(rehearsal, learning_rate, lrs, self._early_stop_threshold, num_repeats, on_step)

            started = time.monotonic()
            # With a second look to come, the first has only to find the place: one sweep, and more if it cannot.
            losses = sweep(self._lrs, 1 if self._zoom else self._num_repeats)
            suggestion = suggest_lr(self._lrs, losses)
            if suggestion.lr is None and len(losses) < self._num_repeats:
                losses += sweep(self._lrs, self._num_repeats - len(losses))
                suggestion = suggest_lr(self._lrs, losses)
            seconds = time.monotonic() - started
            result = LRFindResult.from_sweep(
                self._lrs, losses, suggestion, lr_before=learning_rate.value, rule=rule, seconds=seconds
            )
            if self._zoom and (part := falling_part(self._lrs, suggestion)) is not None:
                lrs = lr_range(part[0], part[1], max(_MIN_STEPS, len(self._lrs) // 2)).tolist()
                losses = sweep(lrs, self._num_repeats)
                seconds = time.monotonic() - started - seconds
                result = result.zoomed(lrs, losses, suggest_lr(lrs, losses), seconds)
        return result

    def _report(self, trainer: pl.Trainer, result: LRFindResult) -> None:
        """Puts the answer where the user looks: the terminal, which has heard of a refusal already, and the loggers."""
        if result.suggestion is not None:
            rank_zero_info(f"LRFinder: {result}")
        step = trainer.global_step
        scalars = {"found": result.suggestion, "used": result.lr_used, "before": result.lr_before}
        log_scalars(trainer, {f"lr_finder/lr_{name}": lr for name, lr in scalars.items()}, step)
        log_table(trainer, "lr_finder/summary", *result.table(), step)
        if trainer.is_global_zero and trainer.loggers:
            log_figure(trainer, "lr_finder/range_test", plot_lr_find(result).figure, step)


def _reason_to_skip(trainer: Any) -> str | None:
    """Why there is nothing to search, in half a sentence."""
    if (why := reason_not_to_rehearse(trainer)) is not None:
        return f"{why}; the learning rate is yours"
    free = next((name for optimizer in trainer.optimizers if (name := is_parameter_free(optimizer))), None)
    if free is not None:
        return f"since {free} finds its step size itself; its `lr` is a factor to leave alone"
    return None


def _num_steps(num_training_steps: int | None, min_lr: float, max_lr: float) -> int:
    if num_training_steps is not None:
        expect(
            is_count(num_training_steps, _MIN_STEPS),
            f"`num_training_steps` to be an int >= {_MIN_STEPS} or None",
            num_training_steps,
        )
        return num_training_steps
    decades = math.log10(max_lr / min_lr) if 0 < min_lr < max_lr < math.inf else 0.0  # `lr_range` refuses the rest
    return max(_MIN_STEPS, round(STEPS_PER_DECADE * decades))


def _are_epochs(value: Any) -> bool:
    return isinstance(value, Iterable) and all(is_count(epoch, 0) for epoch in value)
