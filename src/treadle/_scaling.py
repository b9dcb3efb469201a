"""The loss scale from step to step: grown, backed off, and what it is multiplied into."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ._precision import LossScale


class ScaleState(eqx.Module):
    """The part of a state that dynamic loss scaling has.

    Attributes:
        scale: What the next step's loss is multiplied by.
        finite_steps: How many steps in a row had finite gradients since the scale last changed.
    """

    scale: Float[Array, ""]
    finite_steps: Int[Array, ""]


def initial_scale(policy: LossScale) -> ScaleState:
    """The scale of the first step."""
    return ScaleState(jnp.float32(policy.initial), jnp.int32(0))


def next_scale(policy: LossScale, state: ScaleState, finite: Bool[Array, ""]) -> ScaleState:
    """The scale after a step whose scaled gradient was finite, or was not."""
    counted = state.finite_steps + 1
    grows = finite & (counted >= policy.growth_interval)
    grown = jnp.minimum(
        state.scale * jnp.float32(policy.growth_factor), jnp.float32(policy.maximum)
    )
    backed_off = jnp.maximum(
        state.scale * jnp.float32(policy.backoff_factor), jnp.float32(policy.minimum)
    )
    scale = jnp.where(finite, jnp.where(grows, grown, state.scale), backed_off)
    return ScaleState(
        scale.astype(jnp.float32),
        jnp.where(finite & ~grows, counted, jnp.int32(0)),
    )


def is_lowest(policy: LossScale, state: ScaleState) -> Bool[Array, ""]:
    """Whether the scale cannot be backed off any more."""
    return state.scale <= jnp.float32(policy.minimum)
