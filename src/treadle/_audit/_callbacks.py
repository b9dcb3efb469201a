"""Where a program calls back into Python."""

from collections.abc import Iterator
from typing import Any

from .._jaxpr import inner_jaxprs
from ._private import is_backward

CALLS = {
    "debug_callback": "`jax.debug.callback`",
    "debug_print": "`jax.debug.print`",
    "io_callback": "`io_callback`",
    "pure_callback": "`pure_callback`",
}
"""The primitives that do, as the user calls them."""


def callbacks_of(jaxpr: Any) -> Iterator[list[Any]]:
    """The way to each equation that calls back."""
    yield from _calls(jaxpr, [])


def _calls(jaxpr: Any, path: list[Any]) -> Iterator[list[Any]]:
    for equation in jaxpr.eqns:
        here = [*path, equation]
        if equation.primitive.name in CALLS:
            yield here
        for value in equation.params.values():
            for inner in inner_jaxprs(value):
                yield from _calls(inner, here)


def calls_back_backward(jaxpr: Any) -> bool:
    """Whether something is called back in the backward pass.

    Its equations have the lines of the forward pass, not those of the rule that was run for them.
    """
    return any(is_backward(each) for path in callbacks_of(jaxpr) for each in path)
