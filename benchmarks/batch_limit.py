"""The share of the true limit that a search finds when memory really ends: an address space limit in a process.

Every search and every trial of the truth gets a process of its own, forked from one that has only imported, in which
``RLIMIT_AS`` is then set to what is in use and some more. The truth is the largest batch at which a plain ``fit`` of
five steps and two batches of validation comes through, found by bisection to a hundredth.
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

from benchmarks.batch_search import MAX_VAL, METHODS, Data, Search, Subject, search
from benchmarks.tasks import cnn
from lightning_hp.memory.limits import status

ROOMS = (512, 1024)  # MiB
EXACT = 0.01


def wide(width: int, depth: int) -> nn.Module:
    """Much memory for little work."""
    layers = [layer for _ in range(depth) for layer in (nn.GELU(), nn.LayerNorm(width))]
    return nn.Sequential(nn.Linear(64, width), *layers, nn.Linear(width, 10))


SUBJECTS = (
    Subject("wide MLP 64-8192-10", partial(wide, 8192, 4), (64,)),
    Subject("CNN with BatchNorm 14x14", partial(cnn, 16, 10), (1, 14, 14)),
)


@dataclass(frozen=True)
class Limit:
    """The true limit of a subject, and what each method finds of it."""

    subject: str
    room: int
    truth: int
    searches: list[Search]


def run_all(subjects: Sequence[Subject] = SUBJECTS, rooms: Sequence[int] = ROOMS) -> list[Limit]:
    """Every method on every subject with every room."""
    limits = []
    for subject in subjects:
        for room in rooms:
            truth = true_limit(subject, room)
            searches = [_in_process(subject, room, method, 16) for method in METHODS]
            limits.append(Limit(subject.name, room, truth, searches))
            print(f"batch limit: {subject.name} with {room} MiB done", flush=True)
    return limits


def true_limit(subject: Subject, room: int) -> int:
    """By bisection, each size in a fresh process."""
    low, high = 0, MAX_VAL + 1
    while high - low > max(1, EXACT * low):
        middle = (low + high) // 2
        survived = _in_process(subject, room, "Trainer.fit", middle).survived
        low, high = (middle, high) if survived else (low, middle)
    return low


def _in_process(subject: Subject, room: int, method: str, batch_size: int) -> Search:
    """One search, or one plain fit, in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_limited, args=(subject, room, method, batch_size, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()  # type: ignore[no-any-return]
    except EOFError:
        return Search(method, None, 0, 0, 0, 0, math.nan, error="the process ended")
    finally:
        process.join()


def _limited(subject: Subject, room: int, method: str, batch_size: int, sender: Connection[Any, Any]) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    limit = status("VmSize")[0] + room * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    sender.send(search(method, subject, Data(subject.shape), batch_size=batch_size, limit_val_batches=2))
