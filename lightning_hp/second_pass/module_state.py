"""The state that a user keeps on modules besides parameters: attributes, containers, arrays, random generators."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from lightning_hp.second_pass.reachable import Reachable
from lightning_hp.snapshot import restore_dict

# Of a longer container the items are not visited.
_MAX_VISITED_ITEMS = 100
_MAX_ARRAY_BYTES = 1 << 20

# The attributes of every module, none of which is written while it trains, except `training`.
_MODULE_ATTRIBUTES = frozenset(vars(nn.Module())) - {"training"}


class ModuleState:
    """The state on a module and its layers that are of a user's class.

    Args:
        module: The module. Layers that are added to it later are not visited.
        callbacks: The callbacks of its Trainer, which a step may write too.

    """

    def __init__(self, module: nn.Module, callbacks: Sequence[Any] = ()) -> None:
        self._callbacks = list(callbacks)
        layers = list(module.modules())
        self._owners = [vars(layer) for layer in layers if not _is_of_torch(type(layer))]
        # A layer of a user's class may register its first buffer in its first step.
        self._buffers = [layer._buffers for layer in layers if layer._buffers or not _is_of_torch(type(layer))]

    def visit(self, earlier: Reachable | None = None) -> Reachable:
        """What can be reached from the attributes of the layers, with all buffers, in its present state.

        Args:
            earlier: The state before a training step, if this is the one after it.

        """
        found = Reachable(_MAX_VISITED_ITEMS, _MAX_ARRAY_BYTES)
        roots: list[Any] = []
        for owner in self._owners:
            found.undo.append(partial(restore_dict, owner, dict(owner)))
            roots += [value for name, value in owner.items() if name not in _MODULE_ATTRIBUTES]
        for buffers in self._buffers:
            found.undo.append(partial(restore_dict, buffers, dict(buffers)))
            found.tensors += [buffer for buffer in buffers.values() if buffer is not None]
        found.visit(roots, earlier, self._callbacks)
        return found


def _is_of_torch(layer: type) -> bool:
    """Whether a module's class is torch's; a user's class from which FSDP2 has derived one is not."""
    return all(base.__module__.partition(".")[0] in ("torch", "builtins") for base in layer.__mro__)
