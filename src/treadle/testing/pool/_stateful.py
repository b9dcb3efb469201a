"""The two halves that `eqx.nn.make_with_state` makes, from names that can be written down."""

from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu
from jaxtyping import PyTree


def is_index(node: Any) -> bool:
    """Whether a node is the place of a layer's state."""
    return isinstance(node, eqx.nn.StateIndex)


def state_index(marker: str) -> eqx.nn.StateIndex:
    """The index that `eqx.nn.make_with_state` leaves in a model: a marker, and no initial value."""
    index = eqx.nn.delete_init_state(eqx.nn.StateIndex(0))
    object.__setattr__(index, "marker", marker)  # As Equinox itself does.
    return index


def marked(model: PyTree, prefix: str) -> PyTree:
    """The model with `state_index(prefix + where it is)` for each index in it.

    `eqx.nn.make_with_state(Net)()[0]` is `marked(Net(), "Net")`.
    """
    nodes, treedef = jtu.tree_flatten_with_path(model, is_leaf=is_index)
    filled = [
        state_index(prefix + jtu.keystr(keys)) if is_index(node) else node for keys, node in nodes
    ]
    return jax.tree.unflatten(treedef, filled)


def state(values: dict[str, Any]) -> eqx.nn.State:
    """The state that holds these values for these markers."""
    return eqx.nn.State.tree_unflatten(tuple(values), tuple(values.values()))
