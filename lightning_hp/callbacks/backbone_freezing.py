"""BackboneFreezing: train the head on a frozen backbone first, then unfreeze it, at once or from the top down."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pytorch_lightning import Callback
from pytorch_lightning.utilities import rank_zero_info

from lightning_hp.callbacks.freezing_refusals import find_backbone, refuse_training
from lightning_hp.functional.checks import expect, is_count
from lightning_hp.nn.freezing.freezer import Freezer
from lightning_hp.nn.freezing.schedule import NEVER, FreezingSchedule, by_names, by_stages
from lightning_hp.rehearsal import is_rehearsal
from lightning_hp.reporting import log_scalars
from lightning_hp.trainer import exchange_gradients_of_trained, misconfiguration, note_trained, reshard

if TYPE_CHECKING:
    import pytorch_lightning as pl


class BackboneFreezing(Callback):
    """Trains the head alone first (linear probing), then the backbone too, at once or stage by stage from the top.

    Why: the first gradients of a head that knows nothing spoil pretrained features. What is frozen is really frozen:
    no gradient is computed for it, the optimizer leaves it alone (no weight decay, no momentum), and its modules are in
    evaluation mode, so that batch norm keeps its statistics, dropout is off, and the head is trained on the features
    it will be evaluated on.

    ``configure_optimizers`` gives the whole model to the optimizer, as if nothing were frozen; no group is added later.
    Rates of groups stay as you set them, or as a finder did, and what is unfrozen begins with fresh optimizer state. A
    module or parameter that you froze yourself stays as you left it. Afterwards, and after an exception, the model has
    the flags that it had before.

    What is frozen follows from the epoch alone, so a resumed run goes on as an uninterrupted one. The callback acts in
    every rehearsal: ``LRFinder`` sees the training of the moment (search again with ``milestones`` at the epoch of the
    unfreezing), ``BatchSizeScaler`` the one with everything unfrozen that will be, which is the one that has to fit.

    Args:
        unfreeze_at_epoch: The epoch, counted from 0, from which the backbone is trained, >= 0; ``None``: never. Or
            names for each epoch, ``{2: "layer4", 4: ["layer3", "layer2"]}``: of modules or parameters in the
            backbone, or patterns with ``*``; what no epoch names is never trained.
        backbone: Where your model keeps it; dots reach into submodules.
        stages: Into how many stages to cut the backbone, >= 1. The one next to the head is unfrozen at
            ``unfreeze_at_epoch``, the next lower one ``epochs_per_stage`` later, and so on. A stage is a run of blocks
            (a residual block, a transformer layer) in the order in which the model registers them.
        epochs_per_stage: Epochs from one stage to the next, >= 1.
        train_norm: Keep the normalisation layers of frozen stages trained, with their statistics, from the start.

    Raises:
        ValueError: If an argument is out of its range.
        MisconfigurationException: In ``fit``, before the first step: for a model without that backbone, one whose
            parameters the optimizer does not hold, one that is frozen already, names of nothing, more stages than
            blocks, a model with nothing else to train, lazy layers, or a strategy other than single device, DDP and
            FSDP2.

    Costs less than training everything, as long as something is frozen: no gradient, no optimizer state, and below the
    lowest trained stage neither activations nor a backward pass. With DDP gradients of what is frozen are not
    exchanged, and DDP is built anew at each change, which takes as long as at the start.

    Where it does not help: a backbone with random weights, which has nothing to protect; much data that differs from
    that of the pretraining, where a frozen phase only costs time.

    Logs one line, ``backbone_freezing/trained_parameters`` and ``backbone_freezing/frozen_parameters`` at each change.

    Source: Kumar et al., *Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution*, 2022
    (probing first); Howard and Ruder, *Universal Language Model Fine-tuning for Text Classification*, 2018 (gradual
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
        expect(
            unfreeze_at_epoch is None or is_count(unfreeze_at_epoch, 0) or _is_plan(unfreeze_at_epoch),
            "`unfreeze_at_epoch` to be an epoch >= 0, None, or a dict from epochs to names",
            unfreeze_at_epoch,
        )
        path: Any = backbone
        expect(isinstance(path, str) and path != "", "`backbone` to be the name of a submodule", path)
        expect(is_count(stages, 1), "`stages` to be an int >= 1", stages)
        expect(is_count(epochs_per_stage, 1), "`epochs_per_stage` to be an int >= 1", epochs_per_stage)
        expect(isinstance(train_norm, bool), "`train_norm` to be a bool", train_norm)
        if stages > 1:
            expect(
                is_count(unfreeze_at_epoch, 0), "`unfreeze_at_epoch` to be an epoch with `stages`", unfreeze_at_epoch
            )
        self._unfreeze_at_epoch = unfreeze_at_epoch
        self._backbone = backbone
        self._stages = stages
        self._epochs_per_stage = epochs_per_stage
        self._train_norm = train_norm
        self._is_heaviest = False
        self._freezer = Freezer()
        self._schedule: FreezingSchedule | None = None
        self._said: tuple[int, int] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy holds the settings, not the parameters of the run that it was taken in."""
        of_this_run = {"_freezer": Freezer(), "_schedule": None, "_said": None}
        # `log` and `log_dict` are the module's own: Lightning hangs them here, and the whole module would come along.
        settings = {name: value for name, value in self.__dict__.items() if name not in ("log", "log_dict")}
        return {**settings, **of_this_run}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuses what it cannot act on. Nothing is frozen yet: optimizers may still be built anew."""
        self._plan(trainer, pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Freezes what is not trained in this epoch; a resumed run may begin in the middle of it."""
        self._follow(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Unfreezes what is due."""
        self._follow(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Puts frozen modules back into evaluation mode: hooks of the user may call ``train()`` at any time."""
        self._freezer.keep_still()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Gives the model its flags back."""
        self._release(pl_module)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Gives the model its flags back."""
        if stage == "fit":
            self._release(pl_module)

    @contextmanager
    def heaviest_step(self, trainer: pl.Trainer) -> Iterator[None]:
        """Within it, whatever will be unfrozen in this training is: for what has to hold in all of it."""
        self._is_heaviest = True
        try:
            yield
        finally:
            self._is_heaviest = False

    def _plan(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> FreezingSchedule:
        """The schedule of this run, made when it is first asked for: a finder may rehearse before ``on_fit_start``."""
        if self._schedule is not None:
            return self._schedule
        backbone = find_backbone(trainer, pl_module, self._backbone)
        plan = self._unfreeze_at_epoch
        try:
            if isinstance(plan, Mapping):
                epochs = by_names(backbone, plan)
            else:
                epochs = by_stages(backbone, NEVER if plan is None else plan, self._stages, self._epochs_per_stage)
        except ValueError as error:
            raise misconfiguration(trainer, f"BackboneFreezing, `{self._backbone}`: {error}") from None
        schedule = FreezingSchedule.of(backbone, epochs, self._train_norm)
        refuse_training(trainer, pl_module, self._backbone, schedule)
        note_trained(trainer)
        self._schedule = schedule
        return schedule

    def _follow(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Freezes what the epoch says, and nothing else."""
        schedule = self._plan(trainer, pl_module)
        epoch: int = trainer.current_epoch
        if self._is_heaviest:
            last = NEVER if trainer.max_epochs in (None, -1) else trainer.max_epochs - 1
            epoch = max((change for change in schedule.changes if epoch < change <= last), default=epoch)
        reshard(pl_module)
        self._freezer.hold(*schedule.frozen(epoch))
        exchange_gradients_of_trained(trainer)
        if not is_rehearsal(trainer):
            self._report(trainer, pl_module, schedule)

    def _release(self, pl_module: pl.LightningModule) -> None:
        reshard(pl_module)
        self._freezer.release()
        self._schedule = self._said = None

    def _report(self, trainer: pl.Trainer, pl_module: pl.LightningModule, schedule: FreezingSchedule) -> None:
        """Says what is trained and what is frozen, when it changes."""
        counts = {True: 0, False: 0}
        for parameter in pl_module.parameters():
            counts[parameter.requires_grad] += parameter.numel()
        now = counts[True], counts[False]
        if now == self._said:
            return
        self._said = now
        coming = [change for change in schedule.changes if change > trainer.current_epoch]
        then = f"; the next change is at epoch {coming[0]}" if coming else ""
        if coming and trainer.max_epochs not in (None, -1) and coming[0] >= trainer.max_epochs:
            then = f"; the change at epoch {coming[0]} comes after the end of this training"
        rank_zero_info(
            f"BackboneFreezing: from epoch {trainer.current_epoch} {now[0]:,} parameters are trained, {now[1]:,} are"
            f" frozen{then}."
        )
        scalars = {"backbone_freezing/trained_parameters": now[0], "backbone_freezing/frozen_parameters": now[1]}
        log_scalars(trainer, scalars, trainer.global_step)


def _is_plan(plan: Any) -> bool:
    """Whether it is names for epochs."""
    if not isinstance(plan, Mapping) or not plan:
        return False
    lists = [[entry] if isinstance(entry, str) else entry for entry in plan.values()]
    are_names = all(isinstance(names, Sequence) and all(isinstance(name, str) for name in names) for names in lists)
    return are_names and all(is_count(epoch, 0) for epoch in plan)
