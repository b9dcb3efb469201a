"""Opening the files of a checkpoint: plain files of its own, nothing that leads elsewhere."""

import errno
import os
import pathlib
import stat

from .._errors import CheckpointError, DamagedCheckpointError


def open_regular(path: pathlib.Path) -> int:
    """A descriptor to read a file with.

    Raises:
        CheckpointError: If it is a link, a pipe, a device or a folder, or may not be read.
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
        if isinstance(error, FileNotFoundError):
            raise
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_plain(path)
    return descriptor


def _not_plain(path: pathlib.Path) -> CheckpointError:
    return CheckpointError(
        f"{str(path)!r} is no plain file, and those of a checkpoint are: nothing that they may "
        "lead to is read. If it is a link to what you trust, copy that here."
    )


def _unreadable(path: pathlib.Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"The file {str(path)!r} of a checkpoint cannot be read: {error}.")


def read_regular(path: pathlib.Path, largest: int) -> bytes:
    """All of a file.

    Args:
        path: Which.
        largest: How many bytes it may have: a file with holes takes no disk, but memory to read.

    Raises:
        CheckpointError: If it is no plain file, too large, or cannot be read.
        FileNotFoundError: If there is nothing.
    """
    with open(open_regular(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > largest:
            raise DamagedCheckpointError(
                f"The file {str(path)!r} has {size} bytes, and at most {largest} are written: it "
                "is damaged. Go back to an earlier checkpoint."
            )
        try:
            return file.read()
        except OSError as error:
            raise _unreadable(path, error) from error
