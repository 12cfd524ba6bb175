"""The blocks of a backbone in order, and a cut of them into stages: what is unfrozen together."""

from __future__ import annotations

from itertools import pairwise

from torch import nn
from torch.nn import Parameter

# Exactly these: a subclass, such as an MLP, is a layer of its own rather than a list of layers.
_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

Block = tuple[str, list[Parameter]]


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalisation layer, by its name: libraries bring their own (``LlamaRMSNorm``).

    Example:
        >>> is_norm(nn.BatchNorm2d(2)), is_norm(nn.LayerNorm(2)), is_norm(nn.Linear(2, 2))
        (True, True, False)

    """
    holds_something = any(True for _ in module.parameters(recurse=False)) or any(
        True for _ in module.buffers(recurse=False)
    )
    return holds_something and "norm" in type(module).__name__.lower()


def blocks_of(backbone: nn.Module) -> list[Block]:
    """Name and parameters of each block of a backbone, in the order in which it registers them: input first.

    A list of layers is as many blocks as it has layers; a module that holds more than half of all parameters is opened;
    everything else is one block. A normalisation layer goes with the block before it, and parameters that belong to an
    opened module itself (a class token, position embeddings) with the first block in it.

    Args:
        backbone: A module with parameters.

    Example:
        >>> layers = [nn.Linear(2, 2) for _ in range(3)]
        >>> [name for name, _ in blocks_of(nn.Sequential(nn.Embedding(9, 2), nn.LayerNorm(2), nn.Sequential(*layers)))]
        ['0', '2.0', '2.1', '2.2']

    """
    blocks: list[Block] = []
    waiting: list[Parameter] = []
    half = _size(backbone) / 2

    def add(name: str, module: nn.Module) -> None:
        children = [(child_name, child) for child_name, child in module.named_children() if _size(child)]
        is_list = type(module) in _LISTS and len(children) > 1
        if children and (is_list or _size(module) > half):
            waiting.extend(module.parameters(recurse=False))
            for child_name, child in children:
                add(f"{name}.{child_name}" if name else child_name, child)
            return
        parameters = [*waiting, *module.parameters()]
        waiting.clear()
        if is_norm(module) and blocks:
            blocks[-1][1].extend(parameters)
        else:
            blocks.append((name, parameters))

    add("", backbone)
    return blocks


def stages_of(backbone: nn.Module, num_stages: int) -> list[list[Block]]:
    """Cuts the blocks of a backbone into stages of as many blocks each, the one next to the head first.

    Args:
        backbone: A module with parameters.
        num_stages: How many, >= 1. Where they cannot be equal, the lower ones are larger.

    Raises:
        ValueError: If there are fewer blocks than stages.

    Example:
        >>> stages = stages_of(nn.Sequential(*(nn.Linear(2, 2) for _ in range(5))), 2)
        >>> [[name for name, _ in stage] for stage in stages]
        [['3', '4'], ['0', '1', '2']]

    """
    blocks = blocks_of(backbone)
    if num_stages > len(blocks):
        names = ", ".join(name or type(backbone).__name__ for name, _ in blocks)
        raise ValueError(f"Expected `stages` <= {len(blocks)}, the blocks there are ({names}), but got {num_stages}.")
    # The cut rounds down from the top, so that what is left over is at the bottom.
    ends = [len(blocks) - len(blocks) * done // num_stages for done in range(num_stages + 1)]
    return [blocks[low:high] for high, low in pairwise(ends)]


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
