"""Measures one optimizer step: the norms of the gradients of its micro-batches, and of their mean.

The gradient of a micro-batch arrives at each parameter before it is added to ``.grad``, and before DDP averages it over
the processes. Hooks on the parameters compute its norm there, so no gradient is copied and ``.grad`` is only read. The
mean over all micro-batches of all processes is what ``.grad`` has before clipping:

    for each micro-batch i of this process      small += |g_i|^2 / n
    before the optimizer step                   large  = |.grad|^2
    all-reduce of four numbers                  small, large, 1 / samples of a micro-batch, samples

Norms stay tensors on the device; :meth:`Norms.read` waits for them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_hp.functional.batch_size.noise_scale import gradient_and_noise
from lightning_hp.functional.gradients import total_norm
from lightning_hp.second_pass import optimized_parameters
from lightning_hp.trainer import misconfiguration
from lightning_hp.tuning.noise_scale.sample_counter import SampleCounter

# The squares of their numbers are summed in 32 bits.
_SHORT = (torch.float16, torch.bfloat16)


class Observation(NamedTuple):
    """What one optimizer step shows.

    Attributes:
        gradient: Estimate of |G|^2.
        noise: Estimate of S.
        num_samples: Samples of the step on all processes.

    """

    gradient: float
    noise: float
    num_samples: float


@dataclass(frozen=True)
class Norms:
    """The norms of one optimizer step.

    Attributes:
        values: Mean squared norm of the micro-batches' gradients, squared norm of their mean, and one over the samples
            of a micro-batch (one over the harmonic mean), samples of the step on a process, shape ``(4,)``, ``float64``
            or ``float32``.
        num_parts: Micro-batches in the mean, >= 2.
        num_batches: Micro-batches of the step on all processes.
        world_size: Processes.

    """

    values: Tensor
    num_parts: int
    num_batches: int
    world_size: int

    def read(self) -> Observation | None:
        """The numbers, from the device; ``None`` where a norm is not finite."""
        small, large, inverse, samples = self.values.tolist()
        batch = 1 / inverse
        if not (math.isfinite(small) and math.isfinite(large) and max(small, large) < 1e150):
            return None
        return Observation(*gradient_and_noise(small, large, batch, batch * self.num_parts), samples * self.world_size)


class StepMeter:
    """Measures one optimizer step; a context manager that removes its hooks.

    The caller calls a method at each hook of Lightning of the same name, before other callbacks do.

    Args:
        trainer: A Trainer with automatic optimization, on a single device or under DDP.
        samples: Counts the samples of its batches.
        keeps_sum: Whether the mean is computed here, which takes the memory of one gradient, instead of read from
            ``.grad``: for a step in which another gradient than that of the batch is given to the optimizer. It is the
            mean over this process.

    Attributes:
        norms: The norms of the step; ``None`` before its end, and if it has fewer than two micro-batches.
        is_ended: Whether the step has ended.

    """

    def __init__(self, trainer: Any, samples: SampleCounter, keeps_sum: bool = False) -> None:
        self._trainer = trainer
        self._counter = samples
        self._parameters = [p for p in optimized_parameters(trainer) if p.requires_grad]
        self._keeps_sum = keeps_sum
        self._sums: dict[int, Tensor] = {}
        self._batch_samples = 0
        self._squares: list[Tensor] = []
        self._sizes: list[int] = []
        self._part: dict[int, Tensor] = {}
        self._is_open = False
        self._handles: list[Any] = []
        self.norms: Norms | None = None
        self.is_ended = False

    def __enter__(self) -> StepMeter:
        self.add_hooks()
        return self

    def __exit__(self, *args: object) -> None:
        self.remove()

    def add_hooks(self) -> None:
        """Adds a hook to each parameter of the optimizer that is trained."""
        for index, parameter in enumerate(self._parameters):
            self._handles.append(parameter.register_hook(_Hook(self, index)))  # type: ignore[no-untyped-call]

    def remove(self) -> None:
        """Removes the hooks."""
        while self._handles:
            self._handles.pop().remove()
        self._sums, self._part = {}, {}
        self._is_open = False

    def on_train_batch_start(self, batch: Any) -> None:
        """Counts the samples of a micro-batch.

        Raises:
            MisconfigurationException: If they cannot be counted.

        """
        samples = self._counter.count(batch)
        if not samples:
            raise misconfiguration(
                self._trainer,
                "GradientNoiseScale: expected a batch whose samples can be counted, but got"
                f" {type(batch).__name__} without a tensor. Let the loader return tensors.",
            )
        self._batch_samples = samples

    def on_before_backward(self) -> None:
        """Begins a micro-batch."""
        self._is_open, self._part = True, {}

    @torch.no_grad()
    def on_after_backward(self) -> None:
        """Ends a micro-batch."""
        if self._is_open and self._parameters:
            norms = list(self._part.values())
            square = torch.stack(norms).square().sum() if norms else torch.zeros((), device=self._parameters[0].device)
            self._squares.append(square)
            self._sizes.append(self._batch_samples)
        self._is_open = False

    @torch.no_grad()
    def on_before_optimizer_step(self) -> None:
        """Ends the step; a collective call under DDP."""
        self.is_ended = True
        trainer, num = self._trainer, len(self._squares)
        num_parts = num if self._keeps_sum else num * trainer.world_size
        if num_parts < 2:
            return
        # Lightning divides each loss by the accumulation, also where an epoch ends with fewer batches.
        unit = self._loss_scale() / trainer.accumulate_grad_batches
        small = torch.stack(self._squares).mean() / unit**2
        if self._keeps_sum:
            large = total_norm(list(self._sums.values())).square() / (num * unit) ** 2
        else:
            # The precision plugin has divided these by the scale of the loss.
            gradients = [gradient for p in self._parameters if (gradient := p.grad) is not None]
            large = total_norm(gradients).square() * (trainer.accumulate_grad_batches / num) ** 2
        numbers = sum(1 / size for size in self._sizes) / num, sum(self._sizes)
        filled = [torch.full_like(small, number) for number in numbers]  # without a copy from the host
        values = torch.stack([small, large.to(small), *filled])
        if trainer.world_size > 1:
            torch.distributed.all_reduce(values)
            values /= trainer.world_size
        self.norms = Norms(values, num_parts, num * trainer.world_size, trainer.world_size)

    def see(self, index: int, gradient: Tensor) -> None:
        """Computes the norm of what one backward pass adds to the gradient of one parameter."""
        if not self._is_open:
            return
        if index in self._part:
            raise misconfiguration(
                self._trainer,
                "GradientNoiseScale: expected one backward pass for a batch, which reaches each parameter once, but got"
                " two gradients of one parameter. Call `backward` once, and use checkpointing with"
                " `use_reentrant=False`.",
            )
        gradient = gradient.detach()  # a backward pass with `create_graph` records what hooks compute
        if gradient.layout == torch.strided:
            dtype = torch.float32 if gradient.dtype in _SHORT else None
            self._part[index] = torch.linalg.vector_norm(gradient, dtype=dtype)
        else:
            self._part[index] = total_norm([gradient])
        if self._keeps_sum:
            if index in self._sums:
                self._sums[index] += gradient
            else:
                self._sums[index] = gradient.clone()

    def _loss_scale(self) -> Tensor:
        one = torch.ones((), device=self._parameters[0].device)
        scaler = getattr(self._trainer.precision_plugin, "scaler", None)
        scaled: Tensor = one if scaler is None else scaler.scale(one)
        return scaled


class _Hook:
    """The hook of one parameter. A gradient that a hook returns would replace the present one, so it returns none."""

    def __init__(self, meter: StepMeter, index: int) -> None:
        self._meter, self._index = meter, index

    def __call__(self, gradient: Tensor) -> None:
        self._meter.see(self._index, gradient)


def has_second_pass(trainer: Any) -> bool:
    """Whether a callback replaces the gradient of the batch by another one, as ``SAM`` does."""
    return any(base.__name__ == "SAM" for callback in trainer.callbacks for base in type(callback).__mro__)
