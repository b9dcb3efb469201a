"""A `TrainState` from its views, so that one can be written down."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import PyTree

from ..._average import Average
from ..._custom_types import Model, PRNGKey
from ..._scaling import ScaleState
from ..._state import NO_FAULT, Parts, RawKey, TrainState


def _counter(value: int | None) -> Any:
    return None if value is None else jnp.int32(value)


def train_state(
    model: Model,
    opt_state: PyTree,
    *,
    key: PRNGKey,
    step: int,
    model_state: eqx.nn.State | None = None,
    ema: PyTree = None,
    ema_updates: int | None = None,
    loss_scale: float | None = None,
    finite_steps: int | None = None,
    skipped: int | None = None,
    faults: tuple[int, int] = (NO_FAULT, NO_FAULT),
) -> TrainState:
    """The state of a single run from what is in it; see the views of `treadle.TrainState`.

    Args:
        model: The model.
        opt_state: The optimizer's state.
        key: The root of the training stream, as `state.key` has it.
        step: How many steps were taken.
        model_state: The state of the model's layers.
        ema: The averages: the model with `None` for each leaf that is not trained.
        ema_updates: How many models are in the averages.
        loss_scale: The scale of the next step's loss.
        finite_steps: How many steps in a row had finite gradients at that scale.
        skipped: How many updates were dropped.
        faults: The first step with a loss that was not finite, the first with a weight of 0.
    """
    scaling = None
    if loss_scale is not None:
        scaling = ScaleState(jnp.float32(loss_scale), jnp.int32(finite_steps or 0))
    parts = Parts(
        model=model,
        opt_state=opt_state,
        model_state=model_state,
        ema_model=None if ema is None else Average.of(ema),
        ema_updates=_counter(ema_updates),
        loss_scale=scaling,
        skipped=_counter(skipped),
        active=None,
        members=None,
        key=RawKey.of(key),
        step=_counter(step),
        faults=jnp.array(faults, jnp.int32),
    )
    return TrainState.from_parts(parts)
