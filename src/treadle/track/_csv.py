"""Rows as a table of comma-separated values."""

import csv
import io
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ._base import Tracker
from ._files import replace_text


class CSV(Tracker):
    """A file with a column for each name, for spreadsheets; cells without a figure are empty.

    An evaluation brings columns that the steps do not have: when a new name comes, the file is
    written anew with one more column. Arrays are flattened to `name/0`, `name/1`.

    Args:
        path: The file; its folder is made when needed. Rows are added to what is there.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = pathlib.Path(path)
        self._columns: list[str] = []
        self._unwritten: list[dict[str, Any]] = []

    def log(self, step: int, row: Mapping[str, Any]) -> None:
        """Adds a row."""
        self._unwritten.append({"step": step, **_flat(row)})

    def rows(self) -> list[dict[str, str]]:
        """What is in the file, every cell as text."""
        self.flush()
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def resume(self, step: int) -> None:
        """Drops the rows after `step`."""
        if not self.path.exists():
            return
        # The text behind the last newline was not finished when its writer died.
        text, newline, _ = self.path.read_text(encoding="utf-8").rpartition("\n")
        reader = csv.DictReader(io.StringIO(text + newline, newline=""))
        self._columns = list(reader.fieldnames or [])
        kept = [row for row in reader if int(row["step"]) <= step]
        replace_text(self.path, _table(self._columns, kept, header=True))

    def flush(self) -> None:
        """Returns when what has come is on the disk."""
        if not self._unwritten:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows, self._unwritten = self._unwritten, []
        old: list[Mapping[str, Any]] = []
        if self.path.exists():
            with self.path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                self._columns = list(reader.fieldnames or [])
                old = list(reader)
        new = [name for row in rows for name in row if name not in self._columns]
        self._columns += list(dict.fromkeys(new))
        if new:
            replace_text(self.path, _table(self._columns, [*old, *rows], header=True))
            return
        with self.path.open("a", newline="", encoding="utf-8") as file:
            file.write(_table(self._columns, rows, header=False))
            file.flush()
            os.fsync(file.fileno())

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


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if np.ndim(value) == 0:
            flat[name] = value
        else:
            elements = np.asarray(value).reshape(-1).tolist()
            flat |= {f"{name}/{index}": element for index, element in enumerate(elements)}
    return flat
