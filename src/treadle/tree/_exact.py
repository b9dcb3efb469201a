"""Values that are told exactly, with the derivatives of the formula that they come from."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool


@jax.custom_jvp
def exact_where(known: Bool[Array, "..."], value: Array, formula: Array) -> Array:
    """`value` where it is known, else `formula`; for derivatives `formula` everywhere.

    For where the two are the same number, and only rounding, the sign of a zero, or an infinity
    that is multiplied by zero would make the formula another.
    """
    return jnp.where(known, value, formula)


@exact_where.defjvp
def _exact_where_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    return exact_where(*primals), tangents[2]
