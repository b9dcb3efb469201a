"""One key of a call as a key for each of a module's streams."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp

from .._custom_types import PRNGKey
from .._random import as_key

# Far from the small numbers that a call which splits its own key folds in.
_BESIDE = 0x62657364


def is_key(value: Any) -> bool:
    """Whether it is an array of typed keys."""
    return isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def stream_keys(key: Any, count: int) -> list[PRNGKey]:
    """A key for each stream: the key itself where there is one, else `fold_in(key, index)`."""
    root = as_key(key)
    return [root] if count == 1 else [jax.random.fold_in(root, index) for index in range(count)]


def shared_key(
    key: Any, signature: inspect.Signature | None, args: tuple[Any, ...]
) -> tuple[Any, dict[str, PRNGKey]]:
    """The key for the streams of a call, and the call's own argument `key` where it takes one.

    Args:
        key: That of the caller, or `None`.
        signature: Of the call, without `self`; `None` where it has none.
        args: The caller's positional arguments: one that stands in the place of `key` wins.
    """
    parameters = {} if signature is None else dict(signature.parameters)
    own = parameters.get("key")
    if key is None or own is None:
        return key, {}
    if own.kind is not own.KEYWORD_ONLY and list(parameters).index("key") < len(args):
        return key, {}
    root = as_key(key)
    return jax.random.fold_in(root, _BESIDE), {"key": root}
