"""Every difference between two trees, by path."""

import abc
import collections
import dataclasses
import math
import numbers
from collections.abc import Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from .._custom_types import Door
from .._errors import ArgumentTypeError, ArgumentValueError, ConsumedStateError
from ._difference import Diff, Difference
from ._match import apart, same_structure, told, told_apart
from ._paths import (
    NamedLeaves,
    Node,
    flatten_with_paths,
    inside,
    keys_of,
    opened,
    paths_of_structure,
)
from ._sized import is_sized
from ._values import deviation, same_static


class Outlined(abc.ABC):
    """A node whose structure hides static fields and leaves, and that can show them."""

    @abc.abstractmethod
    def outline(self) -> PyTree:
        """What it is without its arrays, `None` in the place of each."""


class _Options(NamedTuple):
    rtol: float
    atol: float
    arrays: bool = True
    """False for outlines: what is empty there held arrays, which were compared before."""


def _walk(a: PyTree, b: PyTree, path: str | None, options: _Options) -> Iterator[Difference]:
    if a is b:
        return
    one, two = opened(a), opened(b)
    if one.kind is None and two.kind is None:
        yield from _leaf(a, b, path or "", options)
        return
    if one.kind is not two.kind:
        yield Difference(path or "", "type", *_kinds(a, b, one, two))
        if not (_is_container(one) and _is_container(two)):
            return
        if isinstance(a, NamedLeaves) != isinstance(b, NamedLeaves):
            # The one is open down to its leaves, so the other must be too.
            one, two = _to_leaves(a, one), _to_leaves(b, two)
    for name in [*one.children, *(name for name in two.children if name not in one.children)]:
        inner = inside(path, name, a)
        if name not in two.children:
            yield from _only("only in a", one.children[name], inner, options)
        elif name not in one.children:
            yield from _only("only in b", two.children[name], inner, options)
        else:
            yield from _walk(one.children[name], two.children[name], inner, options)
    if one.kind is two.kind:
        yield from _beside(a, b, one, two, path, options)


def _to_leaves(tree: PyTree, node: Node) -> Node:
    """A node with all of its leaves for children."""
    return node._replace(children=dict(flatten_with_paths(tree)[0]))


def _is_container(node: Node) -> bool:
    return node.kind not in (None, type(None))


def _kinds(a: Any, b: Any, one: Node, two: Node) -> tuple[str, str]:
    if not (_is_container(one) and _is_container(two)):
        texts = [
            type(node).__name__ if _is_container(opened) else told(node)
            for node, opened in ((a, one), (b, two))
        ]
        return texts[0], texts[1]
    return _types(type(a), type(b))


def _types(one: type, two: type) -> tuple[str, str]:
    """The names of two types; with their modules, or at last addresses, where they are the same."""
    return apart(one, two, lambda kind: kind.__name__, _full_name, _placed_name)


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _placed_name(kind: type) -> str:
    return f"{_full_name(kind)} at {id(kind):#x}"


def _only(kind: str, part: PyTree, path: str, options: _Options) -> Iterator[Difference]:
    leaves, treedef = jax.tree.flatten(part)
    is_leaf = jax.tree_util.treedef_is_leaf(treedef) and treedef.num_leaves == 1
    names = paths_of_structure(treedef, part)
    found = [
        (path if is_leaf else inside(path, name, part), told(leaf))
        for name, leaf in zip(names, leaves, strict=True)
    ]
    if not leaves and options.arrays:  # A container without any, or `None`.
        found = [(path, "None" if part is None else type(part).__name__)]
    for name, text in found:
        in_a = kind == "only in a"
        yield Difference(name, kind, text if in_a else "", "" if in_a else text)


def _beside(
    a: Any, b: Any, one: Node, two: Node, path: str | None, options: _Options
) -> Iterator[Difference]:
    """What differs of all that containers of one kind keep beside their children."""
    names = list(one.children), list(two.children)
    if names[0] != names[1] and set(names[0]) == set(names[1]):
        yield Difference(path or "", "order", ", ".join(names[0]), ", ".join(names[1]))
        return
    if isinstance(a, Outlined):
        if not same_structure(one.treedef, two.treedef):
            yield from _walk(a.outline(), b.outline(), path, options._replace(arrays=False))
        return
    if isinstance(a, eqx.Module):
        yield from _fields(a, b, one, path)
        return
    yield from _keys(one, two, path)
    data = _data(one), _data(two)
    if same_static(*data):
        return
    fields = list(_fields(a, b, one, path))
    yield from fields or [Difference(path or "", "static", *told_apart(*data))]


def _keys(one: Node, two: Node, path: str | None) -> Iterator[Difference]:
    """Keys of dictionaries that are written alike and are not equal, as `1` and `"1"` are."""
    was, now = (dict(zip(node.children, keys_of(node), strict=False)) for node in (one, two))
    for name, key in was.items():
        if name in now and key != now[name]:
            yield Difference(inside(path, name), "key", *told_apart(key, now[name]))


