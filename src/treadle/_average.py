"""The averaged model: an exponential moving average that is right from the first step on."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Inexact, Int, PyTree

from ._precision import widened


def averaged(
    average: PyTree, model: PyTree, decay: float, updates: Int[Array, ""]
) -> PyTree[Inexact[Array, "..."]]:
    """The average with one more model in it.

    After `t` updates it is `sum(decay**(t - i) * model_i) / sum(decay**(t - i))` over the models
    `i = 1..t`, the one that training began with left out: the bias of an average that starts
    somewhere is corrected as Adam corrects its moments. Written as a step towards the new model,
    the correction needs no state of its own.

    Args:
        average: Of the trained leaves so far, in float32 at least.
        model: The trained leaves after this step.
        decay: Between 0 and 1.
        updates: How many models are in the average, this one included.

    References:
        Kingma and Ba, "Adam", ICLR 2015, arXiv:1412.6980, section 3.
    """

    def step(old: Array, new: Array) -> Array:
        dtype = old.real.dtype
        # 1 - decay**t without losing digits where decay is close to 1: rounded to float32, 0.9999
        # is off by 0.0003 of its distance to 1. Hence the logarithm on the host.
        below_one = -jnp.expm1(dtype.type(math.log(decay)) * updates.astype(dtype))
        weight = dtype.type(1 - decay) / below_one
        return old + weight.astype(old.dtype) * (new - old)

    return jax.tree.map(step, average, widened(model))
