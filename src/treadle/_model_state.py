"""The state of stateful layers (`eqx.nn.State`) on its way through a loss."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ._errors import ArgumentValueError, LossError, TreeError
from .tree._match import mismatches, some
from .tree._paths import escape, flatten_with_paths, join, path_of


def fresh(model_state: PyTree) -> PyTree:
    """The same tree as new objects: Equinox's states are used up by the first `set` on them."""
    return jax.tree.unflatten(jax.tree.structure(model_state), jax.tree.leaves(model_state))


def state_paths(model_state: PyTree) -> list[str]:
    """A readable name for every leaf of a state: where its layer is in the model.

    `eqx.nn.make_with_state` writes that down, `Net.norm.batch_counter`; other states are numbered.
    """
    if isinstance(model_state, eqx.nn.State):
        values, markers = model_state.tree_flatten()
        names = [
            escape(marker) if isinstance(marker, str) else str(index)
            for index, marker in enumerate(markers)
        ]
        return [
            join(name, path)
            for name, value in zip(names, values, strict=True)
            for path, _ in flatten_with_paths(value)[0]
        ]
    return [path for path, _ in flatten_with_paths(model_state)[0]]


def _is_index(node: Any) -> bool:
    return isinstance(node, eqx.nn.StateIndex)


def require_state_of(model: PyTree, model_state: PyTree) -> None:
    """Refuses a state that does not belong to a model, or is no longer valid.

    Raises:
        ArgumentValueError: `set` was called on it, or a layer was with it.
        TreeError: It lacks the state of some layer.
    """
    if not isinstance(model_state, eqx.nn.State):
        return
    try:
        _, markers = model_state.tree_flatten()
    except ValueError as error:  # Equinox's, of a state that `set` was called on.
        raise ArgumentValueError(
            "`model_state` was used up: each call of a stateful layer returns the next state, and "
            "the old one is no longer valid. Hand over the newest one."
        ) from error
    nodes = jax.tree_util.tree_flatten_with_path(model, is_leaf=_is_index)[0]
    missing = [
        path_of(keys) for keys, node in nodes if _is_index(node) and node.marker not in markers
    ]
    if missing:
        raise TreeError(
            f"`model_state` lacks the state of {', '.join(map(repr, missing))}: it is that of "
            f"another model. Make both at once, `model, model_state = "
            f"eqx.nn.make_with_state(Net)(...)`."
        )


def _structures(old: PyTree, new: PyTree) -> str:
    """What two states do not have in common."""
    before, after = state_paths(old), state_paths(new)
    lacks = some(repr(path) for path in before if path not in after)
    adds = some(repr(path) for path in after if path not in before)
    told = [f"it lacks {lacks}"] * bool(lacks) + [f"it has {adds} beside"] * bool(adds)
    told = told or mismatches(old, new, ("the old one", "the new one"), lambda a, b: True)
    return " and ".join(told)


def require_same_state(old: PyTree, new: PyTree) -> PyTree:
    """The state that a loss returned, without weak types.

    Raises:
        LossError: It is no longer valid, or not of the structure, shapes and dtypes of the old one.
    """
    try:
        leaves, treedef = jax.tree.flatten(new)
    except ValueError as error:  # Equinox's, of a state that `set` was called on.
        raise LossError(
            "The loss function returned a `model_state` that was used up: each call of a stateful "
            "layer returns the next state, and the last one is what the loss returns. "
            "`logits, model_state = model(x, model_state)`, then `return loss, model_state`."
        ) from error
    was = jax.tree.structure(old)
    if treedef != was:
        raise LossError(
            f"The loss function returned a `model_state` of another structure than it was given: "
            f"{_structures(old, new)}. Return the whole state, as the model's call returned it, "
            f"second: `return loss, model_state`."
        )
    same = []
    for path, before, after in zip(state_paths(old), jax.tree.leaves(old), leaves, strict=True):
        after = jnp.asarray(after)
        if after.shape != before.shape or after.dtype != before.dtype:
            raise LossError(
                f"The loss function turned {path!r} of `model_state` from {before.dtype}"
                f"{list(before.shape)} into {after.dtype}{list(after.shape)}: a state keeps its "
                f"shapes and dtypes."
            )
        # A weak type would make the second step compile anew.
        same.append(jax.lax.convert_element_type(after, before.dtype))
    return jax.tree.unflatten(was, same)


def mapped_leaves(make: Callable[[], Any], model_state: PyTree) -> list[str]:
    """Which leaves of a state came out of a `vmap` with a value for each example.

    Args:
        make: Gives the new state with a leading axis of examples on every leaf.
        model_state: The state before.
    """
    traced = jax.make_jaxpr(lambda: jax.tree.leaves(make()))()
    # A leaf that is the same for all examples was broadcast at the very end.
    broadcast = {
        variable
        for equation in traced.jaxpr.eqns
        if equation.primitive.name == "broadcast_in_dim"
        for variable in equation.outvars
    }
    constant = [variable in broadcast for variable in traced.jaxpr.outvars]
    names = state_paths(model_state)
    return [name for name, same in zip(names, constant, strict=True) if not same]
