"""Rows as event files for TensorBoard."""

import io
import os
import pathlib
import re
import socket
import time
from collections.abc import Mapping
from typing import Any

from .._custom_types import Door
from .._durable import make_folder, sync_folder
from ._base import Tracker
from ._files import append, local_folder
from ._flat import numbers
from ._known import Known
from ._packages import package

_EVENTS = re.compile(r"events\.out\.tfevents\.(\d+)\.")


class TensorBoard(Tracker):
    """Event files in a folder, which TensorBoard shows as one run: a curve for each name.

    Each start of a training adds a file. One that goes on from an earlier step says so in it, and
    TensorBoard then leaves out what was logged behind that step. The figures are float32, as
    TensorBoard keeps them; arrays are flattened to `name/0`, `name/1`.

    Args:
        folder: Of one run; it is made when needed. Its parent is what `tensorboard --logdir` takes.

    Raises:
        ArgumentTypeError, ArgumentValueError: It is no folder of this machine.
        MissingExtraError: TensorBoard is not installed.

    Example:
        >>> board = treadle.track.TensorBoard("runs/digits/tensorboard")
        >>> treadle.fit(..., run="runs/digits", callbacks=[treadle.callbacks.Log(board)])
    """

    def __init__(self, folder: Door[str | os.PathLike[str]]):
        needs = type(self).__name__
        self._event = package("tensorboard.compat.proto.event_pb2", needed_by=needs)
        self._summary = package("tensorboard.compat.proto.summary_pb2", needed_by=needs)
        self._record = package("tensorboard.summary.writer.record_writer", needed_by=needs)
        self._loader = package(
            "tensorboard.backend.event_processing.event_file_loader", needed_by=needs
        )
        self.folder = local_folder("folder", folder)
        self._path: pathlib.Path | None = None
        self._file: Any = None
        self._known = Known()

    def log(self, step: int, row: Mapping[str, Any]) -> None:
        """Adds a point to the curve of each name."""
        value = self._summary.Summary.Value
        figures = self._known.new(step, numbers(row))
        points = [value(tag=tag, simple_value=number) for tag, number in figures.items()]
        self._write(step=step, summary=self._summary.Summary(value=points))

    def resume(self, step: int) -> None:
        """Says, in a new file, that what came after `step` is taken again."""
        self.close()
        self._path = None
        self._known = Known(step, self._names_at(step))
        if self._files():
            start = self._event.SessionLog(status=self._event.SessionLog.START)
            # From this step on, TensorBoard drops what it has.
            self._write(step=step + 1, session_log=start)
            self.flush()

    def flush(self) -> None:
        """Returns when every point is on the disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, **event: Any) -> None:
        """Appends an event, in the framing that TensorBoard reads, to the file of this start."""
        if self._file is None:
            self._open()
        append(self._file, self._framed(**event))

    def _framed(self, **event: Any) -> bytes:
        framed = io.BytesIO()
        event_as_bytes = self._event.Event(wall_time=time.time(), **event).SerializeToString()
        self._record.RecordWriter(framed).write(event_as_bytes)
        return framed.getvalue()

    def _open(self) -> None:
        # Closed in between, or without its first event because the disk was full.
        fresh = self._path is None or not self._path.exists() or not self._path.stat().st_size
        if self._path is None:
            make_folder(self.folder)
            self._path = self._next()
        file = self._path.open("ab", buffering=0)
        try:
            if fresh:
                append(file, self._framed(file_version="brain.Event:2"))
                sync_folder(self.folder)
        except BaseException:
            file.close()
            raise
        self._file = file

    def _files(self) -> list[str]:
        """The names of the files that are there, in the order in which they are read."""
        names = os.listdir(self.folder) if self.folder.is_dir() else []
        return sorted(name for name in names if _EVENTS.match(name))

    def _names_at(self, step: int) -> set[str]:
        """Which curves have a point at a step, that no later start has taken back."""
        names: set[str] = set()
        for file in self._files():
            for raw in self._loader.RawEventFileLoader(str(self.folder / file)).Load():
                event = self._event.Event.FromString(raw)
                if event.HasField("session_log") and event.step <= step:
                    names.clear()
                elif event.step == step:
                    names.update(value.tag for value in event.summary.value)
        return names

    def _next(self) -> pathlib.Path:
        # TensorBoard reads them in the order of their names: behind the others, also where this
        # machine's clock is behind that of the one before, or both starts are of one second.
        begun = int(time.time())
        for file in self._files():
            if found := _EVENTS.match(file):
                begun = max(begun, int(found[1]) + 1)
        name = f"events.out.tfevents.{begun:010d}.{socket.gethostname()}.{os.getpid()}.treadle"
        return self.folder / name
