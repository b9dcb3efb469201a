"""Nodes of drawn trees: containers and modules inside each other, down to the leaves."""

import collections
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import hypothesis.strategies as st
import jax
import jax.tree_util as jtu

from .. import pool
from ._arrays import ArrayPlan, draw_array
from ._keys import draw_key
from ._layers import draw_layer
from ._leaves import FUNCTIONS, draw_leaf


class Plan(NamedTuple):
    """What the leaves and nodes of a tree may be.

    Attributes:
        arrays: Of the arrays that stand anywhere.
        floats: Of the floats of layers.
        leaves: A strategy for all leaves; `None` for those of every kind.
        floats_only: Whether all leaves are arrays by `arrays`.
        stateful: Whether layers may keep a state.
        modules: Whether nodes may be modules.
    """

    arrays: ArrayPlan
    floats: ArrayPlan
    leaves: Any = None
    floats_only: bool = False
    stateful: bool = True
    modules: bool = True


class Place(NamedTuple):
    """Where a node is drawn: how many levels and leaves there is room for below."""

    plan: Plan
    depth: int
    leaves: int

    def array(self, draw: st.DrawFn) -> Any:
        """What stands where a module has an array."""
        if self.plan.leaves is not None:
            return draw(self.plan.leaves)
        return draw_array(draw, self.plan.arrays)

    def leaf(self, draw: st.DrawFn) -> Any:
        """A leaf of any kind that is allowed."""
        if self.plan.leaves is not None or self.plan.floats_only:
            return self.array(draw)
        return draw_leaf(draw, self.plan.arrays)

    def children(self, draw: st.DrawFn, count: int, taken: int = 0) -> list[Any]:
        """So many nodes, which share the room that is left."""
        room = (self.leaves - taken) // max(1, count)
        below = nodes(self.plan, self.depth - 1, room)
        return [draw(below) for _ in range(count)]


_COUNT = st.integers(0, 3)
_COIN = st.booleans()
_LABEL = st.sampled_from(["", "a", "b/c"])
_SIZES = st.sampled_from([(), (2,), (1, 3)])
_FUNCTION = st.sampled_from([None, jax.nn.relu, pool.halved, pool.leaky, max])
_ACTIVATION = st.sampled_from(FUNCTIONS)
_NAMES = st.sampled_from(
    [("a", "b", "c"), ("weight", "bias", "scale"), ("a/b", "~", ""), (0, 1, 10), ("c", "b", "a")]
)


# -- modules ------------------------------------------------------------------------------------


def _empty(draw: st.DrawFn, place: Place) -> Any:
    return pool.Empty()


def _scale(draw: st.DrawFn, place: Place) -> Any:
    return pool.build(pool.Scale, factor=place.array(draw))


def _affine(draw: st.DrawFn, place: Place) -> Any:
    weight = place.array(draw)
    bias = place.array(draw) if place.leaves > 1 and draw(_COIN) else None
    return pool.build(pool.Affine, weight=weight, bias=bias)


def _labelled(draw: st.DrawFn, place: Place) -> Any:
    (value,) = place.children(draw, 1) if place.depth else [place.leaf(draw)]
    return pool.build(
        pool.Labelled,
        value=value,
        label=draw(_LABEL),
        sizes=draw(_SIZES),
        function=draw(_FUNCTION),
    )


def _layer(draw: st.DrawFn, place: Place) -> Any:
    plan = place.plan
    stateful = None if plan.stateful else False
    return draw_layer(draw, plan.floats, place.leaves, plan.floats_only, stateful)


def _branches(draw: st.DrawFn, place: Place) -> Any:
    left, right = place.children(draw, 2)
    return pool.build(pool.Branches, left=left, right=right)


def _chain(draw: st.DrawFn, place: Place) -> Any:
    layers = place.children(draw, draw(_COUNT))
    return pool.build(pool.Chain, layers=tuple(layers) if draw(_COIN) else layers)


def _parts(draw: st.DrawFn, place: Place) -> Any:
    return pool.build(pool.Parts, parts=_dict(draw, place))


def _residual(draw: st.DrawFn, place: Place) -> Any:
    (inner,) = place.children(draw, 1, taken=1)
    return pool.build(pool.Residual, inner=inner, activation=draw(_ACTIVATION))


def _tied(draw: st.DrawFn, place: Place) -> Any:
    array = place.array(draw)
    return pool.build(pool.Tied, encoder=array, decoder=array)


def _frozen(draw: st.DrawFn, place: Place) -> Any:
    kind = "numpy" if draw(_COIN) else "jax"
    return pool.build(
        pool.Frozen, value=draw_array(draw, place.plan.arrays._replace(kinds=(kind,)))
    )


def _noise(draw: st.DrawFn, place: Place) -> Any:
    key, rate = draw_key(draw), draw(st.sampled_from([0.5, 0.0, 1.0]))
    return pool.build(pool.Noise, key=key, rate=rate, active=draw(_COIN))


def _memory(draw: st.DrawFn, place: Place) -> Any:
    array = draw_array(draw, place.plan.floats._replace(shapes=place.plan.arrays.shapes))
    return pool.build(pool.Memory, index=eqx.nn.StateIndex(array))


@functools.cache
def _shared_layer() -> tuple[Any, Any]:
    """The leaves and structure of an `eqx.nn.Shared`, whose making is slow."""
    leaves, treedef = jax.tree.flatten(eqx.nn.Shared((0.0, 0.0), pool.last, pool.first))
    return leaves, treedef


