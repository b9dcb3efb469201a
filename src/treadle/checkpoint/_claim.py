"""One writer for a directory of checkpoints at a time: the second is told."""

import contextlib
import datetime
import json
import logging
import os
import pathlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

from .._errors import CheckpointError
from ._flock import close_locked, open_locked

_LOCK = ".lock"
_log = logging.getLogger("treadle")

# By the directory's real path. A lock is the process's, so that inside of it we tell by ourselves
# who writes.
_claims: dict[str, "Claim"] = {}
_guard = threading.Lock()


class Claim:
    """The right to write into a directory, until it is given up or the process ends.

    Args:
        directory: Where.
        descriptor: Of the file that is locked.
        owner: Whose it is: any object that is nobody else's.
    """

    def __init__(self, directory: pathlib.Path, descriptor: int, owner: Any):
        self.directory = directory
        self._descriptor = descriptor
        self._owner = owner
        self._trainings = 0
        self._saves = 0
        self._idle = threading.Condition()

    def is_of(self, owner: Any) -> bool:
        """Whether it is this one's."""
        return self._owner is owner

    def hand_over(self, owner: Any) -> None:
        """Makes it another one's in the same process, when the save that is under way has ended.

        Raises:
            CheckpointError: If a training is at work there.
        """
        if self.is_of(owner):
            return
        if self._trainings:
            raise CheckpointError(
                f"`directory` (={str(self.directory)!r}) is being written by a training in this "
                "process: wait until that has ended, or choose another directory."
            )
        self.settle()
        self._owner = owner

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """As long as it is entered, nobody else of this process may have it."""
        self._trainings += 1
        try:
            yield
        finally:
            self._trainings -= 1

    def begin_save(self) -> None:
        """A save is under way, until `end_save`."""
        with self._idle:
            self._saves += 1

    def end_save(self) -> None:
        """It is over."""
        with self._idle:
            self._saves -= 1
            self._idle.notify_all()

    def settle(self) -> None:
        """Returns when no save is under way."""
        with self._idle:
            self._idle.wait_for(lambda: not self._saves)

    def require_directory(self) -> None:
        """Refuses to go on in a directory that was put in the place of the one that was locked.

        Raises:
            CheckpointError: If the directory was removed or moved.
        """
        if not _is_same(self._descriptor, self.directory / _LOCK):
            raise CheckpointError(
                f"`directory` (={str(self.directory)!r}) was removed or moved away while "
                "checkpoints were written to it, so nothing more is: make a new `Checkpointer` to "
                "begin there anew."
            )

    def give_up(self, owner: Any) -> None:
        """Lets others write, if it is this one's still."""
        lock = self.directory / _LOCK
        with _guard:
            if self.is_of(owner) and _claims.get(os.path.realpath(self.directory)) is self:
                del _claims[os.path.realpath(self.directory)]
                if _is_same(self._descriptor, lock):
                    # While it is still locked, or another's might be removed.
                    with contextlib.suppress(OSError):
                        os.unlink(lock)
                close_locked(self._descriptor)


def _is_same(descriptor: int, path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


def settle(directory: pathlib.Path) -> None:
    """Returns when nothing in this process is saving to a directory."""
    with _guard:
        known = _claims.get(os.path.realpath(directory))
    if known is not None:
        known.settle()


def claim(directory: pathlib.Path, owner: Any) -> Claim:
    """The right to write into a directory, which is made when needed.

    Raises:
        CheckpointError: If another process, or another part of this one, is writing there.
        OSError: If it cannot be written to at all.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with _guard:
        known = _claims.get(os.path.realpath(directory))
        if known is not None and _is_same(known._descriptor, directory / _LOCK):
            known.hand_over(owner)
            return known
        descriptor = _locked(directory)
        made = _claims[os.path.realpath(directory)] = Claim(directory, descriptor, owner)
        return made


def _locked(directory: pathlib.Path) -> int:
    lock = directory / _LOCK
    while True:
        descriptor, held = open_locked(lock)
        if held is False:
            who = _holder(descriptor)
            close_locked(descriptor)
            raise CheckpointError(
                f"`directory` (={str(directory)!r}) is being written by another process{who}: wait "
                "until that has ended, or choose another directory. Two trainings in one folder "
                "would get mixed up."
            )
        if held is None:
            _log.warning(
                "The file system of %s has no locks, so a second process that writes there would "
                "not be noticed.",
                directory,
            )
        # The one who held it before may have removed the file in between.
        if _is_same(descriptor, lock):
            break
        close_locked(descriptor)
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    note = {"host": socket.gethostname(), "pid": os.getpid(), "since": since}
    os.ftruncate(descriptor, 0)
    os.write(descriptor, (json.dumps(note) + "\n").encode())
    return descriptor


def _holder(descriptor: int) -> str:
    try:
        note = json.loads(os.read(descriptor, 1_000))
        return f" ({note['pid']} on {note['host']}, since {note['since']})"
    except (OSError, ValueError, KeyError, TypeError):  # It has not written its name yet.
        return ""
