"""`treadle inspect`: what is in a checkpoint, and whether it is whole."""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._errors import ArgumentValueError, CheckpointError
from ..checkpoint import open as open_checkpoint
from ..checkpoint._save import is_checkpoint
from ._compared import compare
from ._console import make_console
from ._found import Found, find_checkpoint
from ._inspect_report import tell, tell_difference, tell_steps
from ._inspected import Inspected, Listed, inspect

_DESCRIPTION = """Tells what is in a checkpoint: its leaves, their shapes, dtypes and sizes, and
what was kept with them. Nothing is written, and no values are read unless you ask for it, so a
training that is under way may be looked at."""


def add_parser(commands: Any) -> None:
    """Adds `inspect` to the subcommands."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "inspect", help="look into a checkpoint", description=_DESCRIPTION
    )
    parser.add_argument(
        "path",
        type=Path,
        nargs="?",
        metavar="PATH",
        help="a checkpoint, a directory of them (the newest is told of), or a run folder",
    )
    parser.add_argument(
        "--step", type=int, metavar="N", help="which one of a directory; the newest by default"
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="GLOB",
        help="leaves to tell of, such as 'model/**'; may be given several times",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read every byte, and check it against its digest; of a directory, that of each step",
    )
    parser.add_argument(
        "--diff",
        nargs=2,
        metavar=("A", "B"),
        help="where two checkpoints differ: two paths, or two steps of PATH",
    )
    parser.add_argument("--json", action="store_true", help="tell it as JSON, and all of it")
    parser.set_defaults(command=run_inspect)


def run_inspect(arguments: argparse.Namespace) -> int:
    """Inspects a checkpoint, or compares two.

    Returns:
        The exit status, 0.

    Raises:
        TreadleError: There is no such checkpoint, or it is damaged.
    """
    if arguments.diff is not None:
        _diff(arguments)
    elif arguments.path is None:
        raise ArgumentValueError(
            "`PATH` is missing: give a checkpoint, a directory of them, or a run folder; or two of "
            "them as `--diff A B`."
        )
    else:
        _inspect(arguments)
    return 0


def _inspect(arguments: argparse.Namespace) -> None:
    found = find_checkpoint(arguments.path, arguments.step)
    if arguments.step is None and found.steps:
        looked_at = (_looked_at(found, step, arguments.verify) for step in found.steps)
        listed = [item for item in looked_at if item is not None]
    else:
        listed = []
    newest = _newest(found, listed, arguments)
    if arguments.json:
        told = {} if newest is None else newest.to_json()
        if listed:
            told["checkpoints"] = [item.to_json() for item in listed]
        _print_json(told)
    else:
        console = make_console()
        if listed:
            tell_steps(console, found, listed)
        if newest is not None:
            tell(console, newest)
    checked = listed or [newest]
    errors = [item.error for item in checked if item is not None and item.error is not None]
    if errors:
        raise CheckpointError("\n".join(errors))


def _print_json(told: dict[str, Any]) -> None:
    # Not `print`, which complains where `head` has seen enough.
    make_console().out(json.dumps(told, indent=2), highlight=False)


def _looked_at(found: Found, step: int, verify: bool) -> Listed | None:
    path = found.of(step)
    try:
        return Listed.of(step, inspect(path, step, verify=verify))
    except (CheckpointError, FileNotFoundError) as error:
        if not is_checkpoint(path):  # A training that is under way has removed it meanwhile.
            return None
        return Listed(step, path, error=str(error), verified=False if verify else None)


def _newest(
    found: Found, listed: Sequence[Listed], arguments: argparse.Namespace
) -> Inspected | None:
    """The checkpoint itself; None where it is known that it cannot be looked into."""
    if not listed:
        return inspect(found.path, found.step, arguments.only, verify=arguments.verify)
    last = listed[-1]
    if last.num_leaves is None:
        return None
    # Every byte of it was read before, if that was asked for.
    told = inspect(found.path, found.step, arguments.only)
    return dataclasses.replace(told, verified=last.verified, error=last.error)


def _diff(arguments: argparse.Namespace) -> None:
    if arguments.step is not None:
        raise ArgumentValueError(
            f"`--step` (={arguments.step}) goes without `--diff`: give the steps there, "
            "`treadle inspect PATH --diff 100 200`."
        )
    one, two = (_side(arguments.path, side) for side in arguments.diff)
    with open_checkpoint(one.path) as a, open_checkpoint(two.path) as b:
        if arguments.verify:
            a.verify()
            b.verify()
        compared = compare(a, b, arguments.only)
        paths = str(a.path), str(b.path)
    if arguments.json:
        told = {"a": paths[0], "b": paths[1], "verified": True if arguments.verify else None}
        _print_json(told | dataclasses.asdict(compared))
    else:
        tell_difference(make_console(), paths, compared, verified=arguments.verify)


def _side(directory: Path | None, side: str) -> Found:
    if directory is None:
        return find_checkpoint(Path(side))
    if not side.isdecimal():
        raise ArgumentValueError(
            f"`--diff` has {side!r}, which is no step of `PATH` (={directory}): give two steps, or "
            "leave `PATH` out and give two paths."
        )
    return find_checkpoint(directory, int(side))
