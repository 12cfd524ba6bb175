"""The LightningCLI that trains: its command line, and what it makes of the config."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_hp.functional.checks import wrong_type, wrong_value

if TYPE_CHECKING:
    from lightning_hp.sweeping.process import CommandLine
    from lightning_hp.sweeping.space import Space


#: Names the function or class that ``lightning-hp fit`` calls, ``module:name``. Processes of one training inherit it.
TARGET = "LIGHTNING_HP_CLI"


@dataclass(frozen=True)
class Parsed:
    """What the LightningCLI made of the arguments.

    Attributes:
        command: The command line of all trainings.
        trainer: The arguments of the Trainer.
        extra: Arguments of the Trainer that a sweep adds.

    """

    command: CommandLine
    trainer: Mapping[str, Any]
    extra: Mapping[str, Any]


def command_of(cli: Any) -> tuple[CommandLine, list[str]]:
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
        command = CommandLine(own, (), {TARGET: cli})
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


def parse(command: CommandLine, configs: Sequence[str], rest: Sequence[str], space: Space, has_own_cli: bool) -> Parsed:
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
            longer = longer_key(config, name)
            hint = f"; write {longer!r}" if longer else ""
            raise ValueError(f"Expected keys of the config in `space`, but {name!r} is none{hint}.")
    trainer = config.get("trainer") or {}
    return Parsed(command, trainer, _extra(trainer, has_own_cli, space.names))


def _file_of(module: str) -> Path | None:
    """The file of a module, found without an import."""
    for folder in ("", *sys.path):
        path = Path(folder, *module.split("."))
        for file in (path.with_suffix(".py"), path / "__main__.py", path / "__init__.py"):
            if file.is_file():
                return file
    return None


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


def longer_key(config: Any, name: str) -> str | None:
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
