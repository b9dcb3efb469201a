"""The terminal that the commands write to."""

import os
import sys

from rich.console import Console

# Where no terminal breaks the lines, nothing is broken: for `grep`.
ENDLESS = 10_000


def make_console() -> Console:
    """A console for tables: as wide as the terminal, or as `COLUMNS` says."""
    endless = not (sys.stdout.isatty() or "COLUMNS" in os.environ)
    return Console(highlight=False, width=ENDLESS if endless else None)


def printable(text: str) -> str:
    """Text that somebody else wrote, without what would command the terminal."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )
