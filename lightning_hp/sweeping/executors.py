"""Where the trainings of a sweep run: in this process, in workers of this machine, or on the user's executor.

An executor has ``submit(function, argument)``, which returns a future with ``done()`` and ``result()``: those of
``concurrent.futures``, loky, ``dask.distributed`` (``client.get_executor()``) and submitit. :class:`RayExecutor` is the
same for a Ray cluster.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import BrokenExecutor
from typing import Any, Protocol, TypeVar, cast

from lightning_hp.functional.checks import check_options
from lightning_hp.sweeping.extras import require

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")

#: Seconds between two looks at futures that have no way to wait for them.
_POLL = 0.02


class Executor(Protocol):
    """The part of the interface of ``concurrent.futures.Executor`` that a sweep uses."""

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Any:
        """Starts a call and returns its future."""


def run_all(
    executor: Executor | None,
    function: Callable[[_Argument], _Result],
    arguments: Iterable[_Argument],
    in_flight: int | None,
) -> Iterator[tuple[_Argument, _Result | Exception]]:
    """Calls a function for each argument; gives each argument with its result or exception as they are ready.

    Args:
        executor: Where; ``None``: here, one after the other, and exceptions are raised.
        function: The function.
        arguments: Its arguments. The next one is taken when there is room.
        in_flight: The most calls that are submitted at once; ``None``: all.

    """
    if executor is None:
        for argument in arguments:
            yield argument, function(argument)
        return
    waiting: list[tuple[_Argument, Any]] = []
    rest = iter(arguments)
    is_empty = False
    while waiting or not is_empty:
        while not is_empty and (in_flight is None or len(waiting) < in_flight):
            following = next(rest, None)
            is_empty = following is None
            if following is not None:
                waiting.append((following, executor.submit(function, following)))
        ready = [(argument, _result_of(future)) for argument, future in waiting if future.done()]
        waiting = [(argument, future) for argument, future in waiting if not future.done()]
        if isinstance(executor, WorkerProcesses) and any(isinstance(result, BrokenExecutor) for _, result in ready):
            # One worker died, and with it every call that was waiting. Which call it was shows when each runs alone.
            suspects = [argument for argument, result in ready if isinstance(result, BrokenExecutor)]
            suspects += [argument for argument, future in waiting if isinstance(_result_of(future), BrokenExecutor)]
            ready = [pair for pair in ready if not isinstance(pair[1], BrokenExecutor)]
            ready += ((argument, executor.run_alone(function, argument)) for argument in suspects)
            waiting = []
        yield from ready
        if not ready and waiting:
            time.sleep(_POLL)


class WorkerProcesses:
    """Worker processes on this machine (loky). With accelerators, each worker sees one of them.

    A worker that is killed, as by the system when memory ends, is replaced.

    Args:
        workers: Number of processes, at least 1.

    Raises:
        ModuleNotFoundError: If loky is not installed.

    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._slots = tempfile.TemporaryDirectory(prefix="lightning_hp_")
        self._pool = self._new_pool()

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Any:
        """Starts a call."""
        return self._pool.submit(function, *args)

    def run_alone(self, function: Callable[[_Argument], _Result], argument: _Argument) -> _Result | Exception:
        """Calls the function with no other call beside it; an exception is returned."""
        self.close()
        self._pool = self._new_pool()
        return cast("_Result | Exception", _result_of(self.submit(function, argument)))

    def close(self) -> None:
        """Ends all processes."""
        self._pool.shutdown(wait=True, kill_workers=True)

    def _new_pool(self) -> Any:
        import loky  # type: ignore[import-untyped]

        initargs = (self._slots.name, self._workers)
        return loky.ProcessPoolExecutor(self._workers, initializer=_start_worker, initargs=initargs)


class RayExecutor:
    """Runs trainings on a Ray cluster; a training whose node is lost is run again by Ray.

    Args:
        resources: Arguments of ``ray.remote`` for each training, such as ``{"num_cpus": 2, "num_gpus": 1}`` or
            ``{"max_retries": 5}``.

    Raises:
        TypeError: If ``resources`` is no dict.
        ModuleNotFoundError: If Ray is not installed.

    Note:
        Connects with ``ray.init()`` if that was not done. Each node needs the package and what ``build`` imports.

    Example:
        >>> executor = RayExecutor({"num_gpus": 1})  # sweep(build, space, executor=executor, ...)

    """

    def __init__(self, resources: Mapping[str, Any] | None = None) -> None:
        self._resources = check_options("resources", resources, "a dict of arguments of ray.remote")
        self._ray = require("ray", "ray")
        if not self._ray.is_initialized():
            self._ray.init()

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Any:
        """Starts a call."""
        remote = self._ray.remote(function)
        remote = remote.options(**self._resources) if self._resources else remote
        return _RayFuture(self._ray, remote.remote(*args))


class _RayFuture:
    """A reference of Ray with the methods of a future."""

    def __init__(self, ray: Any, reference: Any) -> None:
        self._ray = ray
        self._reference = reference

    def done(self) -> bool:
        """Whether there is a result."""
        return bool(self._ray.wait([self._reference], timeout=0)[0])

    def result(self) -> Any:
        """The result, when it is there."""
        return self._ray.get(self._reference)


def _start_worker(slots: str, workers: int) -> None:
    """Gives a worker its share of the cores, and one accelerator that no other living worker has."""
    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    devices = visible_devices()
    if not devices:
        return
    from filelock import FileLock, Timeout

    for slot in range(workers):
        lock = FileLock(f"{slots}/{slot}")
        try:
            lock.acquire(blocking=False)  # held until the process ends, also if it is killed
        except Timeout:
            continue
        _HELD.append(lock)
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
        return


def visible_devices() -> list[str]:
    """The CUDA devices that this process may use, without initialising CUDA."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    return [str(index) for index in range(torch.cuda.device_count())]


#: The lock of this worker's slot; it must not be freed.
_HELD: list[Any] = []


def _result_of(future: Any) -> Any:
    """The result of a future, waited for, or its exception."""
    try:
        return future.result()
    except Exception as error:  # noqa: BLE001 - of the worker, or of the executor
        return error
