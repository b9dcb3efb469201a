"""Checks of what is handed in, told in the caller's terms."""

from typing import Any

from .._errors import ArgumentTypeError


def check_flag(name: str, value: Any, otherwise: str = "") -> None:
    """Raises unless `value` is True or False."""
    if not isinstance(value, bool):
        raise ArgumentTypeError(
            f"`{name}` (={value!r}) must be True or False{otherwise}, not of type "
            f"{type(value).__name__}."
        )
