"""Checks at the door, in front of any runtime type checker."""

import functools
import operator
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from .._errors import ArgumentTypeError, ArgumentValueError

_P = ParamSpec("_P")
_R = TypeVar("_R")


def at_the_door(check: Callable[..., None]) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Calls `check` with a function's arguments before the function itself.

    A decorator, not a first line: a runtime type checker wraps the function from the inside, and
    its message, which does not know the way out, would come first.
    """

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        @functools.wraps(function)
        def checked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            check(*args, **kwargs)
            return function(*args, **kwargs)

        return checked

    return decorate


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
