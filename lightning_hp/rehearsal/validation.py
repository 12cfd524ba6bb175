"""One batch of the validation of a training, by Lightning's own loop, left before anything is computed from it."""

from __future__ import annotations

from typing import Any

from lightning_hp.rehearsal.recorder import LossRecorder


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
