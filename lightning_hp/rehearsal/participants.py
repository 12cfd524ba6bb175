"""Which callbacks act in a rehearsal: those that declare that they change a training step.

Those that declare nothing are observed in one step, see ``observation``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_info

from lightning_hp.snapshot import Snapshot

# The callbacks of these packages are known: those that change a step declare it.
_LIBRARIES = ("lightning", "pytorch_lightning", "lightning_hp")

#: The hooks in which a callback may shape a step of ``fit``. Not `on_train_batch_end`, where callbacks print, plot and
#: write files, which an observed step cannot undo: one that changes the weights there declares it.
SHAPING_HOOKS = (
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_before_zero_grad",
    "on_validation_batch_start",
)

#: The hooks that are called in an observed step: those, what comes before them, and before a batch of the validation.
OBSERVED_HOOKS = ("on_fit_start", *SHAPING_HOOKS, "on_validation_start", "on_validation_epoch_start")


def evaluation_hooks(function: str) -> tuple[str, ...]:
    """The hooks up to a step of ``"validate"``, ``"test"`` or ``"predict"``; the last one may shape it."""
    stage = "validation" if function == "validate" else function
    return tuple(f"on_{stage}_{moment}" for moment in ("start", "epoch_start", "batch_start"))


def changes_gradients(callback: Any) -> bool:
    """Whether a callback is part of a training step and therefore acts in a rehearsal.

    A callback declares it with the class attribute ``changes_gradients = True``. In a rehearsal its hooks of the batch,
    the backward pass and the optimizer step are called, and before the first batch ``on_fit_start``,
    ``on_train_start`` and ``on_train_epoch_start``, as far as the training has not called them. Its attributes are
    restored afterwards. Declare it for callbacks that freeze layers, mix samples or edit gradients in some steps only,
    or set something in ``on_fit_start`` alone: one that shapes every step is recognized without it. With
    ``changes_gradients = False`` a callback never acts. Lightning's ``GradientAccumulationScheduler`` acts too.

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


def evaluation_participants(trainer: Any) -> list[Any]:
    """Those that act in a rehearsal of an evaluation: of the libraries none, which change training steps only."""
    return [callback for callback in participants(trainer) if not _is_known(callback)]


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


def undecided_callbacks(trainer: Any, hooks: Sequence[str] = SHAPING_HOOKS) -> list[Any]:
    """The user's callbacks that override one of the hooks of a step and do not declare ``changes_gradients``.

    A callback whose own state cannot be restored (it holds an open iterator) is none of them; a line in the log names
    it.
    """
    undecided = [
        callback
        for callback in trainer.callbacks
        if _declares_nothing(callback) and any(overrides(callback, hook) for hook in hooks)
    ]
    held = {id(callback): Snapshot(callback).unrestorable for callback in undecided}
    for callback in undecided:
        if found := held[id(callback)]:
            rank_zero_info(
                f"Rehearsal: {type(callback).__name__} does not act in the rehearsed steps, since it holds what cannot"
                f" be put back: {found[0]}. If it shapes the steps, let it keep a position instead of an iterator."
            )
    return [callback for callback in undecided if not held[id(callback)]]


def name_uncalled(later: Sequence[Any]) -> None:
    """Logs which callbacks have ``on_fit_start`` alone: it is not called in a rehearsal, since trackers start there.

    Args:
        later: The callbacks of which the training has not called ``on_fit_start``.

    """
    names = [
        type(callback).__name__
        for callback in later
        if _declares_nothing(callback)
        and overrides(callback, "on_fit_start")
        and not any(overrides(callback, hook) for hook in SHAPING_HOOKS)
    ]
    if names:
        rank_zero_info(
            f"Rehearsal: `on_fit_start` of {', '.join(names)} is not called. If it shapes the steps, set the class"
            " attribute `changes_gradients = True`, or put the callback before the one that rehearses."
        )


def _declares_nothing(callback: Any) -> bool:
    """Whether nobody says if a callback changes a step: neither it, nor what is known of its class."""
    is_silent = not hasattr(callback, "changes_gradients") and not changes_gradients(callback)
    return is_silent and not _is_known(callback)


def _is_known(callback: Any) -> bool:
    """Whether a callback is one of a library, and holds no functions of the user."""
    kind = type(callback)
    return _is_known_type(kind) and kind.__name__ != "LambdaCallback"


def overrides(callback: Any, hook: str) -> bool:
    """Whether a hook is not that of Lightning's ``Callback``, of either package."""
    bases = [base for base in type(callback).__mro__ if base.__name__ == "Callback" and _is_known_type(base)]
    own = getattr(callback, hook, None)
    return own is not None and all(getattr(own, "__func__", own) is not getattr(base, hook) for base in bases)


def _is_known_type(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in _LIBRARIES
