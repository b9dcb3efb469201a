"""Two folders that change places in one go, so that a name always stands for one of them."""

import ctypes
import errno
import os
import pathlib
import sys

# Of Linux since 3.15 (`man 2 rename`); Python has no name for it.
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_UNABLE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)


def exchange(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Lets two paths change places; False where the system or the file system has no such call.

    Raises:
        OSError: If it has, and refuses.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):  # A C library older than the call.
        return False
    paths = os.fsencode(one), os.fsencode(other)
    if library.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0:
        return True
    error = ctypes.get_errno()
    if error in _UNABLE:
        return False
    raise OSError(error, os.strerror(error), str(other))
