"""Arguments as a compiled function sees them, without their memory."""

from typing import Any

import jax
from jax.core import Tracer


def abstract(tree: Any) -> Any:
    """Arrays as what they look like: they may be gone already."""

    def one(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or isinstance(leaf, Tracer):
            return leaf
        # Typed keys have no weak types.
        weak = getattr(leaf, "weak_type", False)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding, weak_type=weak)

    return jax.tree.map(one, tree)
