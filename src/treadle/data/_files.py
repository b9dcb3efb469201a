"""How a file that cannot be read is told."""

import pathlib

from .._errors import DataError


def unreadable(path: pathlib.Path, error: OSError) -> DataError:
    """The error for what the system does not let us read."""
    return DataError(f"{path} cannot be read: {error.strerror or error}.")


def too_large(path: pathlib.Path, error: MemoryError) -> DataError:
    """The error for what memory does not hold: a large file, or a damaged one that claims it."""
    return DataError(
        f"{path} does not fit into memory ({error}), or is damaged and says that it is larger than "
        "it is. What is larger than memory is read by Grain, in parts."
    )