def _data(node: Node) -> Any:
    if node.kind in (dict, collections.OrderedDict):
        return None  # The keys, which are compared one by one.
    return node.data[0] if node.kind is collections.defaultdict else node.data


def _fields(a: Any, b: Any, one: Node, path: str | None) -> Iterator[Difference]:
    """The fields of a dataclass that are no children and differ."""
    for field in dataclasses.fields(a) if dataclasses.is_dataclass(a) else ():
        values = getattr(a, field.name, None), getattr(b, field.name, None)
        if field.name not in one.children and not same_static(*values):
            yield Difference(inside(path, field.name), "static", *told_apart(*values))


def _leaf(a: Any, b: Any, path: str, options: _Options) -> Iterator[Difference]:
    if not (_is_array(a) and _is_array(b)):
        if _is_array(a) or _is_array(b):
            yield Difference(path, "type", *told_apart(a, b))
        elif not same_static(a, b):
            yield Difference(path, "leaf", *told_apart(a, b))
        return
    if _array_type(a) != _array_type(b):
        yield Difference(path, "type", _array_type(a), _array_type(b))
    if a.shape != b.shape:
        yield Difference(path, "shape", told(a), told(b))
    if a.dtype != b.dtype:
        yield Difference(path, "dtype", str(a.dtype), str(b.dtype))
    weak = _type_strength(a), _type_strength(b)
    if weak[0] != weak[1]:
        yield Difference(path, "weak type", *weak)
    if a.shape == b.shape:
        yield from _sharding(a, b, path)
        if a.dtype == b.dtype:
            yield from _value(a, b, path, options)


def _is_array(leaf: Any) -> bool:
    return is_sized(leaf) or isinstance(leaf, np.generic)


def _array_type(leaf: Any) -> str:
    if isinstance(leaf, jax.Array):
        return "jax.Array"
    return f"{type(leaf).__module__.partition('.')[0]}.{type(leaf).__name__}"


def _is_abstract(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


def _type_strength(leaf: Any) -> str:
    return "weak" if getattr(leaf, "weak_type", False) else "not weak"


def _sharding(a: Any, b: Any, path: str) -> Iterator[Difference]:
    if any(isinstance(leaf, Tracer) or not hasattr(leaf, "sharding") for leaf in (a, b)):
        return
    one, two = a.sharding, b.sharding
    if one is None or two is None:
        # What stands for an array may leave open where that will lie.
        same = one is two or _is_abstract(a) != _is_abstract(b)
    else:
        same = one.is_equivalent_to(two, a.ndim)
    if not same:
        yield Difference(path, "sharding", *_shardings(one, two, a.shape))


def _shardings(one: Any, two: Any, shape: tuple[int, ...]) -> tuple[str, str]:
    """Two shardings in the fewest words in which they differ."""
    return apart(one, two, _axes, str, lambda sharding: _in_order(sharding, shape))


def _axes(sharding: Any) -> str:
    if isinstance(sharding, jax.sharding.NamedSharding):
        axes = ", ".join(f"{name}={size}" for name, size in sharding.mesh.shape.items())
        return f"{sharding.spec} over {axes}"
    if isinstance(sharding, jax.sharding.SingleDeviceSharding):
        (device,) = sharding.device_set
        return str(device)
    return str(sharding)


def _in_order(sharding: Any, shape: tuple[int, ...]) -> str:
    devices = ", ".join(map(str, sharding.devices_indices_map(shape)))
    return f"{_axes(sharding)}, devices {devices}"


def _value(a: Any, b: Any, path: str, options: _Options) -> Iterator[Difference]:
    if _is_abstract(a) or _is_abstract(b):
        return
    if isinstance(a, Tracer) or isinstance(b, Tracer):
        raise ArgumentTypeError(
            f"{path!r} is being traced: `diff` compares numbers, and inside of `jax.jit` there are "
            "none. Call it on what comes out."
        )
    if any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in (a, b)):
        raise ConsumedStateError(
            f"The array at {path!r} is gone: it was donated, as the state is that a step takes. "
            "Keep what is to be compared: `before = state.copy()`, ahead of the step."
        )
    found = deviation(a, b, options.rtol, options.atol)
    if found is not None:
        yield Difference(path, "value", found.a, found.b, found)


def _require_tolerance(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ArgumentTypeError(f"`{name}` (={value!r}) must be a number, such as 1e-6.")
    number = float(value)
    if not 0 <= number < math.inf:
        raise ArgumentValueError(f"`{name}` (={value!r}) must be finite and at least 0.")
    return number


def diff(a: PyTree, b: PyTree, *, rtol: Door[float] = 0.0, atol: Door[float] = 0.0) -> Diff:
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
        ArgumentTypeError: A leaf is being traced: there are no numbers to compare. Or a tolerance
            is no number.
        ArgumentValueError: A tolerance is negative or not finite.
        ConsumedStateError: An array was donated to a step.

    Example:
        >>> print(treadle.tree.diff(model, loaded))
        no differences
    """
    options = _Options(_require_tolerance("rtol", rtol), _require_tolerance("atol", atol))
    return Diff(tuple(_walk(a, b, None, options)))
