"""The understudy: a second fit loop that stands in for the user's as long as a rehearsal lasts."""

from __future__ import annotations

import copy
from typing import Any

from lightning_hp.rehearsal.recorder import LossRecorder


def fresh_loop(trainer: Any) -> Any:
    """A fit loop that has not begun, with the limits of the Trainer's own."""
    loop = trainer.fit_loop
    fresh: Any = type(loop)(trainer, min_epochs=loop.min_epochs, max_epochs=loop.max_epochs)
    fresh.epoch_loop = type(loop.epoch_loop)(trainer, loop.epoch_loop.min_steps, loop.epoch_loop.max_steps)
    return fresh


def make_understudy(trainer: Any, loaders: Any) -> Any:
    """A fit loop like the Trainer's, at the same place in the training, over other loaders."""
    loop, understudy = trainer.fit_loop, fresh_loop(trainer)
    for ours, theirs, names in (
        (understudy, loop, ("epoch_progress",)),
        (understudy.epoch_loop, loop.epoch_loop, ("batch_progress", "_batches_that_stepped")),
        (understudy.epoch_loop.automatic_optimization, loop.epoch_loop.automatic_optimization, ("optim_progress",)),
        (understudy.epoch_loop.manual_optimization, loop.epoch_loop.manual_optimization, ("optim_step_progress",)),
    ):
        for name in names:
            setattr(ours, name, copy.deepcopy(getattr(theirs, name)))
    understudy._data_source = type(loop._data_source)(loaders, loop._data_source.name)
    return understudy


class _Enough(Exception):  # noqa: N818 - no error: the way out of Lightning's loop after one batch
    pass


def run_one_validation_batch(trainer: Any, source: Any, recorder: LossRecorder) -> bool:
    """Runs the validation loop of a rehearsal until its first batch is through.

    Args:
        trainer: A Trainer in a rehearsal.
        source: Where the validation loaders come from.
        recorder: A callback of the rehearsal.

    Returns:
        Whether there was a batch.

    """
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop._data_source = source
    if not trainer.enable_validation:
        return False

    def leave() -> None:
        raise _Enough

    stage, recorder.on_validation_batch = trainer.state.stage, leave
    trainer.validating = True
    try:
        loop.run()
    except _Enough:
        loop._module_mode.restore(trainer.lightning_module)
        return True
    finally:
        trainer.state.stage, recorder.on_validation_batch = stage, None
        if loop._data_fetcher is not None:
            loop._data_fetcher.teardown()
    return False
