"""Packages that only the demo needs."""

from typing import Any

from .._errors import MissingExtraError as MissingExtraError
from .._extras import required


def require_demo(module: str) -> Any:
    """The module, imported; or what to install.

    Raises:
        MissingExtraError: It is not installed.
    """
    return required(module, extra="demo", wanted_by="The demo")
