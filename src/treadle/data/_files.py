"""What the readers of files share: the path, and how a file that cannot be read is told."""

import os
import pathlib
from typing import Any

from .._errors import ArgumentTypeError, DataError


def as_path(path: Any) -> pathlib.Path:
    """The path of a file.

    Raises:
        ArgumentTypeError: It is none.
    """
    if isinstance(path, (str, os.PathLike)):
        return pathlib.Path(path)
    raise ArgumentTypeError(
        f"`path` (={path!r}) must be the path of a file, not of type {type(path).__name__}."
    )


def unreadable(path: pathlib.Path, error: OSError) -> DataError:
    """The error for what the system does not let us read."""
    return DataError(f"{path} cannot be read: {error.strerror or error}.")


def too_large(path: pathlib.Path, error: MemoryError) -> DataError:
    """The error for what memory does not hold: a large file, or a damaged one that claims it."""
    return DataError(
        f"{path} does not fit into memory ({error}), or is damaged and says that it is larger than "
        "it is. What is larger than memory is read by Grain, in parts."
    )
