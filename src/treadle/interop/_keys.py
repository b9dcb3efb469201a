"""One key of a call as a key for each of a module's streams."""

from typing import Any

import jax
import jax.numpy as jnp

from .._custom_types import PRNGKey
from .._random import as_key


def is_key(value: Any) -> bool:
    """Whether it is an array of typed keys."""
    return isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def stream_keys(key: Any, count: int) -> list[PRNGKey]:
    """A key for each stream: the key itself where there is one, else `fold_in(key, index)`."""
    root = as_key(key)
    return [root] if count == 1 else [jax.random.fold_in(root, index) for index in range(count)]
