"""Which parameter each leaf of an optimizer's state belongs to."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import optax
from jaxtyping import PyTree

from ._paths import NamedLeaves, flatten_with_paths

Init: TypeAlias = Callable[[PyTree], PyTree]
"""Makes the state of an optimizer from parameters."""

# A mask or a label function that meets what it does not expect may raise any of these.
_REFUSALS = (AssertionError, AttributeError, LookupError, TypeError, ValueError)

# What these keep is of all parameters together: the curvature of some says nothing beside others
# that are new, and the loss at the last point is not that of another model.
_JOINT = (
    optax.ScaleByLBFGSState,
    optax.ScaleByBacktrackingLinesearchState,
    optax.ScaleByZoomLinesearchState,
)


class Place(NamedTuple):
    """Where a leaf of an optimizer's state stands.

    Attributes:
        owner: The parameter that it belongs to, by its index; `None` for counters and the like.
        role: What it is there for, the same for every parameter: its path, the owner's cut out.
        joint: Whether it depends on all parameters together, and is kept with all of them or not.
    """

    owner: int | None
    role: tuple[Any, ...]
    joint: bool = False


class Kind(NamedTuple):
    """The shape and dtype of a leaf."""

    shape: tuple[int, ...]
    dtype: Any


def kind_of(leaf: Any) -> Kind | None:
    """Shape and dtype, of Python's numbers too; `None` for what is neither array nor number."""
    if isinstance(leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct):
        return Kind(tuple(leaf.shape), leaf.dtype)
    if isinstance(leaf, bool | int | float | complex):
        return Kind((), jnp.result_type(leaf))
    return None


# -- by marks -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Mark:
    """The key of a parameter in its `_Marked`, which reads like the key of the parameter itself.

    Functions that mask or label parameters look at the ends of paths, or at their text.
    """

    owner: int
    entry: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.entry, name)

    def __str__(self) -> str:
        return ""


class _Marked(NamedLeaves):
    """A parameter under a mark: what is made of it leaf by leaf carries the mark along."""

    def __init__(self, mark: _Mark, inner: Any):
        self.mark = mark
        self.inner = inner

    def leaf_paths(self) -> tuple[str, ...]:
        """The paths below the parameter's own, which is the node's."""
        return tuple(path for path, _ in flatten_with_paths(self.inner)[0])

    def way_out(self) -> str:
        """Nobody is ever handed one in which to replace anything."""
        raise AssertionError("Marked parameters are for tracing alone.")

    def __getattr__(self, name: str) -> Any:
        # Functions that mask or label parameters may look at their `shape` and `ndim`.
        return getattr(self.inner, name)


jtu.register_pytree_with_keys(
    _Marked,
    lambda node: (((node.mark, node.inner),), node.mark),
    lambda mark, children: _Marked(mark, *children),
)


def _by_marks(init: Init, params: PyTree, state: PyTree) -> list[Place] | None:
    """Marks every parameter, and sees where the marks come out.

    Returns:
        `None` where the state is another than without them: a function that masks or labels
        parameters may go by what they change, such as the lengths of paths.
    """
    entries, treedef = jtu.tree_flatten_with_path(params)
    marked = [
        _Marked(_Mark(owner, path[-1] if path else None), leaf)
        for owner, (path, leaf) in enumerate(entries)
    ]
    try:
        traced = eqx.filter_eval_shape(init, jax.tree.unflatten(treedef, marked))
    except _REFUSALS:
        return None
    bare = jax.tree.map(
        lambda node: node.inner if isinstance(node, _Marked) else node,
        traced,
        is_leaf=lambda node: isinstance(node, _Marked),
    )
    if jax.tree.structure(bare) != jax.tree.structure(state):
        return None
    paths = [path for path, _ in entries]
    return [_marked_place(path, paths) for path, _ in jtu.tree_flatten_with_path(traced)[0]]


def _marked_place(path: tuple[Any, ...], params: list[tuple[Any, ...]]) -> Place:
    for at, entry in enumerate(path):
        if isinstance(entry, _Mark):
            return Place(entry.owner, (_cut(path[:at], params[entry.owner]), path[at + 1 :]))
    return Place(None, (path, ()))


