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
# A pipe would be waited for, and a link may lead anywhere.
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)
_FILE = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


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


class Lock:
    """A lock on a folder or file, whatever it is renamed to; it ends with the process.

    Args:
        descriptor: Of the open folder or file, closed with the lock; None if it cannot be opened.

    Attributes:
        descriptor: None once it has ended.
        held: Whether it was locked; None where such locks are not to be had.
    """

    def __init__(self, descriptor: int | None):
        self.descriptor = descriptor
        self.held: bool | None = None
        if descriptor is not None:
            _open.add(self)
            try:
                self.held = try_lock(descriptor)
            except OSError:
                self.release()
                raise

    def is_on(self, path: pathlib.Path) -> bool:
        """Whether what was locked is what lies at a path."""
        if self.descriptor is None:
            return False
        try:
            return os.path.samestat(os.fstat(self.descriptor), os.lstat(path))
        except OSError:
            return False

    def release(self) -> None:
        """Ends it."""
        descriptor, self.descriptor = self.descriptor, None
        _open.discard(self)
        if descriptor is not None:
            os.close(descriptor)


_open: set[Lock] = set()


def _forget() -> None:
    """In a child of `fork`: the locks are the parent's, and must not outlive it here."""
    for lock in list(_open):
        with contextlib.suppress(OSError):
            lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def lock_folder(path: pathlib.Path) -> Lock:
    """Locks a folder.

    Raises:
        OSError: If there is none.
    """
    # Where there are no locks, folders cannot be opened either.
    return Lock(None if fcntl is None else os.open(path, _FOLDER))


def lock_file(path: pathlib.Path) -> Lock:
    """Locks a file, made when needed.

    Raises:
        OSError: If it cannot be made.
    """
    return Lock(os.open(path, _FILE, 0o666))
