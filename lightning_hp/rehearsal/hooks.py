"""The hooks between the start of a training and its first batch, called in a rehearsal: steps may need what they do.

What they do to the module, the callbacks and the data is undone after the rehearsal, and the training calls them again.
What they do elsewhere stays: a directory that a hook has made exists when the training calls it. So a hook of the
module is called twice before the first rehearsed step, from the same state. One that fails the second time would fail
in the training, and is refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_hp.trainer import lightning_module_of, misconfiguration

#: The module's hooks that a training which starts now would still run before its first batch.
HOOKS_BEFORE_FIT = ("on_fit_start", "on_train_start", "on_train_epoch_start")
HOOKS_BEFORE_EPOCH = ("on_train_epoch_start",)


class Hooks:
    """Some hooks of a module, and of the callbacks that act in a rehearsal.

    Args:
        trainer: The Trainer.
        pl_module: Its module.
        names: The hooks, in the order of their calls.
        callbacks: The callbacks that act.

    """

    def __init__(self, trainer: Any, pl_module: Any, names: Sequence[str], callbacks: Sequence[Any]) -> None:
        self._trainer = trainer
        self._module = pl_module
        self._names = tuple(names)
        self._call = lightning_module_of(trainer, "trainer.call")
        is_overridden = lightning_module_of(trainer, "utilities.model_helpers").is_overridden
        #: Whether the module has one of these hooks.
        self.are_of_module = any(is_overridden(name, pl_module) for name in self._names)
        #: Whether there may be anything to call.
        self.exist = self.are_of_module or bool(callbacks)

    def call(self) -> None:
        """Calls them."""
        for name in self._names:
            self._call_one(name)

    def call_again(self) -> None:
        """Calls them a second time.

        Raises:
            MisconfigurationException: If one fails.

        """
        name = ""
        try:
            for name in self._names:
                self._call_one(name)
        except Exception as error:
            raise misconfiguration(
                self._trainer,
                f"Expected a hook `{name}` that can be called twice, but got {type(error).__name__} in the second call"
                f" ({error}): it is called before the steps that are tried, and again by the training. Let it accept"
                " what the first call has left (`exist_ok=True`), or move this part to `setup`.",
            ) from error

    def _call_one(self, name: str) -> None:
        if name != "on_fit_start":  # callbacks are ready after `setup`
            self._call._call_callback_hooks(self._trainer, name)
        self._call._call_lightning_module_hook(self._trainer, name)
