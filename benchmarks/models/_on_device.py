"""First weights as device arrays."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def on_device(array: np.ndarray | Array) -> Array:
    """NumPy arrays are copied, since what is trained will be donated; JAX arrays are taken over."""
    return array if isinstance(array, jax.Array) else jnp.array(array)
