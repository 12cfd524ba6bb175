"""Which callbacks act in a rehearsal: those that declare that they change a training step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_info

from lightning_hp.trainer import lightning_module_of

# The callbacks of these packages are known: those that change a step declare it.
_LIBRARIES = ("lightning", "pytorch_lightning", "lightning_hp")

_STEP_HOOKS = (
    "on_train_start",
    "on_train_batch_start",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_before_zero_grad",
)


def changes_gradients(callback: Any) -> bool:
    """Whether a callback is part of a training step and therefore acts in a rehearsal.

    A callback declares it with the class attribute ``changes_gradients = True``. In a rehearsal its hooks of the batch,
    the backward pass and the optimizer step are called, and before the first batch ``on_train_start`` and
    ``on_train_epoch_start``; it must be ready after ``setup``. Its attributes are restored afterwards. Declare it for
    callbacks that freeze layers, mix samples or edit gradients, not for those that only observe. Lightning's
    ``GradientAccumulationScheduler`` acts too.

    Args:
        callback: A callback.

    Example:
        >>> from pytorch_lightning import Callback
        >>> class NoisyGradients(Callback):
        ...     changes_gradients = True
        >>> changes_gradients(NoisyGradients()), changes_gradients(Callback())
        (True, False)

    """
    return bool(getattr(callback, "changes_gradients", False)) or is_accumulation_scheduler(callback)


def is_accumulation_scheduler(callback: Any) -> bool:
    """Whether a callback is Lightning's own that sets the number of batches of an optimizer step, in either package."""
    return any(base.__name__ == "GradientAccumulationScheduler" for base in type(callback).__mro__)


def participants(trainer: Any) -> list[Any]:
    """The callbacks of a Trainer that act in a rehearsal."""
    return [callback for callback in trainer.callbacks if changes_gradients(callback)]


@contextmanager
def at_heaviest_step(trainer: Any) -> Iterator[None]:
    """Within the ``with`` block the participating callbacks act as in their step that takes the most memory.

    A batch size has to fit during the whole training. A callback whose steps grow, for example one that unfreezes
    layers, offers a context manager ``heaviest_step(trainer)``, within which each step takes as much as the largest.
    """
    with ExitStack() as stack:
        for callback in participants(trainer):
            if hasattr(callback, "heaviest_step"):
                stack.enter_context(callback.heaviest_step(trainer))
        yield


def undecided_callbacks(trainer: Any) -> list[str]:
    """Class names of the user's callbacks that override a hook of a step and do not declare ``changes_gradients``."""
    is_overridden = lightning_module_of(trainer, "utilities.model_helpers").is_overridden
    return [
        type(callback).__name__
        for callback in trainer.callbacks
        if not hasattr(callback, "changes_gradients")
        and type(callback).__module__.partition(".")[0] not in _LIBRARIES
        and any(is_overridden(hook, callback) for hook in _STEP_HOOKS)
    ]


def name_undecided_callbacks(who: str, trainer: Any) -> None:
    """Logs once which callbacks are left out of the rehearsal although they may change a step."""
    if undecided := undecided_callbacks(trainer):
        rank_zero_info(
            f"{who}: {', '.join(undecided)} did not act in the rehearsal. A callback that changes the gradients needs"
            " the class attribute `changes_gradients = True`; with `changes_gradients = False` this message ends."
        )
