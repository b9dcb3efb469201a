"""The parameters that an optimizer wants its model to be measured by."""

import equinox as eqx
from jaxtyping import PyTree

from ._custom_types import Model
from ._hyperparams import evaluation_params
from ._program import optax_promotion
from ._state import TrainState


def optimizer_model(state: TrainState) -> Model:
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
