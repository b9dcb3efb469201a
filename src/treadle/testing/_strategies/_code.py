"""`code`: a tree as an expression that can be pasted."""

import collections
import dataclasses
import enum
import functools
import types
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu
import numpy as np
from jaxtyping import PyTree

from ..._state import TrainState
from ...tree._paths import paths
from ..pool._stateful import is_index
from ._array_code import array_code, number_code
from ._layer_code import made, prefix_of, same_leaf, unmarked
from ._layout import Doc, Group, call, followed, laid_out, named, quoted, sequence
from ._names import name_of

_PLAIN = (bytes, type(None), type(Ellipsis), slice)


def _has_plain_init(cls: type) -> bool:
    """Whether calling the class with its fields puts them in place as they are."""
    fields = dataclasses.fields(cls)
    return (
        cls.__dataclass_params__.init  # pyright: ignore[reportAttributeAccessIssue]
        and not any(hasattr(cls, name) for name in ("__post_init__", "__check_init__"))
        and all(field.init and "converter" not in field.metadata for field in fields)
    )


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    plain = isinstance(value, (str, int, float, tuple, type(None)))
    same = plain and type(value) is type(field.default) and value == field.default
    return value is field.default or bool(same)


class _Writer:
    """Writes one tree: an array that stands at several places is written once, and named."""

    def __init__(self, tree: PyTree):
        arrays = [leaf for leaf in jax.tree.leaves(tree) if eqx.is_array(leaf)]
        counts = collections.Counter(map(id, arrays))
        self._repeated = {leaf for leaf, count in counts.items() if count > 1}
        self._names: dict[int, str] = {}

    def write(self, node: Any) -> Doc:
        """Any node or leaf."""
        array = None if id(node) in self._names else array_code(node)
        if array is not None or id(node) in self._names:
            return self._shared(node, array)
        for write in (self._method, _leaf, self._container, self._of_jax, self._dataclass):
            doc = write(node)
            if doc is not None:
                return doc
        return repr(node)

    def _shared(self, leaf: Any, doc: Doc | None) -> Doc:
        if id(leaf) not in self._repeated or doc is None:
            return self._names.get(id(leaf)) or doc or ""
        name = "shared" if not self._names else f"shared_{len(self._names) + 1}"
        self._names[id(leaf)] = name
        return named(name, doc)

    def _mapping(self, node: Mapping[Any, Any]) -> Doc:
        items = [(f"{_key(key)}: ", self.write(value)) for key, value in node.items()]
        return Group("{", tuple(items), "}")

    def _fields(self, node: Any, names: list[str]) -> dict[str, Doc]:
        return {name: self.write(getattr(node, name)) for name in names}

    def _container(self, node: Any) -> Doc | None:
        kind = type(node)
        if kind is dict:
            return self._mapping(node)
        if kind is list:
            return sequence("[", [self.write(item) for item in node], "]")
        if kind is tuple:
            return sequence("(", [self.write(item) for item in node], ")")
        if kind is collections.OrderedDict:
            return call("collections.OrderedDict", self._mapping(node))
        if kind is collections.defaultdict:
            made_by = self.write(node.default_factory)
            return call("collections.defaultdict", made_by, self._mapping(node))
        names = getattr(node, "_fields", None)
        if isinstance(node, tuple) and names is not None:
            return call(name_of(kind) or repr(kind), **self._fields(node, list(names)))
        if isinstance(node, functools.partial):
            name = "jax.tree_util.Partial" if kind is jtu.Partial else "functools.partial"
            keywords = {key: self.write(value) for key, value in node.keywords.items()}
            return call(name, self.write(node.func), *map(self.write, node.args), **keywords)
        return None

    def _method(self, node: Any) -> Doc | None:
        """A method of an instance; Equinox makes modules of those of its own."""
        owner, function = getattr(node, "__self__", None), getattr(node, "__func__", None)
        name = getattr(function, "__name__", None)
        if owner is None or isinstance(owner, type) or not isinstance(name, str):
            return None
        return followed(self.write(owner), f".{name}")

    def _of_jax(self, node: Any) -> Doc | None:
        if isinstance(node, TrainState):
            return None if node.members is not None else self._train_state(node)
        if isinstance(node, eqx.nn.State):
            values, markers = node.tree_flatten()
            return call("pool.state", self._mapping(dict(zip(markers, values, strict=True))))
        if is_index(node):
            return self._index(node)
        if isinstance(node, eqx.Module):
            return self._layer(node)
        return None

    def _index(self, node: Any) -> Doc:
        bare = not jax.tree.leaves(node)
        if isinstance(node.marker, str) and bare:
            return call("pool.state_index", quoted(node.marker))
        return call("eqx.nn.StateIndex", self.write(node.init))

    def _layer(self, node: eqx.Module) -> Doc | None:
        """A layer of Equinox as a call of its class, and the leaves put in place."""
        found = made(node)
        if found is None:
            return None
        bare = unmarked(node)
        leaves = zip(jax.tree.leaves(bare), jax.tree.leaves(unmarked(found.skeleton)), strict=True)
        values = [
            (f"{quoted(path)}: ", self.write(leaf))
            for path, (leaf, other) in zip(paths(bare), leaves, strict=True)
            if not same_leaf(leaf, other)
        ]
        doc = found.code
        if values:
            doc = call("treadle.tree.replace", doc, Group("{", tuple(values), "}"))
        if not any(map(is_index, jax.tree.leaves(node, is_leaf=is_index))):
            return doc
        prefix = prefix_of(node)
        return None if prefix is None else call("pool.marked", doc, quoted(prefix))

    def _dataclass(self, node: Any) -> Doc | None:
        cls = type(node)
        if not dataclasses.is_dataclass(cls):
            return None
        name = name_of(cls) or repr(cls)
        fields = dataclasses.fields(cls)
        if not _has_plain_init(cls):
            fixed = call("pool.build", name)
            built = self._fields(node, [field.name for field in fields])
            return Group(fixed.opening, (*fixed.items, *call("", **built).items), fixed.closing)
        told = [f.name for f in fields if not _is_default(f, getattr(node, f.name))]
        return call(name, **self._fields(node, told))

    def _train_state(self, state: TrainState) -> Doc:
        parts = state.parts()
        views = {
            "model": parts.model,
            "opt_state": parts.opt_state,
            "key": state.key,
            "step": int(parts.step),
            "model_state": parts.model_state,
            "ema": None if parts.ema_model is None else parts.ema_model.unpacked(),
            "ema_updates": _whole(parts.ema_updates),
            "loss_scale": None if parts.loss_scale is None else float(parts.loss_scale.scale),
            "finite_steps": _whole(getattr(parts.loss_scale, "finite_steps", None)),
            "skipped": _whole(parts.skipped),
            "faults": tuple(np.asarray(parts.faults).tolist()),
        }
        if views["faults"] == (-1, -1):
            del views["faults"]
        written = {name: self.write(view) for name, view in views.items() if view is not None}
        return call("pool.train_state", **written)


