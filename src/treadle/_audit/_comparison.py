"""What differs between two traces of one function."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex_core

from ._private import is_array_of_keys

Difference = tuple[list[Any], str]
"""The way to an equation, and what is other about it the second time."""

_PLAIN = (bool, int, float, complex, str, bytes, type(None), np.dtype, np.generic)


def differences(one: Any, other: Any) -> Iterator[Difference]:
    """Where two traces differ, in the order of the program; the ways are those of the first."""
    yield from _programs(one, other, [], set())


def _programs(one: Any, other: Any, path: list[Any], seen: set[Any]) -> Iterator[Difference]:
    """Two programs, with their constants if they have any."""
    a, b = getattr(one, "jaxpr", one), getattr(other, "jaxpr", other)
    if (id(a), id(b), bool(path)) in seen:
        return
    seen.add((id(a), id(b), bool(path)))
    values = zip(getattr(one, "consts", ()), getattr(other, "consts", ()), strict=False)
    changed = {
        var for var, (x, y) in zip(a.constvars, values, strict=False) if not _same_array(x, y)
    }
    for first, second in zip(a.eqns, b.eqns, strict=False):
        here = [*path, first]
        if first.primitive.name != second.primitive.name:
            yield here, f"`{first.primitive.name}` has become `{second.primitive.name}`"
            return  # From here on everything is shifted.
        told = _literals(first, second)
        read = [atom for atom in first.invars if not isinstance(atom, jex_core.Literal)]
        if told is None and any(atom in changed for atom in read):
            changed -= set(read)
            told = "an array that is part of the program has other values"
        if told is None and _avals(first) != _avals(second):
            told = "the shapes or dtypes are others"
        inner = list(_inner(first, second))
        if told is None and not inner and _plain(first.params) != _plain(second.params):
            told = "its parameters are others"
        if told is not None:
            yield here, told
        for x, y in inner:
            yield from _programs(x, y, here, seen)
    if len(a.eqns) != len(b.eqns):
        longer = a if len(a.eqns) > len(b.eqns) else b
        extra = longer.eqns[min(len(a.eqns), len(b.eqns))]
        yield (
            [*path, extra],
            f"one trace has {len(a.eqns)} operations here, the other {len(b.eqns)}",
        )


def _inner(first: Any, second: Any) -> Iterator[tuple[Any, Any]]:
    for name, value in first.params.items():
        other = second.params.get(name)
        pairs = [(value, other)]
        if isinstance(value, (tuple, list)) and isinstance(other, (tuple, list)):
            pairs = list(zip(value, other, strict=False))
        for x, y in pairs:
            if isinstance(x, (jex_core.ClosedJaxpr, jex_core.Jaxpr)):
                yield x, y


def _literals(first: Any, second: Any) -> str | None:
    for x, y in zip(first.invars, second.invars, strict=False):
        literal = isinstance(x, jex_core.Literal)
        if literal and isinstance(y, jex_core.Literal) and not _same_array(x.val, y.val):
            return f"{x.val} has become {y.val}"
    return None


def _same_array(x: Any, y: Any) -> bool:
    if x is y:
        return True
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        return type(x) is type(y) and (x == y or (x != x and y != y))
    if getattr(y, "shape", None) != x.shape or y.dtype != x.dtype:
        return False
    if is_array_of_keys(x):
        x, y = jax.random.key_data(x), jax.random.key_data(y)
    return np.asarray(x).tobytes() == np.asarray(y).tobytes()


def _avals(equation: Any) -> list[Any]:
    return [
        (getattr(v.aval, "shape", None), getattr(v.aval, "dtype", None)) for v in equation.outvars
    ]


def _plain(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters that can be compared: functions are made anew for each trace."""
    return {name: value for name, value in params.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_plain(each) for each in value)
    return isinstance(value, _PLAIN)
