"""Checks of what is handed in, told in the caller's terms."""

import operator
from typing import Any

from .._errors import ArgumentTypeError, ArgumentValueError


def check_count(name: str, value: Any, otherwise: str = "") -> None:
    """Raises unless `value` is an integer of at least 1.

    Args:
        name: The argument.
        value: What was given for it.
        otherwise: What else may stand there, for the message.
    """
    try:
        count = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = None
    if count is None:
        raise ArgumentTypeError(
            f"`{name}` (={value!r}) must be a positive integer{otherwise}, not of type "
            f"{type(value).__name__}."
        )
    if count < 1:
        raise ArgumentValueError(f"`{name}` (={count}) must be a positive integer{otherwise}.")


def check_flag(name: str, value: Any, otherwise: str = "") -> None:
    """Raises unless `value` is True or False."""
    if not isinstance(value, bool):
        raise ArgumentTypeError(
            f"`{name}` (={value!r}) must be True or False{otherwise}, not of type "
            f"{type(value).__name__}."
        )
