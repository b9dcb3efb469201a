"""Opening the files of a checkpoint: plain files of its own, nothing that leads elsewhere."""

import errno
import os
import pathlib
import stat

from .._errors import CheckpointError


def open_regular(path: pathlib.Path) -> int:
    """A descriptor to read a file with.

    Raises:
        CheckpointError: If it is a link, a pipe, a device or a folder.
        FileNotFoundError: If there is nothing.
    """
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
    # A pipe would be waited for.
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise _not_plain(path) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_plain(path)
    return descriptor


def _not_plain(path: pathlib.Path) -> CheckpointError:
    return CheckpointError(
        f"{str(path)!r} is no plain file, and those of a checkpoint are: nothing that they may "
        "lead to is read. If it is a link to what you trust, copy that here."
    )


def read_regular(path: pathlib.Path) -> bytes:
    """All of a file.

    Raises:
        CheckpointError: If it is no plain file.
        FileNotFoundError: If there is nothing.
    """
    with open(open_regular(path), "rb") as file:
        return file.read()
