"""Where the trainings of a sweep run: in this process, in workers of this machine, or on the user's executor.

An executor has ``submit(function, argument)``, which returns a future with ``done()`` and ``result()``: those of
``concurrent.futures``, loky, ``dask.distributed`` (``client.get_executor()``) and submitit. :class:`RayExecutor` is the
same for a Ray cluster.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import BrokenExecutor
from typing import Any, Protocol, TypeVar

from lightning_hp.functional.checks import check_options
from lightning_hp.sweeping.extras import require

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")

#: Seconds between two looks at futures that have no way to wait for them.
_POLL = 0.02

_WHY = "the system ends one with SIGKILL when memory is short"

#: loky replaces a worker that has grown by 300 MB; a training may need more, and what it needs is freed after it.
_NO_RESTARTS = {"LOKY_MAX_MEMORY_LEAK_SIZE": "1e18"}


class Executor(Protocol):
    """The part of the interface of ``concurrent.futures.Executor`` that a sweep uses."""

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Any:
        """Starts a call and returns its future."""


def run_all(
    executor: Executor | None,
    function: Callable[[_Argument], _Result],
    arguments: Iterable[_Argument],
    in_flight: int | None,
) -> Generator[tuple[_Argument, _Result | BaseException], None, None]:
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
    try:
        while waiting or not is_empty:
            while not is_empty and (in_flight is None or len(waiting) < in_flight):
                following = next(rest, None)
                is_empty = following is None
                if following is not None:
                    waiting.append((following, executor.submit(function, following)))
            finished = [future.done() for _, future in waiting]  # asked once: a future may end at any moment
            ready = [pair for pair, is_done in zip(waiting, finished, strict=True) if is_done]
            waiting = [pair for pair, is_done in zip(waiting, finished, strict=True) if not is_done]
            results = [(argument, _result_of(future)) for argument, future in ready]
            is_idle = not ready and bool(waiting)
            ready.clear()  # an engine keeps a result, and makes it again if its node is lost, while its future exists
            yield from results
            if is_idle:
                time.sleep(_POLL)
    finally:
        for _, future in waiting:  # an interrupt, or an error that ends the sweep
            future.cancel()


class WorkerEndedError(RuntimeError):
    """The process of a worker ended before its call."""


class WorkerProcesses:
    """Worker processes on this machine (loky). With accelerators, each worker sees one of them.

    Each worker is a pool of its own: when it is killed, as by the system when memory ends, only its call is lost. The
    process that replaces it has the same accelerator.

    Args:
        workers: Number of processes, at least 1. Also the most calls at once.

    Raises:
        ModuleNotFoundError: If loky is not installed.

    """

    def __init__(self, workers: int) -> None:
        import torch

        require("loky", "workers")
        devices = visible_devices()
        threads = str(max(1, torch.get_num_threads() // workers))
        self._workers = []
        for index in range(workers):
            environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **_NO_RESTARTS}
            if devices:
                environment["CUDA_VISIBLE_DEVICES"] = devices[index % len(devices)]
            self._workers.append(_Worker(environment))

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Any:
        """Starts a call in a worker that is free."""
        return next(worker for worker in self._workers if worker.is_free).submit(function, *args)

    def close(self) -> None:
        """Ends all processes, and those that they started."""
        for worker in self._workers:
            worker.close()


class _Worker:
    """A process, which is started by the first call, and replaced by the call after its end.

    Args:
        environment: Variables that are set before the process imports anything.

    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._pool: Any = None
        self._call: Any = None

    @property
    def is_free(self) -> bool:
        """Whether its last call has ended."""
        return self._call is None or bool(self._call.done())

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Any:
        """Starts a call."""
        if self._pool is not None:
            try:
                self._call = self._pool.submit(function, *args)
            except BrokenExecutor:
                self.close()
            else:
                return self._call
        import loky  # type: ignore[import-untyped]

        self._pool = loky.ProcessPoolExecutor(1, initializer=_end_with_parent, env=self._environment)
        self._call = self._pool.submit(function, *args)
        return self._call

    def close(self) -> None:
        """Ends the process."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, kill_workers=True)
            self._pool = None


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
        self._options = check_options("resources", resources, "a dict of arguments of ray.remote")
        self._ray = require("ray", "ray")
        if not self._ray.is_initialized():
            self._ray.init()

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Any:
        """Starts a call."""
        remote = self._ray.remote(function).options(**self._options)
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

    def cancel(self) -> None:
        """Ends the call, also if it runs."""
        self._ray.cancel(self._reference, force=True)


def _end_with_parent() -> None:
    """Ends this worker when the process that started it is gone, as after SIGKILL."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        signal.raise_signal(signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def visible_devices() -> list[str]:
    """The CUDA devices that this process may use, without initialising CUDA."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    return [str(index) for index in range(torch.cuda.device_count())]


def _result_of(future: Any) -> Any:
    """The result of a future, waited for, or its exception."""
    try:
        return future.result()
    except BrokenExecutor as error:
        code = re.search(r"exit codes of the workers are \{(.+?)\}", str(error))  # of loky
        return error if code is None else WorkerEndedError(f"its process ended with {code[1]}; {_WHY}")
    except (Exception, SystemExit) as error:  # noqa: BLE001 - of the worker, or of the executor
        return error
