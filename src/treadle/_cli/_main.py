"""The command `treadle` and its subcommands."""

import argparse
import importlib.metadata
import signal
import sys
from collections.abc import Sequence

from .._errors import TreadleError
from . import _audit, _demo, _doctor, _inspect


def _version() -> str:
    try:
        return importlib.metadata.version("treadle")
    except importlib.metadata.PackageNotFoundError:
        return "(not installed: run from its source)"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="treadle", description="Training for Equinox models.")
    parser.add_argument("--version", action="version", version=f"treadle {_version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _demo.add_parser(commands)
    _inspect.add_parser(commands)
    _audit.add_parser(commands)
    _doctor.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: The arguments after `treadle`; those of the process by default.

    Returns:
        The exit status: 0, 1 for what the user can mend (told on standard error), or 128 and the
        signal's number where a signal ended the training.
    """
    arguments = _parser().parse_args(argv)
    try:
        return arguments.command(arguments)
    except TreadleError as error:
        print(f"treadle: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        # Outside the training, which ends by itself: there is nothing to save.
        print("treadle: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