def _cut(path: tuple[Any, ...], end: tuple[Any, ...]) -> tuple[Any, ...]:
    """A path without what it has in common with the end of another."""
    common = 0
    while common < min(len(path), len(end)) and path[-1 - common] == end[-1 - common]:
        common += 1
    return path[: len(path) - common]


# -- by structure ---------------------------------------------------------------------------------


def _children(node: PyTree) -> tuple[list[tuple[Any, Any]], Any]:
    """What is right below a node, each with its key, and the structure of the node alone."""
    return jtu.tree_flatten_with_path(node, is_leaf=lambda inner: inner is not node)


def _by_structure(node: PyTree, params: PyTree, path: tuple[Any, ...] = ()) -> list[Place]:
    """The innermost subtrees with the structure of the parameters are taken to be made of them.

    Args:
        node: A state, or a part of it.
        params: The structure of the parameters, with their indices as leaves.
        path: Where the part is.
    """
    if jtu.all_leaves([node]):
        places = [Place(None, (path, ()))]
    else:
        places = [
            place
            for key, child in _children(node)[0]
            for place in _by_structure(child, params, (*path, *key))
        ]
    if all(place.owner is None for place in places):
        owned = _fitted(node, params)
        if owned is not None:
            return [Place(owner, (path, below)) for owner, below in owned]
    return places


def _fitted(node: PyTree, params: PyTree) -> list[tuple[int, tuple[Any, ...]]] | None:
    """For each leaf of a subtree its parameter, and its path below that; `None` where unlike."""
    if isinstance(params, int):
        return [(params, below) for below, _ in jtu.tree_flatten_with_path(node)[0]]
    if isinstance(node, optax.MaskedNode):
        return []
    children, structure = _children(node)
    wanted, structure_wanted = _children(params)
    if structure != structure_wanted:
        return None
    found = []
    for (_, child), (_, part) in zip(children, wanted, strict=True):
        owned = _fitted(child, part)
        if owned is None:
            return None
        found += owned
    return found


# -- of all together ------------------------------------------------------------------------------


def _joint(init: Init, params: PyTree, state: PyTree, places: list[Place]) -> list[bool]:
    """For each leaf of a state whether it depends on all parameters together."""
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, _JOINT))
    joint = [isinstance(node, _JOINT) for node in nodes for _ in jax.tree.leaves(node)]
    kinds = [kind_of(leaf) for leaf in jax.tree.leaves(state)]
    suspects = [
        at
        for at, (place, kind) in enumerate(zip(places, kinds, strict=True))
        if place.owner is None and not joint[at] and _has_floats_and_axes(kind)
    ]
    if suspects:
        grown = _kinds_if_grown(init, params, len(kinds))
        for at in suspects:
            joint[at] = grown is None or grown[at] != kinds[at]
    return joint


def _has_floats_and_axes(kind: Kind | None) -> bool:
    return kind is not None and len(kind.shape) > 0 and jnp.issubdtype(kind.dtype, jnp.inexact)


def _kinds_if_grown(init: Init, params: PyTree, count: int) -> list[Kind | None] | None:
    """What the leaves of a state were if every axis of a parameter were longer.

    Returns:
        `None` where there are no axes, or other leaves: a function that masks or labels parameters
        may go by their shapes.
    """

    def longer(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(tuple(size + 1 for size in leaf.shape), leaf.dtype)

    if not any(leaf.ndim for leaf in jax.tree.leaves(params)):
        return None
    try:
        grown = eqx.filter_eval_shape(init, jax.tree.map(longer, params))
    except _REFUSALS:
        return None
    kinds = [kind_of(leaf) for leaf in jax.tree.leaves(grown)]
    return kinds if len(kinds) == count else None


def places_of(init: Init, params: PyTree, state: PyTree) -> list[Place]:
    """Where each leaf of an optimizer's state stands.

    Args:
        init: Makes the state from parameters.
        params: The parameters.
        state: What `init` makes of them, or what stands for it (`jax.eval_shape`).
    """
    places = _by_marks(init, params, state)
    if places is None:
        treedef = jax.tree.structure(params)
        places = _by_structure(state, jax.tree.unflatten(treedef, list(range(treedef.num_leaves))))
    joint = _joint(init, params, state, places)
    return [place._replace(joint=j) for place, j in zip(places, joint, strict=True)]
