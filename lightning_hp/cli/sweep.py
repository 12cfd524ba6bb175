"""``lightning-hp sweep``: each training a process of its own.

read the configs and the sweep file; let the LightningCLI parse every value, without training
train each setting; record, compare, print
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from lightning_hp.cli.errors import as_wrong_input
from lightning_hp.cli.lightning_cli import Parsed, command_of, parse
from lightning_hp.cli.sweep_file import Options, check_entries, read_entries, read_mapping
from lightning_hp.functional.sweep.labels import key_of

if TYPE_CHECKING:
    from lightning_hp.results import SweepResult
    from lightning_hp.sweeping.record import Record
    from lightning_hp.sweeping.space import Space


def run_sweep(config_paths: Sequence[str], sweep_path: str, rest: Sequence[str]) -> int:
    """Sweeps, and prints the result; returns the exit code."""
    with as_wrong_input():
        from lightning_hp.sweeping.extras import require

        require("optuna", "sweep")
        configs = [read_mapping(path) for path in config_paths]
        options = check_entries(read_entries(sweep_path))
        command, code = command_of(options.cli)
        parsed = parse(command, config_paths, rest, options.space, has_own_cli=options.cli is not None)
        record = _open_record(options, configs, rest, code)

    from lightning_hp.sweeping.runner import SweepError

    try:
        result = _train(options, parsed, record)
    except SweepError as error:
        print(f"lightning-hp sweep: {error}", file=sys.stderr)
        return 1
    print(result)
    return 0


def _open_record(
    options: Options, configs: Sequence[Mapping[str, Any]], rest: Sequence[str], code: Sequence[str]
) -> Record:
    """Opens the study; refuses one of another experiment."""
    from lightning_hp.sweeping.carry_out import continue_record
    from lightning_hp.sweeping.record import Record
    from lightning_hp.sweeping.storage import open_storage, storage_address

    address = storage_address(options.storage, options.folder, several_writers=False)
    record = Record(open_storage(address), options.words["name"], options.words["mode"], options.space)
    experiment = {
        **{name: options.words[name] for name in ("monitor", "mode", "reduce")},
        "seeds": list(options.seeds),
        "data": [key_of(options.space.start), None],
        "scale_lr": None if options.rate is None else [options.rate.rule, options.rate.base],
        "command": list(code),
        "config": _config_of(configs, rest, options.space, record.note("experiment") or {}),
    }
    continue_record(record, experiment, "this storage" if address is None else str(address))
    if known := sum(outcome.status != "failed" for *_, outcome in record.rows()):
        one = "1 training of this sweep is" if known == 1 else f"{known} trainings of this sweep are"
        print(f"{one} in {address}; only what is missing is trained.")
    return record


def _train(options: Options, parsed: Parsed, record: Record) -> SweepResult:
    """Trains all that is missing, one process for each training."""
    from lightning_hp.sweeping.carry_out import Plan, carry_out, probe_arguments
    from lightning_hp.sweeping.process import ProcessTrainer
    from lightning_hp.sweeping.runner import Runner
    from lightning_hp.sweeping.training import Job

    words = options.words
    job = Job(
        parsed.command,
        words["monitor"],
        reduce=words["mode"] if words["reduce"] == "best" else "last",
        trainer=parsed.extra,
        latency=words["cost"] == "latency",
    )
    trainer = ProcessTrainer(options.workers, has_logger=parsed.trainer.get("logger") not in (None, True))
    is_parallel = options.workers > 1
    with ExitStack() as stack:
        # A thread for each process that runs at once: it waits.
        pool = stack.enter_context(ThreadPoolExecutor(options.workers)) if is_parallel else None
        stack.callback(trainer.close)
        stack.enter_context(_without_warnings())
        runner = Runner(
            record=record,
            job=job,
            seeds=options.seeds,
            sign=1 if words["mode"] == "max" else -1,
            probe_trainer=probe_arguments(parsed.trainer),
            executor=pool,
            in_flight=options.workers if is_parallel else None,
            stop_on_error=words["on_error"] == "raise",
            logdir=options.folder,
            pruning=None,
            progress=_Lines(),
            rate=options.rate,
            train=trainer,
        )
        batch = Plan.batch_of(options.workers, options.seeds)
        plan = Plan(options.strategy, words["order"], options.n_trials, options.refine, batch)
        return carry_out(runner, options.space, options.start, words, plan)


def _config_of(
    configs: Sequence[Mapping[str, Any]], rest: Sequence[str], space: Space, stored: Mapping[str, Any]
) -> dict[str, Any]:
    """The config by its keys, for the comparison of experiments; a subject's own entry is no difference."""
    flat: dict[str, Any] = {}
    for config in configs:
        flat |= _flat(config)
    flat |= {"arguments": list(rest)} if rest else {}

    def is_swept(key: str) -> bool:
        return any(key == name or key.startswith(f"{name}.") for name in space.names)

    kept = {key: value for key, value in flat.items() if not is_swept(key)}
    kept |= {key: value for key, value in stored.get("config", {}).items() if is_swept(key)}
    plain: dict[str, Any] = json.loads(json.dumps(kept, default=str))
    return plain


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) and value else {f"{prefix}{name}": value}
    return flat


class _Lines:
    """One line for each training that ended."""

    def __init__(self) -> None:
        self._done = 0
        self._expected = 0

    def expect(self, count: int) -> None:
        """Announces further trainings."""
        self._expected += count

    def advance(self, best: str, training: str) -> None:
        """Prints a training and the best settings so far."""
        self._done += 1
        print(f"[{self._done} of {self._expected}] {training}{f'; {best}' if best else ''}", flush=True)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Failed trainings have a line already."""
    logger = logging.getLogger("lightning_hp.sweeping.runner")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
