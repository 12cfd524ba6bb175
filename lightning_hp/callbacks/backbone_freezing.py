"""BackboneFreezing: trains the head on a frozen backbone first, then unfreezes the backbone, at once or in stages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from lightning_utilities.core.rank_zero import rank_zero_info
from torch import nn
from typing_extensions import override

from lightning_hp.callbacks.freezing_refusals import backbone_in_training, find_backbone, refuse_training
from lightning_hp.functional.checks import (
    check_bool,
    check_instance,
    check_int,
    check_iterable,
    check_number,
    check_str,
    wrong_value,
)
from lightning_hp.nn.freezing.freezer import Freezer
from lightning_hp.nn.freezing.ramp import RateRamp
from lightning_hp.nn.freezing.schedule import (
    NEVER,
    FreezingSchedule,
    epochs_by_names,
    epochs_by_stages,
    names_matching,
)
from lightning_hp.rehearsal import is_rehearsal
from lightning_hp.reporting import log_scalars
from lightning_hp.trainer import misconfiguration, note_trained, rebuild_ddp, reshard
from lightning_hp.trainer.base_classes import Callback

if TYPE_CHECKING:
    import pytorch_lightning as pl


class BackboneFreezing(Callback):
    """Trains the head alone first (linear probing), then the backbone too, at once or stage by stage from the top.

    The first gradients of a new head would damage pretrained features. While a part of the backbone is frozen, no
    gradient is computed for it, the optimizer skips it (no weight decay, no momentum), and its modules are in
    evaluation mode: running statistics are not updated, dropout is off, and the head is trained on the same features
    that it is evaluated on.

    ``configure_optimizers`` passes the whole model to the optimizer, as if nothing were frozen; no parameter group is
    added later. The learning rates of the groups stay as you or a finder set them, and a parameter that is unfrozen
    begins with new optimizer state. Modules and parameters that you froze yourself stay frozen. After the training, or
    an exception, all flags of the model have their old values.

    Args:
        unfreeze_at_epoch: The epoch, counted from 0, from which the backbone is trained, >= 0. ``None``: it is never
            trained. Or a dict from epochs to the names of what is trained from then on, such as
            ``{2: "layer4", 4: ["layer3", "layer2"]}``: names of modules or parameters in the backbone, or patterns
            with ``*``. ``"*"`` alone is everything without another name; without it, that is never trained.
        backbone: The path of the backbone in your model, such as ``"backbone"`` or ``"model.encoder"``.
        stages: Number of stages into which the backbone is divided, >= 1. The stage next to the head is unfrozen at
            ``unfreeze_at_epoch``, the next lower one ``epochs_per_stage`` epochs later, and so on. A stage is a
            sequence of blocks (a residual block, a transformer layer) in the order in which the model registers them.
        epochs_per_stage: Epochs from one stage to the next, >= 1.
        train_norm: Train the normalisation layers of frozen stages, with their statistics, from epoch 0.
        frozen: Names, as in a dict of ``unfreeze_at_epoch``, of the parts that are frozen until then; the others are
            trained from epoch 0. ``None``: the whole backbone.
        ramp_epochs: Number of epochs, or a fraction of one, in which the learning rate of what is unfrozen rises
            linearly to that of its group, >= 0. 0: it has the rate of its group at once.
        lr_ratio: The learning rate of what is unfrozen, as a multiple of that of its group, > 0 and <= 1; the rate
            that ``ramp_epochs`` rises to. Or a dict from epochs of an unfreezing to such numbers, as in
            ``{2: 0.3, 4: 0.1}``; epochs that it does not name have 1.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of its range.
        MisconfigurationException: In ``fit``, before the first step: if the model has no such backbone, the optimizer
            does not hold its parameters, all of it is frozen already, a name matches nothing, there are more stages
            than blocks, no other part of the model can be trained, a layer is lazy, the strategy is none of single
            device, DDP and FSDP2, the length of an epoch, which ``ramp_epochs`` needs, is not known, ``lr_ratio`` names
            an epoch without an unfreezing, or another BackboneFreezing freezes the same parameter.

    Note:
        A step costs less than one that trains everything: frozen parameters have no gradient and no optimizer state,
        and below the lowest trained stage there is no backward pass and no stored activation. DDP does not reduce the
        gradients of frozen parameters. It is rebuilt at each change, which takes as long as its construction.

        A frozen phase does not help with random weights, which need no protection, or with a large data set that
        differs from that of the pretraining.

        The epoch alone determines what is frozen, so a resumed run continues exactly as an uninterrupted one. In a loop
        of your own call `freeze` at the beginning of each epoch, and `unfreeze` at the end.

        A rate that rises, and one by ``lr_ratio``, is made by scaling the step of the parameter, which takes a copy of
        these parameters in each step; the rates of the groups, which loggers show, do not change.

        Several of them in one Trainer freeze several parts of a model, as an encoder and a decoder, each on its own
        plan. No two may freeze the same parameter.

        The callback acts in every rehearsal. ``LRFinder`` tunes for the parameters that are trained at that moment;
        tune again with ``milestones`` at the epoch of the unfreezing. ``BatchSizeScaler`` tunes with everything
        unfrozen that will be unfrozen in this training, which needs the most memory.

        At each change the callback prints one line and logs ``backbone_freezing/trained_parameters`` and
        ``backbone_freezing/frozen_parameters``.

    References:
        Kumar et al., *Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution*, 2022 (linear
        probing first). Howard and Ruder, *Universal Language Model Fine-tuning for Text Classification*, 2018 (gradual
        unfreezing).

    Example:
        >>> import torch, pytorch_lightning as pl
        >>> from lightning_hp import BackboneFreezing
        >>> class Model(pl.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.backbone, self.head = torch.nn.Linear(8, 4), torch.nn.Linear(4, 3)
        ...     def training_step(self, batch, batch_idx):
        ...         return self.head(self.backbone(batch)).square().mean()
        ...     def on_train_epoch_end(self):
        ...         print(f"epoch {self.current_epoch}: trained {self.backbone.weight.requires_grad}")
        ...     def configure_optimizers(self):
        ...         return torch.optim.AdamW(self.parameters())
        >>> trainer = pl.Trainer(max_epochs=2, callbacks=[BackboneFreezing(unfreeze_at_epoch=1)], logger=False,
        ...                      enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        ...                      accelerator="cpu")
        >>> trainer.fit(Model(), torch.utils.data.DataLoader(torch.ones(4, 8)))
        epoch 0: trained False
        epoch 1: trained True

    """

    changes_gradients = True

    def __init__(
        self,
        unfreeze_at_epoch: int | dict[int, str | list[str]] | None = 1,
        backbone: str = "backbone",
        stages: int = 1,
        epochs_per_stage: int = 1,
        train_norm: bool = False,
        frozen: str | list[str] | None = None,
        ramp_epochs: float = 0.0,
        lr_ratio: float | dict[int, float] = 1.0,
    ) -> None:
        super().__init__()
        self._plan = _checked_plan(unfreeze_at_epoch)
        self._backbone = check_str("backbone", backbone, what="the path of a submodule")
        self._stages = check_int("stages", stages, 1)
        self._epochs_per_stage = check_int("epochs_per_stage", epochs_per_stage, 1)
        self._train_norm = check_bool("train_norm", train_norm)
        if not self._backbone:
            wrong_value("backbone", "the path of a submodule", backbone)
        if self._stages > 1 and not isinstance(self._plan, int):
            wrong_value("unfreeze_at_epoch", "an epoch if `stages` > 1", unfreeze_at_epoch)
        self._frozen = None if frozen is None else _checked_names("frozen", frozen)
        if self._frozen is not None and isinstance(self._plan, dict):
            wrong_value("frozen", "None if `unfreeze_at_epoch` is a dict, which names what is trained", frozen)
        self._ramp_epochs = check_number("ramp_epochs", ramp_epochs, minimum=0)
        if self._ramp_epochs and self._plan is None:
            wrong_value("ramp_epochs", "0 if nothing is unfrozen", ramp_epochs)
        self._lr_ratio = _checked_ratio(lr_ratio)
        if self._lr_ratio != 1 and self._plan is None:
            wrong_value("lr_ratio", "1 if nothing is unfrozen", lr_ratio)
        self._is_heaviest = False
        self._freezer = Freezer()
        self._ramp = RateRamp()
        self._schedule: FreezingSchedule | None = None
        self._reported: tuple[int, int] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """The settings, without the parameters of the current run."""
        of_this_run = {"_freezer": Freezer(), "_ramp": RateRamp(), "_schedule": None, "_reported": None}
        # Lightning sets `log` and `log_dict`, bound methods of the module, on each callback; they hold all of it.
        settings = {name: value for name, value in self.__dict__.items() if name not in ("log", "log_dict")}
        return {**settings, **of_this_run}

    def freeze(self, module: nn.Module, epoch: int = 0) -> None:
        """Freezes what is not trained in an epoch, and unfreezes the rest, without a Trainer.

        Call it at the beginning of each epoch, after ``module.train()``, which sets frozen modules to training mode.

        Args:
            module: The model, with the submodule ``backbone``.
            epoch: The epoch, counted from 0, >= 0.

        Raises:
            TypeError: If an argument is of the wrong type.
            ValueError: If the model has no such backbone, a name matches nothing, there are more stages than blocks, a
                layer is lazy, or there is a ``ramp_epochs`` or an ``lr_ratio``, which need a Trainer.

        Example:
            >>> from torch import nn
            >>> from lightning_hp import BackboneFreezing
            >>> model = nn.ModuleDict({"backbone": nn.Linear(8, 4), "head": nn.Linear(4, 3)})
            >>> freezing = BackboneFreezing(unfreeze_at_epoch=2)
            >>> for epoch in range(3):
            ...     _ = model.train()
            ...     freezing.freeze(model, epoch)
            ...     print(epoch, model["backbone"].weight.requires_grad)  # and train this epoch
            0 False
            1 False
            2 True
            >>> freezing.unfreeze()

        """
        check_instance("module", module, nn.Module, "a module")
        epoch = check_int("epoch", epoch, 0)
        if self._ramp_epochs:
            raise ValueError(f"Expected `ramp_epochs` to be 0 without a Trainer, but got {self._ramp_epochs:g}.")
        if self._lr_ratio != 1:
            raise ValueError(f"Expected `lr_ratio` to be 1 without a Trainer, but got {self._lr_ratio}.")
        try:
            schedule = self._schedule_for(find_backbone(module, self._backbone))
        except ValueError as error:
            raise ValueError(f"BackboneFreezing, `{self._backbone}`: {error}") from None
        self._freezer.freeze(*schedule.frozen(epoch))

    def unfreeze(self) -> None:
        """Restores the flags of everything that it froze; what you froze yourself stays frozen."""
        self._freezer.unfreeze()

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuses models and trainers that it does not support. Freezes nothing: optimizers may still be rebuilt."""
        self._schedule_of(trainer, pl_module)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Freezes what is not trained in this epoch; a resumed run may begin in the middle of one."""
        if self._ramp_epochs and math.isinf(trainer.num_training_batches):
            raise misconfiguration(
                trainer,
                "BackboneFreezing: expected epochs of a known length for `ramp_epochs`, but got a loader without one."
                " Pass `limit_train_batches=` a number to the Trainer.",
            )
        self._update(trainer, pl_module)

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Unfreezes what is trained from this epoch on."""
        self._update(trainer, pl_module)

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Sets frozen modules to evaluation mode again, as hooks may have called ``train()``; raises the rates."""
        self._freezer.restore_eval_mode()
        if self._schedule is not None and (self._ramp_epochs or self._lr_ratio != 1):
            num_batches = trainer.num_training_batches
            share = min((batch_idx + 1) / num_batches, 1.0) if 0 < num_batches < NEVER else 1.0
            self._ramp.factors = {
                parameter: self._factor(int(first), trainer.current_epoch, share)
                for parameter, first in self._schedule.parameters.items()
                if 0 < first < NEVER
            }

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Restores the flags of the model."""
        self._unfreeze(pl_module)

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Restores the flags of the model."""
        if stage == "fit":
            self._unfreeze(pl_module)

    @contextmanager
    def heaviest_step(self, trainer: pl.Trainer) -> Iterator[None]:
        """Within this context, everything is unfrozen that will be unfrozen in this training.

        Args:
            trainer: The Trainer of the training.

        Note:
            ``BatchSizeScaler`` measures the memory of such a step.

        """
        self._is_heaviest = True
        try:
            yield
        finally:
            self._is_heaviest = False

    def _schedule_of(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> FreezingSchedule:
        """The schedule of this run, made at the first call: a finder may rehearse before ``on_fit_start``."""
        if self._schedule is not None:
            return self._schedule
        self._freezer.unfreeze()  # what `freeze` froze before the training
        backbone = backbone_in_training(trainer, pl_module, self._backbone)
        try:
            schedule = self._schedule_for(backbone)
        except ValueError as error:
            raise misconfiguration(trainer, f"BackboneFreezing, `{self._backbone}`: {error}") from None
        refuse_training(trainer, pl_module, self._backbone, schedule, self._others(trainer, pl_module))
        note_trained(trainer)
        self._schedule = schedule
        return schedule

    def _schedule_for(self, backbone: nn.Module) -> FreezingSchedule:
        plan = self._plan
        if isinstance(plan, dict):
            epochs = epochs_by_names(backbone, plan)
        else:
            first_epoch = NEVER if plan is None else plan
            epochs = epochs_by_stages(backbone, first_epoch, self._stages, self._epochs_per_stage)
        if self._frozen is not None:
            names = {name for pattern in self._frozen for name in names_matching(backbone, pattern)}
            named = {p for name, p in backbone.named_parameters(remove_duplicate=False) if name in names}
            epochs = {parameter: epoch if parameter in named else 0 for parameter, epoch in epochs.items()}
        schedule = FreezingSchedule.of(backbone, epochs, self._train_norm)
        named_epochs = set(self._lr_ratio) if isinstance(self._lr_ratio, dict) else set()
        if self._lr_ratio != 1 and not named_epochs <= set(schedule.unfreezing_epochs):
            unfrozen = ", ".join(map(str, schedule.unfreezing_epochs)) or "none"
            raise ValueError(
                f"expected `lr_ratio` for epochs of an unfreezing ({unfrozen}), but got"
                f" {', '.join(map(str, sorted(named_epochs)))}."
            )
        return schedule

    def _others(self, trainer: Any, pl_module: nn.Module) -> dict[str, FreezingSchedule]:
        """What the other callbacks of this class freeze, by the paths of their backbones."""
        others = {}
        for callback in trainer.callbacks:
            if isinstance(callback, BackboneFreezing) and callback is not self:
                path = callback._backbone  # noqa: SLF001 - of this class
                with suppress(ValueError):  # which it raises itself
                    others[path] = callback._schedule_for(find_backbone(pl_module, path))  # noqa: SLF001
        return others

    def _factor(self, first: int, epoch: int, share: float) -> float:
        """The multiple of its group's rate for what is unfrozen at ``first``, when a share of an epoch is done."""
        ratio = self._lr_ratio.get(first, 1.0) if isinstance(self._lr_ratio, dict) else self._lr_ratio
        done = (max(epoch - first, 0) + share) / self._ramp_epochs if self._ramp_epochs else 1.0
        return ratio * min(done, 1.0)

    def _update(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Freezes what is frozen in this epoch, and unfreezes everything else."""
        schedule = self._schedule_of(trainer, pl_module)
        epoch: int = trainer.current_epoch
        if self._is_heaviest:
            last = NEVER if trainer.max_epochs in (None, -1) else trainer.max_epochs - 1
            epoch = max((other for other in schedule.unfreezing_epochs if epoch < other <= last), default=epoch)
        reshard(pl_module)
        self._freezer.freeze(*schedule.frozen(epoch))
        rebuild_ddp(trainer)
        below = any(first <= epoch and self._factor(first, epoch, 0.0) < 1 for first in schedule.unfreezing_epochs)
        self._ramp.attach(trainer.optimizers if below else ())
        if not is_rehearsal(trainer):
            self._report(trainer, pl_module, schedule)

    def _unfreeze(self, pl_module: pl.LightningModule) -> None:
        reshard(pl_module)
        self._ramp.detach()
        self._freezer.unfreeze()
        self._schedule = self._reported = None

    def _report(self, trainer: pl.Trainer, pl_module: pl.LightningModule, schedule: FreezingSchedule) -> None:
        """Prints and logs how many parameters are trained and frozen, if that has changed."""
        counts = {True: 0, False: 0}
        for parameter in pl_module.parameters():
            counts[parameter.requires_grad] += parameter.numel()
        trained, frozen = counts[True], counts[False]
        if (trained, frozen) == self._reported:
            return
        self._reported = trained, frozen
        next_epoch = next((epoch for epoch in schedule.unfreezing_epochs if epoch > trainer.current_epoch), None)
        if next_epoch is None:
            outlook = ""
        elif trainer.max_epochs not in (None, -1) and next_epoch >= trainer.max_epochs:
            outlook = f"; the change at epoch {next_epoch} comes after the end of this training"
        else:
            outlook = f"; the next change is at epoch {next_epoch}"
        rank_zero_info(
            f"BackboneFreezing: from epoch {trainer.current_epoch} {trained:,} parameters are trained, {frozen:,} are"
            f" frozen{outlook}."
        )
        scalars = {"backbone_freezing/trained_parameters": trained, "backbone_freezing/frozen_parameters": frozen}
        log_scalars(trainer, scalars, trainer.global_step)


def _checked_plan(plan: Any) -> int | dict[int, list[str]] | None:
    """The value of ``unfreeze_at_epoch`` in Python's own types, with a list of names for each epoch."""
    if plan is None:
        return None
    if not isinstance(plan, Mapping):
        return check_int("unfreeze_at_epoch", plan, 0, also="a dict from epochs to names, or None")
    if not plan:
        wrong_value("unfreeze_at_epoch", "an int >= 0, or a dict with at least one epoch, or None", plan)
    return {
        check_int("unfreeze_at_epoch", epoch, 0): _checked_names("unfreeze_at_epoch", names)
        for epoch, names in plan.items()
    }


def _checked_ratio(ratio: Any) -> float | dict[int, float]:
    """The value of ``lr_ratio`` in Python's own types."""
    if not isinstance(ratio, Mapping):
        also = "a dict from epochs to such numbers"
        return check_number("lr_ratio", ratio, above=0, maximum=1, also=also)
    if not ratio:
        wrong_value("lr_ratio", "a number > 0 and <= 1, or a dict with at least one epoch", ratio)
    return {
        check_int("lr_ratio", epoch, 1): check_number("lr_ratio", value, above=0, maximum=1)
        for epoch, value in ratio.items()
    }


def _checked_names(argument: str, value: Any) -> list[str]:
    """One name or several, as a list of at least one."""
    expected = "names of modules or parameters"
    names = [value] if isinstance(value, str) else check_iterable(argument, value, expected)
    if not names:
        wrong_value(argument, f"at least one of the {expected}", value)
    return [check_str(argument, name, what=expected) for name in names]
