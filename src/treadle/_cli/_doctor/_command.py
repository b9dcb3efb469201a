"""The subcommand itself: looks at everything, and tells it."""

import argparse
import dataclasses
import itertools
import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .._console import make_console, printable
from ._cached import cached
from ._check import Check
from ._machine import machine
from ._variables import variables
from ._versions import versions

_DESCRIPTION = """Looks at what a training will find here: versions that fit each other, devices,
memory, the compilation cache and its hit rate, the environment; and says what to change."""

_STATUS = "exit status: 0, or 1 where something has to be changed."

_MARKS = {"ok": ("[x]", "green"), "note": ("[?]", "yellow"), "change": ("[ ]", "red")}


def add_parser(commands: Any) -> None:
    """Adds `doctor` to the subcommands."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "doctor", help="look at this machine", description=_DESCRIPTION, epilog=_STATUS
    )
    parser.add_argument("--json", action="store_true", help="tell it as JSON")
    parser.set_defaults(command=run_doctor)


def run_doctor(arguments: argparse.Namespace) -> int:
    """Looks at everything.

    Returns:
        The exit status.
    """
    checks = [*versions(), *machine(), *cached(), *variables()]
    wrong = sum(check.state == "change" for check in checks)
    console = make_console()
    if arguments.json:
        told = {"ok": wrong == 0, "checks": [dataclasses.asdict(check) for check in checks]}
        console.out(json.dumps(told, indent=2), highlight=False)
    else:
        _tell(console, checks)
        console.print(_verdict(checks, wrong), style="bold")
    return int(wrong > 0)


def _verdict(checks: Sequence[Check], wrong: int) -> str:
    notes = sum(check.state == "note" for check in checks)
    remarks = f"{notes} {'remark' if notes == 1 else 'remarks'}"
    if wrong == 0:
        return f"Nothing has to be changed; {remarks}."
    return f"{wrong} {'thing has' if wrong == 1 else 'things have'} to be changed; {remarks}."


def _tell(console: Console, checks: Sequence[Check]) -> None:
    for group, members in itertools.groupby(checks, key=lambda check: check.group):
        console.print(group, style="bold")
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for check in members:
            mark, style = _MARKS[check.state]
            # As `Text`: brackets would be read as rich's markup.
            value = Text(printable(check.value))
            if check.advice:
                value.append(f"\n{printable(check.advice)}", style)
            table.add_row(Text(mark, style), Text(printable(check.name)), value)
        console.print(table)
        console.print()
