"""Where two trees that should fit each other do not, in words."""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._errors import TreeError
from ._paths import paths_of_structure
from ._size import is_sized

_TOLD = 3


def told(leaf: Any) -> str:
    """An array by its dtype and shape, a function by its name, anything else as it prints."""
    if is_sized(leaf):
        return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
    name = getattr(leaf, "__qualname__", None)
    text = f"<{name.strip('<>')}>" if isinstance(name, str) else repr(leaf)
    return text if len(text) <= 60 else f"{text[:57]}..."


def told_apart(a: Any, b: Any) -> tuple[str, str]:
    """Two leaves in words; in full where these would be the same."""
    texts = told(a), told(b)
    return texts if texts[0] != texts[1] else (repr(a), repr(b))


def some(items: Iterable[str], count: int = _TOLD, separator: str = ", ") -> str:
    """The first few of many, and how many there are beside."""
    listed = list(items)
    rest = len(listed) - count
    return separator.join(listed[:count]) + (f"{separator}and {rest} more" if rest > 0 else "")


def same_static(a: Any, b: Any) -> bool:
    """Whether two leaves that are not arrays are the same: of one type, and equal.

    NaN is the same as NaN, and -0.0 is not 0.0.
    """
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, (float, complex)):
        return repr(a) == repr(b)
    return bool(np.all(a == b))  # Of one whose `==` is by element, all must be equal.


@functools.cache
def _is_inexact_dtype(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.inexact)


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf is an array of floats or complex numbers, or stands for one."""
    return is_sized(leaf) and _is_inexact_dtype(leaf.dtype)


def fits(a: Any, b: Any) -> bool:
    """Whether arrays agree in shape, and both or none are of floats; others always do."""
    if not (is_sized(a) and is_sized(b)):
        return is_inexact(a) == is_inexact(b)
    return a.shape == b.shape and _is_inexact_dtype(a.dtype) == _is_inexact_dtype(b.dtype)


def alike(a: Any, b: Any, dtypes: bool = True) -> bool:
    """Whether arrays agree in shape and dtype, and other leaves are the same."""
    if is_sized(a) and is_sized(b):
        return fits(a, b) and (a.dtype == b.dtype or not dtypes)
    return same_static(a, b)


def mismatches(
    first: PyTree, second: PyTree, names: tuple[str, str], *, dtypes: bool = True
) -> list[str]:
    """A phrase for each way in which two trees do not fit; empty where they do.

    They fit where structures are equal, arrays agree in shape and dtype, and other leaves are
    equal.

    Args:
        first: One tree.
        second: The other.
        names: What to call them.
        dtypes: Whether arrays must agree in dtype, not only in whether they are of floats.
    """
    one, two = jax.tree.flatten(first), jax.tree.flatten(second)
    was = dict(zip(paths_of_structure(one[1], first), one[0], strict=True))
    now = dict(zip(paths_of_structure(two[1], second), two[0], strict=True))
    problems = [
        f"only {name} has {some(map(repr, only))}"
        for name, only in (
            (names[0], [path for path in was if path not in now]),
            (names[1], [path for path in now if path not in was]),
        )
        if only
    ]
    problems += [
        f"{path!r} is {told(was[path])} in {names[0]} and {told(now[path])} in {names[1]}"
        for path in was
        if path in now and not alike(was[path], now[path], dtypes)
    ]
    if not problems and one[1] != two[1]:
        problems = [_structures(one[1], two[1], names)]
    return problems


def _structures(one: Any, two: Any, names: tuple[str, str]) -> str:
    """The innermost containers that differ, where all leaves have the same paths."""
    if one.node_data() == two.node_data():
        for inner, other in zip(one.children(), two.children(), strict=False):
            if inner != other:
                return _structures(inner, other, names)
    kinds = [None if data is None else data[0] for data in (one.node_data(), two.node_data())]
    if kinds[0] is kinds[1]:
        return "a static field, or the order of keys, differs: print `treadle.tree.diff` of them"
    types = [kind.__name__ if isinstance(kind, type) else "leaf" for kind in kinds]
    return f"a container is a {types[0]} in {names[0]} and a {types[1]} in {names[1]}"


def require_match(first: PyTree, second: PyTree, names: tuple[str, str], **options: bool) -> None:
    """Refuses two trees that do not fit.

    Raises:
        TreeError: With the first differences on both sides.
    """
    problems = mismatches(first, second, names, **options)
    if problems:
        listed = some(problems, separator="; ")
        raise TreeError(f"{names[0]} and {names[1]} do not fit each other: {listed}.")
