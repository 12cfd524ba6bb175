"""The hooks between a moment of a training and its next batch, called in a rehearsal: steps may need what they do.

What they do to the module, the callbacks and the data is undone after the rehearsal, and the training calls them again.
What they do elsewhere stays: a directory that a hook has made exists when the training calls it. So a hook of the
module is called twice before the first rehearsed step, from the same state. One that fails the second time would fail
in the training, and is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_info

from lightning_hp.trainer import lightning_module_of, misconfiguration, no_op


@dataclass(frozen=True)
class Moment:
    """Where in a training a rehearsal begins, and which epochs it goes through.

    Attributes:
        hooks: The hooks that the training still has to call before its next batch, in their order.
        caller: The callback in whose hook, the first of them, this is: callbacks before it have had that hook.
            ``None``: all of them had.
        end_epoch: The first epoch that is not rehearsed: further passes over the data belong to the one before it.
            ``None``: the end of the training.

    """

    hooks: tuple[str, ...]
    caller: Any = None
    end_epoch: int | None = None

    @property
    def is_before_training(self) -> bool:
        """Whether the training has not begun."""
        return "on_fit_start" in self.hooks


BEFORE_FIT = Moment(("on_fit_start", "on_train_start", "on_train_epoch_start"))
BEFORE_EPOCH = Moment(("on_train_epoch_start",))


def callbacks_until(caller: Any, callbacks: Sequence[Any]) -> list[Any]:
    """The callbacks of which the present hook was called: those up to ``caller``.

    Args:
        caller: The callback in whose hook this is; ``None``, or one that is not listed: after those of all callbacks.
        callbacks: Those of the Trainer, in their order.

    """
    place = next((place for place, callback in enumerate(callbacks) if callback is caller), len(callbacks))
    return list(callbacks[: place + 1])


def called_among(listed: Sequence[Any], caller: Any, callbacks: Sequence[Any]) -> list[Any]:
    """Those of some callbacks, or of what stands for them, of which the present hook was called.

    Args:
        listed: The ones that are asked for.
        caller: As for :func:`callbacks_until`.
        callbacks: Those of the Trainer, in their order.

    """
    called = callbacks_until(caller, callbacks)
    return [one for one in listed if one in called]


@contextmanager
def without_hook(callbacks: Sequence[Any], name: str) -> Iterator[None]:
    """Within the ``with`` block a hook of some callbacks, or of what stands for them, does nothing."""
    own = [vars(callback).get(name) for callback in callbacks]  # a function that was set on the object
    try:
        for callback in callbacks:
            vars(callback)[name] = no_op
        yield
    finally:
        for callback, function in zip(callbacks, own, strict=True):
            vars(callback).pop(name, None)
            if function is not None:
                vars(callback)[name] = function


class Hooks:
    """Some hooks of a module, and of the callbacks that act in a rehearsal.

    Args:
        trainer: The Trainer.
        pl_module: Its module.
        names: The hooks, in the order of their calls.
        callbacks: The callbacks that act.
        called: Those of them whose first hook of these was called already.

    """

    def __init__(
        self, trainer: Any, pl_module: Any, names: Sequence[str], callbacks: Sequence[Any], called: Sequence[Any]
    ) -> None:
        self._trainer = trainer
        self._module = pl_module
        self._names = tuple(names)
        self._called = list(called)
        self._follow_epochs = True
        self._call = lightning_module_of(trainer, "trainer.call")
        is_overridden = lightning_module_of(trainer, "utilities.model_helpers").is_overridden
        #: Whether the module has one of these hooks.
        self.are_of_module = any(is_overridden(name, pl_module) for name in self._names)
        #: Whether there may be anything to call.
        self.exist = self.are_of_module or bool(callbacks)

    def call(self) -> None:
        """Calls them."""
        for name in self._names:
            self._call_first_time(name)

    def call_again(self) -> None:
        """Calls them a second time.

        Raises:
            MisconfigurationException: If one fails.

        """
        name = ""
        try:
            for name in self._names:
                self._call_first_time(name)
        except Exception as error:
            raise misconfiguration(
                self._trainer,
                f"Expected a hook `{name}` that can be called twice, but got {type(error).__name__} in the second call"
                f" ({error}): it is called before the steps that are tried, and again by the training. Let it accept"
                " what the first call has left (`exist_ok=True`), or move this part to `setup`.",
            ) from error

    def call_of_later_epoch(self) -> None:
        """Calls ``on_train_epoch_start`` for an epoch that a rehearsal has come to.

        The validation between the epochs is not rehearsed. A hook that needs its results fails: no more are called.
        """
        if not self._follow_epochs:
            return
        name = "on_train_epoch_start"
        try:
            self._call_one(name)
        except Exception as error:  # noqa: BLE001 - whatever the user's code raises without what it needs
            self._follow_epochs = False
            rank_zero_info(
                f"Rehearsal: `{name}` raised {type(error).__name__} ({error}) in epoch {self._trainer.current_epoch},"
                " before which the rehearsal runs no validation. It is not called for later epochs of this rehearsal."
            )

    def _call_first_time(self, name: str) -> None:
        """Calls one that the training has still to call, without the callbacks of which it was called."""
        with without_hook(self._called if name == self._names[0] else (), name):
            self._call_one(name)

    def _call_one(self, name: str) -> None:
        self._call._call_callback_hooks(self._trainer, name)
        self._call._call_lightning_module_hook(self._trainer, name)
