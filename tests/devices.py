"""The devices that tests run on: the CPU, and an accelerator where there is one; and the table of what ran on it.

The word for a device is that of ``Trainer(accelerator=...)``: ``"cpu"`` or ``"gpu"``. A test that both run has the
argument ``device``, see :data:`on_each_device`. Where the accelerator has a tool that the CPU lacks, there is one here
for the CPU that a test uses in the same way.
"""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

#: Runs a test on the CPU, and on an accelerator with the mark ``gpu``.
on_each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)])

#: What brings a number to the host, or gives a result whose size depends on values.
_WAITS = {"_local_scalar_dense", "bincount", "nonzero", "equal", "is_nonzero"}


# The property of a test that holds the figures of a benchmark.
_FIGURES = "figures"


def torch_device(device: str) -> torch.device:
    """The device of torch with this name of Lightning."""
    return torch.device("cpu") if device == "cpu" else torch.device("cuda", torch.cuda.current_device())


class NoWaiting(TorchDispatchMode):
    """Fails on operations for which the host would wait for an accelerator, as far as the CPU shows them.

    Besides those that read a number, these are copies from the host: a tensor that is built from numbers.

    Args:
        reads: How many numbers may be read: what is faster with a number on the CPU and does without on an accelerator.

    """

    def __init__(self, reads: int = 0) -> None:
        super().__init__()
        self._reads = reads

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().partition(".")[0].removeprefix("aten::")
        self._reads -= name == "_local_scalar_dense"
        assert name not in _WAITS or (name == "_local_scalar_dense" and self._reads >= 0), f"{name}: waits for a device"
        # `tensor.new_tensor(1.0)` and `torch.tensor(1.0, device=...)`
        assert name != "lift_fresh", "a tensor built from numbers is copied from the host, which waits"
        return func(*args, **(kwargs or {}))


@contextmanager
def no_waiting(device: str, reads: int = 0) -> Iterator[None]:
    """Within, an operation for which the host waits for the accelerator raises; on the CPU after some reads."""
    if device == "cpu":
        with NoWaiting(reads):
            yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class _Calls(TorchDispatchMode):
    """Counts the operations that launch a kernel on an accelerator."""

    #: Views and allocations, which launch none.
    FREE = frozenset({"detach", "empty_like", "empty", "view", "alias", "as_strided", "t", "expand", "empty_strided"})

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().partition(".")[0].removeprefix("aten::")
        self.number += name not in self.FREE
        return func(*args, **(kwargs or {}))


def count_launches(device: str, run: Callable[[], object]) -> int:
    """The number of kernels that a call launches; on the CPU that of operations."""
    if device == "cpu":
        with _Calls() as calls:
            run()
        return calls.number
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the profiler
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            run()
            torch.cuda.synchronize()
    names = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx", "cudaMemcpyAsync")
    return sum(event.count for event in profiler.key_averages() if event.key in names)


def has_tests_for_accelerators(path: Path) -> bool:
    """Whether a file holds tests with the mark ``gpu``: the others need not be imported for ``-m gpu``."""
    if not path.name.startswith("test_"):
        return False
    text = path.read_text(encoding="utf-8")
    return "mark.gpu" in text or "on_each_device" in text


def table_of(reports: Sequence[Any]) -> list[str]:
    """The lines of a table of the tests that ran on an accelerator, one line for each test function.

    A test gives its numbers with ``record_property``: ``difference``, of which the worst is shown, or others by name.
    """
    rows: dict[str, list[Any]] = {}
    for report in _on_accelerators(reports):
        rows.setdefault(report.nodeid.partition("[")[0], []).append(report)
    if not rows:
        return []
    lines = [device_name(), f"{'seconds':>8} {'ran':>4} {'failed':>6}  {'worst difference':<17} test"]
    for name, group in rows.items():
        failed = sum(report.outcome == "failed" for report in group)
        found = [(key, value) for report in group for key, value in report.user_properties]
        worst = max((value for key, value in found if key == "difference"), default=None)
        seconds = sum(report.duration for report in group)
        text = "" if worst is None else f"{worst:g}"
        lines.append(f"{seconds:8.1f} {len(group):4} {failed:6}  {text:<17} {name}")
        lines += [f"{'':40}{key}: {value}" for key, value in found if key not in ("difference", _FIGURES)]
    return lines


def figures_of(reports: Sequence[Any]) -> dict[str, Any]:
    """What the benchmarks on an accelerator have measured: lists of several tests are joined."""
    figures: dict[str, Any] = {}
    for report in _on_accelerators(reports):
        for name, value in dict(report.user_properties).get(_FIGURES, {}).items():
            figures[name] = figures.get(name, []) + value if isinstance(value, list) else value
    return figures


def _on_accelerators(reports: Sequence[Any]) -> list[Any]:
    return [
        report
        for report in reports
        if "gpu" in report.keywords and report.when == "call" and report.outcome in ("passed", "failed")
    ]


def device_name() -> str:
    """The accelerator, torch, and the versions of CUDA and Python, in words."""
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "no accelerator"
    return f"{card}, torch {torch.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}"
