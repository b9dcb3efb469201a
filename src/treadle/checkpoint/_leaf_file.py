"""A file of leaves being written: digested on the way, and on its way to the disk meanwhile."""

import os
import pathlib
import threading
from typing import Any

from ._digest import Digest

# Small enough to be in the processor's cache still when it is written, after it was digested.
_PIECE = 1 << 20
# What is small is gathered, for each call to the system costs as much as a kilobyte.
_SMALL = 1 << 16
# How much is written between two requests to the disk.
_STRIDE = 64 << 20


class _Disk:
    """Asks the disk for what was written so far, while more is written.

    What that gains, `python -m benchmarks checkpoint` measures. Where there is no
    `fdatasync` (Windows, macOS) it does nothing; the file is synced at its end anyway.
    """

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self._written = 0
        self._asked = threading.Event()
        self._ended = False
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None

    def wrote(self, count: int) -> None:
        self._written += count
        if self._written < _STRIDE or not hasattr(os, "fdatasync"):
            return
        self._written = 0
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="treadle-sync", daemon=True)
            self._thread.start()
        self._asked.set()

    def _run(self) -> None:
        while True:
            self._asked.wait()
            self._asked.clear()
            if self._ended:
                return
            try:
                os.fdatasync(self._descriptor)
            except OSError as error:
                # An error of the disk is told once only, so it is kept for `end`.
                self._error = error
                return

    def end(self) -> None:
        """Returns when nothing is under way any more."""
        if self._thread is not None:
            self._ended = True
            self._asked.set()
            self._thread.join()
            self._thread = None
        if self._error is not None:
            raise self._error


class LeafFile:
    """A new file, as the file object that `eqx.tree_serialise_leaves` writes to.

    Args:
        path: Where; there must be nothing.

    Attributes:
        offset: How many bytes were written.
        start: How many had been when `restart` was called last.
    """

    def __init__(self, path: pathlib.Path):
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        self._descriptor = os.open(path, flags, 0o666)
        self._gathered = bytearray()
        self._disk = _Disk(self._descriptor)
        self.offset = 0
        self.restart()

    def restart(self) -> None:
        """From here on, the digest is that of another leaf."""
        self.start, self._digest = self.offset, Digest()

    @property
    def digest(self) -> str:
        """The digest of what was written since `restart`."""
        return str(self._digest)

    def write(self, data: Any) -> int:
        """Writes all of it."""
        view = memoryview(data)
        if view.nbytes:  # Of an empty array no view of bytes can be made.
            self._write(view.cast("B"))
        self.offset += view.nbytes
        return view.nbytes

    def _write(self, view: memoryview) -> None:
        if len(view) < _SMALL:
            self._digest.update(view)
            self._gathered += view
            if len(self._gathered) >= _PIECE:
                self._flush()
            return
        self._flush()
        for at in range(0, len(view), _PIECE):
            piece = view[at : at + _PIECE]
            self._digest.update(piece)
            self._put(piece)

    def _flush(self) -> None:
        if self._gathered:
            self._put(memoryview(self._gathered))
            self._gathered = bytearray()

    def _put(self, piece: memoryview) -> None:
        while len(piece):
            count = os.write(self._descriptor, piece)
            self._disk.wrote(count)
            piece = piece[count:]

    def sync(self) -> None:
        """Returns when everything is on the disk."""
        self._flush()
        self._disk.end()
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Closes the file, synced or not."""
        try:
            self._disk.end()
        finally:
            os.close(self._descriptor)
