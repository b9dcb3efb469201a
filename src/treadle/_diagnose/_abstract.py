"""Arguments as a compiled function sees them, without their memory."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def _is_numeric(dtype: Any) -> bool:
    return dtype.kind == "b" or jnp.issubdtype(dtype, jnp.number)


def abstract(tree: Any) -> Any:
    """Arrays as what they look like: they may be gone already."""

    def one(leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray) and _is_numeric(leaf.dtype):
            return jax.ShapeDtypeStruct(leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype))
        if not isinstance(leaf, jax.Array) or isinstance(leaf, Tracer):
            return leaf
        # Typed keys have no weak types.
        weak = getattr(leaf, "weak_type", False)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding, weak_type=weak)

    return jax.tree.map(one, tree)
