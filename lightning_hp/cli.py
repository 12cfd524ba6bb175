"""``lightning-hp``: a sweep over a LightningCLI config, and its report, from the shell.

sweep:   read the configs and the sweep file
parse the command line of a training with every value, without training
train each setting as a process of its own; record, compare, print
report:  read a storage; print table, effects and the best config
fit:     one training; what a sweep runs if no other command is named
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import itertools
import json
import logging
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_hp.functional.checks import check_int, wrong_type, wrong_value
from lightning_hp.functional.sweep.labels import key_of, short_label

if TYPE_CHECKING:
    from lightning_hp.results import SweepResult
    from lightning_hp.sweeping.process import CommandLine
    from lightning_hp.sweeping.record import Record
    from lightning_hp.sweeping.space import Space

#: Names the function or class that ``lightning-hp fit`` calls, ``module:name``. Processes of one training inherit it.
_TARGET = "LIGHTNING_HP_CLI"

_NEEDED = ("space", "monitor", "mode")
_DEFAULTS: Mapping[str, Any] = {
    "strategy": "one_at_a_time",
    "n_trials": None,
    "order": "given",
    "start": None,
    "refine": 0,
    "seeds": 1,
    "reduce": "last",
    "storage": None,
    "logdir": "runs/sweep",
    "name": "sweep",
    "workers": 1,
    "cost": "parameters",
    "on_error": "record",
    "cli": None,
}


class _WrongInputError(Exception):
    """What the user gave cannot be used; the message is one sentence."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: The arguments; ``None``: those of the process.

    Returns:
        The exit code: 0; 1 if no training could be scored, or one failed and the sweep was to stop then; 2 for a wrong
        input, with one sentence on stderr; 130 if it was interrupted.

    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["fit"]:
        _fit(given)
        return 0
    options, rest = _parser().parse_known_args(given)
    try:
        if options.command == "sweep":
            return _sweep(options.config, options.sweep, rest)
        if rest:
            raise _WrongInputError(f"Expected no further arguments, got {' '.join(rest)}.")
        return _report(options.where, options.name, options.print)
    except _WrongInputError as error:
        print(f"lightning-hp {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"lightning-hp {options.command}: interrupted; the same command continues.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lightning-hp", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    sweep = commands.add_parser(
        "sweep",
        help="train with different settings, each training a process of its own",
        epilog="Further arguments go to the LightningCLI, as in --trainer.max_epochs=5.",
        allow_abbrev=False,
    )
    sweep.add_argument("--config", action="append", default=[], help="a config of LightningCLI; may be repeated")
    sweep.add_argument("--sweep", required=True, help="YAML with space, monitor, mode and options of the sweep")
    report = commands.add_parser("report", help="what a sweep found", allow_abbrev=False)
    report.add_argument("where", help="the storage of a sweep, or its folder of logs")
    report.add_argument("--name", help="name of the sweep, if the storage holds several")
    report.add_argument("--print", choices=("best", "recommended"), help="only this config, as YAML for --config")
    commands.add_parser("fit", help="one training with LightningCLI; all arguments are its own", add_help=False)
    return parser


@contextmanager
def _as_wrong_input() -> Iterator[None]:
    """Errors of checks become one sentence for the user."""
    try:
        yield
    except (TypeError, ValueError, ModuleNotFoundError) as error:
        raise _WrongInputError(str(error)) from error


# ------------------------------------------------------------------------------------------------------------- sweep


@dataclass(frozen=True)
class _Parsed:
    """What the LightningCLI made of the arguments.

    Attributes:
        command: The command line of all trainings.
        trainer: The arguments of the Trainer.
        extra: Arguments of the Trainer that a sweep adds.

    """

    command: CommandLine
    trainer: Mapping[str, Any]
    extra: Mapping[str, Any]


@dataclass(frozen=True)
class _Options:
    """The entries of a sweep file, checked.

    Attributes:
        space: The subjects.
        start: The start as it was given.
        words: ``monitor``, ``mode``, ``order``, ``reduce``, ``cost``, ``on_error`` and ``name``.
        seeds: The seeds.
        strategy: The name of a strategy, or a sampler.
        n_trials: Number of settings that a sampler chooses.
        refine: Number of further settings.
        workers: The most trainings at once.
        folder: Folder of the logs.
        storage: The storage as it was given.
        cli: The command as it was given.

    """

    space: Space
    start: Any
    words: Mapping[str, Any]
    seeds: tuple[int, ...]
    strategy: Any
    n_trials: int | None
    refine: int
    workers: int
    folder: str | None
    storage: Any
    cli: Any


