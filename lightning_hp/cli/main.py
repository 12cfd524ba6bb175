"""``lightning-hp``: the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lightning_hp.cli.errors import WrongInputError
from lightning_hp.cli.fit import run_fit
from lightning_hp.cli.report import run_report
from lightning_hp.cli.sweep import run_sweep


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
        run_fit(given)
        return 0
    options, rest = _parser().parse_known_args(given)
    try:
        if options.command == "sweep":
            return run_sweep(options.config, options.sweep, rest)
        if rest:
            raise WrongInputError(f"Expected no further arguments, got {' '.join(rest)}.")
        return run_report(options.where, options.name, options.print)
    except WrongInputError as error:
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
