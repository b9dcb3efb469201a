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
from ._draw import Draw
from ._keys import draw_key
from ._layers import draw_layer, fitting
from ._leaves import draw_function, draw_number, draw_word


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

    def array(self, draw: Draw) -> Any:
        """What stands where a module has an array."""
        if self.plan.leaves is not None:
            return draw(self.plan.leaves)
        return draw_array(draw, self.plan.arrays)

    def children(self, draw: Draw, count: int, taken: int = 0) -> list[Any]:
        """So many nodes, each with the room that those before it left."""
        room = self.leaves - taken
        found = []
        for waiting in reversed(range(count)):
            # One leaf at least for each of those that wait.
            found.append(draw(nodes(self.plan, self.depth - 1, max(0, room - waiting))))
            room -= len(jax.tree.leaves(found[-1]))
        return found


_COUNT = st.integers(0, 3)
_COIN = st.booleans()
_LABEL = st.sampled_from(["", "a", "b/c"])
_SIZES = st.sampled_from([(), (2,), (1, 3)])
_STATIC_FUNCTION = st.sampled_from([None, jax.nn.relu, pool.halved, pool.leaky, max])
_NAMES = st.sampled_from(
    [("a", "b", "c"), ("weight", "bias", "scale"), ("a/b", "~", ""), (0, 1, 10), ("c", "b", "a")]
)


# -- modules ------------------------------------------------------------------------------------


def _empty(draw: Draw, place: Place) -> Any:
    return pool.Empty()


def _scale(draw: Draw, place: Place) -> Any:
    return pool.build(pool.Scale, factor=place.array(draw))


def _affine(draw: Draw, place: Place) -> Any:
    weight = place.array(draw)
    bias = place.array(draw) if place.leaves > 1 and draw(_COIN) else None
    return pool.build(pool.Affine, weight=weight, bias=bias)


def _labelled(draw: Draw, place: Place) -> Any:
    (value,) = place.children(draw, 1) if place.depth else [place.array(draw)]
    return pool.build(
        pool.Labelled,
        value=value,
        label=draw(_LABEL),
        sizes=draw(_SIZES),
        function=draw(_STATIC_FUNCTION),
    )


def _layer(draw: Draw, place: Place) -> Any:
    plan = place.plan
    stateful = None if plan.stateful else False
    return draw_layer(draw, plan.floats, place.leaves, plan.floats_only, stateful)


def _branches(draw: Draw, place: Place) -> Any:
    left, right = place.children(draw, 2)
    return pool.build(pool.Branches, left=left, right=right)


def _chain(draw: Draw, place: Place) -> Any:
    layers = place.children(draw, draw(_COUNT))
    return pool.build(pool.Chain, layers=tuple(layers) if draw(_COIN) else layers)


def _parts(draw: Draw, place: Place) -> Any:
    return pool.build(pool.Parts, parts=_dict(draw, place))


def _residual(draw: Draw, place: Place) -> Any:
    (inner,) = place.children(draw, 1, taken=1)
    return pool.build(pool.Residual, inner=inner, activation=draw_function(draw))


def _tied(draw: Draw, place: Place) -> Any:
    array = place.array(draw)
    return pool.build(pool.Tied, encoder=array, decoder=array)


def _frozen(draw: Draw, place: Place) -> Any:
    kind = "numpy" if draw(_COIN) else "jax"
    return pool.build(
        pool.Frozen, value=draw_array(draw, place.plan.arrays._replace(kinds=(kind,)))
    )


def _noise(draw: Draw, place: Place) -> Any:
    key, rate = draw_key(draw), draw(st.sampled_from([0.5, 0.0, 1.0]))
    return pool.build(pool.Noise, key=key, rate=rate, active=draw(_COIN))


def _memory(draw: Draw, place: Place) -> Any:
    array = draw_array(draw, place.plan.floats._replace(shapes=place.plan.arrays.shapes))
    return pool.build(pool.Memory, index=eqx.nn.StateIndex(array))


@functools.cache
def _shared_layer() -> tuple[Any, Any]:
    """The leaves and structure of an `eqx.nn.Shared`, whose making is slow."""
    leaves, treedef = jax.tree.flatten(eqx.nn.Shared((0.0, 0.0), pool.last, pool.first))
    return leaves, treedef


def _shared(draw: Draw, place: Place) -> Any:
    leaves, treedef = _shared_layer()
    return jax.tree.unflatten(treedef, [place.array(draw), *leaves[1:]])


# -- containers and leaves ----------------------------------------------------------------------


def _array(draw: Draw, place: Place) -> Any:
    return place.array(draw)


def _key(draw: Draw, place: Place) -> Any:
    return draw_key(draw)


def _number(draw: Draw, place: Place) -> Any:
    return draw_number(draw)


def _function(draw: Draw, place: Place) -> Any:
    return draw_function(draw)


def _word(draw: Draw, place: Place) -> Any:
    return draw_word(draw)


