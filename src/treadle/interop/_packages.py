"""The packages of other systems, which are imported where they are first used."""

import importlib
from typing import Any

from .._errors import MissingExtraError


def required(module: str, package: str) -> Any:
    """A module of a package that comes with the extra `interop`.

    Args:
        module: What to import, `"flax.linen"`.
        package: What it is called where one installs it, `"flax"`.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # Of a package that is there and lacks one of its own, the other name says more.
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise MissingExtraError(
            f"This needs {package}, which is not installed: `pip install 'treadle[interop]'`."
        ) from error
