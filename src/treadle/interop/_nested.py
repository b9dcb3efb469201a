"""Leaves under names of another system, as nested dictionaries."""

from collections.abc import Sequence
from typing import Any

Place = tuple[str, ...]


def nested(places: Sequence[Place], leaves: Sequence[Any]) -> dict[str, Any]:
    """Dictionaries inside of dictionaries; no place is inside of another."""
    tree: dict[str, Any] = {}
    for place, leaf in zip(places, leaves, strict=True):
        *outer, last = place
        node = tree
        for name in outer:
            node = node.setdefault(name, {})
        node[last] = leaf
    return tree


def at(tree: dict[str, Any], places: Sequence[Place]) -> list[Any]:
    """The leaves at these places, in this order."""
    found = []
    for place in places:
        node: Any = tree
        for name in place:
            node = node[name]
        found.append(node)
    return found


def clash(places: Sequence[Place]) -> bool:
    """Whether two places are one, or one is inside of another."""
    ends = set(places)
    inner = {place[:length] for place in places for length in range(1, len(place))}
    return len(ends) < len(places) or bool(ends & inner)
