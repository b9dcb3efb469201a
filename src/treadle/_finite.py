"""Whether a gradient is finite, asked of its norm first."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float

from ._custom_types import Flag


def _look_closely(leaves: Sequence[Array]) -> Flag:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))


@custom_vmap
def all_finite(norm: Float[Array, "..."], leaves: list[Array]) -> Flag:
    """Whether all leaves are finite; only a norm that is not makes it look at them.

    Under `vmap` (the members of an ensemble) it looks where any norm is not: a batched `cond`
    would look each time.

    Args:
        norm: Of all the leaves together; it may overflow where they do not.
        leaves: Arrays of floats.
    """
    return jax.lax.cond(jnp.isfinite(norm), lambda: jnp.bool_(True), lambda: _look_closely(leaves))


@all_finite.def_vmap
def _all_finite_of_members(
    size: int, batched: Sequence[Any], norm: Array, leaves: list[Array]
) -> tuple[Array, bool]:
    axes = (0 if batched[0] else None, [0 if yes else None for yes in batched[1]])
    if not batched[0] and not any(batched[1]):
        return all_finite(norm, leaves), False

    def each() -> Array:
        return jax.vmap(_look_closely, in_axes=(axes[1],), axis_size=size)(leaves)

    finite = jax.lax.cond(jnp.all(jnp.isfinite(norm)), lambda: jnp.ones(size, bool), each)
    return finite, True
