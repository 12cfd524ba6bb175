"""Processes that are forked from one that has imported torch and torchmetrics, and nothing else of what is tested.

A new interpreter takes seconds to import these two; such a process takes none.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["torch", "torchmetrics", "torch.distributed.fsdp"])


class Forked:
    """A process that calls a function; what it prints goes to a file.

    Args:
        function: Has a name in a module; not the one that is run as a script.
        arguments: Can be pickled.
        folder: Its working directory.
        environment: Variables besides those of this process.

    """

    def __init__(
        self, function: Callable[..., None], arguments: Sequence[Any], folder: Path, **environment: str
    ) -> None:
        self._output = folder / f"output_{time.monotonic_ns()}.txt"
        variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        self.process = _context.Process(target=_call, args=(function, arguments, folder, self._output, variables))
        # Without a file: the process would run the script of `__main__` again, whatever a test has left there.
        main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
        try:
            self.process.start()
        finally:
            sys.modules["__main__"] = main

    def wait(self, timeout: float) -> int | None:
        """The exit code, or ``None`` if it has not ended within so many seconds; it is killed then."""
        self.process.join(timeout)
        code = self.process.exitcode
        self.process.kill()
        return code

    @property
    def output(self) -> str:
        return self._output.read_text() if self._output.exists() else ""


def _call(
    function: Callable[..., None], arguments: Sequence[Any], folder: Path, output: Path, environment: dict[str, str]
) -> None:
    import torch

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    file = os.open(output, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    torch.set_num_threads(1)
    function(*arguments)


def run_forked(code: str, folder: Path, timeout: float = 240) -> str:
    """What ``code`` prints. Neither package of Lightning nor ours is imported before."""
    process = Forked(_execute, (code,), folder)
    assert process.wait(timeout) == 0, process.output
    return process.output.strip()


def _execute(code: str) -> None:
    warnings.simplefilter("error")
    exec(compile(code, "code", "exec"), {"__name__": "__main__"})
