"""The door of `fit`: arguments that cannot be used are told before anything happens."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

from .._batch import looks_like_one_batch
from .._checks import whole_number
from .._custom_types import Batch, Door
from .._errors import ArgumentTypeError, ArgumentValueError, DataError
from .._evaluate import EvalStep, require_batches
from .._state import TrainState
from .._step import TrainStep
from ..callbacks import Callback, Log
from ..track import Tracker

Evaluation: TypeAlias = tuple[EvalStep, Iterable[Batch]] | Callable[[TrainState], Mapping[str, Any]]
"""What `fit(eval=...)` takes."""


def is_function(args: Any) -> bool:
    """Whether `args` is to be called with the step's number."""
    # A module can be called too, but it is a tree.
    return callable(args) and jax.tree_util.all_leaves([args])


def require_arguments(
    step: Any,
    state: Any,
    data: Any,
    num_steps: Any,
    evaluation: Any,
    args: Any,
) -> None:
    """Refuses arguments of the wrong kind.

    Raises:
        ArgumentTypeError, ArgumentValueError, DataError: With what is wrong, and the way out.
    """
    if not isinstance(step, TrainStep):
        raise ArgumentTypeError(
            f"`step` is a {type(step).__name__}, not a `TrainStep`: write "
            f"`treadle.TrainStep(loss_fn, optimizer)`."
        )
    # Whether the loss takes `args` at all does not depend on what the function returns.
    step._require_arguments(state, 0 if is_function(args) else args)
    if isinstance(data, Mapping) and type(data).__module__.startswith("datasets."):
        first = next(iter(data), "train")
        raise DataError(
            f"`data` is a {type(data).__name__}, which has several splits: choose one and cut it "
            f"into batches, `treadle.data.huggingface(data[{first!r}], batch_size, key=...)`."
        )
    if isinstance(data, (Mapping, np.ndarray, jax.Array)):
        raise DataError(
            f"`data` is one batch (a {type(data).__name__}), not an iterable of batches: cut "
            f"it with `treadle.data.arrays(data, batch_size, key=...)`, or give a list of batches."
        )
    looks_like_one_batch(data, "data")
    whole_number("num_steps", num_steps, minimum=0)
    _require_evaluation(evaluation)


def _is_step(value: Any) -> bool:
    return isinstance(value, EvalStep)


def _require_evaluation(evaluation: Any) -> None:
    if evaluation is None or (callable(evaluation) and not isinstance(evaluation, EvalStep)):
        return
    if not isinstance(evaluation, tuple) or len(evaluation) != 2 or not _is_step(evaluation[0]):
        raise ArgumentTypeError(
            f"`eval` (={evaluation!r}) must be `(treadle.EvalStep(metric_fn), batches)`, or a "
            f"function of the state that returns a dictionary of figures."
        )
    # Now, and not after the first thousand steps.
    require_batches(evaluation[1])


def on_host(figures: Any) -> dict[str, Any]:
    """What a function given as `eval` returned, as numbers that outlive the state.

    Raises:
        ArgumentTypeError: If it is no dictionary of figures by name.
    """
    if not isinstance(figures, Mapping) or not all(isinstance(name, str) for name in figures):
        raise ArgumentTypeError(
            f"The function given as `eval` returned {figures!r}: it must return a dictionary of "
            f"names to numbers, such as {{'accuracy': 0.9}}."
        )
    values = {}
    for name, value in figures.items():
        # Copied: a view of a device array would be gone with the state.
        array = np.array(value, copy=True)
        if array.dtype.kind not in "biufV":  # "V" are JAX's own, such as bfloat16.
            raise ArgumentTypeError(
                f"The function given as `eval` returned {value!r} for {name!r}: figures are real "
                f"numbers, or arrays of them."
            )
        values[name] = array.item() if array.ndim == 0 else array
    return values


def require_frequencies(**frequencies: Any) -> None:
    """Refuses frequencies that are not positive, or that belong to something that is not there.

    Args:
        frequencies: Each a number or `None`; or a pair of that and what it would need.

    Raises:
        ArgumentValueError: With the name and the value.
    """
    for name, value in frequencies.items():
        if isinstance(value, tuple):
            value, needed = value
            if value is not None:
                raise ArgumentValueError(f"`{name}` (={value!r}) was given without {needed}.")
        if value is not None:
            whole_number(name, value)


def require_callbacks(callbacks: Door[Sequence[Callback]]) -> None:
    """Refuses what is no callback, and two whose state would share a name.

    Raises:
        ArgumentTypeError: Something is not a `Callback`.
        ArgumentValueError: A bad `every`, or two names that are equal.
    """
    if isinstance(callbacks, Callback):
        raise ArgumentTypeError(
            f"`callbacks` is a single {type(callbacks).__name__}: put it into a list."
        )
    seen: set[str] = set()
    for callback in callbacks:
        if isinstance(callback, Tracker):
            raise ArgumentTypeError(
                f"`callbacks` holds the tracker {type(callback).__name__}: hand it to "
                f"`treadle.callbacks.Log(tracker)`, which is the callback."
            )
        if not isinstance(callback, Callback):
            raise ArgumentTypeError(
                f"`callbacks` holds {callback!r}, which is not a `treadle.Callback`: derive from "
                f"it, and write the methods you want."
            )
        require_frequencies(every=callback.every, interval=callback.interval)
        has_state = type(callback).get_state is not Callback.get_state
        if has_state and not isinstance(callback, Log) and callback.name in seen:
            raise ArgumentValueError(
                f"`callbacks` holds two with the name {callback.name!r}, and each has a state to "
                f"save: give one of them another `name`."
            )
        seen.add(callback.name)
