"""`EvalStep`, `evaluate` and `predict`: exact means over any split into batches."""

import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ._batch import looks_like_one_batch, num_examples
from ._casting import computing
from ._checks import one_of, whole_number
from ._compilations import CompilationLog
from ._custom_types import Batch, Door, KeyLike, MetricFn, Model
from ._diagnose import abstract, annotate, explain
from ._errors import (
    ArgumentTypeError,
    ArgumentValueError,
    BatchError,
    ConsumedStateError,
    DataError,
    LossError,
)
from ._loss import flatten_aux, require_signature
from ._model_state import fresh
from ._precision import Precision, PrecisionLike, as_precision
from ._random import as_key, example_keys, predict_key
from ._state import Bundle, TrainState, is_deleted
from ._weighted import Total, ZeroWeightWarning, as_total, reduce_examples
from ._weights import optimizer_model
from .data import ArrayBatches
from .tree._paths import flatten_with_paths


class EvalStep:
    """What to measure of a model on a batch, compiled once.

    Args:
        metric_fn: `metric_fn(model, example) -> {name: scalar | Weighted | Sum}` for one example;
            treadle maps it over the batch. The model comes in inference mode.
        batched: `metric_fn` gets a whole batch. A bare scalar then counts for as many examples as
            the batch has.
        stateful: The model has layers with a state (BatchNorm, SpectralNorm):
            `metric_fn(model, model_state, example)`. It returns figures only: in inference mode the
            state does not change.
        axis_name: The name of the mapped axis of examples.
        precision: In which formats the model computes, as for `TrainStep`; the model's own by
            default, which for `"bf16"` and `"fp16"` is float32.

    Raises:
        ArgumentTypeError: `metric_fn` has another signature.

    Example:
        >>> def metric_fn(model, example):
        ...     x, y = example
        ...     return {"accuracy": jnp.argmax(model(x)) == y}
        >>> treadle.evaluate(treadle.EvalStep(metric_fn), state, test_batches)
        {'accuracy': 0.98}
    """

    def __init__(
        self,
        metric_fn: Door[MetricFn],
        *,
        batched: bool = False,
        stateful: bool = False,
        axis_name: str = "batch",
        precision: Door[PrecisionLike] = None,
    ):
        state = ("model_state",) if stateful else ()
        require_signature(
            metric_fn, "metric_fn", ("model", *state, "batch" if batched else "example")
        )
        self._metric_fn = metric_fn
        self._batched = batched
        self._stateful = stateful
        self._precision = as_precision(precision)
        self._axis_name = axis_name
        self._compilations = 0
        # Other models and sizes of batches are measured on purpose.
        self._log = CompilationLog(quiet=True)
        self._program = jax.jit(self._traced, static_argnums=3)

    @property
    def batched(self) -> bool:
        """Whether the metric function gets whole batches."""
        return self._batched

    @property
    def stateful(self) -> bool:
        """Whether the metric function gets the state of the model's layers."""
        return self._stateful

    @property
    def compilations(self) -> int:
        """How many programs this step has compiled; why is logged, by the logger "treadle"."""
        return self._compilations

    def totals(
        self, model: Bundle, batch: Batch, weights: Any, *, members: bool = False
    ) -> dict[str, Total]:
        """The figures of one batch, added up over its examples on the device.

        Args:
            model: The model and the state of its layers (or `None`), packed.
            batch: Arrays with a leading axis of examples.
            weights: What each example counts for: 1, or 0 where a row only fills the batch up.
            members: Whether the model has a leading axis of members, which the figures then have.
        """
        known, start = self._compilations, time.perf_counter()
        try:
            totals = self._program(model, batch, weights, members)
        except Exception as error:
            self._compilations = known
            annotate(error, lambda: self._traced_again(model, batch, weights, members))
            raise
        if self._compilations != known:
            seconds = time.perf_counter() - start
            done = len(self._log.entries)
            given = dict(zip(("model", "model_state"), model.unpack(), strict=True))
            self._log.complete("evaluation", done, seconds, **given, batch=batch)
        return totals

    def _traced_again(self, *arguments: Any) -> Any:
        """The traced program of a call that failed; JAX has it still, and nothing runs."""
        known = self._compilations
        try:
            return self._program.trace(*abstract(arguments)).jaxpr
        finally:
            self._compilations = known

    def _traced(
        self, packed: Bundle, batch: Batch, weights: jax.Array, members: bool
    ) -> dict[str, Total]:
        self._compilations += 1
        return eqx.filter_jit(self._measure)(packed, batch, weights, members)

    def _measure(
        self, packed: Bundle, batch: Batch, weights: jax.Array, members: bool
    ) -> dict[str, Total]:
        pair = eqx.nn.inference_mode(packed.unpack())
        if not members:
            return self._measure_one(pair, batch, weights)
        axes = (eqx.if_array(0), None, None)
        return eqx.filter_vmap(self._measure_one, in_axes=axes)(pair, batch, weights)

    def _measure_one(
        self, pair: tuple[Model, PyTree], batch: Batch, weights: jax.Array
    ) -> dict[str, Total]:
        pair = (computing(pair[0], self._precision), pair[1])
        if self._batched:
            return self._figures(pair, batch, jnp.float32(num_examples(batch)))
        mapped = eqx.filter_vmap(self._figures, in_axes=(None, 0, 0), axis_name=self._axis_name)
        totals = mapped(pair, batch, weights)
        return {name: reduce_examples(total) for name, total in totals.items()}

    def _figures(
        self, pair: tuple[Model, PyTree], example: PyTree, weight: jax.Array
    ) -> dict[str, Total]:
        model, model_state = pair
        state = (fresh(model_state),) if self._stateful else ()
        returned = self._metric_fn(model, *state, example)
        figures = flatten_aux(returned, "what the metric function returned")
        if not figures:
            raise LossError("The metric function returned an empty dictionary: nothing to measure.")
        totals = {}
        for name, leaf in figures.items():
            # A batched `Weighted` or `Sum` knows what it counts for; a bare scalar does not.
            bare = eqx.is_array_like(leaf)
            own = weight if bare or not self._batched else 1.0
            totals[name] = as_total(name, leaf, own)
        return totals


