"""One training of a sweep as a process of its own: a LightningCLI that gets the settings on its command line."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from lightning_hp.sweeping.executors import visible_devices
from lightning_hp.sweeping.outcome import Outcome
from lightning_hp.sweeping.training import Job, score_of

#: Config keys that a sweep sets itself.
OWN_KEYS = ("seed_everything", "trainer.default_root_dir")
#: What a training writes into its folder.
OUTCOME, OUTPUT = "outcome.json", "output.txt"


@dataclass(frozen=True)
class CommandLine:
    """Builds the command line of a training from its settings.

    Attributes:
        command: The command up to the subcommand ``fit``, or without one if it has none.
        arguments: What all trainings have in common: ``--config`` and further arguments.
        environment: Environment variables that it needs.

    """

    command: tuple[str, ...]
    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, settings: Mapping[str, Any]) -> list[str]:
        """The command line with these settings."""
        return [*self.command, *self.arguments, *arguments_of(settings)]


def arguments_of(settings: Mapping[str, Any]) -> list[str]:
    """Config keys and their values as arguments of LightningCLI; a key before those within it."""
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in settings.items()}
    return [f"--{name}={texts[name]}" for name in sorted(texts, key=lambda name: name.count("."))]


class ProcessTrainer:
    """Trains in processes, as many at once as there are calls.

    Args:
        workers: The most trainings at once; each has its share of the cores and of the accelerators.
        has_logger: Whether the config has a logger; each training gets one for TensorBoard otherwise.

    """

    def __init__(self, workers: int, has_logger: bool) -> None:
        self._has_logger = has_logger
        self._running: set[subprocess.Popen[bytes]] = set()
        self._shares: SimpleQueue[Mapping[str, str]] = SimpleQueue()
        for share in _shares(workers):
            self._shares.put(share)

    def __call__(self, job: Job) -> Outcome:
        """Trains once; a process that fails or is killed is a failed training."""
        started = time.monotonic()
        with _folder_of(job) as folder:
            share = self._shares.get()
            try:
                code = self._run(job, folder, share)
            finally:
                self._shares.put(share)
            return _outcome(job, folder, code, time.monotonic() - started)

    def close(self) -> None:
        """Ends what is still running."""
        for process in list(self._running):
            _kill(process)

    def _run(self, job: Job, folder: Path, share: Mapping[str, str]) -> int:
        environment = {**os.environ, **share, **getattr(job.build, "environment", {})}
        with (folder / OUTPUT).open("wb") as output:
            process = subprocess.Popen(
                [*job.build(job.settings), *self._arguments(job, folder)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # all its processes can be ended together
            )
            self._running.add(process)
            try:
                code = process.wait()
            except BaseException:
                _kill(process)
                process.wait()
                raise
            finally:
                self._running.discard(process)
        if code != 0:
            _kill(process)  # other processes of the training that are left
        return code

    def _arguments(self, job: Job, folder: Path) -> list[str]:
        writer: dict[str, Any] = {
            "class_path": "lightning_hp.sweeping.outcome_writer.OutcomeWriter",
            "init_args": {
                "monitor": job.monitor,
                "path": str(folder / OUTCOME),
                "sweep_process": os.getpid(),
                "latency": job.latency,
            },
        }
        settings: dict[str, Any] = {"seed_everything": job.seed, "trainer.default_root_dir": str(folder)}
        settings |= {f"trainer.{name}": value for name, value in job.trainer.items()}
        if not self._has_logger:
            # Without its module, it is the one of the package of the CLI.
            where = {"save_dir": str(folder.parent), "name": "", "version": folder.name, "default_hp_metric": False}
            settings["trainer.logger"] = {"class_path": "TensorBoardLogger", "init_args": where}
        callbacks = [writer]
        if job.log_dir is not None:
            record = {"params": {**job.settings, "seed": job.seed}, "metrics": [job.monitor]}
            callbacks.append({"class_path": "lightning_hp.HParamsLogger", "init_args": record})
        return [*arguments_of(settings), *(f"--trainer.callbacks+={json.dumps(one)}" for one in callbacks)]


@contextmanager
def _folder_of(job: Job) -> Iterator[Path]:
    if job.log_dir is None:
        with tempfile.TemporaryDirectory(prefix="lightning_hp_") as temporary:
            yield Path(temporary)
        return
    folder = Path(job.log_dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


def _outcome(job: Job, folder: Path, code: int, seconds: float) -> Outcome:
    path = folder / OUTCOME
    written: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    values = written.get("values")
    common: dict[str, Any] = {"log_dir": job.log_dir, "seconds": written.get("seconds", seconds)}
    if code != 0 or values is None:
        output = (folder / OUTPUT).read_text(encoding="utf-8", errors="replace")
        reason = written.get("reason") or _reason(code, output)
        return Outcome("failed", reason=reason, traceback=output[-10_000:], **common)
    if not values:
        logged = ", ".join(written["logged"]) or "nothing"
        reason = f"Expected the training to log `{job.monitor}`, but it logs {logged}."
        return Outcome("failed", reason=reason, ends_sweep=True, **common)
    score = score_of(values, job.reduce)
    if not math.isfinite(score):
        return Outcome("failed", reason=f"{job.monitor} was {score}", **common)
    rest = {name: written[name] for name in ("parameters", "latency_ms", "used")}
    return Outcome("complete", score=score, **rest, **common)


def _reason(code: int, output: str) -> str:
    """Why a process failed, in one line."""
    if code < 0:
        return f"the process was ended by {signal.Signals(-code).name}"
    if code == 0:
        return "the command ended without a training"
    return error_in(output) or f"the command ended with exit code {code}"


def error_in(output: str) -> str:
    """The error that a command wrote last, on one line: that of its parser, or of a traceback."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    starts = [place for place, line in enumerate(lines) if re.match(r"(\S+: )?error: ", line)]
    if not starts:
        return lines[-1][:500] if lines else ""
    noise = r"(Does not validate|Subtypes:|Errors:|Given value|- Expected a <class 'NoneType'>)"
    told = [re.sub(r"^(\S+: )?error: |^- ", "", line) for line in lines[starts[-1] :] if not re.match(noise, line)]
    return " ".join(told)[:500]


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and those that it started."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def _shares(workers: int) -> Sequence[Mapping[str, str]]:
    """Environment variables for each of the trainings that run at once: cores and accelerators."""
    if workers == 1:
        return [{}]
    devices = visible_devices()
    shares = []
    for worker in range(workers):
        share = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": _cores(workers)}
        if devices:
            share["CUDA_VISIBLE_DEVICES"] = ",".join(devices[worker::workers] or [devices[worker % len(devices)]])
        shares.append(share)
    return shares


def _cores(workers: int) -> str:
    return str(max(1, (os.cpu_count() or 1) // workers))
