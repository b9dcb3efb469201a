"""Checks at the door that many doors share."""

import operator
from typing import Any

from ._errors import ArgumentTypeError, ArgumentValueError


def whole_number(name: str, value: Any, *, minimum: int = 1, otherwise: str = "") -> int:
    """`value` as an `int`.

    Args:
        name: The argument.
        value: What was given for it.
        minimum: The least that it may be.
        otherwise: What else may stand there, for the message: `", or None for no limit"`.

    Raises:
        ArgumentTypeError: If it is no whole number (`True` is none either).
        ArgumentValueError: If it is less.
    """
    wanted = f"a whole number of at least {minimum}{otherwise}"
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise ArgumentTypeError(
            f"`{name}` (={value!r}) must be {wanted}, not of type {type(value).__name__}."
        )
    if number < minimum:
        raise ArgumentValueError(f"`{name}` (={number}) must be {wanted}.")
    return number


def one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Refuses a word that is none of the choices.

    Raises:
        ArgumentValueError: With the choices.
    """
    if value not in choices:
        raise ArgumentValueError(
            f"`{name}` (={value!r}) must be one of {', '.join(map(repr, choices))}."
        )
