"""Putting float32 parameters back into their own format, at random where that is asked for."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, BFloat16, Float32, PyTree, UInt32

from ._custom_types import PRNGKey
from ._precision import is_real


def narrowed(tree: PyTree, like: PyTree, key: PRNGKey | None) -> PyTree:
    """`tree` in the formats of `like`.

    Args:
        tree: Updated parameters.
        like: The parameters before, in the format they are kept in.
        key: For stochastic rounding to bfloat16, one stream per leaf; `None` rounds to nearest.
    """
    leaves, treedef = jax.tree.flatten(tree)
    rounded = []
    for index, (leaf, old) in enumerate(zip(leaves, jax.tree.leaves(like), strict=True)):
        if not is_real(leaf) or leaf.dtype == old.dtype:
            rounded.append(leaf)
        elif key is not None and old.dtype == jnp.bfloat16:
            bits = jax.random.bits(jax.random.fold_in(key, index), leaf.shape, jnp.uint16)
            rounded.append(stochastically(leaf.astype(jnp.float32), bits.astype(jnp.uint32)))
        else:
            rounded.append(leaf.astype(old.dtype))
    return jax.tree.unflatten(treedef, rounded)


def stochastically(
    x: Float32[Array, "*shape"], bits: UInt32[Array, "*shape"]
) -> BFloat16[Array, "*shape"]:
    """Rounds to one of the two neighbours in bfloat16, to each with the other's distance.

    The lower half of a float32 is what bfloat16 drops: a random number below its unit, added first,
    carries into the upper half with just that probability. What is exact stays.

    Args:
        x: What to round.
        bits: Uniform in [0, 2**16).
    """
    words = jax.lax.bitcast_convert_type(x, jnp.uint32) + bits
    kept = jax.lax.bitcast_convert_type(words & jnp.uint32(0xFFFF0000), jnp.float32)
    # An infinity plus some bits would be a NaN, and some NaNs an infinity.
    return jnp.where(jnp.isfinite(x), kept, x).astype(jnp.bfloat16)
