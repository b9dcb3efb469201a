"""A layer under the file calls of a process, which stops it at one of them."""

import builtins
import collections
import io
import os
import pathlib
import re
import signal
import threading
from collections.abc import Callable
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
# What differs from process to process in the names of folders that are being written.
_WHOSE = re.compile(r"-\w+-\d+-[0-9a-f]{8}(?=/|$)")
# Calls that change what lies at a path, and those that change an open file.
_ON_PATHS = ("mkdir", "rename", "replace", "unlink", "remove", "rmdir")
_ON_FILES = ("fsync", "fdatasync", "ftruncate")


def die() -> None:
    """Ends the process at once, as the kernel does it."""
    os.kill(os.getpid(), signal.SIGKILL)


class Faults:
    """Sees every call that writes under a folder, from any thread.

    Each has a name: what is called, on which file, and a number that counts these, such as
    `"half of write checkpoints/.step_00000003.new/leaves-00000.eqx #1"`. Of a write there are two,
    before it and in the middle of it.

    Args:
        root: The folder.
        at: The name of the point where `act` is called; None for none.
        act: What happens there: the process is killed.

    Attributes:
        points: The names of the points that were passed, in order.
    """

    def __init__(self, root: pathlib.Path, at: str | None, act: Callable[[], Any] = die):
        self._root = os.path.realpath(root)
        self._at = at
        self._act = act
        self._counts: collections.Counter[str] = collections.Counter()
        self._guard = threading.Lock()
        self._over = False
        self.points: list[str] = []

    def pass_by(self, call: str, path: Any, directory: int | None = None) -> bool:
        """A call is about to be made; False where it is none of ours."""
        name = self._name(path, directory)
        if name is None:
            return False
        with self._guard:
            if self._over:
                self._act()
            what = f"{call} {name}"
            self._counts[what] += 1
            point = f"{what} #{self._counts[what]}"
            self.points.append(point)
            if point == self._at:
                self._over = True
                self._act()
        return True

    def _name(self, path: Any, directory: int | None) -> str | None:
        if isinstance(path, int):
            full = os.readlink(f"/proc/self/fd/{path}")
        else:
            within = "" if directory is None else os.readlink(f"/proc/self/fd/{directory}")
            full = os.path.abspath(os.path.join(within, os.fsdecode(path)))
        if full != self._root and not full.startswith(self._root + os.sep):
            return None
        return _WHOSE.sub("", os.path.relpath(full, self._root))

    def write(self, descriptor: int, data: Any, write: Callable[[Any], int]) -> int:
        """Writes, with a point before and one in the middle."""
        half = memoryview(data).nbytes // 2
        if not self.pass_by("write", descriptor) or not half:
            return write(data)
        # Both parts are written, so that the middle is there whether or not it ends here.
        count = write(memoryview(data).cast("B")[:half])
        self.pass_by("half of write", descriptor)
        return count + write(memoryview(data).cast("B")[half:]) if count == half else count

    def install(self, patch: Callable[[Any, str, Any], None] = setattr) -> None:
        """Puts the layer under `os` and `open`.

        Args:
            patch: Sets an attribute.
        """
        for name in _ON_PATHS:
            patch(os, name, self._on_path(name, getattr(os, name)))
        for name in _ON_FILES:
            patch(os, name, self._on_file(name, getattr(os, name)))
        write, opened, os_open = os.write, io.open, os.open

        def seen_os_open(path: Any, flags: int, *args: Any, dir_fd: int | None = None) -> int:
            if flags & _WRITING:
                self.pass_by("open", path, dir_fd)
            return os_open(path, flags, *args, dir_fd=dir_fd)

        def seen_open(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **more: Any):
            mine = set(mode) & set("wax+") and not isinstance(file, int)
            if not mine or not self.pass_by("open", file):
                return opened(file, mode, buffering, *args, **more)
            raw = _File(self, file, mode.replace("t", "").replace("b", ""))
            if buffering == 0:
                return raw  # What a row is written to: nothing of it waits in a buffer.
            buffered = io.BufferedWriter(raw)
            return buffered if "b" in mode else io.TextIOWrapper(buffered, *args, **more)

        def seen_write(descriptor: int, data: Any) -> int:
            return self.write(descriptor, data, lambda part: write(descriptor, part))

        patch(os, "open", seen_os_open)
        patch(os, "write", seen_write)
        patch(io, "open", seen_open)
        patch(builtins, "open", seen_open)

    def _on_path(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def seen(path: Any, *args: Any, **more: Any) -> Any:
            self.pass_by(name, path, more.get("dir_fd"))
            return call(path, *args, **more)

        return seen

    def _on_file(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def seen(descriptor: int, *args: Any) -> Any:
            self.pass_by(name, descriptor)
            return call(descriptor, *args)

        return seen


class _File(io.FileIO):
    """A file opened by `open`, whose writes are seen as they leave the buffer."""

    def __init__(self, faults: Faults, path: Any, mode: str):
        super().__init__(path, mode)
        self._faults = faults

    def write(self, data: Any) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._faults.write(self.fileno(), data, super().write)
