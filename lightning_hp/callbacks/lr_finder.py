"""LRFinder: a range test and short trainings of the training that follows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args
from weakref import WeakSet

from lightning_utilities.core.rank_zero import rank_zero_warn
from typing_extensions import override

from lightning_hp.callbacks.finder import Finder, named_hparams, refused_twice_in_setup
from lightning_hp.callbacks.finder_state import check_results, naming_the_checkpoint
from lightning_hp.functional.checks import (
    check_bool,
    check_choice,
    check_factor,
    check_fields,
    check_int,
    check_iterable,
    check_number,
    check_str,
)
from lightning_hp.functional.learning_rate.parameter_free import parameter_free_name
from lightning_hp.functional.learning_rate.range_test import lr_range
from lightning_hp.hyperparameters import LearningRate, check_home, write_home
from lightning_hp.rehearsal import (
    BEFORE_EPOCH,
    BEFORE_FIT,
    Moment,
    consuming_data,
    is_accumulation_scheduler,
    reason_not_to_rehearse,
)
from lightning_hp.results import LearningRateResult
from lightning_hp.trainer import count_seconds, is_resuming
from lightning_hp.trainer.base_classes import Callback
from lightning_hp.tuning import MIN_STEPS, LearningRateSettings, Rule, find_learning_rate

if TYPE_CHECKING:
    import pytorch_lightning as pl

#: Steps in which the learning rate grows by a factor of ten; the rule ``"fall"`` was measured with this number. A
#: slower sweep has trained more when it reaches the same rate, which lowers the suggestion. Additional steps are better
#: spent on repeats.
STEPS_PER_DECADE = 14

_MAX_REPEATS = 1000

# The modules in which a rate was set: a second `fit` with one of them goes on with it, with another one it searches.
_TUNED: WeakSet[pl.LightningModule] = WeakSet()


class LRFinder(Finder[LearningRateResult], Callback):
    """Finds a learning rate by short trainings of your own training, sets it, and restores everything else.

    Before the training starts, LRFinder runs real training steps (your model, data, optimizer, schedule, precision,
    strategy and gradient accumulation). A range test, with learning rates that rise from ``min_lr`` to ``max_lr``,
    shows where the loss explodes. Below that, short trainings at a few rates start from the same weights over the same
    batches, as your training would begin, and the rate that they choose is lowered for the length of the training: the
    longer it is, the lower is the best rate. Everything is restored bit for bit, and the rate is set: in the model's
    ``lr`` (or ``learning_rate``), if it has one, so that optimizers and schedulers are built with it; otherwise in the
    optimizers and schedulers. The ratios between parameter groups are kept. If nothing shows that the module learns,
    the learning rate is not changed, and a warning gives the reason. A resumed run does not search again.

    Args:
        min_lr: The smallest learning rate, > 0. It should be too small to learn anything.
        max_lr: The largest learning rate, > ``min_lr``.
        num_training_steps: Optimizer steps of one sweep of the range test, >= 10. ``None``: 14 per decade, a factor of
            ten in the learning rate, and half as many before short trainings with a budget below 600.
        mode: ``"exponential"``: the rate grows by a factor in each step; ``"linear"``: by a constant.
        early_stop_threshold: Ends a sweep or a short training when its loss stays above this multiple of the initial
            loss, > 1; ``None``: only when the loss is not finite.
        suggestion: How the rate is found. ``"trainings"``: by short trainings. ``"auto"``: by short trainings too, or
            by the range test alone where ``budget`` has no room for three of 15 steps. By name a rule that reads
            the range test alone: ``"fall"``: two thirds of the fall. ``"one_cycle"``: a peak rate, between a quarter
            of the fall and the rate at which the loss explodes. ``"half"``: half of the fall. The rules of other
            finders: ``"steepest"`` (per factor of the rate), ``"valley"``, ``"slide"``, ``"minimum"`` (a tenth of the
            rate at the minimum). All are computed and marked in the figure.
        budget: Optimizer steps that the search may take, >= 10; one sweep is always run. ``None``: 600 or a tenth of
            the training, whichever is more, and never more than the training. More steps make the short trainings
            longer. Under ``max_time`` at most a quarter of that time.
        num_repeats: Sweeps whose median a rule by name reads, >= 1, from the same weights over different batches.
        zoom: Whether a rule by name reads a second, finer sweep over the part where the loss falls. One sweep
            (``num_repeats`` sweeps if it is too noisy) over the whole range finds that part, and ``num_repeats`` sweeps
            of half as many steps over it are read. ``False``: ``num_repeats`` sweeps over the whole range are read.
        milestones: Epochs before which to search; ``(0,)``: before the training. At a later epoch the search starts
            with the weights and the optimizer state of that moment, at the present rate, and its short trainings end
            with a decay to zero. It finds the rate on which the schedule is built: a schedule that has decayed to a
            tenth continues at a tenth of it.
        update_attr: Whether the rate that was found is set. ``False``: it is only reported.
        attr_name: Where your model keeps its learning rate, if not in ``lr`` or ``learning_rate``: the name of an
            attribute or of an entry in ``hparams``; dots reach into nested ones. A resumed run needs the same name.
        may_consume_data: Whether the search may draw from data that cannot be started again, such as an endless random
            stream: the training then gets later samples. ``False``: such data is refused.

    Attributes:
        optimal_lr: The suggested rate of the last search, or ``None``.
        result: The whole [`LearningRateResult`][lightning_hp.LearningRateResult], or ``None`` where there was no
            search: before ``fit``, under ``fast_dev_run``, when nothing will be trained.
        results: The results of all searches in ``fit``, by the epoch before which each was.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of its range.
        MisconfigurationException: In ``fit``, before any step, if the training cannot be rehearsed (data that cannot be
            started again, unless ``may_consume_data``; a strategy other than single device, DDP and FSDP2; lazy layers
            without a shape), if there is no learning rate, if a schedule could not be moved to another rate, or if the
            Trainer has two LRFinders.

    Note:
        The search takes at most ``budget`` training steps, each as long as a step of ``fit``, and one copy of the
        weights and the optimizer state in host memory. The loaders start again for each short training. Time that the
        search takes counts for ``max_time``.

        The rate that is found is the highest that the schedule reaches in the planned training. For a schedule that
        climbs to ten times the rate that it is built on, a tenth of it is written. The groups have the ratios that they
        have at that moment, wherever these come from: groups, a ``LambdaLR`` with a function for each, timm's
        ``lr_scale``. With manual optimization it is unknown when schedulers are stepped; the rate that is found is then
        the one that the schedule is built on.

        Callbacks that change the batch, the gradients, the weights or a number that a step reads act in these steps:
        those with the class attribute ``changes_gradients = True``, and those of yours that are seen to do so in one
        step, which is undone. One that does so in later steps only has to declare it. With ``changes_gradients =
        False`` a callback is not called.

        A figure, a table and the scalars ``lr_finder/lr_found``, ``lr_finder/lr_used`` and ``lr_finder/lr_before`` are
        written to the Trainer's loggers. The learning rate that was set before the training is in the logged
        hyperparameters, which Lightning logs once; every rate that was set is in the checkpoint.

        Parameter-free optimizers (Prodigy, D-Adaptation, DoG) are skipped: their ``lr`` is not a learning rate. The
        training loss decides, so a loss that is no measure of progress (policy gradient, contrastive loss with a queue)
        finds no good rate; where this can be seen, the search says so and suggests none.

    References:
        Smith, *Cyclical Learning Rates for Training Neural Networks*, 2017 (the range test). The choice from the short
        trainings was designed on one set of tasks and measured on another; see the card.

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

    sets = "lr"
    _tag = "lr_finder"
    _result_type: ClassVar[Any] = LearningRateResult
    _state_fields = ("applied", "result", "results")

    def __init__(
        self,
        min_lr: float = 1e-7,
        max_lr: float = 10.0,
        num_training_steps: int | None = None,
        mode: Literal["exponential", "linear"] = "exponential",
        early_stop_threshold: float | None = 4.0,
        suggestion: Rule = "auto",
        budget: int | None = None,
        num_repeats: int = 3,
        zoom: bool = True,
        milestones: Sequence[int] = (0,),
        update_attr: bool = True,
        attr_name: str = "",
        may_consume_data: bool = False,
    ) -> None:
        super().__init__(may_consume_data)
        min_lr = check_factor("min_lr", min_lr, above=0)
        max_lr = check_factor("max_lr", max_lr, above=min_lr)
        if num_training_steps is None:
            steps = max(MIN_STEPS, round(STEPS_PER_DECADE * (math.log10(max_lr) - math.log10(min_lr))))
        else:
            steps = check_int("num_training_steps", num_training_steps, MIN_STEPS, also="None")
        check_choice("mode", mode, ("exponential", "linear"))
        if early_stop_threshold is not None:
            early_stop_threshold = check_number("early_stop_threshold", early_stop_threshold, above=1, also="None")
        epochs = check_iterable("milestones", milestones, "a sequence of epochs, ints >= 0")
        self._milestones = frozenset(check_int(f"milestones[{i}]", epoch, 0) for i, epoch in enumerate(epochs))
        self._settings = LearningRateSettings(
            lrs=tuple(lr_range(min_lr, max_lr, steps, mode).tolist()),
            early_stop_threshold=early_stop_threshold,
            num_repeats=check_int("num_repeats", num_repeats, 1, _MAX_REPEATS),
            rule=check_choice("suggestion", suggestion, get_args(Rule)),
            zoom=check_bool("zoom", zoom),
            budget=None if budget is None else check_int("budget", budget, MIN_STEPS, also="None"),
            may_halve=num_training_steps is None and mode == "exponential",
        )
        self.results: dict[int, LearningRateResult] = {}
        self._update_attr = check_bool("update_attr", update_attr)
        self._attr_name = check_str("attr_name", attr_name, what='a name, or "" for `lr` and `learning_rate`')

    @property
    def optimal_lr(self) -> float | None:
        """The suggested rate of the last search, or ``None``."""
        return None if self.result is None else self.result.suggestion

    @override
    def used_hparams(self) -> dict[str, Any]:
        """The rate that was set, by the name under which it is recorded; empty if none was."""
        if not self._applied:
            return {}
        home, lr = self._applied["home"], self._applied["lr"]
        if not home and self.result is not None and self.result.lr_used is not None:
            lr = self.result.lr_used  # the highest that the schedule reaches; an attribute holds what it is built on
        return named_hparams("lr", lr, home)

    @override
    def _before_training(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Searches before the training. A resumed run uses the rate that was found before."""
        if is_resuming(trainer):
            return
        if (reason := _reason_to_skip(trainer)) is not None:
            self._log(f"skipped, {reason}.")
            return
        if self._update_attr and max(self._milestones, default=0) > trainer.current_epoch:
            # A schedule that cannot be moved midway is refused now, not in the middle of the training.
            LearningRate.locate(trainer, pl_module, self._attr_name, also_midway=True)
        if (end := trainer.max_epochs) is not None and end >= 0:
            self._warn_of_late_milestones(end, f"{end} epochs")
        is_other_model = bool(self._applied) and pl_module not in _TUNED and 0 in self._milestones
        if self._searches and (trainer.current_epoch in self._milestones or is_other_model):
            self._tune(trainer, pl_module, BEFORE_FIT)
        elif self._applied:
            self._apply_again(trainer, pl_module)
        elif self._searches and self._milestones and trainer.current_epoch > max(self._milestones):
            self._log(f"no search: the training goes on at epoch {trainer.current_epoch}, after all `milestones`.")

    def _apply_again(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """In a second ``fit``, which rebuilds the optimizers: sets a rate again that the model does not keep."""
        learning_rate = LearningRate.locate(trainer, pl_module, self._attr_name)
        lr = self._applied["lr"]
        if learning_rate.built_on == lr:
            return
        if pl_module in _TUNED and self._applied["home"]:
            self._log(f"the learning rate {learning_rate.built_on:.3g}, set since the search, is kept.")
        else:
            learning_rate.apply(lr)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Warns of milestones that ``max_steps`` puts out of reach: the length of an epoch is known here."""
        super().on_train_start(trainer, pl_module)
        accumulates_later = any(map(is_accumulation_scheduler, trainer.callbacks))  # type: ignore[attr-defined]
        if trainer.max_steps <= 0 or accumulates_later or math.isinf(trainer.num_training_batches):
            return
        per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        epochs = math.ceil((trainer.max_steps - trainer.global_step) / max(1, per_epoch))
        end = trainer.current_epoch + epochs
        if trainer.max_epochs is None or not 0 <= trainer.max_epochs <= end:  # else it was said before
            self._warn_of_late_milestones(end, f"{trainer.max_steps} steps, {end} epochs")

    def _warn_of_late_milestones(self, end: int, length: str) -> None:
        if all(epoch >= end for epoch in self._milestones):
            epochs = sorted(self._milestones) or "none"
            rank_zero_warn(
                f"LRFinder does not search: expected `milestones` before the end of the training ({length}), but"
                f" got {epochs}."
            )

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Searches again at the later milestones."""
        is_due = self._searches and trainer.current_epoch > 0 and trainer.current_epoch in self._milestones
        if is_due and not _reason_to_skip(trainer):
            self._tune(trainer, pl_module, BEFORE_EPOCH)

    @override
    @refused_twice_in_setup
    def state_dict(self) -> dict[str, Any]:
        """What was found and set, in plain types."""
        results = {str(epoch): result.to_dict() for epoch, result in self.results.items()}
        return {**super().state_dict(), "results": results}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what was found and set; arguments and errors as for every finder."""
        with naming_the_checkpoint(type(self).__name__):
            state = self._read_state(state_dict)
        self._applied, self.result, self.results = state["applied"], state["result"], state["results"]

    @override
    def _read_state(self, state: Any) -> dict[str, Any]:
        entries = super()._read_state(state)
        entries["results"] = check_results("state['results']", entries["results"], LearningRateResult.from_dict)
        return entries

    @override
    def _check_applied(self, name: str, applied: Any) -> dict[str, Any]:
        fields = check_fields(name, applied, ("lr", "home"))
        return {
            "lr": check_number(f"{name}['lr']", fields["lr"], above=0),
            "home": check_home(f"{name}['home']", fields["home"], self._attr_name),
        }

    @override
    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Sets the model's learning rate before the optimizers of the resumed run are built."""
        applied = self._applied_in(trainer, checkpoint)
        if applied.get("home"):
            write_home(pl_module, applied["lr"], tuple(applied["home"]))

    def _tune(self, trainer: pl.Trainer, pl_module: pl.LightningModule, moment: Moment) -> None:
        """Searches, sets the rate, and reports."""
        next_search = min((epoch for epoch in self._milestones if epoch > trainer.current_epoch), default=None)
        moment = replace(moment, caller=self, end_epoch=next_search)
        learning_rate = LearningRate.locate(trainer, pl_module, self._attr_name, read_only=not self._update_attr)
        result = self._find(trainer, pl_module, learning_rate, moment)
        if moment.is_before_training:
            count_seconds(trainer, result.seconds)
        if result.suggestion is not None and self._update_attr:
            result = self._apply(pl_module, learning_rate, result, result.suggestion)
        self.result = self.results[trainer.current_epoch] = result
        self._report(trainer, result)
        if self._update_attr and result.suggestion is not None and learning_rate.built_on != learning_rate.value:
            where = "in the optimizers" if learning_rate.home is None else f"in {learning_rate.home}"
            factor = learning_rate.value / learning_rate.built_on
            self._log(f"wrote {learning_rate.built_on:.3g} {where}: the schedule reaches {factor:.3g} times that rate.")

    def _find(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        learning_rate: LearningRate,
        moment: Moment,
    ) -> LearningRateResult:
        with consuming_data(self._may_consume_data):
            return find_learning_rate(trainer, pl_module, learning_rate, self._settings, moment)

    def _apply(
        self, pl_module: pl.LightningModule, learning_rate: LearningRate, result: LearningRateResult, lr: float
    ) -> LearningRateResult:
        """Sets the rate and notes it."""
        learning_rate.apply(lr)
        _TUNED.add(pl_module)
        home = () if learning_rate.home is None else learning_rate.home.paths
        self._applied = self._check_applied("applied", {"lr": learning_rate.built_on, "home": home})
        return result.with_used(lr)

    @override
    def _search(self, trainer: pl.Trainer, pl_module: pl.LightningModule, update_attr: bool) -> LearningRateResult:
        learning_rate = LearningRate.locate(trainer, pl_module, self._attr_name, read_only=not update_attr)
        if update_attr and learning_rate.home is None:
            self._refuse_to_set(trainer, "learning rate", "optimizers")
        result = self._find(trainer, pl_module, learning_rate, BEFORE_FIT)
        if not update_attr or result.suggestion is None:
            return result
        return self._apply(pl_module, learning_rate, result, result.suggestion)

    @override
    def _set_outside_fit(self, trainer: Any, model: Any, datamodule: Any, result: LearningRateResult) -> None:
        if result.suggestion is None:
            _warn_that_it_stays(result)
        else:
            write_home(model, self._applied["lr"], tuple(self._applied["home"]))

    def _report(self, trainer: pl.Trainer, result: LearningRateResult) -> None:
        if result.suggestion is None:
            _warn_that_it_stays(result)
        else:
            self._log(str(result))
        self._log_result(
            trainer,
            scalars={"lr_found": result.suggestion, "lr_used": result.lr_used, "lr_before": result.lr_before},
            tables={"summary": result.table()},
            figures={"range_test": lambda: result.plot().figure},
        )


def _warn_that_it_stays(result: LearningRateResult) -> None:
    rank_zero_warn(f"LRFinder: the learning rate stays {result.lr_before:.3g}. {result.reason}")


def _reason_to_skip(trainer: Any) -> str | None:
    """Why there is nothing to search, as a clause; ``None`` if there is."""
    if (reason := reason_not_to_rehearse(trainer)) is not None:
        return f"{reason}; the learning rate is not changed"
    name = next((name for optimizer in trainer.optimizers if (name := parameter_free_name(optimizer))), None)
    if name is not None:
        return f"because {name} finds its step size itself; its `lr` is a factor that should stay as it is"
    return None
