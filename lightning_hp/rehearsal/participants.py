"""Which callbacks act in a rehearsal: those that say that they are part of what a training step is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from pytorch_lightning import Callback
from pytorch_lightning.utilities import rank_zero_info

# Lightning's own callback that decides how many batches make a step.
_STEP_CALLBACKS = ("GradientAccumulationScheduler",)

# Callbacks of these packages are known: what they have to say, they say.
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
    """Whether a callback is part of what a training step *is*, and so acts in a rehearsal.

    A callback says so with a class attribute ``changes_gradients = True``. It then sees every hook of the batch, the
    backward pass and the optimizer step, and ``on_train_start`` and ``on_train_epoch_start`` before the first one; it
    must be ready after ``setup``. Its attributes are put back afterwards like everything else. Say it of callbacks
    that freeze layers, mix samples, or edit gradients, not of those that watch.

    Example:
        >>> class NoisyGradients(Callback):
        ...     changes_gradients = True
        >>> changes_gradients(NoisyGradients()), changes_gradients(Callback())
        (True, False)

    """
    declared = bool(getattr(callback, "changes_gradients", False))
    return declared or any(base.__name__ in _STEP_CALLBACKS for base in type(callback).__mro__)


def gradient_callbacks(trainer: Any) -> list[Any]:
    """The callbacks of a Trainer that act in a rehearsal."""
    return [callback for callback in trainer.callbacks if changes_gradients(callback)]


@contextmanager
def at_heaviest(trainer: Any) -> Iterator[None]:
    """Lets the callbacks that act in a rehearsal show the step of theirs that takes the most memory.

    What is measured now has to hold for the whole training. A callback whose steps grow in the course of it, one that
    unfreezes layers for instance, offers a context manager ``heaviest_step(trainer)``: within it every step is as large
    as its largest one will be.
    """
    with ExitStack() as stack:
        for callback in gradient_callbacks(trainer):
            if hasattr(callback, "heaviest_step"):
                stack.enter_context(callback.heaviest_step(trainer))
        yield


def undecided_callbacks(trainer: Any) -> list[str]:
    """Class names of the user's own callbacks that could shape a step and do not say whether they do."""
    return [
        type(callback).__name__
        for callback in trainer.callbacks
        if not hasattr(callback, "changes_gradients")
        and type(callback).__module__.partition(".")[0] not in _LIBRARIES
        and any(getattr(type(callback), hook) is not getattr(Callback, hook) for hook in _STEP_HOOKS)
    ]


def name_undecided_callbacks(who: str, trainer: Any) -> None:
    """Says once which of the user's callbacks could shape a step and do not say whether they do."""
    if undecided := undecided_callbacks(trainer):
        rank_zero_info(
            f"{who}: {', '.join(undecided)} only watched, if at all: a callback that changes the gradients takes"
            " part when it has the class attribute `changes_gradients = True`; `False` says that it does not."
        )
