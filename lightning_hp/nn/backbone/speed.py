"""Inference speed: how long a model takes for one sample and for a batch, beside its size.

For each of two batch sizes, 1 and that of the user:
    run the model 3 times
    repeat num_batches times: synchronize, read the clock, run the model, synchronize, read the clock
    take the median of the times

`torch.utils.benchmark.Timer` measures something else: it runs the model at least twice before each measurement of one
call, so it would need three times as many forward passes; it sets the number of threads of the process; and it
synchronizes the current accelerator, which need not be the device of the model.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from lightning_hp.functional.checks import check_int, check_number, check_str
from lightning_hp.memory import synchronize
from lightning_hp.nn.backbone.input_specs import InputSpec
from lightning_hp.snapshot import RandomState

_NUM_WARM_UP = 3


@dataclass(frozen=True)
class InferenceSpeed:
    """Speed and size of a model, on the device and with the number of threads that it was measured with.

    Attributes:
        name: Name of the model.
        latency_ms: Median time of a batch of one sample, in milliseconds.
        latency_p90_ms: 90th percentile of these times, in milliseconds.
        throughput: Samples per second in batches of ``batch_size``, from the median time.
        batch_size: Samples in a batch for ``throughput``.
        parameters: Number of weights.
        feature_dim: Width of the features.
        input: Names and shapes of the input, without the batch.
        dtype: Type of the weights.
        device: Device of the model.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If a number is out of its range.

    References:
        The two numbers are single-stream latency and offline throughput of Reddi et al., *MLPerf Inference Benchmark*,
        2020, measured for a much shorter time.

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

    def __post_init__(self) -> None:
        checked = {
            **{name: check_str(name, getattr(self, name)) for name in ("name", "input", "dtype", "device")},
            **{
                name: check_number(name, getattr(self, name), minimum=0)
                for name in ("latency_ms", "latency_p90_ms", "throughput")
            },
            "batch_size": check_int("batch_size", self.batch_size, 1),
            "parameters": check_int("parameters", self.parameters, 0),
            "feature_dim": check_int("feature_dim", self.feature_dim, 1),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        """Names and values of the fields, for a logger or a table."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.name}, {self.parameters / 1e6:.2g} M parameters, {self.feature_dim} features: "
            f"{self.latency_ms:.3g} ms for one sample, {self.throughput:.3g} samples/s in batches of "
            f"{self.batch_size}\n  {self.input}, {self.dtype} on {self.device}"
        )


def measure_inference_speed(
    model: nn.Module, spec: InputSpec, name: str, feature_dim: int, batch_size: int, num_batches: int
) -> InferenceSpeed:
    """Measures a model on its device, in evaluation mode and without gradients.

    Args:
        model: The model; its modes and the global random state are restored.
        spec: What it takes.
        name: Its name.
        feature_dim: Width of what it returns.
        batch_size: Samples in a batch for the throughput.
        num_batches: Number of timed batches for each of latency and throughput.

    Returns:
        The result.

    Raises:
        ValueError: If the model is on the meta device.

    """
    parameter = next(model.parameters(), torch.empty(0))
    if parameter.is_meta:
        raise ValueError("Expected a model with weights, but got one on the meta device.")
    device = parameter.device
    random_state = RandomState(device)
    try:
        with evaluation_mode(model), torch.inference_mode():
            one, many = (_time_batches(model, spec, size, num_batches, device) for size in (1, batch_size))
    finally:
        random_state.restore()
    return InferenceSpeed(
        name=name,
        latency_ms=1e3 * statistics.median(one),
        latency_p90_ms=1e3 * sorted(one)[int(0.9 * (len(one) - 1) + 0.5)],
        throughput=batch_size / statistics.median(many),
        batch_size=batch_size,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        feature_dim=feature_dim,
        input=str(spec),
        dtype=str(parameter.dtype).removeprefix("torch."),
        device=str(device),
    )


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Sets all modules to evaluation mode and then restores the mode of each: some may have been in it before."""
    modes = {part: part.training for part in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def time_calls(call: Callable[[], Any], num_calls: int, device: torch.device) -> list[float]:
    """The time of each call in seconds, after three that are not counted."""
    for _ in range(_NUM_WARM_UP):
        call()
    seconds = []
    for _ in range(num_calls):
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return seconds


def _time_batches(
    model: Callable[..., Any], spec: InputSpec, batch_size: int, num_batches: int, device: torch.device
) -> list[float]:
    """The time of each batch, in seconds."""
    args, kwargs = spec.make(batch_size, device)
    return time_calls(lambda: model(*args, **kwargs), num_batches, device)
