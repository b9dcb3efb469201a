"""Seeing what a reader opens and unpickles, by Python's own word and by the kernel's."""

import ctypes
import os
import pathlib
import struct
import sys
from typing import Any

# What `inotify` counts here: that a file was opened, read, written or looked up.
_OPENED, _READ, _WRITTEN = 0x20, 0x1, 0x2
_EVENT = struct.Struct("iIII")

_watching: list["Watch"] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    for watch in _watching:
        watch.saw(event, arguments)


class Watch:
    """While entered, notes what is opened outside of a folder, and whatever is unpickled or run.

    Args:
        folder: What may be opened.
        outside: A folder that the kernel is asked about: has anything there been opened? Not on
            systems without `inotify`.

    Attributes:
        found: What should not have been.
    """

    _hooked = False

    def __init__(self, folder: pathlib.Path, outside: pathlib.Path):
        self._folder = os.path.realpath(folder)
        self._outside = outside
        self._inotify: int | None = None
        self.found: list[str] = []

    def saw(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Takes an audit event."""
        if event in ("pickle.find_class", "os.system", "subprocess.Popen", "exec", "compile"):
            self.found.append(f"{event} {arguments[:2]!r}"[:200])
        if event == "open" and isinstance(arguments[0], (str, bytes)):
            path = os.path.abspath(os.fsdecode(arguments[0]))
            if path != self._folder and not path.startswith(self._folder + os.sep):
                self.found.append(f"open {path}")

    def __enter__(self) -> "Watch":
        if not Watch._hooked:  # There is no way to take a hook away again.
            sys.addaudithook(_hook)
            Watch._hooked = True
        self._inotify = _inotify(self._outside)
        _watching.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        _watching.remove(self)
        if self._inotify is not None:
            self.found += [f"{name} was opened or read" for name in _names(self._inotify)]
            os.close(self._inotify)


def _inotify(folder: pathlib.Path) -> int | None:
    if not sys.platform.startswith("linux"):
        return None
    system = ctypes.CDLL(None, use_errno=True)
    descriptor = system.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    mask = _OPENED | _READ | _WRITTEN
    if descriptor < 0 or system.inotify_add_watch(descriptor, os.fsencode(folder), mask) < 0:
        raise OSError(ctypes.get_errno(), "inotify")
    return descriptor


def _names(descriptor: int) -> list[str]:
    try:
        events = os.read(descriptor, 1 << 16)
    except BlockingIOError:
        return []
    names, at = [], 0
    while at < len(events):
        *_, length = _EVENT.unpack_from(events, at)
        at += _EVENT.size + length
        names.append(os.fsdecode(events[at - length : at].rstrip(b"\0")))
    return sorted(set(names))
