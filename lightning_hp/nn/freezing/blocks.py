"""The blocks of a backbone in order, and a cut of them into stages: what is unfrozen together."""

from __future__ import annotations

from itertools import pairwise

from torch import nn
from torch.nn import Parameter

from lightning_hp.functional.norm_layers import is_norm

# Exactly these: a subclass, such as an MLP, is a layer of its own rather than a list of layers.
_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

Block = tuple[str, list[Parameter]]


def blocks_of(backbone: nn.Module) -> list[Block]:
    """Name and parameters of each block of a backbone, in the order in which it registers them: input first.

    The layers of a list (``Sequential``, ``ModuleList``) are blocks, whether the list is the backbone's own or inside a
    part of it such as its encoder; lists inside such a layer are not opened. Everything else is one block. A
    normalisation layer goes with the block before it, and parameters that belong to an opened module itself (a class
    token, position embeddings) with the first block in it.

    Args:
        backbone: A module with parameters.

    Example:
        >>> layers = [nn.Linear(2, 2) for _ in range(3)]
        >>> [name for name, _ in blocks_of(nn.Sequential(nn.Embedding(9, 2), nn.LayerNorm(2), nn.Sequential(*layers)))]
        ['0', '2.0', '2.1', '2.2']

    """
    blocks: list[Block] = []
    waiting: list[Parameter] = []

    def add(name: str, module: nn.Module, *, always: bool, in_list: bool) -> None:
        children = _with_parameters(module)
        is_list = type(module) in _LISTS and len(children) > 1
        if children and (always or is_list or (not in_list and any(map(_is_list_of_layers, module.modules())))):
            waiting.extend(module.parameters(recurse=False))
            for child_name, child in children.items():
                path = f"{name}.{child_name}" if name else child_name
                add(path, child, always=len(children) == 1 and not in_list, in_list=in_list or is_list)
            return
        parameters = [*waiting, *module.parameters()]
        waiting.clear()
        if is_norm(module) and blocks:
            blocks[-1][1].extend(parameters)
        else:
            blocks.append((name, parameters))

    add("", backbone, always=True, in_list=False)
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


def _is_list_of_layers(module: nn.Module) -> bool:
    """Whether it is a list of several layers of one kind."""
    children = _with_parameters(module).values()
    return type(module) in _LISTS and len(children) > 1 and len({type(child) for child in children}) == 1


def _with_parameters(module: nn.Module) -> dict[str, nn.Module]:
    return {name: child for name, child in module.named_children() if any(True for _ in child.parameters())}