def _sweep(config_paths: Sequence[str], sweep_path: str, rest: Sequence[str]) -> int:
    with _as_wrong_input():
        from lightning_hp.sweeping.extras import require

        require("optuna", "sweep")
        require("scipy", "sweep")
        configs = [_read_mapping(path) for path in config_paths]
        options = _check(_read_entries(sweep_path))
        command, code = _command(options.cli)
        parsed = _parse(command, config_paths, rest, options.space, has_own_cli=options.cli is not None)
        record = _open_record(options, configs, rest, code)

    from lightning_hp.sweeping.runner import SweepError

    try:
        result = _train(options, parsed, record)
    except SweepError as error:
        print(f"lightning-hp sweep: {error}", file=sys.stderr)
        return 1
    print(result)
    return 0


def _check(entries: Mapping[str, Any]) -> _Options:
    from lightning_hp.sweeping.process import OWN_KEYS
    from lightning_hp.sweeping.space import Space
    from lightning_hp.sweeping.sweep import check_folder, check_seeds, check_strategy, check_words

    space = Space(_split_names(entries["space"]), entries["start"])
    if own := [name for name in OWN_KEYS if name in space.names]:
        raise ValueError(f"Expected config keys other than {own[0]!r} in `space`: the sweep sets it itself.")
    names = ("monitor", "mode", "order", "reduce", "cost", "on_error", "name")
    words = check_words(**{name: entries[name] for name in names})
    lengths = {"trainer.max_epochs", "trainer.max_steps"} & set(space.names)
    if words["order"] == "measured" and lengths:
        raise ValueError(
            f"Expected `order: given` where {min(lengths)} is in `space`: it is measured with short trainings."
        )
    strategy = _strategy(entries["strategy"])
    check_strategy(strategy, entries["n_trials"])
    return _Options(
        space=space,
        start=entries["start"],
        words=words,
        seeds=check_seeds(entries["seeds"]),
        strategy=strategy,
        n_trials=entries["n_trials"],
        refine=check_int("refine", entries["refine"], 0),
        workers=check_int("workers", entries["workers"], 1),
        folder=None if entries["logdir"] is None else check_folder(entries["logdir"]),
        storage=entries["storage"],
        cli=entries["cli"],
    )


def _open_record(
    options: _Options, configs: Sequence[Mapping[str, Any]], rest: Sequence[str], code: Sequence[str]
) -> Record:
    """Opens the study; refuses one of another experiment."""
    from lightning_hp.sweeping.record import Record
    from lightning_hp.sweeping.storage import open_storage, storage_address
    from lightning_hp.sweeping.sweep import continue_record

    address = storage_address(options.storage, options.folder, several_writers=False)
    record = Record(open_storage(address), options.words["name"], options.words["mode"], options.space)
    experiment = {
        **{name: options.words[name] for name in ("monitor", "mode", "reduce")},
        "seeds": list(options.seeds),
        "data": [key_of(options.space.start), None],
        "command": list(code),
        "config": _config_of(configs, rest, options.space, record.note("experiment") or {}),
    }
    continue_record(record, experiment, "this storage" if address is None else str(address))
    return record


