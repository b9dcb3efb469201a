"""Rows as a table of comma-separated values."""

import csv
import io
import os
from collections.abc import Mapping
from typing import Any

from .._custom_types import Door
from ._base import Tracker
from ._files import append, local_file, replace_text, step_of
from ._flat import flat
from ._known import Known


class CSV(Tracker):
    """A file with a column for each name, for spreadsheets; cells without a figure are empty.

    An evaluation brings columns that the steps do not have: when a new name comes, the file is
    written anew with one more column. Arrays are flattened to `name/0`, `name/1`.

    Args:
        path: The file; its folder is made when needed. Rows are added to what is there.

    Raises:
        ArgumentTypeError: It is no path.
    """

    def __init__(self, path: Door[str | os.PathLike[str]]):
        self.path = local_file(path)
        self._unwritten: list[dict[str, Any]] = []
        self._known = Known()

    def log(self, step: int, row: Mapping[str, Any]) -> None:
        """Adds a row."""
        new = self._known.new(step, flat(row))
        if new or not row:
            self._unwritten.append({"step": step, **new})

    def rows(self) -> list[dict[str, str]]:
        """What is in the file, every cell as text."""
        self.flush()
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def resume(self, step: int) -> None:
        """Drops the rows after `step`."""
        self._unwritten = [row for row in self._unwritten if row["step"] <= step]
        self._known = Known()
        if not self.path.exists():
            return
        # The text behind the last newline was not finished when its writer died.
        text, newline, _ = self.path.read_text(encoding="utf-8").rpartition("\n")
        reader = csv.DictReader(io.StringIO(text + newline, newline=""))
        kept = [row for row in reader if step_of(row, self.path) <= step]
        here = [row for row in kept if int(row["step"]) == step]
        # An empty cell is none.
        self._known = Known(step, [name for row in here for name, cell in row.items() if cell])
        replace_text(self.path, _table(list(reader.fieldnames or []), kept, header=True))

    def flush(self) -> None:
        """Returns when what has come is on the disk."""
        if not self._unwritten:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._write(self._unwritten)
        # Not before: a disk that is full now may not be later.
        self._unwritten = []

    def _write(self, rows: list[dict[str, Any]]) -> None:
        # Those in the file, whatever an earlier try that failed was about to add.
        columns: list[str] = []
        old: list[Mapping[str, Any]] = []
        if self.path.exists():
            with self.path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                columns = list(reader.fieldnames or [])
                old = list(reader)
        new = [name for row in rows for name in row if name not in columns]
        columns += list(dict.fromkeys(new))
        if new:
            replace_text(self.path, _table(columns, [*old, *rows], header=True))
            return
        with self.path.open("ab", buffering=0) as file:
            append(file, _table(columns, rows, header=False).encode(), sync=True)

    def close(self) -> None:
        """Writes what has come."""
        self.flush()


def _table(columns: list[str], rows: list[Any], *, header: bool) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
