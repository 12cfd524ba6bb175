"""Run a model without running it: a twin of the same structure, whose tensors have a shape and no numbers.

Nothing of the model itself takes part, so its weights, buffers, caches, counters, flags and hooks cannot change, and a
network of any size costs milliseconds and no memory. Where a model needs real numbers to decide what it does, a real
copy is run instead, and thrown away.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

Result = TypeVar("Result")

#: Samples in a dry run: batch norm cannot train on one.
BATCH = 2

#: ``meta``: no numbers; ``meta+``: tensors that the model makes by itself have none either; ``real``: a real copy.
Mode = Literal["meta", "meta+", "real"]


class CannotCopyError(ValueError):
    """A model cannot be deep-copied, so no input will help."""


@dataclass(frozen=True)
class Spec:
    """What a model takes: for each input its name (``None``: by position), its shape without the batch, its dtype."""

    inputs: tuple[tuple[str | None, tuple[int, ...], torch.dtype], ...]

    def __str__(self) -> str:
        return ", ".join(f"{name or 'input'} {tuple(shape)}" for name, shape, _ in self.inputs)

    def without_masks(self) -> Spec:
        """The same without attention masks, in whose numbers Hugging Face looks for padding."""
        return Spec(tuple(entry for entry in self.inputs if entry[0] is None or "attention_mask" not in entry[0]))

    def make(self, batch_size: int, device: torch.device | str) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Inputs of that kind: zeros, and ones for a mask, so that nothing is padding."""
        args, kwargs = [], {}
        for name, shape, dtype in self.inputs:
            fill = torch.ones if name is not None and "mask" in name else torch.zeros
            value = fill((batch_size, *shape), dtype=dtype, device=device)
            if name is None:
                args.append(value)
            else:
                kwargs[name] = value
        return args, kwargs


@dataclass(frozen=True)
class DryRun:
    """How a model can be run dry: on which input, and in which mode."""

    spec: Spec
    mode: Mode

    def twin(self, model: nn.Module) -> nn.Module:
        """A copy of the model to be run and thrown away."""
        return _twin(model, self.mode)

    def __call__(self, twin: nn.Module, training: bool = False, grad: bool = False, **kwargs: Any) -> Any:
        """What the twin returns for a batch of two; the twin is in ``training`` mode from then on."""
        device = _device_of(twin) if self.mode == "real" else torch.device("meta")
        args, named = self.spec.make(BATCH, device)
        inside = torch.device("meta") if self.mode == "meta+" else nullcontext()
        twin.train(training)
        with torch.inference_mode(False), torch.set_grad_enabled(grad), random_streams_kept(), inside:
            return twin(*args, **named, **kwargs)


def find_dry_run(
    model: nn.Module, specs: Sequence[Spec], attempt: Callable[[DryRun], Result], may_be_real: bool = True
) -> tuple[DryRun, Result]:
    """The first way in which the model runs, cheap ones first, and what ``attempt`` made of it.

    Args:
        model: The model.
        specs: What to try as its input, the likeliest first.
        attempt: Runs it and makes something of what it returns.
        may_be_real: Whether a real copy may be run, if there is no other way.

    Returns:
        The way, and what was made of it.

    Raises:
        ValueError: If it runs in none.

    """
    has_numbers = not any(parameter.is_meta for parameter in model.parameters())
    modes: tuple[Mode, ...] = ("meta", "meta+", "real") if may_be_real and has_numbers else ("meta", "meta+")
    last: Exception | None = None
    for mode in modes:
        for spec in specs:
            dry_run = DryRun(spec, mode)
            try:
                return dry_run, attempt(dry_run)
            except CannotCopyError:
                raise
            except Exception as error:  # noqa: BLE001 - what a model may raise on a wrong input has no end
                last = error
    tried = "; ".join(map(str, specs)) or "nothing"
    raise ValueError(
        f"Expected a {type(model).__name__} that can be run once to see how wide its features are, but it fails on "
        f"every input that was tried ({tried}), the last time with {type(last).__name__}: {last}. Pass "
        "`example_input`, a batch as it will be trained on."
    ) from last


def _twin(model: nn.Module, mode: Mode) -> nn.Module:
    memo: dict[int, Any] = {}
    for part in model.modules():
        # Hooks are the user's: one that records would record the twin.
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            if hooks := vars(part).get(name):
                memo[id(hooks)] = type(hooks)()
        if mode != "real":
            memo.update((id(tensor), _hollow(tensor)) for tensor in _tensors_of(part))
    twin = deep_copy(model, memo)
    for parameter in twin.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return twin


def deep_copy(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A copy that shares nothing with the model, but for what ``memo`` says.

    Raises:
        CannotCopyError: If a part of it cannot be copied.

    """
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise CannotCopyError(
            f"Expected a {type(model).__name__} that can be deep-copied, but got {type(error).__name__}: {error}. Pass "
            "copy=False to take the head off the model itself."
        ) from error


def _tensors_of(part: nn.Module) -> Iterator[Tensor]:
    """Parameters, buffers, and tensors that a module holds as plain attributes."""
    yield from part.parameters(recurse=False)
    yield from part.buffers(recurse=False)
    for value in vars(part).values():
        held = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else (value,)
        yield from (tensor for tensor in held if isinstance(tensor, Tensor))


def _hollow(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta", requires_grad=False)
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty


def _device_of(module: nn.Module) -> torch.device:
    held = next(module.parameters(), None)
    return torch.device("cpu") if held is None else held.device


@contextmanager
def random_streams_kept() -> Iterator[None]:
    """Puts the random streams of Python, NumPy and torch back: some models draw in their forward pass."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global stream is the user's
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
