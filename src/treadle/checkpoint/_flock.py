"""Locks on folders and files that end with the process that holds them."""

import contextlib
import errno
import os
import pathlib

try:
    import fcntl
except ImportError:  # Windows.
    fcntl = None

# What file systems without such locks answer (NFS, for folders).
_UNABLE = (errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)

_open: set[int] = set()


def _forget() -> None:
    """In a child of `fork`: the locks are the parent's, and must not outlive it here."""
    while _open:
        with contextlib.suppress(OSError):
            os.close(_open.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def try_lock(descriptor: int) -> bool | None:
    """Locks an open file or folder, unless another has; None where that is not to be had."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        if error.errno in _UNABLE:
            return None
        raise
    return True


class FolderLock:
    """A lock on a folder, whatever it is renamed to; it ends with `release` or the process.

    Attributes:
        held: Whether it was locked; None where such locks are not to be had.
    """

    def __init__(self, path: pathlib.Path):
        self.held: bool | None = None
        self._descriptor: int | None = None
        if fcntl is None:  # Folders cannot be opened there.
            return
        self._descriptor = os.open(path, os.O_RDONLY)
        _open.add(self._descriptor)
        try:
            self.held = try_lock(self._descriptor)
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Unlocks it."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            close_locked(descriptor)


def open_locked(path: pathlib.Path) -> tuple[int, bool | None]:
    """Opens a file to read and write, made when needed, and whether it could be locked."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    _open.add(descriptor)
    try:
        return descriptor, try_lock(descriptor)
    except OSError:
        close_locked(descriptor)
        raise


def close_locked(descriptor: int) -> None:
    """Closes it, which ends its lock; not twice, for another may have its number by then."""
    if descriptor in _open:
        _open.discard(descriptor)
        os.close(descriptor)
