"""Mistakes with a step's arguments that JAX would tell in words of its own."""

from typing import Any

import jax
from jax.core import Tracer

from ._batch import num_examples
from ._errors import (
    ArgumentTypeError,
    ArgumentValueError,
    BatchError,
    ConsumedStateError,
    TreadleError,
)
from ._state import CONSUMED, TrainState


def explain(error: Exception, name: str, state: TrainState, batch: Any, args: Any) -> None:
    """Raises a better error than JAX's, where the arguments show what is wrong.

    Args:
        error: What the call raised.
        name: `"step"` or `"scan"`.
        state: What it was called with.
        batch: What it was called with.
        args: What it was called with.

    Raises:
        ArgumentTypeError, ArgumentValueError, BatchError, ConsumedStateError: What was wrong.
    """
    if isinstance(error, TreadleError):
        return
    if any(isinstance(leaf, Tracer) for leaf in state.leaves):
        raise ArgumentTypeError(
            "The step was called inside a transformation (`jax.jit`, `jax.vmap`, `lax.scan`), "
            "but it is compiled already and donates its state: use `step.pure` there."
        ) from error
    if not all(isinstance(leaf, jax.Array) for leaf in state.leaves):
        raise ArgumentTypeError(
            "`state` has leaves that are not JAX arrays (after `jax.device_get`?): bring them "
            "back with `jax.device_put(state)`."
        ) from error
    # A part of it was gone: what `replace` kept is shared with the state before. A program that
    # fails while it runs (`eqx.error_if`) has consumed the state too, but has an error of its own.
    if state.is_consumed and "has been deleted" in str(error):
        raise ConsumedStateError(CONSUMED) from error
    mine = {id(leaf) for leaf in state.leaves}
    for given, tree in (("batch", batch), ("args", args)):
        leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
        if any(id(leaf) in mine for leaf in leaves):
            raise ArgumentValueError(
                f"`{given}` holds arrays of the state itself, which the step donates: hand "
                f"over copies, such as `state.copy().model`."
            ) from error
        if any(leaf.is_deleted() for leaf in leaves):
            raise ConsumedStateError(
                f"`{given}` holds arrays that are gone: they were borrowed from a state that a "
                f"step has consumed. Take them from a copy, `state.copy().model`."
            ) from error
    try:
        num_examples(batch, "batch" if name == "step" else "batches")
    except BatchError as better:
        raise better from error
