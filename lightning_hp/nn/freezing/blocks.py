"""The blocks of a backbone in order, and their division into stages that are unfrozen together."""

from __future__ import annotations

from itertools import pairwise

from torch import nn
from torch.nn import Parameter

from lightning_hp.functional.norm_layers import is_norm_layer

# Exactly these classes: a subclass, such as an MLP, is a layer and not a list of layers.
_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

Block = tuple[str, list[Parameter]]


def blocks_of(backbone: nn.Module) -> list[Block]:
    """Name and parameters of each block of a backbone, in the order in which it registers them: input first.

    Each layer of a list (``Sequential``, ``ModuleList``, ``ModuleDict``) is a block. The list may be the backbone
    itself or lie inside a part of it, such as its encoder. Lists inside such a layer are not divided further.
    Everything else is one block. A normalisation layer belongs to the block before it. The own parameters of a module
    that is divided (a class token, position embeddings) belong to the first block in it.

    Args:
        backbone: A module with parameters.

    Returns:
        The blocks. A parameter that several blocks share is in each of them.

    Example:
        >>> layers = [nn.Linear(2, 2) for _ in range(3)]
        >>> [name for name, _ in blocks_of(nn.Sequential(nn.Embedding(9, 2), nn.LayerNorm(2), nn.Sequential(*layers)))]
        ['0', '2.0', '2.1', '2.2']

    """
    blocks: list[Block] = []
    for_next_block: list[Parameter] = []

    def add(name: str, module: nn.Module, *, divide: bool, in_list: bool) -> None:
        children = children_with_parameters(module)
        is_list = type(module) in _LISTS and len(children) > 1
        if children and (divide or is_list or (not in_list and any(map(_is_list_of_layers, module.modules())))):
            for_next_block.extend(module.parameters(recurse=False))
            for child_name, child in children.items():
                path = f"{name}.{child_name}" if name else child_name
                add(path, child, divide=len(children) == 1 and not in_list, in_list=in_list or is_list)
            return
        parameters = [*for_next_block, *module.parameters()]
        for_next_block.clear()
        if is_norm_layer(module) and blocks:
            blocks[-1][1].extend(parameters)
        else:
            blocks.append((name, parameters))

    add("", backbone, divide=True, in_list=False)
    return blocks


def stages_of(backbone: nn.Module, num_stages: int) -> list[list[Block]]:
    """Divides the blocks of a backbone into stages of about equal numbers of blocks.

    Args:
        backbone: A module with parameters.
        num_stages: Number of stages, >= 1. If the blocks cannot be divided equally, the lower stages are larger.

    Returns:
        The stages, the one next to the head first.

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
        raise ValueError(f"Expected `stages` <= {len(blocks)}, the number of blocks ({names}), but got {num_stages}.")
    # Rounding down from the top puts the remaining blocks into the lower stages.
    ends = [len(blocks) - len(blocks) * done // num_stages for done in range(num_stages + 1)]
    return [blocks[low:high] for high, low in pairwise(ends)]


def _is_list_of_layers(module: nn.Module) -> bool:
    """Whether it is a list of several layers of one class."""
    children = children_with_parameters(module).values()
    return type(module) in _LISTS and len(children) > 1 and len({type(child) for child in children}) == 1


def children_with_parameters(module: nn.Module) -> dict[str, nn.Module]:
    """The direct submodules that contain a parameter, by name."""
    return {name: child for name, child in module.named_children() if any(True for _ in child.parameters())}
