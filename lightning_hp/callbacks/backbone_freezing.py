"""BackboneFreezing: trains the head on a frozen backbone first, then unfreezes the backbone, at once or in stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lightning_utilities.core.rank_zero import rank_zero_info
from typing_extensions import override

from lightning_hp.callbacks.freezing_refusals import find_backbone, refuse_training
from lightning_hp.functional.checks import check_bool, check_int, check_iterable, check_str, wrong_value
from lightning_hp.nn.freezing.freezer import Freezer
from lightning_hp.nn.freezing.schedule import NEVER, FreezingSchedule, epochs_by_names, epochs_by_stages
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
            with ``*``. Parts without a name are never trained.
        backbone: The path of the backbone in your model, such as ``"backbone"`` or ``"model.encoder"``.
        stages: Number of stages into which the backbone is divided, >= 1. The stage next to the head is unfrozen at
            ``unfreeze_at_epoch``, the next lower one ``epochs_per_stage`` epochs later, and so on. A stage is a
            sequence of blocks (a residual block, a transformer layer) in the order in which the model registers them.
        epochs_per_stage: Epochs from one stage to the next, >= 1.
        train_norm: Train the normalisation layers of frozen stages, with their statistics, from epoch 0.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of its range.
        MisconfigurationException: In ``fit``, before the first step: if the model has no such backbone, the optimizer
            does not hold its parameters, all of it is frozen already, a name matches nothing, there are more stages
            than blocks, no other part of the model can be trained, a layer is lazy, or the strategy is none of single
            device, DDP and FSDP2.

    Note:
        A step costs less than one that trains everything: frozen parameters have no gradient and no optimizer state,
        and below the lowest trained stage there is no backward pass and no stored activation. DDP does not reduce the
        gradients of frozen parameters. It is rebuilt at each change, which takes as long as its construction.

        A frozen phase does not help with random weights, which need no protection, or with a large data set that
        differs from that of the pretraining.

        The epoch alone determines what is frozen, so a resumed run continues exactly as an uninterrupted one.

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
        self._is_heaviest = False
        self._freezer = Freezer()
        self._schedule: FreezingSchedule | None = None
        self._reported: tuple[int, int] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """The settings, without the parameters of the current run."""
        of_this_run = {"_freezer": Freezer(), "_schedule": None, "_reported": None}
        # Lightning sets `log` and `log_dict`, bound methods of the module, on each callback; they hold all of it.
        settings = {name: value for name, value in self.__dict__.items() if name not in ("log", "log_dict")}
        return {**settings, **of_this_run}

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuses models and trainers that it does not support. Freezes nothing: optimizers may still be rebuilt."""
        self._schedule_of(trainer, pl_module)

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Freezes what is not trained in this epoch; a resumed run may begin in the middle of one."""
        self._update(trainer, pl_module)

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Unfreezes what is trained from this epoch on."""
        self._update(trainer, pl_module)

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Sets frozen modules to evaluation mode again: hooks of the user may have called ``train()``."""
        self._freezer.restore_eval_mode()

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
        backbone = find_backbone(trainer, pl_module, self._backbone)
        plan = self._plan
        try:
            if isinstance(plan, dict):
                epochs = epochs_by_names(backbone, plan)
            else:
                first_epoch = NEVER if plan is None else plan
                epochs = epochs_by_stages(backbone, first_epoch, self._stages, self._epochs_per_stage)
        except ValueError as error:
            raise misconfiguration(trainer, f"BackboneFreezing, `{self._backbone}`: {error}") from None
        schedule = FreezingSchedule.of(backbone, epochs, self._train_norm)
        refuse_training(trainer, pl_module, self._backbone, schedule)
        note_trained(trainer)
        self._schedule = schedule
        return schedule

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
        if not is_rehearsal(trainer):
            self._report(trainer, pl_module, schedule)

    def _unfreeze(self, pl_module: pl.LightningModule) -> None:
        reshard(pl_module)
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
    names_of: dict[int, list[str]] = {}
    for key, value in plan.items():
        epoch = check_int("unfreeze_at_epoch", key, 0)
        names = [value] if isinstance(value, str) else check_iterable("unfreeze_at_epoch", value, "names")
        names_of[epoch] = [
            check_str("unfreeze_at_epoch", name, what="names of modules or parameters") for name in names
        ]
    return names_of
