"""The program that a step compiled last: a device says later that it could not run it."""

import weakref
from collections.abc import Callable
from typing import Any

from ._abstract import abstract

_newest: list[tuple["weakref.WeakMethod[Callable[..., Any]]", tuple[Any, ...]]] = []


def remember(trace: Callable[..., Any], *arguments: Any) -> None:
    """Remembers how to trace again what was compiled; not the step, nor its arrays.

    Args:
        trace: A method that gives the traced program of the arguments.
        *arguments: What it was compiled for.
    """
    _newest[:] = [(weakref.WeakMethod(trace), abstract(arguments))]


def newest_program() -> Any:
    """The traced program; `None` where there is none, or its step is gone."""
    for method, arguments in _newest:
        trace = method()
        if trace is not None:
            return trace(*arguments)
    return None