def evaluate(
    eval_step: Door[EvalStep],
    model_or_state: Model | TrainState,
    batches: Door[Iterable[Batch]],
    *,
    batch_size: Door[int | None] = None,
    weights: Door[str] = "model",
    members: Door[str] = "each",
) -> dict[str, Any]:
    """Exact means over all examples, however they are cut into batches.

    Batches are cut anew to one size across their boundaries, and the last one is filled up with
    rows that do not count, so a per-example metric compiles once; a batched metric sees the last
    batch in its own size, and compiles for it. Sums are float32 on the device within a batch, and
    float64 on the host across batches. Figures of integers are float32 too, so within a batch
    they are exact up to 2**24.

    Args:
        eval_step: What to measure.
        model_or_state: A model, or the state whose model is measured; it is not consumed. With
            `EvalStep(stateful=True)` a state, or a pair `(model, model_state)`.
        batches: Any finite iterable of batches, of one structure.
        batch_size: What to cut to; without it, the size of the first batch.
        weights: Whose parameters of a state are measured: the `"model"`'s own; those of the average
            that `TrainStep(ema=...)` keeps, `"ema"`; or those that the `"optimizer"` keeps for
            evaluation (schedule-free ones). The layers' state is the model's own in any case.
        members: Of an ensemble: a figure for `"each"` member, in an array, or their `"mean"`.

    Returns:
        Each name with its figure: a `float`, or a NumPy array where the figure is one.

    Raises:
        ArgumentTypeError, ArgumentValueError: `eval_step`, `batch_size`, `weights` or `members` is
            not one, or the state does not have such weights.
        DataError: There are no batches, or no end of them.
        BatchError: A batch is not one, or has another structure than the first.
        LossError: The metric function returns something else.
        ConsumedStateError: A step has consumed the state.
    """
    if not isinstance(eval_step, EvalStep):
        raise ArgumentTypeError(
            f"`eval_step` is a {type(eval_step).__name__}, not an `EvalStep`: write "
            f"`treadle.EvalStep(metric_fn)`."
        )
    _require_batches(batches)
    one_of("members", members, ("each", "mean"))
    pair = pair_of(model_or_state, weights)
    _require_model_state(eval_step, pair)
    model = _packed(pair)
    stacked = isinstance(model_or_state, TrainState) and model_or_state.members is not None
    pending: list[dict[str, Total]] = []
    sums: dict[str, list[Any]] = {}
    with explain():
        for batch, count in recut(batches, batch_size, pad=not eval_step.batched):
            counts = (np.arange(num_examples(batch)) < count).astype(np.float32)
            pending.append(eval_step.totals(model, batch, counts, members=stacked))
            # One batch behind, so that the host adds up while the device works on the next.
            if len(pending) > 1:
                _add_up(sums, pending.pop(0))
        for totals in pending:
            _add_up(sums, totals)
    if not sums:
        raise DataError(
            "`batches` is empty, so there is nothing to evaluate. An iterator that was used up "
            "gives nothing the second time: hand over a list, or `treadle.data.arrays(..., "
            "epochs=1)`, which start anew."
        )
    figures = {name: _figure(name, *total) for name, total in sums.items()}
    if not stacked or members == "each":
        return figures
    return {name: _plain(np.mean(value, axis=0)) for name, value in figures.items()}


def _require_model_state(eval_step: EvalStep, pair: tuple[Model, PyTree]) -> None:
    """Refuses a stateful metric without a state; one that needs none may get one.

    Raises:
        ArgumentTypeError: With the way out.
    """
    if eval_step.stateful and pair[1] is None:
        raise ArgumentTypeError(
            "The metric function takes a `model_state` (`EvalStep(stateful=True)`), and there is "
            "none: measure the state of a `TrainStep(stateful=True)`, or a pair, "
            "`evaluate(eval_step, (model, model_state), batches)`."
        )


