"""What is shared in a tree stays shared in what is made of it."""

from collections.abc import Callable
from typing import Any


def once(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of leaves, called once for the same objects, and giving the same object for them.

    For the span of one walk over trees, which keeps the objects alive.
    """
    known: dict[tuple[int, ...], Any] = {}

    def call(*leaves: Any) -> Any:
        key = tuple(map(id, leaves))
        if key not in known:
            known[key] = function(*leaves)
        return known[key]

    return call
