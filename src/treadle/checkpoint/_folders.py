"""Folders that come into being all at once: written aside, synced, renamed."""

import contextlib
import os
import pathlib
import re
import secrets
import shutil
import socket
from collections.abc import Callable
from typing import Any

from .._durable import sync_folder
from .._errors import CheckpointError
from ._exchange import exchange
from ._flock import Lock, lock_folder
from ._manifest import MANIFEST

# `.NAME.ROLE-HOST-PID-TOKEN` beside NAME. A `new` one is being written; an `old` one was moved
# away while a new one takes its place; a `gone` one is being removed.
_ASIDE = re.compile(r"\.(.+)\.(new|old|gone)-(\w+)-(\d+)-[0-9a-f]{8}")
_HOST = re.sub(r"\W", "_", socket.gethostname())

# The ones that this process is at work on, for where folders cannot be locked.
_in_use: set[pathlib.Path] = set()


class Aside:
    """A folder beside `path` that says who is at work on it, and is locked until `release`."""

    def __init__(self, path: pathlib.Path, role: str):
        self._start = f".{path.name}.{role}-{_HOST}-{os.getpid()}"
        self._lock: Lock | None = None
        self.path = path
        self._name_anew()

    def _name_anew(self) -> None:
        self.path = self.path.with_name(f"{self._start}-{secrets.token_hex(4)}")
        _in_use.add(self.path)

    def make(self) -> None:
        """Makes it, new and empty."""
        while True:
            self.path.mkdir()
            if self._locked():
                return
            # Another process took it for a dead one's, in the moment before it was locked.
            self.forget()
            self._name_anew()

    def _locked(self) -> bool:
        try:
            self._lock = lock_folder(self.path)
        except FileNotFoundError:
            return False
        if self._lock.descriptor is None:  # Where folders have no locks.
            return True
        return self._lock.held is not False and self._lock.is_on(self.path)

    def take(self, path: pathlib.Path) -> None:
        """Moves a folder there. It is locked before, so nobody ever sees it there unlocked."""
        self._lock = lock_folder(path)
        os.rename(path, self.path)

    def put_back(self, path: pathlib.Path) -> None:
        """Gives what was moved there its name again, unless another has it."""
        try:
            if os.path.lexists(self.path) and not os.path.lexists(path):
                os.rename(self.path, path)
        finally:
            self.forget()

    def release(self) -> None:
        """Removes what is left there."""
        # What cannot be removed now is removed by the next `clean`.
        try:
            shutil.rmtree(self.path, ignore_errors=True)
        finally:  # After a Ctrl-C too, or nobody could remove it as long as we live.
            self.forget()

    def forget(self) -> None:
        """Leaves what is there to whoever finds it."""
        if self._lock is not None:
            self._lock.release()
        _in_use.discard(self.path)


def _is_alive(pid: int) -> bool:
    if os.name == "nt":  # There, signal 0 is Ctrl-C.
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    except OverflowError:  # No process has such a number, so nobody knows what it says.
        return True
    return True


def _is_abandoned(path: pathlib.Path, host: str, pid: int, lock: Lock) -> bool:
    # A lock ends with the process that holds it, on whatever machine that was, in whatever
    # container; numbers of processes say less: they start over, and others get them.
    if lock.held is not None:
        return lock.held
    if host != _HOST:  # Whether a process of another machine is alive cannot be told from here.
        return False
    return path not in _in_use if pid == os.getpid() else not _is_alive(pid)


def names_in(directory: pathlib.Path) -> list[str]:
    """What lies in a directory, sorted; nothing if that is gone.

    Raises:
        CheckpointError: If it may not be looked into.
    """
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(
            f"The directory {str(directory)!r} cannot be looked into: {error}."
        ) from error


def _asides(directory: pathlib.Path) -> list[tuple[pathlib.Path, re.Match[str]]]:
    found = [(directory / name, _ASIDE.fullmatch(name)) for name in names_in(directory)]
    return [(path, match) for path, match in found if match is not None]


def clean(directory: pathlib.Path, name: str | None = None) -> None:
    """Removes what dead writers left in a directory, or puts it back where that is right.

    Args:
        directory: The folder in which they wrote.
        name: Only what they left of the folder of this name.
    """
    for aside, match in _asides(directory):
        if name not in (None, match[1]):
            continue
        try:
            lock = lock_folder(aside)
        except OSError:  # Another process was faster, or it may not be touched.
            continue
        try:
            if _is_abandoned(aside, match[3], int(match[4]), lock):
                _clean_one(aside, match[2], directory / match[1])
        finally:
            lock.release()


def _clean_one(aside: pathlib.Path, role: str, final: pathlib.Path) -> None:
    if role == "old" and not os.path.lexists(final):
        # Killed between the two renames of `put_in_place`. Where it cannot be renamed (another
        # process was faster, or the file system is read-only), `find` knows it as it is.
        with contextlib.suppress(OSError):
            os.rename(aside, final)
    else:
        shutil.rmtree(aside, ignore_errors=True)


def find(path: pathlib.Path) -> pathlib.Path:
    """Where the checkpoint of a path lies: there, but for a writer killed while replacing it."""
    if not os.path.lexists(path) and path.parent.is_dir():
        for aside, match in _asides(path.parent):
            if match[1] == path.name and match[2] == "old" and (aside / MANIFEST).is_file():
                return aside
    return path


def write_synced(path: pathlib.Path, content: bytes) -> None:
    """Writes a file that lasts."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_or_undo(folder: pathlib.Path, undo: Callable[[], Any]) -> None:
    """Makes a new name last; where that fails, who is told so must not find it there."""
    try:
        sync_folder(folder)
    except BaseException:
        with contextlib.suppress(OSError):
            undo()
        raise


def put_in_place(new: pathlib.Path, path: pathlib.Path, overwrite: bool) -> None:
    """Renames a complete folder to its final name, in the place of what is there if asked to."""
    if not (overwrite and os.path.lexists(path)):
        # The system refuses where a folder with something in it came to be there meanwhile.
        os.rename(new, path)
        _sync_or_undo(path.parent, lambda: os.rename(path, new))
        return
    if exchange(new, path):
        # What is at `new` is the old one now, for who made `new` to remove.
        _sync_or_undo(path.parent, lambda: exchange(new, path))
        return
    old = Aside(path, "old")
    try:
        old.take(path)
        os.rename(new, path)
        _sync_or_undo(path.parent, lambda: os.rename(path, new))
    except BaseException:
        old.put_back(path)
        raise
    old.release()


def remove(path: pathlib.Path) -> None:
    """Removes a folder all at once: nobody sees half of it under its name.

    Of a link to a folder, the link.
    """
    if path.is_symlink():
        os.unlink(path)
        return
    gone = Aside(path, "gone")
    try:
        gone.take(path)
    finally:
        gone.release()