def _numpy(draw: Draw, place: Place) -> Any:
    return draw_array(draw, place.plan.arrays._replace(kinds=("numpy",)))


def _none(draw: Draw, place: Place) -> Any:
    return None


def _list(draw: Draw, place: Place) -> Any:
    return place.children(draw, draw(_COUNT))


def _tuple(draw: Draw, place: Place) -> Any:
    return tuple(place.children(draw, draw(_COUNT)))


def _dict(draw: Draw, place: Place) -> Any:
    items = place.children(draw, draw(_COUNT))
    return dict(zip(draw(_NAMES), items, strict=False))


def _ordered_dict(draw: Draw, place: Place) -> Any:
    return collections.OrderedDict(_dict(draw, place))


def _point(draw: Draw, place: Place) -> Any:
    return pool.Point(*place.children(draw, 2))


def _record(draw: Draw, place: Place) -> Any:
    (data,) = place.children(draw, 1)
    return pool.Record(data, draw(_LABEL))


def _partial(draw: Draw, place: Place) -> Any:
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

    make: Callable[[Draw, Place], Any]
    weight: int
    leaves: int = 0
    depth: int = 0
    mixed: bool = False
    own: bool = False
    stateful: bool = False

    def is_allowed(self, place: Place) -> bool:
        """Whether there may be one at a place."""
        plan = place.plan
        if self.depth > place.depth or self.leaves > place.leaves:
            return False
        if (self.mixed and plan.floats_only) or (self.own and plan.leaves is not None):
            return False
        return plan.stateful or not self.stateful


# The simplest first: what fails shrinks towards them.
_CONTAINERS = (
    _Kind(_none, 4),
    _Kind(_array, 12, leaves=1),
    _Kind(_key, 4, leaves=1, mixed=True, own=True),
    _Kind(_number, 4, leaves=1, mixed=True, own=True),
    _Kind(_function, 5, leaves=1, mixed=True, own=True),
    _Kind(_numpy, 5, leaves=1, mixed=True, own=True),
    _Kind(_word, 5, leaves=1, mixed=True, own=True),
    _Kind(_list, 6, depth=1),
    _Kind(_tuple, 6, depth=1),
    _Kind(_dict, 6, depth=1),
    _Kind(_point, 5, depth=1),
    _Kind(_ordered_dict, 7, depth=1),
    _Kind(_record, 6, depth=1),
    _Kind(_partial, 7, depth=1),
)
_MODULES = (
    _Kind(_empty, 2),
    _Kind(_scale, 4, leaves=1),
    _Kind(_affine, 7, leaves=1),
    _Kind(_labelled, 9, leaves=1),
    _Kind(_tied, 5, leaves=2),
    _Kind(_layer, 20, own=True),
    _Kind(_frozen, 5, leaves=1, mixed=True, own=True),
    _Kind(_noise, 5, leaves=3, mixed=True, own=True),
    _Kind(_memory, 4, leaves=1, own=True, stateful=True),
    _Kind(_shared, 5, leaves=4, mixed=True, own=True),
    _Kind(_branches, 9, depth=1),
    _Kind(_chain, 9, depth=1),
    _Kind(_parts, 7, depth=1),
    _Kind(_residual, 7, leaves=1, depth=1, mixed=True, own=True),
)


def _weighted(kinds: tuple[_Kind, ...]) -> st.SearchStrategy[_Kind]:
    return st.sampled_from([kind for kind in kinds for _ in range(kind.weight)])


# The same choices mean the same node wherever it stands, so that hypothesis can put an inner node
# in the place of an outer one.
_KINDS = {True: _weighted(_CONTAINERS + _MODULES), False: _weighted(_CONTAINERS)}


@st.composite
def _node(draw: Draw, place: Place) -> Any:
    kind = draw(_KINDS[place.plan.modules])
    if kind.is_allowed(place):
        return kind.make(draw, place)
    # Mostly because there is no room.
    return place.array(draw) if place.leaves else None


@functools.lru_cache(maxsize=1024)
def nodes(plan: Plan, depth: int, leaves: int) -> st.SearchStrategy[Any]:
    """Any node or leaf of at most so many levels and leaves."""
    return _node(Place(plan, depth, leaves))


def as_module(node: Any) -> eqx.Module:
    """A drawn node as a module: what is none becomes the inside of one."""
    if isinstance(node, eqx.Module):
        return node
    if node is None:
        return pool.Empty()
    if type(node) is dict:
        return pool.build(pool.Parts, parts=node)
    if type(node) in (list, tuple):
        return pool.build(pool.Chain, layers=node)
    if isinstance(node, jax.Array):
        return pool.build(pool.Scale, factor=node)
    return pool.Labelled(node)


def draw_stateful(draw: Draw, place: Place) -> eqx.Module:
    """A module that keeps a state."""
    plan = place.plan
    if draw(_COIN) or not fitting(place.leaves, plan.floats_only, True):
        return _memory(draw, place)
    return draw_layer(draw, plan.floats, place.leaves, plan.floats_only, True)