def _whole(counter: Any) -> int | None:
    return None if counter is None else int(counter)


def _key(key: Any) -> str:
    doc = _leaf(key)
    return doc if isinstance(doc, str) else repr(key)


def _member(member: enum.Enum) -> str | None:
    name = name_of(type(member))
    if name is None:
        return None
    # Several flags together have no name of their own.
    by_name = type(member).__members__.get(member.name) is member
    return f"{name}.{member.name}" if by_name else f"{name}({member.value!r})"


def _leaf(leaf: Any) -> Doc | None:
    """A leaf that is no array."""
    if type(leaf) is str:
        return quoted(leaf)
    if type(leaf) in _PLAIN:
        return repr(leaf)
    number = number_code(leaf)
    if number is not None:
        return number
    if isinstance(leaf, enum.Enum):
        return _member(leaf)
    if type(leaf) is jax.ShapeDtypeStruct and isinstance(leaf.dtype, np.dtype):
        return call("jax.ShapeDtypeStruct", repr(leaf.shape), f'"{leaf.dtype.name}"')
    if isinstance(leaf, np.dtype):
        return call("np.dtype", f'"{leaf.name if leaf.isnative else leaf.str}"')
    if isinstance(leaf, type | types.FunctionType | types.BuiltinFunctionType):
        return name_of(leaf)
    if callable(leaf) and not dataclasses.is_dataclass(leaf):
        return name_of(leaf)
    if type(leaf).__init__ is object.__init__ and not getattr(leaf, "__dict__", {"": None}):
        name = name_of(type(leaf))
        return None if name is None else f"{name}()"
    return None


def document(tree: PyTree) -> Doc:
    """The expression, to be laid out."""
    return _Writer(tree).write(tree)


def code(tree: PyTree) -> str:
    """A tree as a Python expression that makes an equal one: every bit, dtype and static field.

    It is what a failing property test prints for whatever this module drew. Paste it below

        import collections, functools
        import equinox as eqx, jax, jax.numpy as jnp, numpy as np, optax, treadle
        from treadle.testing import pool

    Your own classes and functions are called by their bare names. A layer of `eqx.nn` is written as
    the call that makes one, with `treadle.tree.replace` for its leaves; `pool.build` stands where a
    class could not be called. An array that stands at several places is made once and named by `:=`
    there. What has no name (a lambda, a local function, the states of an ensemble) is written as
    its `repr`.

    Args:
        tree: Any pytree, such as a model, a batch, an optimizer's state, a `TrainState`.

    Returns:
        An expression, over several lines where it is long.

    Example:
        >>> print(code({"w": jnp.zeros((2, 3)), "k": jax.random.key(7)}))
        {'w': jnp.zeros((2, 3), "float32"), 'k': jax.random.key(7)}
    """
    return laid_out(document(tree))
