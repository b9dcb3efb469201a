"""Packages that only the demo needs."""

import importlib
from typing import Any

from .._errors import MissingExtraError as MissingExtraError


def require_demo(module: str) -> Any:
    """The module, imported; or what to install.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"The demo needs {error.name}, which is not installed: `pip install 'treadle[demo]'`."
        ) from error
