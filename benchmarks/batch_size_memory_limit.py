"""Batch-size searches in limited memory: the share of the true limit that each of them finds.

Every search and every trial for the true limit runs in a process of its own, forked from one that has only imported
modules. ``RLIMIT_AS`` then limits its address space to what is in use plus some MiB. The true limit is the largest
batch size at which a ``fit`` of five steps and two validation batches succeeds, found by bisection to 1%.
"""

from __future__ import annotations

import math
import multiprocessing
import resource
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import nn

from benchmarks.batch_size_search import MAX_VAL, METHODS, Data, Model, Search, search
from benchmarks.tasks import cnn
from lightning_hp.memory.limits import status

AVAILABLE_MIB = (512, 1024)
TOLERANCE = 0.01  # of the bisection


def wide(width: int, depth: int) -> nn.Module:
    """A model whose activations take much memory in relation to its computation."""
    layers = [layer for _ in range(depth) for layer in (nn.GELU(), nn.LayerNorm(width))]
    return nn.Sequential(nn.Linear(64, width), *layers, nn.Linear(width, 10))


MODELS = (
    Model("wide MLP 64-8192-10", partial(wide, 8192, 4), (64,)),
    Model("CNN with BatchNorm 14x14", partial(cnn, 16, 10), (1, 14, 14)),
)


@dataclass(frozen=True)
class Limit:
    """The true limit of a model, and the searches of each method."""

    model: str
    available_mib: int
    truth: int
    searches: list[Search]


def run_all(models: Sequence[Model] = MODELS, available_mib: Sequence[int] = AVAILABLE_MIB) -> list[Limit]:
    """Runs every method on every model with every amount of memory."""
    limits = []
    for model in models:
        for available in available_mib:
            truth = true_limit(model, available)
            searches = [_in_process(model, available, method, 16) for method in METHODS]
            limits.append(Limit(model.name, available, truth, searches))
            print(f"batch size, memory limit: finished {model.name} with {available} MiB", flush=True)
    return limits


def true_limit(model: Model, available: int) -> int:
    """The largest batch size that fits, by bisection, each size in a new process."""
    low, high = 0, MAX_VAL + 1
    while high - low > max(1, TOLERANCE * low):
        middle = (low + high) // 2
        survived = _in_process(model, available, "Trainer.fit", middle).survived
        low, high = (middle, high) if survived else (low, middle)
    return low


def _in_process(model: Model, available: int, method: str, batch_size: int) -> Search:
    """Runs one search, or one ``fit``, in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_limited, args=(model, available, method, batch_size, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()  # type: ignore[no-any-return]
    except EOFError:
        return Search(method, None, 0, 0, 0, 0, math.nan, error="the process was killed")
    finally:
        process.join()


def _limited(model: Model, available: int, method: str, batch_size: int, sender: Connection[Any, Any]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    limit = status("VmSize")[0] + available * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    sender.send(search(method, model, Data(model.shape), batch_size=batch_size, limit_val_batches=2))