def _train(options: _Options, parsed: _Parsed, record: Record) -> SweepResult:
    """Trains all that is missing, one process for each training."""
    from lightning_hp.sweeping.process import ProcessTrainer
    from lightning_hp.sweeping.runner import Runner
    from lightning_hp.sweeping.sweep import carry_out, probe_arguments
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
            train=trainer,
        )
        batch = max(1, -(-options.workers // len(options.seeds)))
        return carry_out(
            runner, options.space, options.start, words, options.strategy, options.n_trials, options.refine, batch
        )


def _read_mapping(path: str) -> dict[str, Any]:
    """A file of YAML or JSON; numbers such as ``1e-3`` are numbers, as in LightningCLI."""
    from lightning_hp.sweeping.extras import require

    yaml = require("yaml", "sweep")
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ValueError(f"Expected {path} to be a file that can be read: {reason}.") from error

    class Loader(yaml.SafeLoader):  # type: ignore[misc,name-defined]
        pass

    number = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    try:
        read = yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"Expected YAML in {path}: {' '.join(str(error).split())}.") from error
    if not isinstance(read, dict) or not all(isinstance(name, str) for name in read):
        got = "nothing" if read is None else str(read)[:80]
        raise ValueError(f"Expected a mapping of names and values in {path}, got {got}.")
    return read


def _read_entries(path: str) -> dict[str, Any]:
    entries = _read_mapping(path)
    names = (*_NEEDED, *_DEFAULTS)
    if unknown := [name for name in entries if name not in names]:
        raise ValueError(f"Expected entries of {path} among {', '.join(names)}; got {unknown[0]!r}.")
    if missing := [name for name in _NEEDED if name not in entries]:
        raise ValueError(f"Expected an entry `{missing[0]}` in {path}.")
    return {**_DEFAULTS, **entries}


def _split_names(space: Any) -> Any:
    """Keys such as ``a, b`` as tuples: names that move together."""
    if not isinstance(space, Mapping):
        return space  # refused by Space
    names = {name: tuple(part.strip() for part in str(name).split(",")) for name in space}
    return {(parts if len(parts) > 1 else parts[0]): space[name] for name, parts in names.items()}


def _strategy(strategy: Any) -> Any:
    """A strategy by name, or a sampler by its class in ``optuna.samplers``."""
    import optuna

    named = getattr(optuna.samplers, strategy, None) if isinstance(strategy, str) else None
    if not (isinstance(named, type) and issubclass(named, optuna.samplers.BaseSampler)):
        return strategy
    sampler: Any = named
    parameters = inspect.signature(sampler).parameters
    if any(one.default is one.empty for one in parameters.values()):
        wrong_value("strategy", "a sampler that needs no arguments", strategy)
    return sampler(seed=0) if "seed" in parameters else sampler()


def _command(cli: Any) -> tuple[CommandLine, list[str]]:
    """The command of a training, and what identifies it: its words, and a hash of its script or module."""
    from lightning_hp.sweeping.experiment import code_in
    from lightning_hp.sweeping.extras import require
    from lightning_hp.sweeping.process import CommandLine

    own = (sys.executable, "-m", "lightning_hp", "fit")
    if cli is None:
        require("jsonargparse", "cli")
        return CommandLine(own, ()), ["LightningCLI"]
    what = "a function as in `my_package.cli:main`, or a command line as in `python train.py fit`"
    if not isinstance(cli, str):
        wrong_type("cli", what, cli)
    words = shlex.split(cli)
    if not words:
        wrong_value("cli", what, cli)
    if len(words) == 1 and re.fullmatch(r"[\w.]+:[\w.]+", cli):
        files = [_file_of(cli.partition(":")[0])]
        command = CommandLine(own, (), {_TARGET: cli})
    else:
        modules = [_file_of(after) for word, after in itertools.pairwise(words) if word == "-m"]
        files = [*modules, *(Path(word) for word in words if word.endswith(".py"))]
        python = words[0] in ("python", "python3")
        command = CommandLine((sys.executable if python else words[0], *words[1:]), ())
    hashes = []
    for file in files:
        if file is not None and file.is_file():
            try:
                hashes.append(code_in(file.read_text(encoding="utf-8")))
            except (SyntaxError, ValueError) as error:
                raise ValueError(f"Expected Python in {file}: {error}") from error
    return command, [cli, *hashes]


def _file_of(module: str) -> Path | None:
    """The file of a module, found without an import."""
    for folder in ("", *sys.path):
        path = Path(folder, *module.split("."))
        for file in (path.with_suffix(".py"), path / "__main__.py", path / "__init__.py"):
            if file.is_file():
                return file
    return None


def _parse(
    command: CommandLine, configs: Sequence[str], rest: Sequence[str], space: Space, has_own_cli: bool
) -> _Parsed:
    """Lets the LightningCLI parse every value of every subject, and then the start, without training."""
    from dataclasses import replace

    from lightning_hp.sweeping.process import arguments_of, error_in

    command = replace(command, arguments=(*(f"--config={path}" for path in configs), *rest))
    every = [argument for subject in space.subjects for one in subject.settings() for argument in arguments_of(one)]
    line = [*command({}), *every, *arguments_of(space.start), "--seed_everything=0", "--print_config"]
    try:
        done = subprocess.run(
            line, capture_output=True, text=True, env={**os.environ, **command.environment}, check=False
        )
    except OSError as error:
        raise ValueError(f"Expected `cli` to be a command that can be run, but {error.strerror}: {line[0]}.") from error
    if done.returncode != 0:
        raise ValueError(f"Expected values that the LightningCLI accepts, but it says: {error_in(done.stderr)}")
    config = _config_in(done.stdout)
    if config is None:
        raise ValueError("Expected `cli` to be a LightningCLI, but its `--print_config` prints no config.")
    for name in space.names:
        if not _has_key(config, name):
            longer = _longer_key(config, name)
            hint = f"; write {longer!r}" if longer else ""
            raise ValueError(f"Expected keys of the config in `space`, but {name!r} is none{hint}.")
    trainer = config.get("trainer") or {}
    return _Parsed(command, trainer, _extra(trainer, has_own_cli, space.names))


def _config_in(output: str) -> dict[str, Any] | None:
    """The config in what a command printed, after lines that its script may have printed."""
    import yaml  # type: ignore[import-untyped]

    lines = output.splitlines(keepends=True)
    for start, line in enumerate(lines):
        if re.match(r"# (pytorch_)?lightning|[\w.]+:", line):
            try:
                config = yaml.safe_load("".join(lines[start:]))
            except yaml.YAMLError:
                continue
            if isinstance(config, dict) and isinstance(config.get("trainer"), dict):
                return config
    return None


def _has_key(config: Any, name: str) -> bool:
    for part in name.split("."):
        if not isinstance(config, dict) or part not in config:
            return False
        config = config[part]
    return True


def _longer_key(config: Any, name: str) -> str | None:
    """The key that a short form such as ``model.lr`` stands for, if the model is named by its class."""
    first, _, rest = name.partition(".")
    longer = f"{first}.init_args.{rest}"
    return longer if _has_key(config, longer) else None


def _extra(trainer: Mapping[str, Any], has_own_cli: bool, swept: Sequence[str]) -> dict[str, Any]:
    """What a sweep sets where the config states nothing: no checkpoints, bars, summaries and checks before training.

    A CLI of the user may add callbacks that need checkpoints and bars, so there only the checks are switched off.
    """
    from lightning_hp.sweeping.training import TRAINER_DEFAULTS

    callbacks = str(trainer.get("callbacks"))
    parts = {
        "enable_checkpointing": "Checkpoint",
        "enable_progress_bar": "ProgressBar",
        "enable_model_summary": "ModelSummary",
    }
    return {
        name: value
        for name, value in TRAINER_DEFAULTS.items()
        if trainer.get(name) is None
        and f"trainer.{name}" not in swept
        and (name not in parts or not (has_own_cli or parts[name] in callbacks))
    }


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


# ------------------------------------------------------------------------------------------------------------ report


def _report(where: str, name: str | None, printed: str | None) -> int:
    with _as_wrong_input():
        from lightning_hp.sweeping.extras import require

        require("optuna", "sweep")
        require("yaml", "sweep")
        from lightning_hp.sweeping.stored import load_result

        result = load_result(_storage_in(where), name)
    is_scored = any(trial.status == "complete" for trial in result.trials)
    if printed is not None:
        if not is_scored:
            raise _WrongInputError("Expected settings that were trained with every seed, but there are none.")
        print(result.to_yaml(which=printed), end="")
        return 0
    print(result)
    if result.trials:
        print(f"\n{_table(result)}")
    for trial in result.trials:
        if trial.status == "failed":
            settings = ", ".join(f"{name}={short_label(value)}" for name, value in trial.settings.items())
            print(f"failed: {settings}, seed {trial.seed}: {trial.reason}")
    if is_scored:
        print(f"\nbest config:\n{result.to_yaml(which='best')}", end="")
    return 0


def _storage_in(where: str) -> str:
    """The storage of a folder of logs; a path or URL is itself a storage."""
    if "://" in where:
        return where
    path = Path(where)
    if path.is_file():
        return where
    found = [file for file in (path / "sweep.db", path / "sweep.journal") if file.is_file()]
    if not found:
        what = "a folder with sweep.db or sweep.journal" if path.is_dir() else "the storage of a sweep, or its folder"
        raise ValueError(f"Expected {what}, but there is none at {where}.")
    return str(max(found, key=lambda file: file.stat().st_mtime))


def _table(result: SweepResult) -> str:
    """All settings, the best first, in aligned columns."""
    header, rows = result.table()
    cells = [header, *([_cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


# --------------------------------------------------------------------------------------------------------------- fit


def _fit(arguments: Sequence[str]) -> None:
    """Runs the LightningCLI that the environment names, or Lightning's own."""
    target = os.environ.get(_TARGET)
    sys.argv = [sys.argv[0], *arguments]  # read by LightningCLI, and where it starts further processes
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    if target is not None:
        module, _, name = target.partition(":")
        function: Any = importlib.import_module(module)
        for part in name.split("."):
            function = getattr(function, part)
        function()
        return
    importlib.import_module(f"{_package_for(arguments)}.cli").LightningCLI()


def _package_for(arguments: Sequence[str]) -> str:
    """The Lightning package of the model that the configs name."""
    from lightning_hp.trainer.base_classes import installed_packages
    from lightning_hp.trainer.namespace import NAMESPACES

    default = installed_packages()[0].__name__
    path = None
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if before in ("--config", "-c") or argument.startswith("--config="):
            try:
                model = _read_mapping(argument.removeprefix("--config=")).get("model")
            except ValueError:
                continue  # LightningCLI says what is wrong
            path = model.get("class_path", path) if isinstance(model, dict) else path
    module, _, name = str(path).rpartition(".")
    if not module:
        return default
    model_class = getattr(importlib.import_module(module), name, None)
    for base in getattr(model_class, "__mro__", ()):
        for package in NAMESPACES:
            if base.__name__ == "LightningModule" and base.__module__.startswith(f"{package}."):
                return package
    return default
