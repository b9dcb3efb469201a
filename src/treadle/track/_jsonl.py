"""Rows as lines of JSON."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from .._custom_types import Door
from .._durable import make_folder, sync_folder
from .._errors import DataError
from ._base import Tracker
from ._files import append, local_file, replace_text, step_of
from ._known import Known

# Lines that wait to be written at most.
_MOST_UNWRITTEN = 50


class JSONL(Tracker):
    """A file with one JSON object a row: `{"step": 10, "loss": 0.31, "accuracy": 0.9}`.

    Numbers are written so that reading them gives the same bits; NaN and infinities as `NaN`,
    `Infinity` and `-Infinity`, which Python's `json` and pandas read. The same training writes the
    same bytes: there are no times in it.

    Args:
        path: The file; its folder is made when needed. Rows are added to what is there.

    Raises:
        ArgumentTypeError: It is no path.
    """

    def __init__(self, path: Door[str | os.PathLike[str]]):
        self.path = local_file(path)
        self._file: Any = None
        # Kept until they are in the file: a disk that is full now may not be later.
        self._unwritten: list[str] = []
        self._known = Known()

    def log(self, step: int, row: Mapping[str, Any]) -> None:
        """Adds a line."""
        new = self._known.new(step, row)
        if row and not new:
            return
        values = {name: _plain(value) for name, value in new.items()}
        self._unwritten.append(json.dumps({"step": step, **values}) + "\n")
        if len(self._unwritten) >= _MOST_UNWRITTEN:
            self._write()

    def _write(self) -> None:
        if self._file is None:
            make_folder(self.path.parent)
            is_new = not self.path.exists()
            self._file = self.path.open("ab", buffering=0)
            if is_new:
                sync_folder(self.path.parent)
        append(self._file, "".join(self._unwritten).encode())
        self._unwritten = []

    def rows(self) -> list[dict[str, Any]]:
        """What is in the file, without a last line that was cut off."""
        self.flush()
        return read_jsonl(self.path)

    def resume(self, step: int) -> None:
        """Drops the rows after `step`, and a last line that was cut off."""
        self.close()
        self._known = Known()
        if not self.path.exists():
            return
        kept = [row for row in read_jsonl(self.path) if step_of(row, self.path) <= step]
        self._known = Known(step, [name for row in kept if row["step"] == step for name in row])
        replace_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def drop_evaluation(self, step: int) -> None:
        """Drops the evaluation behind a step, which is going to be made again."""
        rows = self.rows()
        kept = [row for row in rows if row["step"] != step or not _is_evaluation(row)]
        if len(kept) < len(rows):
            self.close()
            self._known = Known()
            replace_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def flush(self) -> None:
        """Returns when everything is on the disk: a checkpoint comes after the rows before it."""
        if self._unwritten:
            self._write()
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        try:
            if self._unwritten:
                self._write()
        finally:
            if self._file is not None:
                self._file.close()
                self._file = None


def read_jsonl(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of a file that `JSONL` wrote; a last line that was cut off is left out.

    Raises:
        DataError: A line is not JSON.
    """
    file = pathlib.Path(path)
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").split("\n")
    rows = []
    # The text behind the last newline was not finished when its writer died.
    for number, line in enumerate(lines[:-1], 1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise DataError(
                f"{str(file)!r} is damaged: line {number} is not JSON ({error}). Remove the line "
                f"by hand, or move the file away; the checkpoints do not depend on it."
            ) from error
    return rows


def _is_evaluation(row: Mapping[str, Any]) -> bool:
    return all(name.startswith("eval/") for name in row if name != "step")


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, float)) else np.asarray(value).tolist()
