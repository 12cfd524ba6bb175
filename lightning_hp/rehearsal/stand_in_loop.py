"""The fit loop that replaces the Trainer's own during a rehearsal, and one batch of its validation loop."""

from __future__ import annotations

import copy
from typing import Any

from lightning_hp.rehearsal.recorder import LoopLeft, LossRecorder
from lightning_hp.trainer import LoopLoaders, copy_loaders, end_workers


def new_loop(trainer: Any) -> Any:
    """A fit loop that has not started, with the limits of the Trainer's own."""
    loop = trainer.fit_loop
    new: Any = type(loop)(trainer, min_epochs=loop.min_epochs, max_epochs=loop.max_epochs)
    new.epoch_loop = type(loop.epoch_loop)(trainer, loop.epoch_loop.min_steps, loop.epoch_loop.max_steps)
    return new


def make_stand_in_loop(trainer: Any, loaders: Any) -> Any:
    """A fit loop like the Trainer's, with a copy of its progress, over other loaders; it shows those of validation."""
    loop, stand_in = trainer.fit_loop, new_loop(trainer)
    copy_progress(loop, stand_in)
    stand_in._data_source = type(loop._data_source)(loaders, loop._data_source.name)
    shown, own = stand_in.epoch_loop.val_loop, loop.epoch_loop.val_loop
    if own._combined_loader is not None:
        shown._combined_loader, shown._max_batches = copy_loaders(own._combined_loader), list(own._max_batches)
    return stand_in


def validation_loaders(trainer: Any, pl_module: Any) -> Any:
    """Copies of the loaders of the validation that a training shows from its start; ``None`` if it shows none.

    A hook that builds them is called without effects.

    Args:
        trainer: A Trainer before its training.
        pl_module: Its module.

    """
    epoch_loop = trainer.fit_loop.epoch_loop
    is_checked = trainer.num_sanity_val_steps > 0 or epoch_loop._should_check_val_epoch()
    if epoch_loop.val_loop._combined_loader is not None or not trainer.enable_validation or not is_checked:
        return None
    source = LoopLoaders(trainer, epoch_loop.val_loop)
    if source.hook_owner is None:
        return copy_loaders(source.build())
    with source.building_without_effects(pl_module) as build:
        return copy_loaders(build())


def show_validation(trainer: Any, loaders: Any) -> None:
    """Lets the stand-in loop of a Trainer show these loaders of the validation, which does not run."""
    loop, stage = trainer.fit_loop.epoch_loop.val_loop, trainer.state.stage
    own = loop._data_source
    loop._data_source = type(own)(loaders, own.name)
    try:
        trainer.validating = True
        loop.setup_data()
    finally:
        loop._data_source, trainer.state.stage = own, stage


def copy_progress(source: Any, target: Any) -> None:
    """Copies the counters of a fit loop to another one: epochs, batches, and optimizer steps (``global_step``)."""
    for original, copied, names in (
        (source, target, ("epoch_progress",)),
        (source.epoch_loop, target.epoch_loop, ("batch_progress", "_batches_that_stepped")),
        (source.epoch_loop.automatic_optimization, target.epoch_loop.automatic_optimization, ("optim_progress",)),
        (source.epoch_loop.manual_optimization, target.epoch_loop.manual_optimization, ("optim_step_progress",)),
    ):
        for name in names:
            setattr(copied, name, copy.deepcopy(getattr(original, name)))


def run_one_validation_batch(trainer: Any, source: Any, recorder: LossRecorder) -> bool:
    """Runs the validation loop of a rehearsal and leaves it after its first batch, before metrics are computed.

    Args:
        trainer: A Trainer in a rehearsal.
        source: The data source of the validation loaders.
        recorder: The rehearsal's recorder, one of the Trainer's callbacks.

    Returns:
        Whether there was a batch.

    """
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop._data_source, loop._combined_loader = source, None
    if not trainer.enable_validation:
        return False

    stage, recorder.leaves_in = trainer.state.stage, "on_validation_batch_end"
    trainer.validating = True
    try:
        loop.run()
    except LoopLeft:
        loop._module_mode.restore(trainer.lightning_module)
        return True
    finally:
        trainer.state.stage, recorder.leaves_in = stage, None
        end_workers(loop)
    return False
