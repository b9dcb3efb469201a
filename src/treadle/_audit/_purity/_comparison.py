"""What differs between two traces of one function."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.extend import core as jex_core

from .._private import is_array_of_keys

Difference = tuple[list[Any], str]
"""The way to an equation, and what is other about it the second time."""

_PLAIN = (bool, int, float, complex, str, bytes, type(None), np.dtype, np.generic)


def differences(one: Any, other: Any) -> Iterator[Difference]:
    """Where two traces differ, in the order of the program; the ways are those of the first.

    A way without an equation leads to what comes out of the program.
    """
    yield from _programs(one, other, [], frozenset(), set())


def _programs(
    one: Any, other: Any, path: list[Any], given: frozenset[Any], seen: set[Any]
) -> Iterator[Difference]:
    """Two programs, with their constants if they have any.

    `given` is what of the first one's inputs has other values in the second.
    """
    a, b = getattr(one, "jaxpr", one), getattr(other, "jaxpr", other)
    if (id(a), id(b), bool(path), given) in seen:
        return
    seen.add((id(a), id(b), bool(path), given))
    values = zip(getattr(one, "consts", ()), getattr(other, "consts", ()), strict=False)
    changed = {
        var for var, (x, y) in zip(a.constvars, values, strict=False) if not _same_array(x, y)
    }
    changed |= given
    for at, (first, second) in enumerate(zip(a.eqns, b.eqns, strict=False)):
        here = [*path, first]
        if first.primitive.name != second.primitive.name:
            yield _shifted(a.eqns[at:], b.eqns[at:], path)
            return
        read = changed & {atom for atom in first.invars if not _is_literal(atom)}
        told = _literals(first, second)
        if told is None and _avals(first) != _avals(second):
            told = "the shapes or dtypes are others"
        inner = list(_inner(first, second))
        if told is None and not inner and _plain(first.params) != _plain(second.params):
            told = "its parameters are others"
        found = told is not None
        if told is not None:
            yield here, told
        for x, y in inner:
            for difference in _programs(x, y, here, _entering(first, x, read), seen):
                found = True
                yield difference
        if read and not found:
            yield here, _OTHER_VALUES
        changed -= read  # Told of where it is used first.
    if len(a.eqns) != len(b.eqns):
        longer = a if len(a.eqns) > len(b.eqns) else b
        extra = longer.eqns[min(len(a.eqns), len(b.eqns))]
        yield (
            [*path, extra],
            f"one trace has {len(a.eqns)} operations here, the other {len(b.eqns)}",
        )
        return
    for x, y in zip(a.outvars, b.outvars, strict=False):
        if _is_literal(x) and _is_literal(y) and not _same_array(x.val, y.val):
            yield path, f"{x.val} has become {y.val}"
        elif not _is_literal(x) and x in changed and not path:
            yield path, _OTHER_VALUES


_OTHER_VALUES = "an array that is part of the program has other values"

_ALIKE = 3
"""Operations in a row that show where two programs go on alike."""


def _shifted(ones: list[Any], others: list[Any], path: list[Any]) -> Difference:
    """Where one of two programs has operations that the other lacks."""
    a, b = ([each.primitive.name for each in eqns] for eqns in (ones, others))
    more, fewer = _skipped(b, a[:_ALIKE]), _skipped(a, b[:_ALIKE])
    if more < fewer:
        return [*path, others[0]], f"`{b[0]}` is there in one of them only"
    if fewer < more:
        return [*path, ones[0]], f"`{a[0]}` is there in one of them only"
    return [*path, ones[0]], f"`{a[0]}` has become `{b[0]}`"


def _skipped(names: list[str], next_ones: list[str]) -> int:
    """How many operations come before some others."""
    count = len(next_ones)
    found = (at for at in range(len(names)) if names[at : at + count] == next_ones)
    return next(found, len(names))


def _entering(equation: Any, inner: Any, changed: set[Any]) -> frozenset[Any]:
    """What an inner program gets of some variables, under its own names."""
    inside = getattr(inner, "jaxpr", inner).invars
    atoms = list(equation.invars)
    if equation.primitive.name == "cond":
        atoms = atoms[1:]
    elif equation.primitive.name == "while":
        of_test, of_body = equation.params["cond_nconsts"], equation.params["body_nconsts"]
        carried = atoms[of_test + of_body :]
        is_test = inner is equation.params["cond_jaxpr"]
        atoms = (atoms[:of_test] if is_test else atoms[of_test : of_test + of_body]) + carried
    if len(atoms) != len(inside):
        return frozenset()
    return frozenset(
        var
        for atom, var in zip(atoms, inside, strict=True)
        if not _is_literal(atom) and atom in changed
    )


def _is_literal(atom: Any) -> bool:
    return isinstance(atom, jex_core.Literal)


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
