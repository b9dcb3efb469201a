"""Which weights a model is measured by: its own, their average, or those of the optimizer."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ._checks import one_of
from ._custom_types import Model
from ._errors import ArgumentValueError, ConsumedStateError
from ._hyperparams import evaluation_params
from ._program import optax_promotion
from ._state import Bundle, TrainState, is_deleted

_WEIGHTS = ("model", "ema", "optimizer")


def _optimizer_model(state: TrainState) -> Model:
    """The model with the optimizer's own evaluation parameters (schedule-free ones keep such).

    Raises:
        ArgumentValueError: The optimizer keeps none.
        ConsumedStateError: If a step has taken the state.
    """
    model, opt_state = state.model, state.opt_state
    if state.members is None:
        return _for_one(model, opt_state)
    return eqx.filter_vmap(_for_one, in_axes=eqx.if_array(0), out_axes=eqx.if_array(0))(
        model, opt_state
    )


def _for_one(model: Model, opt_state: PyTree) -> Model:
    # Optax's arithmetic: a model may hold several formats.
    with optax_promotion():
        return evaluation_params(opt_state, model)


def pair_of(model_or_state: Model | TrainState, weights: str) -> tuple[Model, PyTree]:
    """The model with the weights that are asked for, and the state of its layers.

    Raises:
        ArgumentValueError: There are no such weights.
        ConsumedStateError: If a step has consumed the arrays.
    """
    one_of("weights", weights, _WEIGHTS)
    if isinstance(model_or_state, TrainState):
        return _weighted_model(model_or_state, weights), model_or_state.model_state
    if weights != "model":
        raise ArgumentValueError(
            f"`weights` (={weights!r}) chooses among the weights of a state, and a model was "
            f"given: hand over the `TrainState`."
        )
    model, model_state = model_or_state, None
    if isinstance(model, tuple) and len(model) == 2 and isinstance(model[1], eqx.nn.State):
        model, model_state = model
    return _model_of(model), model_state


def _weighted_model(state: TrainState, weights: str) -> Model:
    if weights == "ema" and state.ema_model is None:
        raise ArgumentValueError(
            "`weights` (='ema') asks for the averaged model, and this state has none: train with "
            "`TrainStep(..., ema=0.999)`."
        )
    if weights == "model":
        return state.model
    if weights == "ema":
        return state.ema_model
    return _optimizer_model(state)


def _model_of(model_or_state: Model | TrainState) -> Model:
    """The model itself, or the one in a state.

    Raises:
        ConsumedStateError: If a step has consumed its arrays.
    """
    if isinstance(model_or_state, TrainState):
        return model_or_state.model
    leaves = jax.tree.leaves(model_or_state)
    if any(isinstance(leaf, jax.Array) and is_deleted(leaf) for leaf in leaves):
        raise ConsumedStateError(
            "The model's arrays are gone: it was borrowed from a state that a step has consumed. "
            "Use the newest state, or a model from `state.copy()`."
        )
    return model_or_state


def packed(pair: tuple[Model, PyTree]) -> Bundle:
    """The model and its layers' state for the program; NumPy arrays go to the device once."""

    def to_device(leaf: Any) -> Any:
        return jnp.asarray(leaf) if isinstance(leaf, (np.ndarray, np.generic)) else leaf

    return Bundle.pack(jax.tree.map(to_device, pair))
