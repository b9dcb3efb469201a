"""Packages that come with extras of treadle, imported where they are used."""

import importlib
from typing import Any

from ._errors import MissingExtraError


def required(module: str, *, extra: str, wanted_by: str, package: str | None = None) -> Any:
    """A module of a package that comes with an extra.

    Args:
        module: What to import, `"flax.linen"`.
        extra: The extra of treadle that brings it, `"interop"`.
        wanted_by: What needs it, for the message.
        package: What it is called where one installs it, if not as its module is.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        name = module.partition(".")[0]
        # Of a package that is there and lacks one of its own, the other name says more.
        if (error.name or "").partition(".")[0] != name:
            raise
        raise MissingExtraError(
            f"{wanted_by} needs {package or name}, which is not installed: "
            f"`pip install 'treadle[{extra}]'`."
        ) from error
