"""The packages of other systems, which are imported where they are first used."""

from typing import Any

from .._extras import required as _required


def required(module: str, package: str) -> Any:
    """A module of a package that comes with the extra `interop`.

    Args:
        module: What to import, `"flax.linen"`.
        package: What it is called where one installs it, `"flax"`.

    Raises:
        MissingExtraError: It is not installed.
    """
    return _required(module, extra="interop", wanted_by="`treadle.interop`", package=package)
