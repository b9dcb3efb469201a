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
