"""Small networks with a loss, and everything that a measurement must not change."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import lightning_hp.functional as hpf


def net(*, norm: bool = True, dropout: bool = True, width: int = 6) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, width, 3), nn.BatchNorm2d(width) if norm else nn.Identity(), nn.Tanh(), nn.Flatten()]
        made = nn.Sequential(*layers, nn.Dropout(0.5 if dropout else 0.0), nn.Linear(width * 16, 3))
        made(torch.randn(20, 1, 6, 6))  # running statistics of their own
        return made


def batches(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(size, 1, 6, 6, generator=generator), torch.randint(3, (size,), generator=generator))
        for size in sizes
    ]


def loss_of(model: nn.Module, *sizes: int, **options: Any) -> hpf.BatchLoss:
    return hpf.BatchLoss(model, batches(*(sizes or (16,))), nn.functional.cross_entropy, **options)


def state_of(model: nn.Module) -> list[Any]:
    """Weights, buffers, gradients, flags and random state, in bytes; and which tensor each of them is."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    kind, keys, *rest = np.random.get_state()
    return [
        {name: (id(one), one.data_ptr(), one.detach().numpy().tobytes()) for name, one in tensors.items()},
        [(id(p.grad), None if p.grad is None else p.grad.numpy().tobytes()) for p in model.parameters()],
        [(module.training, one.requires_grad) for module in model.modules() for one in module.parameters()],
        [torch.get_rng_state().numpy().tobytes(), kind, keys.tobytes(), rest, random.getstate()],
        [torch.is_grad_enabled(), torch.is_inference_mode_enabled()],
    ]


def at(model: nn.Module, directions: list[list[Tensor]], coordinates: tuple[float, ...]) -> nn.Module:
    """A copy of a model at other weights."""
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for number, parameter in enumerate(moved.parameters()):
            for direction, coordinate in zip(directions, coordinates, strict=True):
                parameter += coordinate * direction[number]
    return moved


def flat(tensors: Any) -> Tensor:
    return torch.cat([one.detach().double().flatten() for one in tensors])
