"""Making the state before the first step."""

import functools
import inspect
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ._custom_types import Model, PRNGKey
from ._errors import ArgumentTypeError
from ._program import StepSpec, optax_promotion
from ._random import model_key, training_key
from ._state import Parts, RawKey, TrainState, copy_leaf, init_faults
from ._trainable import trainable_mask


def _made(model: Any, key: PRNGKey) -> Model:
    """The model itself, or what a function makes: a module can be called too, and is no leaf."""
    if not callable(model) or not jax.tree_util.all_leaves([model]):
        return model
    required = [
        parameter
        for parameter in inspect.signature(model).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if not required:
        return model()
    if len(required) > 1:
        raise ArgumentTypeError(
            f"`model` (={model!r}) is a function with the parameters "
            f"{', '.join(parameter.name for parameter in required)}: it is called with a key "
            f"alone, or with nothing. Fix the others with `functools.partial`."
        )
    (parameter,) = required
    if parameter.kind is parameter.KEYWORD_ONLY:
        return model(**{parameter.name: model_key(key)})
    return model(model_key(key))


def _as_array(leaf: Any, copy: bool) -> Any:
    if isinstance(leaf, (np.ndarray, np.generic)) or (copy and eqx.is_array(leaf)):
        return copy_leaf(leaf)
    if getattr(leaf, "weak_type", False):
        return copy_leaf(leaf)
    return leaf


def _as_optimizer_array(leaf: Any) -> Any:
    """Optimizers may start their state from Python numbers; the update turns them into arrays."""
    return copy_leaf(leaf) if eqx.is_array_like(leaf) else leaf


def _without_aliases(parts: Parts) -> Parts:
    """No buffer twice: donation would hand out the same memory to two leaves."""
    seen: set[int] = set()

    def own(leaf: Any) -> Any:
        if not eqx.is_array(leaf):
            return leaf
        name = _buffer(leaf)
        if name in seen:
            leaf = copy_leaf(leaf)
            name = _buffer(leaf)
        seen.add(name)
        return leaf

    return jax.tree.map(own, parts)


def _buffer(leaf: jax.Array) -> int:
    if isinstance(leaf, Tracer) or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return id(leaf)
    if len(leaf.devices()) == 1 and leaf.size:
        return leaf.unsafe_buffer_pointer()
    return id(leaf)


def initial_state(spec: StepSpec, model: Any, key: PRNGKey, copy: bool) -> TrainState:
    """The state before the first step: nothing in it is shared with anything outside.

    Raises:
        ArgumentTypeError: `model` is a function that cannot be called with a key alone.
        TreeError: The model has nothing to train.
    """
    model = _made(model, key)
    model = jax.tree.map(functools.partial(_as_array, copy=copy), model)
    mask = trainable_mask(spec.trainable, model)
    with optax_promotion():
        leaves, treedef = jax.tree.flatten(spec.optimizer.init(eqx.filter(model, mask)))
    for index in range(len(leaves)):
        # One by one, so that each original is freed before the next copy. They are copied
        # because an optimizer may hand out an array that it holds, such as its random key.
        leaves[index] = _as_optimizer_array(leaves[index])
    parts = Parts(
        model=model,
        opt_state=jax.tree.unflatten(treedef, leaves),
        key=RawKey.of(training_key(key)),
        step=jnp.zeros((), jnp.int32),
        faults=init_faults(),
    )
    return TrainState.from_parts(_without_aliases(parts))
