"""Run a copy of a model on tensors of the meta device, which have a shape and a type but no data.

The model itself is not run, so its weights, buffers, caches, counters, flags and hooks cannot change, and a network of
any size takes milliseconds and no memory. If a model reads the values of tensors to decide what it computes, a copy
with its real weights is run instead and discarded.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from lightning_hp.nn.backbone.input_specs import InputSpec
from lightning_hp.snapshot import RandomState

_Result = TypeVar("_Result")

#: Samples in a dry run: batch norm cannot train on one.
BATCH_SIZE = 2

#: ``meta``: weights and inputs are on the meta device; ``meta+``: so are tensors that the model creates without a
#: device; ``real``: a copy with the real weights.
Mode = Literal["meta", "meta+", "real"]


class CannotCopyError(ValueError):
    """A model cannot be deep-copied, whatever its input."""


@dataclass(frozen=True)
class DryRun:
    """How a copy of a model can be run.

    Attributes:
        spec: The input.
        mode: What the copy consists of.
        device: Where the model is.

    """

    spec: InputSpec
    mode: Mode
    device: torch.device

    def copy_of(self, model: nn.Module) -> nn.Module:
        """A copy of the model that can be run, changed and discarded."""
        memo: dict[int, Any] = {}
        for part in model.modules():
            # Hooks of the user are left out: one that records would record this run.
            for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
                if hooks := vars(part).get(name):
                    memo[id(hooks)] = type(hooks)()
            if self.mode != "real":
                memo.update((id(tensor), _to_meta(tensor)) for tensor in _tensors_of(part))
        copied = deep_copy(model, memo)
        for parameter in copied.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        return copied

    def __call__(self, copied: nn.Module, training: bool = False, grad: bool = False, **kwargs: Any) -> Any:
        """Runs a copy on a batch of two samples.

        Args:
            copied: A copy made by `copy_of`; it stays in the mode that is set here.
            training: Whether to run it in training mode.
            grad: Whether to record the graph.
            **kwargs: Further arguments of the model.

        Returns:
            What the copy returns.

        """
        args, named = self.spec.make(BATCH_SIZE, self.device if self.mode == "real" else "meta")
        default_device = torch.device("meta") if self.mode == "meta+" else nullcontext()
        copied.train(training)
        random_state = RandomState(self.device)  # some models draw random numbers in `forward`
        try:
            with torch.inference_mode(False), torch.set_grad_enabled(grad), default_device:
                return copied(*args, **named, **kwargs)
        finally:
            random_state.restore()


def find_dry_run(
    model: nn.Module, specs: Sequence[InputSpec], attempt: Callable[[DryRun], _Result], may_be_real: bool = True
) -> tuple[DryRun, _Result]:
    """The first dry run that succeeds, cheap ones first.

    Args:
        model: The model.
        specs: Inputs to try, most likely first.
        attempt: Makes a dry run and evaluates what the model returns.
        may_be_real: Whether a copy with real weights may be run if all else fails.

    Returns:
        The dry run, and what ``attempt`` returned.

    Raises:
        CannotCopyError: If the model cannot be copied.
        ValueError: If no dry run succeeds.

    """
    has_data = not any(parameter.is_meta for parameter in model.parameters())
    modes: tuple[Mode, ...] = ("meta", "meta+", "real") if may_be_real and has_data else ("meta", "meta+")
    last_error: Exception | None = None
    for mode in modes:
        for spec in specs:
            dry_run = DryRun(spec, mode, _device_of(model))
            try:
                return dry_run, attempt(dry_run)
            except CannotCopyError:
                raise
            except Exception as error:  # noqa: BLE001 - a model may raise anything on a wrong input
                last_error = error
    tried = "; ".join(map(str, specs)) or "nothing"
    raise ValueError(
        f"Expected a {type(model).__name__} that can be run once to see how wide its features are, but it fails on "
        f"every input that was tried ({tried}), the last time with {type(last_error).__name__}: {last_error}. Pass "
        "`example_input`, a batch as it will be trained on."
    ) from last_error


def deep_copy(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """A deep copy of a model.

    Args:
        model: The model.
        memo: As for ``copy.deepcopy``: the copies of some objects, by the ids of these objects.

    Returns:
        The copy; it shares nothing with the model except what ``memo`` holds.

    Raises:
        CannotCopyError: If a part of the model cannot be copied.

    """
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise CannotCopyError(
            f"Expected a {type(model).__name__} that can be deep-copied, but got {type(error).__name__}: {error}. Pass "
            "copy=False to remove the head from the model itself."
        ) from error


def _tensors_of(part: nn.Module) -> Iterator[Tensor]:
    """Parameters, buffers, and tensors that a module holds in ordinary attributes."""
    yield from part.parameters(recurse=False)
    yield from part.buffers(recurse=False)
    for value in vars(part).values():
        values = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else (value,)
        yield from (tensor for tensor in values if isinstance(tensor, Tensor))


def _to_meta(tensor: Tensor) -> Tensor:
    """A tensor of the same shape and type on the meta device."""
    empty = torch.empty_like(tensor, device="meta", requires_grad=False)
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty


def _device_of(module: nn.Module) -> torch.device:
    """The device of the first parameter; the CPU if there is none."""
    parameter = next(module.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