def _add_up(sums: dict[str, list[Any]], totals: dict[str, Total]) -> None:
    for name, total in totals.items():
        numerator = np.asarray(total.numerator, np.float64)
        denominator = None
        if total.denominator is not None:
            denominator = np.asarray(total.denominator, np.float64)
        if name not in sums:
            sums[name] = [numerator, denominator]
        else:
            sums[name][0] = sums[name][0] + numerator
            if denominator is not None:
                sums[name][1] = sums[name][1] + denominator


def _figure(name: str, numerator: Any, denominator: Any) -> Any:
    if denominator is None:
        value = numerator
    else:
        empty = denominator == 0
        if np.any(empty):
            warnings.warn(
                f"All weights of {name!r} were 0 over the whole evaluation: the figure is 0, and "
                f"says nothing.",
                ZeroWeightWarning,
                stacklevel=3,
            )
        value = np.where(empty, 0.0, numerator / np.where(empty, 1.0, denominator))
    return _plain(value)


def _plain(value: Any) -> Any:
    return float(value) if np.ndim(value) == 0 else value


_WEIGHTS = ("model", "ema", "optimizer")


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
    return model_of(model), model_state


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
    return optimizer_model(state)


def model_of(model_or_state: Model | TrainState) -> Model:
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


def _packed(pair: tuple[Model, PyTree]) -> Bundle:
    """The model and its layers' state for the program; NumPy arrays go to the device once."""

    def to_device(leaf: Any) -> Any:
        return jnp.asarray(leaf) if isinstance(leaf, (np.ndarray, np.generic)) else leaf

    return Bundle.pack(jax.tree.map(to_device, pair))


def _require_batches(batches: Any) -> None:
    if isinstance(batches, (Mapping, np.ndarray, jax.Array)) or not isinstance(batches, Iterable):
        raise DataError(
            f"`batches` is a {type(batches).__name__}, not an iterable of batches: put a single "
            f"batch into a list, `[batch]`."
        )
    looks_like_one_batch(batches, "batches")
    if isinstance(batches, ArrayBatches) and batches.epochs is None:
        raise DataError(
            "`batches` never end: they come from `treadle.data.arrays` without a number of "
            "epochs. Write `treadle.data.arrays(..., key=None, shuffle=False, epochs=1, "
            "drop_remainder=False)`."
        )


def recut(
    batches: Iterable[Batch], batch_size: int | None, *, pad: bool
) -> Iterator[tuple[Batch, int]]:
    """Batches of one size across the boundaries of the given ones.

    Args:
        batches: Batches of any sizes.
        batch_size: The size; the first batch's when `None`.
        pad: Whether the last batch is filled up by repeating its last row.

    Yields:
        A batch, and how many of its rows count.
    """
    if batch_size is not None:
        whole_number("batch_size", batch_size, otherwise=", or None for the first batch's")
    held: list[Batch] = []
    available = 0
    first = None
    for batch in batches:
        size = num_examples(batch)
        structure = jax.tree.structure(batch)
        first = structure if first is None else first
        if structure != first:
            raise BatchError(
                f"`batches` changes its structure on the way, from {first} to {structure}: every "
                f"batch must have the same."
            )
        batch_size = size if batch_size is None else batch_size
        if not held and size == batch_size:
            yield batch, size
            continue
        held.append(batch)
        available += size
        if available >= batch_size:
            whole = _concatenate(held)
            start = 0
            while available - start >= batch_size:
                yield _rows(whole, start, start + batch_size), batch_size
                start += batch_size
            available -= start
            held = [_rows(whole, start, start + available)] if available else []
    if available:
        tail = _concatenate(held)
        yield (_padded(tail, available, batch_size or available) if pad else tail), available


def _concatenate(batches: list[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    return jax.tree.map(lambda *leaves: _join(leaves), *batches)


def _join(leaves: tuple[Any, ...]) -> Any:
    shapes = list(dict.fromkeys(jnp.shape(leaf) for leaf in leaves))
    if len({shape[1:] for shape in shapes}) > 1:
        raise BatchError(
            f"`batches` have arrays of the shapes {', '.join(map(str, shapes))}, which must be "
            f"joined to cut batches of one size, and differ behind the leading axis: pad them to "
            f"one length; or give every batch the same number of examples and leave out "
            f"`batch_size`, so that none is cut."
        )
    if any(isinstance(leaf, jax.Array) for leaf in leaves):
        return jnp.concatenate(leaves)
    return np.concatenate(leaves)


def _rows(batch: Batch, start: int, stop: int) -> Batch:
    return jax.tree.map(lambda leaf: leaf[start:stop], batch)


def _padded(batch: Batch, count: int, size: int) -> Batch:
    places = np.minimum(np.arange(size), count - 1)
    return jax.tree.map(lambda leaf: leaf[places], batch)


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
    packed = _packed(pair_of(model, weights))
    stacked = isinstance(model, TrainState) and model.members is not None
    axis = 1 if stacked and members == "each" else 0
    outputs = []
    for start in range(0, count, batch_size):
        stop = min(start + batch_size, count)
        rows = _padded(_rows(inputs, start, stop), stop - start, batch_size)
        indices = np.arange(start, start + batch_size, dtype=np.int32)
        with explain():
            output = _apply(
                packed, rows, draws, indices, inference, policy, members if stacked else None
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
