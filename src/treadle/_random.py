"""Where every random number comes from: derived from one key, never carried along.

`jax.random.split(key, n)[i]` is `jax.random.fold_in(key, i)`, so a stream that folded a small
number into the user's key would draw with the same key as their first layer. Each stream
therefore starts by folding in a large constant of its own.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from ._custom_types import PRNGKey
from ._errors import ArgumentTypeError, ArgumentValueError

# The ASCII codes of "trai", "data", "ense", "init", "pred", "roun" and "lora": far above any count
# that a user splits by.
TRAINING = 0x74726169
DATA_ORDER = 0x64617461
ENSEMBLE = 0x656E7365
MODEL_INIT = 0x696E6974
PREDICT = 0x70726564
ROUNDING = 0x726F756E
ADAPTERS = 0x6C6F7261


def as_key(key: object, name: str = "key") -> PRNGKey:
    """A typed key, whatever kind of key was handed in.

    Args:
        key: A typed key (`jax.random.key`) or a raw one (`jax.random.PRNGKey`), which is wrapped.
        name: What the caller calls it, for the message.

    Raises:
        ArgumentTypeError: If `key` is not a key at all.
        ArgumentValueError: If it is an array of several keys.
    """
    if isinstance(key, (jax.Array, np.ndarray)):
        if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
            typed = jnp.asarray(key)
        elif key.dtype == np.uint32 and key.shape in ((2,), (4,)):
            # The words of a raw key are for the implementation that is switched on.
            typed = jax.random.wrap_key_data(jnp.asarray(key))
        else:
            raise ArgumentTypeError(_not_a_key(name, f"an array {key.dtype}{list(key.shape)}"))
        if typed.ndim != 0:
            raise ArgumentValueError(
                f"`{name}` is an array of {typed.size} keys (shape {typed.shape}), and one key is "
                f"wanted: hand over one of them, such as `{name}[0]`."
            )
        return typed
    raise ArgumentTypeError(_not_a_key(name, repr(key)))


def _not_a_key(name: str, value: str) -> str:
    return f"`{name}` (={value}) is not a key. Make one from a seed: `jax.random.key(0)`."


def training_key(key: PRNGKey) -> PRNGKey:
    """The root of the training stream, kept as `state.key`."""
    return jax.random.fold_in(key, TRAINING)


def model_key(key: PRNGKey) -> PRNGKey:
    """The key handed to a callable that makes the model."""
    return jax.random.fold_in(key, MODEL_INIT)


def predict_key(key: PRNGKey) -> PRNGKey:
    """The root of what `predict` draws."""
    return jax.random.fold_in(key, PREDICT)


def adapter_key(key: PRNGKey, index: int) -> PRNGKey:
    """The key that one of a model's adapters is made with."""
    return jax.random.fold_in(jax.random.fold_in(key, ADAPTERS), index)


def step_key(key: PRNGKey, step: Int[Array, ""]) -> PRNGKey:
    """The key of one step; the first step is 0."""
    return jax.random.fold_in(key, step)


def rounding_key(key: PRNGKey, step: Int[Array, ""]) -> PRNGKey:
    """The key of one step's stochastic rounding, from the root of the training stream."""
    return jax.random.fold_in(jax.random.fold_in(key, ROUNDING), step)


def member_keys(key: PRNGKey, size: int) -> Key[Array, " size"]:
    """One key per member of an ensemble: each is to its member what `key` is to a single run."""
    root = jax.random.fold_in(key, ENSEMBLE)
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(root, jnp.arange(size))


def example_keys(key: PRNGKey, indices: Int[Array, " n"]) -> Key[Array, " n"]:
    """One key per example, by its index in the global batch."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, indices)
