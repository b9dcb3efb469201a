"""The packages of other trackers, which come with an extra."""

from typing import Any

from .._extras import required


def package(module: str, *, needed_by: str) -> Any:
    """A module of another package.

    Args:
        module: Its name.
        needed_by: What needs it, for the message.

    Raises:
        MissingExtraError: The package is not installed.
    """
    return required(module, extra="track", wanted_by=f"`{needed_by}`")
