"""Every difference between two trees, by path."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from .._errors import ArgumentTypeError
from ._difference import Diff, Difference
from ._match import same_static, told, told_apart
from ._paths import NamedLeaves, join, numbered, path_of, paths_of_structure
from ._size import is_sized
from ._values import deviation


@dataclasses.dataclass(frozen=True)
class _Node:
    """One node of a tree, opened by one level."""

    kind: type | None
    """Of the container; `None` for a leaf."""
    data: Any
    children: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class _Tolerance:
    rtol: float
    atol: float


def _opened(node: PyTree) -> _Node:
    if isinstance(node, NamedLeaves):
        leaves, treedef = jax.tree.flatten(node)
        children = dict(zip(paths_of_structure(treedef, node), leaves, strict=True))
        return _Node(type(node), treedef, children)
    entries, treedef = jtu.tree_flatten_with_path(node, is_leaf=lambda child: child is not node)
    data = treedef.node_data()
    if data is None:
        return _Node(type(None), None, {}) if node is None else _Node(None, None, {})
    names = numbered([path_of(keys) for keys, _ in entries])
    children = dict(zip(names, (child for _, child in entries), strict=True))
    return _Node(data[0], data[1], children)


def _walk(a: PyTree, b: PyTree, path: str, tolerance: _Tolerance) -> Iterator[Difference]:
    if a is b:
        return
    one, two = _opened(a), _opened(b)
    if one.kind is None and two.kind is None:
        yield from _leaf(a, b, path, tolerance)
        return
    if one.kind is not two.kind:
        yield Difference(path, "type", _kind(a, one), _kind(b, two))
        if None in (one.kind, two.kind) or type(None) in (one.kind, two.kind):
            return
    for name in [*one.children, *(name for name in two.children if name not in one.children)]:
        inner = join(path, name)
        if name not in two.children:
            yield from _only("only in a", one.children[name], inner)
        elif name not in one.children:
            yield from _only("only in b", two.children[name], inner)
        else:
            yield from _walk(one.children[name], two.children[name], inner, tolerance)
    if one.kind is two.kind:
        yield from _static(a, b, (one, two), path)


def _kind(node: Any, opened: _Node) -> str:
    return told(node) if opened.kind is None or node is None else type(node).__name__


def _only(kind: str, part: PyTree, path: str) -> Iterator[Difference]:
    leaves, treedef = jax.tree.flatten(part)
    names = paths_of_structure(treedef, part)
    found = {join(path, name): told(leaf) for name, leaf in zip(names, leaves, strict=True)}
    if not leaves:  # A container without any, or `None`.
        found = {path: told(part) if part is None else type(part).__name__}
    for name, text in found.items():
        in_a = kind == "only in a"
        yield Difference(name, kind, text if in_a else "", "" if in_a else text)


def _static(a: Any, b: Any, opened: tuple[_Node, _Node], path: str) -> Iterator[Difference]:
    """What a container of one kind keeps beside its children."""
    if isinstance(a, eqx.Module):
        for field in dataclasses.fields(a):
            one, two = (vars(node).get(field.name, _UNSET) for node in (a, b))
            if field.metadata.get("static") and not same_static(one, two):
                yield Difference(join(path, field.name), "static", *told_apart(one, two))
        return
    names = [list(node.children) for node in opened]
    if names[0] != names[1]:
        if set(names[0]) == set(names[1]):
            yield Difference(path, "order", ", ".join(names[0]), ", ".join(names[1]))
    elif not _same_data(opened[0].data, opened[1].data):
        yield Difference(path, "static", *told_apart(opened[0].data, opened[1].data))


class _Unset:
    """Of a static field that was never set."""

    def __repr__(self) -> str:
        return "not set"


_UNSET = _Unset()


def _same_data(a: Any, b: Any) -> bool:
    return a is b or bool(np.all(a == b))


def _leaf(a: Any, b: Any, path: str, tolerance: _Tolerance) -> Iterator[Difference]:
    if not (_is_array(a) and _is_array(b)):
        if _is_array(a) or _is_array(b):
            yield Difference(path, "type", told(a), told(b))
        elif not same_static(a, b):
            one, two = told_apart(a, b)
            yield Difference(path, "leaf", one, two)
        return
    if isinstance(a, jax.Array) != isinstance(b, jax.Array) or _is_abstract(a) != _is_abstract(b):
        yield Difference(path, "type", type(a).__name__, type(b).__name__)
    if a.shape != b.shape:
        yield Difference(path, "shape", told(a), told(b))
    elif a.dtype != b.dtype:
        yield Difference(path, "dtype", str(a.dtype), str(b.dtype))
    else:
        yield from _same_shape(a, b, path, tolerance)


def _is_array(leaf: Any) -> bool:
    return is_sized(leaf) or isinstance(leaf, np.generic)


def _is_abstract(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def _type_strength(leaf: Any) -> str:
    return "weak" if getattr(leaf, "weak_type", False) else "not weak"


def _same_shape(a: Any, b: Any, path: str, tolerance: _Tolerance) -> Iterator[Difference]:
    one, two = _type_strength(a), _type_strength(b)
    if one != two:
        yield Difference(path, "weak type", one, two)
    if isinstance(a, jax.Array) and isinstance(b, jax.Array):
        if isinstance(a, Tracer) or isinstance(b, Tracer):
            raise ArgumentTypeError(
                f"{path!r} is being traced: `diff` compares numbers, and inside of `jax.jit` there "
                "are none. Call it on what comes out."
            )
        if not a.sharding.is_equivalent_to(b.sharding, a.ndim):
            yield Difference(path, "sharding", str(a.sharding), str(b.sharding))
    if not (_is_abstract(a) or _is_abstract(b)):
        found = deviation(a, b, tolerance.rtol, tolerance.atol)
        if found is not None:
            yield Difference(path, "value", found.a, found.b, found)


def diff(a: PyTree, b: PyTree, *, rtol: float = 0.0, atol: float = 0.0) -> Diff:
    """Every difference between two trees: structure, static fields, and all about the leaves.

    Equality is that of bits: NaNs are the same where their bits are, `0.0` and `-0.0` differ.
    Leaves that are no arrays are the same where they are of one type and equal.

    Args:
        a: Any pytree.
        b: What to compare it with.
        rtol: Arrays of floats differ in value where `|a - b| > atol + rtol * |b|`; then NaN is the
            same as any NaN.
        atol: See there.

    Returns:
        An object that is true where there are differences, and prints as a table.

    Raises:
        ArgumentTypeError: A leaf is being traced: there are no numbers to compare.

    Example:
        >>> print(treadle.tree.diff(model, loaded))
        no differences
    """
    return Diff(tuple(_walk(a, b, "", _Tolerance(rtol, atol))))
