"""The packages of other trackers, which come with an extra."""

import importlib
from typing import Any

from .._errors import MissingExtraError


def package(module: str, *, needed_by: str) -> Any:
    """A module of another package.

    Args:
        module: Its name.
        needed_by: What needs it, for the message.

    Raises:
        MissingExtraError: The package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        name = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != name:
            raise  # It is there, and misses something of its own.
        raise MissingExtraError(
            f"`{needed_by}` needs {name}, which is not installed: `pip install 'treadle[track]'`."
        ) from error
