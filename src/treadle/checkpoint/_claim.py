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

from .._durable import make_folder
from .._errors import CheckpointError
from ._flock import Lock, lock_file

_LOCK = ".lock"
_log = logging.getLogger("treadle")

# By the directory's real path. A lock is the process's, so that inside of it we tell by ourselves
# who writes.
_claims: dict[str, "Claim"] = {}
# A `Checkpointer` that is forgotten gives up its claim when the garbage is collected, which may be
# at any line, those that hold the guard included.
_guard = threading.RLock()
# Where it was told that there are no locks.
_told: set[str] = set()


class Claim:
    """The right to write into a directory, until it is given up or the process ends.

    Args:
        directory: Where.
        key: Its real path.
        lock: On the file in it that says so.
        owner: Whose it is: any object that is nobody else's.
    """

    def __init__(self, directory: pathlib.Path, key: str, lock: Lock, owner: Any):
        self.directory = directory
        self._key = key
        self._lock = lock
        self._owner: Any = owner
        self._trainings = 0
        self._saves: set[Any] = set()
        self._idle = threading.Condition()

    def is_of(self, owner: Any) -> bool:
        """Whether it is this one's."""
        return self._owner is owner

    def is_there(self) -> bool:
        """Whether the directory is the one that was locked."""
        return self._lock.is_on(self.directory / _LOCK)

    def hand_over(self, owner: Any) -> bool:
        """Makes it another one's in the same process; not while a save is under way.

        Raises:
            CheckpointError: If a training is at work there.
        """
        if self.is_of(owner):
            return True
        self._require_no_training()
        if self._saves:
            return False
        self._owner = owner
        return True

    def _require_no_training(self) -> None:
        if self._trainings:
            raise CheckpointError(
                f"`directory` (={str(self.directory)!r}) is being written by a training in this "
                "process: wait until that has ended, or choose another directory."
            )

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """As long as it is entered, nobody else of this process may have it.

        Raises:
            CheckpointError: If a training is at work there, with the same `Checkpointer`.
        """
        self._require_no_training()
        self._trainings += 1
        try:
            yield
        finally:
            self._trainings -= 1

    def begin_save(self, saving: Any) -> None:
        """A save is under way, until `end_save`; `saving` is any object that is no other's."""
        with self._idle:
            self._saves.add(saving)

    def end_save(self, saving: Any) -> None:
        """It is over; or was never begun, which may not be known after a Ctrl-C."""
        with self._idle:
            self._saves.discard(saving)
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
        if not self.is_there():
            raise CheckpointError(
                f"`directory` (={str(self.directory)!r}) was removed or moved away while "
                "checkpoints were written to it, so nothing more is: make a new `Checkpointer` to "
                "begin there anew."
            )

    def give_up(self, owner: Any) -> None:
        """Lets others write, if it is this one's still."""
        with _guard:
            if not self.is_of(owner):
                return
            self._owner = None
            if _claims.get(self._key) is self:
                del _claims[self._key]
            # Where there are no locks, it may be another process's file too.
            if self._lock.held and self.is_there():
                # While it is still locked, or another's might be removed.
                with contextlib.suppress(OSError):
                    os.unlink(self.directory / _LOCK)
            self._lock.release()

    def disown(self) -> None:
        """Makes it nobody's, and leaves its lock alone."""
        self._owner = None


def _forget() -> None:
    """In a child of `fork`: the claims are the parent's."""
    global _guard
    _guard = threading.RLock()
    for made in _claims.values():
        made.disown()
    _claims.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def settle(directory: pathlib.Path) -> None:
    """Returns when nothing in this process is saving to a directory."""
    known = _claims.get(os.path.realpath(directory))
    if known is not None:
        known.settle()


def claim(directory: pathlib.Path, owner: Any) -> Claim:
    """The right to write into a directory, which is made when needed.

    Raises:
        CheckpointError: If another process, or another part of this one, is writing there.
        OSError: If it cannot be written to at all.
    """
    make_folder(directory)
    while True:
        with _guard:
            found, mine = _claim(directory, owner)
        if mine:
            return found
        # Without the guard, which whoever saves may need on the way.
        found.settle()


def _claim(directory: pathlib.Path, owner: Any) -> tuple[Claim, bool]:
    """The claim on a directory, and whether it is this one's now."""
    key = os.path.realpath(directory)
    known = _claims.get(key)
    if known is None or not known.is_there():
        made = _claims[key] = Claim(directory, key, _locked(directory, key), owner)
        return made, True
    # Its owner may have been garbage by then, and have given it up.
    return known, known.hand_over(owner) and _claims.get(key) is known


def _locked(directory: pathlib.Path, key: str) -> Lock:
    path = directory / _LOCK
    while True:
        lock = lock_file(path)
        try:
            if lock.held is False:
                raise CheckpointError(
                    f"`directory` (={str(directory)!r}) is being written by another process"
                    f"{_holder(lock)}: wait until that has ended, or choose another directory. Two "
                    "trainings in one folder would get mixed up."
                )
            # The one who held it before may have removed the file in between.
            if lock.is_on(path):
                _sign(lock)
                break
        except BaseException:
            lock.release()
            raise
        lock.release()
    if lock.held is None and key not in _told:
        _told.add(key)
        _log.warning(
            "The file system of %s has no locks, so a second process that writes there would not "
            "be noticed.",
            directory,
        )
    return lock


def _sign(lock: Lock) -> None:
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    note = {"host": socket.gethostname(), "pid": os.getpid(), "since": since}
    assert lock.descriptor is not None
    os.ftruncate(lock.descriptor, 0)
    os.write(lock.descriptor, (json.dumps(note) + "\n").encode())


def _holder(lock: Lock) -> str:
    assert lock.descriptor is not None
    try:
        note = json.loads(os.read(lock.descriptor, 1_000))
        return f" ({note['pid']} on {note['host']}, since {note['since']})"
    except (OSError, ValueError, KeyError, TypeError):  # It has not written its name yet.
        return ""
