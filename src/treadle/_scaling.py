"""The loss scale from step to step: grown, backed off, and what it is multiplied into."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

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


@jax.custom_jvp
def _times(x: Array, factor: Array) -> Array:
    """`x` itself, whose derivative is `factor` times as large."""
    return x


@_times.defjvp
def _times_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (x, factor), (dx, _) = primals, tangents
    return x, dx * factor.astype(dx.dtype)


def with_scaled_derivative(
    function: Callable[[PyTree], Array], scale: Float[Array, ""] | None
) -> Callable[[PyTree], Array]:
    """The same function with the same derivative, which is multiplied by the scale on its way.

    What lies between the two ends of the function then sees cotangents that do not vanish in
    float16; the parameters get them divided by the scale again, in their own format.
    """
    if scale is None:
        return function

    def scaled(params: PyTree) -> Array:
        inside = jax.tree.map(lambda x: _times(x, 1 / scale), params)
        return _times(function(inside), scale)

    return scaled
