"""The call that makes an Equinox layer of the same make, found by its fields and tried out."""

import dataclasses
import functools
import inspect
import warnings
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.tree_util as jtu
from jaxtyping import PyTree

from .. import pool
from ..pool._stateful import is_index
from ._array_code import number_code
from ._key_words import plain_key
from ._layout import Doc, call, flat, quoted, sequence
from ._names import name_of

_KEY = "jax.random.key(0)"


class Made(NamedTuple):
    """A call, and the layer that it makes, its arrays as `jax.ShapeDtypeStruct`s."""

    code: Doc
    skeleton: PyTree


def unmarked(tree: PyTree) -> PyTree:
    """The tree without what differs from one call to the next: the names of its states."""
    bare = pool.build(eqx.nn.StateIndex, marker=None, init=None)
    return jax.tree.map(lambda node: bare if is_index(node) else node, tree, is_leaf=is_index)


def same_leaf(a: Any, b: Any) -> bool:
    """Whether two leaves that are not arrays are the same; partials by what they hold."""
    if isinstance(a, functools.partial) and isinstance(b, functools.partial):
        one, two = ([*p.args, *sorted(p.keywords.items())] for p in (a, b))
        return same_leaf(a.func, b.func) and same_leaf(one, two)
    if isinstance(a, list | tuple) and type(a) is type(b):
        return len(a) == len(b) and all(map(same_leaf, a, b))
    return a is b or (type(a) is type(b) and not eqx.is_array_like(a) and a == b)


def _argument(value: Any) -> Made | None:
    """A field as an argument; `None` for what holds arrays itself."""
    if isinstance(value, eqx.Module):
        return made(value)
    if isinstance(value, list | tuple):
        inner = [_argument(item) for item in value]
        found = [item for item in inner if item is not None]
        if type(value) not in (list, tuple) or len(found) < len(inner):
            return None
        opening, closing = "()" if isinstance(value, tuple) else "[]"
        skeleton = type(value)(item.skeleton for item in found)
        return Made(sequence(opening, [item.code for item in found], closing), skeleton)
    if isinstance(value, str):
        return Made(quoted(value), value)
    if value is None:
        return Made("None", None)
    code = number_code(value) or name_of(value)
    return None if code is None else Made(code, value)


class _Signature(NamedTuple):
    required: dict[str, Made]
    optional: dict[str, Made]
    wants_key: bool


def _signature(layer: eqx.Module) -> _Signature | None:
    """What the class takes, of the fields of these names."""
    required: dict[str, Made] = {}
    optional: dict[str, Made] = {}
    parameters = dict(inspect.signature(type(layer)).parameters)
    wants_key = parameters.pop("key", None) is not None
    for name, parameter in parameters.items():
        argument = _argument(getattr(layer, name)) if hasattr(layer, name) else None
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if parameter.default is parameter.empty:
            if argument is None:
                return None
            required[name] = argument
        elif argument is not None and not same_leaf(argument.skeleton, parameter.default):
            optional[name] = argument
    return _Signature(required, optional, wants_key)


@dataclasses.dataclass(frozen=True)
class _Call:
    """A call of a layer's class, known by how it is written."""

    cls: type[eqx.Module]
    text: str
    args: list[Any] = dataclasses.field(compare=False)
    kwargs: dict[str, Any] = dataclasses.field(compare=False)
    wants_key: bool

    def make(self, args: list[Any], kwargs: dict[str, Any], key: Any) -> eqx.Module:
        """What is called, with arrays in the places of what stands for them."""
        return self.cls(*args, **kwargs, **({"key": key} if self.wants_key else {}))


@functools.lru_cache(maxsize=256)
def _skeleton(request: _Call) -> PyTree | None:
    """What a call makes, computed by shapes alone; `None` where it refuses or warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return eqx.filter_eval_shape(request.make, request.args, request.kwargs, plain_key())
        except (TypeError, ValueError, UserWarning):
            return None


def _fits(skeleton: PyTree | None, layer: eqx.Module) -> bool:
    if skeleton is None:
        return False
    return jax.tree.structure(unmarked(skeleton)) == jax.tree.structure(unmarked(layer))


def _attempt(layer: eqx.Module, signature: _Signature, chosen: dict[str, Made]) -> Made | None:
    """The call with these optional arguments, where it makes such a layer."""
    cls = type(layer)
    positional = [argument.code for argument in signature.required.values()]
    named = {key: argument.code for key, argument in chosen.items()}
    if signature.wants_key:
        named["key"] = _KEY
    doc = call(name_of(cls) or "", *positional, **named)
    args = [argument.skeleton for argument in signature.required.values()]
    kwargs = {key: argument.skeleton for key, argument in chosen.items()}
    skeleton = _skeleton(_Call(cls, flat(doc), args, kwargs, signature.wants_key))
    return Made(doc, skeleton) if _fits(skeleton, layer) else None


def made(layer: eqx.Module) -> Made | None:
    """The shortest call that makes a layer of the structure of `layer`.

    `None` where there is none: another class, a field that was changed, a leaf that was left out.
    """
    name = name_of(type(layer))
    if name is None or not name.startswith("eqx.nn."):
        return None
    signature = _signature(layer)
    if signature is None:
        return None
    found = _attempt(layer, signature, {})
    if found is not None:
        return found
    chosen = dict(signature.optional)
    found = _attempt(layer, signature, chosen)
    for key in signature.optional:
        fewer = {other: argument for other, argument in chosen.items() if other != key}
        smaller = _attempt(layer, signature, fewer) if found and fewer else None
        if smaller is not None:
            found, chosen = smaller, fewer
    return found


def prefix_of(layer: PyTree) -> str | None:
    """What `pool.marked` was given to name the states in `layer`; `None` for other names."""
    nodes = jtu.tree_flatten_with_path(layer, is_leaf=is_index)[0]
    for keys, node in nodes:
        if is_index(node):
            inside = jtu.keystr(keys)
            if not isinstance(node.marker, str) or not node.marker.endswith(inside):
                return None
            prefix = node.marker.removesuffix(inside)
            same = jax.tree.structure(pool.marked(layer, prefix)) == jax.tree.structure(layer)
            return prefix if same else None
    return None