def _shared(draw: st.DrawFn, place: Place) -> Any:
    leaves, treedef = _shared_layer()
    return jax.tree.unflatten(treedef, [place.array(draw), *leaves[1:]])


# -- containers and leaves ----------------------------------------------------------------------


def _leaf(draw: st.DrawFn, place: Place) -> Any:
    return place.leaf(draw)


def _none(draw: st.DrawFn, place: Place) -> Any:
    return None


def _list(draw: st.DrawFn, place: Place) -> Any:
    return place.children(draw, draw(_COUNT))


def _tuple(draw: st.DrawFn, place: Place) -> Any:
    return tuple(place.children(draw, draw(_COUNT)))


def _dict(draw: st.DrawFn, place: Place) -> Any:
    items = place.children(draw, draw(_COUNT))
    return dict(zip(draw(_NAMES), items, strict=False))


def _ordered_dict(draw: st.DrawFn, place: Place) -> Any:
    return collections.OrderedDict(_dict(draw, place))


def _point(draw: st.DrawFn, place: Place) -> Any:
    return pool.Point(*place.children(draw, 2))


def _record(draw: st.DrawFn, place: Place) -> Any:
    (data,) = place.children(draw, 1)
    return pool.Record(data, draw(_LABEL))


def _partial(draw: st.DrawFn, place: Place) -> Any:
    (argument,) = place.children(draw, 1)
    return jtu.Partial(pool.halved, argument)


# -- which of them ------------------------------------------------------------------------------


class _Kind(NamedTuple):
    """A kind of node.

    Attributes:
        make: Draws one.
        weight: How often.
        leaves: How many leaves of its own it has at least.
        depth: How many levels it needs below.
        mixed: Whether it brings leaves that are no arrays of floats.
        own: Whether it brings leaves of its own, whatever strategy there is for them.
        stateful: Whether it keeps a state.
    """

    make: Callable[[st.DrawFn, Place], Any]
    weight: int
    leaves: int = 0
    depth: int = 0
    mixed: bool = False
    own: bool = False
    stateful: bool = False


# The simplest first: what fails shrinks towards them.
_MODULES = (
    _Kind(_empty, 1),
    _Kind(_scale, 2, leaves=1),
    _Kind(_affine, 4, leaves=1),
    _Kind(_labelled, 4, leaves=1),
    _Kind(_tied, 3, leaves=2),
    _Kind(_layer, 12, own=True),
    _Kind(_frozen, 3, leaves=1, mixed=True, own=True),
    _Kind(_noise, 3, leaves=3, mixed=True, own=True),
    _Kind(_memory, 2, leaves=1, own=True, stateful=True),
    _Kind(_shared, 1, leaves=4, mixed=True, own=True),
    _Kind(_branches, 8, depth=1),
    _Kind(_chain, 7, depth=1),
    _Kind(_parts, 7, depth=1),
    _Kind(_residual, 6, leaves=1, depth=1, mixed=True, own=True),
)
_OTHERS = (
    _Kind(_leaf, 18, leaves=1),
    _Kind(_none, 4),
    _Kind(_list, 6, depth=1),
    _Kind(_tuple, 6, depth=1),
    _Kind(_dict, 6, depth=1),
    _Kind(_point, 5, depth=1),
    _Kind(_ordered_dict, 5, depth=1),
    _Kind(_record, 5, depth=1),
    _Kind(_partial, 4, depth=1),
)


def _is_allowed(kind: _Kind, plan: Plan, depth: int, leaves: int) -> bool:
    if kind.depth > depth or kind.leaves > leaves:
        return False
    if (kind.mixed and plan.floats_only) or (kind.own and plan.leaves is not None):
        return False
    return plan.stateful or not kind.stateful


@functools.lru_cache(maxsize=1024)
def _makers(
    plan: Plan, depth: int, leaves: int, kinds: tuple[_Kind, ...]
) -> st.SearchStrategy[Callable[[st.DrawFn, Place], Any]]:
    allowed = [kind for kind in kinds if _is_allowed(kind, plan, depth, leaves)]
    return st.sampled_from([kind.make for kind in allowed for _ in range(kind.weight)])


@st.composite
def _node(draw: st.DrawFn, place: Place, kinds: tuple[_Kind, ...]) -> Any:
    make = draw(_makers(place.plan, place.depth, place.leaves, kinds))
    return make(draw, place)


@functools.lru_cache(maxsize=1024)
def nodes(plan: Plan, depth: int, leaves: int) -> st.SearchStrategy[Any]:
    """Any node or leaf of at most so many levels and leaves."""
    kinds = _OTHERS + _MODULES if plan.modules else _OTHERS
    return _node(Place(plan, depth, leaves), kinds)


@functools.lru_cache(maxsize=1024)
def module_nodes(plan: Plan, depth: int, leaves: int) -> st.SearchStrategy[eqx.Module]:
    """A module of at most so many levels and leaves."""
    return _node(Place(plan, depth, leaves), _MODULES)


@functools.lru_cache(maxsize=1024)
def stateful_nodes(plan: Plan, depth: int, leaves: int) -> st.SearchStrategy[eqx.Module]:
    """A module that keeps a state."""
    return _stateful(Place(plan, depth, leaves))


@st.composite
def _stateful(draw: st.DrawFn, place: Place) -> eqx.Module:
    if draw(_COIN):
        return _memory(draw, place)
    plan = place.plan
    return draw_layer(draw, plan.floats, place.leaves, plan.floats_only, True)
