"""Weak types, which JAX otherwise only gives to what comes from a Python number."""

import jax
import numpy as np
from jax.typing import ArrayLike


def weak(value: ArrayLike) -> jax.Array:
    """The same array with a weak type.

    Nothing is compiled: JAX keeps weak types when it pickles, so the array is taken apart and put
    together again as pickling does it.
    """
    rebuild, (*parts, kind) = jax.device_put(np.asarray(value)).__reduce__()
    return rebuild(*parts, {**kind, "weak_type": True})
