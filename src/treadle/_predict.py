"""`predict`: what a model says of every input."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ._batch import num_examples
from ._casting import computing
from ._checks import one_of, whole_number
from ._custom_types import Door, KeyLike, Model
from ._diagnose import explain
from ._errors import ArgumentTypeError, ArgumentValueError
from ._model_state import fresh
from ._precision import Precision, PrecisionLike, as_precision
from ._random import as_key, example_keys, predict_key
from ._recut import padded, rows_of
from ._state import Bundle, TrainState
from ._weights import packed, pair_of
from .tree._paths import flatten_with_paths


def predict(
    model: Model | TrainState,
    inputs: PyTree,
    *,
    batch_size: Door[int],
    key: Door[KeyLike | None] = None,
    inference: bool = True,
    weights: Door[str] = "model",
    members: Door[str] = "each",
    precision: Door[PrecisionLike] = None,
) -> PyTree:
    """What a model says of every input.

    Args:
        model: A model that is called on one example, `model(x)`; or a state. A model whose layers
            have a state is called `model(x, model_state)`, and what it returns as the next state is
            dropped: hand over the training state, or a pair `(model, model_state)`.
        inputs: Arrays with a leading axis of examples, as many as fit into host memory.
        batch_size: How many go through the model at once; the last batch is filled up, so that one
            program serves all.
        key: For a model that draws: example `i` gets `fold_in(fold_in(key, PREDICT), i)`, with
            treadle's constant for predictions ("pred" in ASCII).
        inference: Whether the model is put into inference mode (no dropout).
        weights: Whose parameters of a state are used, as for `evaluate`.
        members: Of an ensemble: the outputs of `"each"` member, along a leading axis in front of
            that of the examples, or their `"mean"`.
        precision: In which formats the model computes, as for `TrainStep`.

    Returns:
        The outputs as NumPy arrays, stacked along a leading axis.

    Raises:
        BatchError: `inputs` are not arrays that share a leading axis.
        ArgumentValueError, ArgumentTypeError: `batch_size` is not a positive whole number, `key` is
            no key, or the model returns something that is not an array.
        ConsumedStateError: A step has consumed the state, or the one the model was taken from.

    Example:
        >>> logits = treadle.predict(state, images, batch_size=256)
    """
    whole_number("batch_size", batch_size)
    one_of("members", members, ("each", "mean"))
    count = num_examples(inputs, "inputs")
    draws = None if key is None else predict_key(as_key(key))
    policy = as_precision(precision)
    bundle = packed(pair_of(model, weights))
    stacked = isinstance(model, TrainState) and model.members is not None
    axis = 1 if stacked and members == "each" else 0
    outputs = []
    for start in range(0, count, batch_size):
        stop = min(start + batch_size, count)
        rows = padded(rows_of(inputs, start, stop), stop - start, batch_size)
        indices = np.arange(start, start + batch_size, dtype=np.int32)
        with explain():
            output = _apply(
                bundle, rows, draws, indices, inference, policy, members if stacked else None
            )
        outputs.append((output, stop - start))

    def join_rows(*parts: Any) -> np.ndarray:
        kept = [
            np.asarray(part)[(slice(None),) * axis + (slice(rows),)]
            for part, (_, rows) in zip(parts, outputs, strict=True)
        ]
        return np.concatenate(kept, axis=axis)

    with explain():
        return jax.tree.map(join_rows, *(output for output, _ in outputs))


def _call(
    packed: Bundle,
    inputs: PyTree,
    key: jax.Array | None,
    indices: jax.Array,
    inference: bool,
    precision: Precision | None,
    members: str | None,
) -> PyTree:
    pair = packed.unpack()
    if inference:
        pair = eqx.nn.inference_mode(pair)
    arguments = (inputs, key, indices)
    if members is None:
        return outputs_of(pair, *arguments, precision)

    def one(pair: tuple[Model, PyTree]) -> PyTree:
        return outputs_of(pair, *arguments, precision)

    each = eqx.filter_vmap(one, in_axes=(eqx.if_array(0),))(pair)
    return each if members == "each" else jax.tree.map(_mean_of_members, each)


def _mean_of_members(each: jax.Array) -> jax.Array:
    return jnp.mean(each, axis=0)


def outputs_of(
    pair: tuple[Model, PyTree],
    inputs: PyTree,
    key: jax.Array | None,
    indices: jax.Array | None,
    precision: Precision | None,
) -> PyTree:
    """What a model says of each of a batch; those that draw do so by the index of the example."""
    model, model_state = computing(pair[0], precision), pair[1]

    def one(model: Model, model_state: PyTree, x: PyTree, key: jax.Array | None) -> PyTree:
        keyword = {} if key is None else {"key": key}
        if model_state is None:
            return model(x, **keyword)
        return model(x, fresh(model_state), **keyword)[0]

    keys = None if key is None or indices is None else example_keys(key, indices)
    axes = (None, None, 0, None if keys is None else 0)
    try:
        output = eqx.filter_vmap(one, in_axes=axes)(model, model_state, inputs, keys)
    except NameError as error:
        if "axis name" not in str(error):
            raise
        raise ArgumentValueError(
            f"`inference` (=False) leaves layers in training mode that reduce over the examples of "
            f"a batch (BatchNorm), and a prediction is for each input alone: {error} Leave "
            f"`inference=True`."
        ) from error
    named = flatten_with_paths(output)[0]
    strange = [path for path, leaf in named if not eqx.is_array(leaf)]
    if strange:
        raise ArgumentTypeError(
            f"The model's output has something that is not an array at {strange[0]!r}: `predict` "
            f"stacks arrays. Wrap the model in a function that returns those."
        )
    keys = [path for path, leaf in named if jnp.issubdtype(leaf.dtype, jax.dtypes.extended)]
    if keys:
        raise ArgumentTypeError(
            f"The model's output has a random key at {keys[0]!r}, which NumPy does not have: wrap "
            f"the model in a function that leaves it out, or returns `jax.random.key_data(key)`."
        )
    return output


_apply = jax.jit(_call, static_argnums=(4, 5, 6))
