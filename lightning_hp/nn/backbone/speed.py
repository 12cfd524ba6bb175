"""How fast a model answers: the other half of choosing a backbone."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from lightning_hp.functional.checks import check_whole
from lightning_hp.nn.backbone.dry_run import Spec, random_streams_kept

_WARM_UP = 3


@dataclass(frozen=True)
class InferenceSpeed:
    """How fast and how large a model is, on the machine and with the threads it was measured with.

    Attributes:
        name: Of the model.
        latency_ms: Milliseconds for a batch of one sample, the median.
        latency_p90_ms: The same, not exceeded by nine of ten.
        throughput: Samples for each second in batches of `batch_size`, by the median.
        batch_size: Samples in a batch for `throughput`.
        parameters: Number of weights.
        feature_dim: Width of the features.
        input: What went in, without the batch.
        dtype: Type of the weights.
        device: Where it ran.

    Costs nothing; holds numbers only.

    Source: what MLPerf Inference calls single-stream latency and offline throughput, on a small scale.

    Example:
        >>> small = InferenceSpeed("A", 2.1, 2.4, 900.0, 32, 2_500_000, 576, "input (3, 224, 224)", "float32", "cpu")
        >>> large = InferenceSpeed("B", 9.8, 11.0, 150.0, 32, 25_000_000, 2048, "input (3, 224, 224)", "float32", "cpu")
        >>> min([large, small], key=lambda speed: speed.latency_ms).name
        'A'
        >>> print(small)
        A, 2.5 M parameters, 576 features: 2.1 ms for one sample, 900 samples/s in batches of 32
          input (3, 224, 224), float32 on cpu

    """

    name: str
    latency_ms: float
    latency_p90_ms: float
    throughput: float
    batch_size: int
    parameters: int
    feature_dim: int
    input: str
    dtype: str
    device: str

    def to_dict(self) -> dict[str, Any]:
        """Names and values, for a logger or a table."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.name}, {self.parameters / 1e6:.2g} M parameters, {self.feature_dim} features: "
            f"{self.latency_ms:.3g} ms for one sample, {self.throughput:.3g} samples/s in batches of "
            f"{self.batch_size}\n  {self.input}, {self.dtype} on {self.device}"
        )


def inference_speed(
    model: nn.Module, spec: Spec, name: str, feature_dim: int, batch_size: int, num_batches: int
) -> InferenceSpeed:
    """Times a model in evaluation mode, without gradients, where it is now.

    Raises:
        ValueError: If a number is out of its range, or the weights have no numbers.

    """
    batch_size = check_whole("batch_size", batch_size, least=1)
    num_batches = check_whole("num_batches", num_batches, least=1)
    held = next(model.parameters(), torch.empty(0))
    if held.is_meta:
        raise ValueError("Expected a model with weights, but got one on the meta device.")
    with evaluation_mode(model), random_streams_kept(), torch.inference_mode():
        one, many = (_seconds(model, spec, size, num_batches, held.device) for size in (1, batch_size))
    return InferenceSpeed(
        name=name,
        latency_ms=1e3 * statistics.median(one),
        latency_p90_ms=1e3 * sorted(one)[int(0.9 * (len(one) - 1) + 0.5)],
        throughput=batch_size / statistics.median(many),
        batch_size=batch_size,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        feature_dim=feature_dim,
        input=str(spec),
        dtype=str(held.dtype).removeprefix("torch."),
        device=str(held.device),
    )


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; each part gets its own mode back, for some may be frozen in it."""
    modes = {part: part.training for part in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def _seconds(
    model: Callable[..., Any], spec: Spec, batch_size: int, num_batches: int, device: torch.device
) -> list[float]:
    args, kwargs = spec.make(batch_size, device)
    for _ in range(_WARM_UP):
        model(*args, **kwargs)
    seconds = []
    for _ in range(num_batches):
        _wait_for(device)
        start = time.perf_counter()
        model(*args, **kwargs)
        _wait_for(device)
        seconds.append(time.perf_counter() - start)
    return seconds


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
