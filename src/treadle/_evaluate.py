"""`EvalStep` and `evaluate`: exact means over any split into batches."""

import time
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ._batch import looks_like_one_batch, num_examples
from ._casting import computing
from ._checks import one_of
from ._compilations import CompilationLog
from ._custom_types import Batch, Door, MetricFn, Model
from ._diagnose import abstract, annotate, explain
from ._errors import (
    ArgumentTypeError,
    DataError,
    LossError,
)
from ._loss import flatten_aux, require_signature
from ._model_state import fresh
from ._precision import PrecisionLike, as_precision
from ._recut import recut
from ._state import Bundle, TrainState
from ._weighted import Total, ZeroWeightWarning, as_total, reduce_examples
from ._weights import packed, pair_of
from .data._endless import how_to_end


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
    require_batches(batches)
    one_of("members", members, ("each", "mean"))
    pair = pair_of(model_or_state, weights)
    _require_model_state(eval_step, pair)
    model = packed(pair)
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


def require_batches(batches: Any) -> None:
    """Refuses what is no iterable of batches, or never ends.

    Raises:
        DataError: With the way out.
    """
    if isinstance(batches, (Mapping, np.ndarray, jax.Array)) or not isinstance(batches, Iterable):
        raise DataError(
            f"`batches` is a {type(batches).__name__}, not an iterable of batches: put a single "
            f"batch into a list, `[batch]`."
        )
    looks_like_one_batch(batches, "batches")
    instead = how_to_end(batches)
    if instead is not None:
        raise DataError(
            f"`batches` never end, and an evaluation goes through them once: {instead}."
        )
