"""Where two trees that should fit each other do not, in words."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from .._errors import TreeError
from ._paths import NamedLeaves, Node, inside, opened, paths_of_structure
from ._sized import is_sized
from ._values import same_static

_TOLD = 3


def told(leaf: Any) -> str:
    """An array by its dtype and shape, a function by its name, anything else as it prints."""
    if is_sized(leaf):
        return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
    name = getattr(leaf, "__qualname__", None)
    if not isinstance(name, str):
        text = _line(leaf)
    else:
        text = name if name.startswith("<") else f"<{name}>"  # A lambda has brackets already.
    return text if len(text) <= 60 else f"{text[:57]}..."


def _line(value: Any) -> str:
    """As it prints, on one line."""
    text = repr(value)
    return " ".join(text.split()) if "\n" in text else text


def _typed(value: Any) -> str:
    return f"{told(value)} of type {type(value).__module__}.{type(value).__qualname__}"


def _placed(value: Any) -> str:
    return f"{told(value)} at {id(value):#x}"


def apart(a: Any, b: Any, *ways: Callable[[Any], str]) -> tuple[str, str]:
    """Two things that differ, in the first way of telling them in which they do; else the last."""
    texts = ("", "")
    for words in ways:
        texts = words(a), words(b)
        if texts[0] != texts[1]:
            break
    return texts


def told_apart(a: Any, b: Any) -> tuple[str, str]:
    """Two things that differ, in few words; what prints the same at last by its address."""
    return apart(a, b, told, _line, _typed, _placed)


def some(items: Iterable[str], count: int = _TOLD, separator: str = ", ") -> str:
    """The first few of many, and how many there are beside."""
    listed = list(items)
    rest = len(listed) - count
    return separator.join(listed[:count]) + (f"{separator}and {rest} more" if rest > 0 else "")


@functools.cache
def _family(dtype: Any) -> int:
    """0 for what is no float, 1 for real floats, 2 for complex ones."""
    return jnp.issubdtype(dtype, jnp.inexact) + jnp.issubdtype(dtype, jnp.complexfloating)


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf is an array of floats or complex numbers, or stands for one."""
    return is_sized(leaf) and _family(leaf.dtype) > 0


def _is_abstract(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def fits(a: Any, b: Any) -> bool:
    """Whether arrays agree in shape and in whether they are real floats, complex ones or none.

    Leaves that are no arrays fit each other, and arrays that are not of floats. What stands for an
    array fits no array.
    """
    if not (is_sized(a) and is_sized(b)):
        return is_inexact(a) == is_inexact(b)
    same_family = _family(a.dtype) == _family(b.dtype)
    return a.shape == b.shape and same_family and _is_abstract(a) == _is_abstract(b)


def alike(a: Any, b: Any) -> bool:
    """Whether arrays agree in shape and dtype, and other leaves are the same."""
    if is_sized(a) and is_sized(b):
        return a.shape == b.shape and a.dtype == b.dtype and _is_abstract(a) == _is_abstract(b)
    return same_static(a, b)


def same_structure(one: Any, two: Any) -> bool:
    """Whether two structures are equal, and can be compared: not so where a static is an array."""
    try:
        return one == two
    except ValueError:  # JAX's, of static fields whose `==` gives no bool or raises.
        return False


def mismatches(
    first: PyTree,
    second: PyTree,
    names: tuple[str, str],
    fit: Callable[[Any, Any], bool] = alike,
) -> list[str]:
    """A phrase for each way in which two trees do not fit; empty where they do.

    Args:
        first: One tree.
        second: The other, of the same structure if it fits.
        names: What to call them.
        fit: Whether two leaves fit each other.
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
        _differs(path, told_apart(was[path], now[path]), names)
        for path in was
        if path in now and not fit(was[path], now[path])
    ]
    if not problems and not same_structure(one[1], two[1]):
        problems = list(_structures(first, second, None, names))[:1]
    return problems


def _differs(path: str, texts: tuple[str, str], names: tuple[str, str]) -> str:
    return f"{path!r} is {texts[0]} in {names[0]} and {texts[1]} in {names[1]}"


def _structures(
    first: PyTree, second: PyTree, path: str | None, names: tuple[str, str]
) -> Iterator[str]:
    """The innermost containers that differ, where all leaves have the same paths."""
    one, two = opened(first), opened(second)
    place = "" if path is None else f" at {path!r}"
    if one.kind is not two.kind:
        kinds = ["None" if node is None else f"a {type(node).__name__}" for node in (first, second)]
        yield f"a container{place} is {kinds[0]} in {names[0]} and {kinds[1]} in {names[1]}"
        return
    if list(one.children) == list(two.children):
        inner = [
            told
            for name, child in one.children.items()
            if not same_structure(*map(jax.tree.structure, (child, two.children[name])))
            for told in _structures(child, two.children[name], inside(path, name), names)
        ]
        if inner or _same_beside(first, second, one, two):
            yield from inner
            return
    what = f"a static field, or the keys of a dictionary, differ{place}"
    yield f"{what}: print `treadle.tree.diff` of them"


def _same_beside(first: PyTree, second: PyTree, one: Node, two: Node) -> bool:
    """Whether containers keep the same beside their children, as far as can be told."""
    if isinstance(first, NamedLeaves):
        return False  # Of these the children are all leaves, and there may be more between.
    if not isinstance(first, eqx.Module):
        return same_static(one.data, two.data)
    fields = [field.name for field in dataclasses.fields(first) if field.name not in one.children]
    return all(
        same_static(getattr(first, name, None), getattr(second, name, None)) for name in fields
    )


def require_match(
    first: PyTree,
    second: PyTree,
    names: tuple[str, str],
    fit: Callable[[Any, Any], bool] = alike,
) -> None:
    """Refuses two trees that do not fit; the arguments are those of `mismatches`.

    Raises:
        TreeError: With the first differences on both sides.
    """
    problems = mismatches(first, second, names, fit)
    if problems:
        listed = some(problems, separator="; ")
        raise TreeError(f"{names[0]} and {names[1]} do not fit each other: {listed}.")
