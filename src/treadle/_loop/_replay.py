"""`replay`: the state and the batch of a step that was taken long ago, bit for bit."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from .._checks import whole_number
from .._custom_types import Args, Batch, Door
from .._errors import (
    ArgumentTypeError,
    ArgumentValueError,
    CheckpointNotFoundError,
    DataError,
)
from .._state import NO_FAULT, TrainState
from .._step import TrainStep
from ..checkpoint import Checkpointer
from ..track._jsonl import read_jsonl
from ._arguments import is_function, require_arguments
from ._failure import is_finite
from ._feed import Feed
from ._resume import kept

_FURTHER = 1_000
"""How far behind the last step that is known of a bad one is looked for."""


@dataclasses.dataclass(frozen=True)
class Replayed:
    """A step as it was about to be taken: `state, batch = treadle.replay(...)`.

    Attributes:
        state: The state before it.
        batch: Its batch.
        number: Its number: what `state.step` says.
        args: What its loss takes as `args`.
    """

    state: TrainState
    batch: Batch
    number: int
    args: Any = None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.state, self.batch))


def replay(
    run: Door[str | os.PathLike[str] | Checkpointer | None],
    step: Door[TrainStep],
    *,
    state: Door[TrainState],
    data: Door[Iterable[Batch]],
    at: Door[int | None] = None,
    args: Door[Args | Callable[[int], Args] | None] = None,
    num_steps: Door[int | None] = None,
    skip_data: bool = True,
) -> Replayed:
    """The state before one step of a training, and its batch, bit for bit.

    It goes back to the nearest checkpoint at or before that step, and takes the steps from there
    again: their draws are functions of the state's key, of the number of the step and of the
    example, and where the data was stands in the checkpoint. The same program on the same device
    gives the same bits. Nothing is written, evaluated or told to callbacks.

    Args:
        run: The training's run folder, the directory of its checkpoints, or its `Checkpointer`.
            `None` begins with `state` and with the data's beginning: for a step before the first
            checkpoint.
        step: The step that trained.
        state: A state as `fit` got it, `step.init(model, key=key)`; it is not consumed. With a
            `run`, only its structure counts.
        data: The data as `fit` got it.
        at: The number of the step, as in a `NonFiniteError`: the first is 0. Without it, the first
            one whose loss or gradient is not finite.
        args: As `fit` got it.
        num_steps: Without `at`: at which `state.step` to stop looking; without either, 1,000 steps
            past the last that the training wrote down.
        skip_data: As `fit` got it: whether the batches that were consumed before the checkpoint are
            skipped where the data cannot say where it is.

    Returns:
        The state and the batch, as a pair, with the number of the step and its `args`.

    Raises:
        ArgumentTypeError, ArgumentValueError: An argument cannot be used, or no step that was
            looked at is bad.
        CheckpointNotFoundError: There is no checkpoint at or before the step.
        CheckpointError: The checkpoint does not fit `state`, or is damaged.
        DataError: The data ends before the step, or cannot be put back to where it was.

    Example:
        >>> state, batch = treadle.replay("runs/digits", step, state=state, data=batches, at=1_234)
        >>> print(treadle.explain_nonfinite(step, state, batch))
    """
    require_arguments(step, state, data, num_steps or 0, None, args)
    if at is not None:
        at = whole_number("at", at, minimum=0, otherwise=", or None for the first bad step")
    checkpointer = _checkpointer_of(run)
    if checkpointer is None:
        start = _Start(state.copy(), {"consumed": 0, "position": None})
        at = _noted(state) if at is None else at
    else:
        start, at = _nearest(checkpointer, step, state, at)
    first = int(start.state.step)
    if at is not None and first > at:
        raise ArgumentValueError(
            f"`at` (={at}) lies before `state`, which is at step {first}, and `run` is None: hand "
            f"over the state that the training began with."
        )
    feed = Feed(data, ahead=False)
    feed.restore(start.place, skip=skip_data, continued=False)
    steps = _Steps(step, start.state, feed, args)
    if at is not None:
        return steps.up_to(at)
    last = num_steps or _last_known(run, checkpointer, first) + _FURTHER
    return steps.until_bad(last)


class _Start(NamedTuple):
    """Where a replay begins.

    Attributes:
        state: The state, which the replay consumes.
        place: Where the data was, as `Feed.position` gave it.
    """

    state: TrainState
    place: dict[str, Any]


def _checkpointer_of(run: Any) -> Checkpointer | None:
    """What has the checkpoints of a run.

    Raises:
        ArgumentTypeError: It is neither a path nor a `Checkpointer`.
        CheckpointNotFoundError: There is no such folder.
    """
    if run is None or isinstance(run, Checkpointer):
        return run
    if not isinstance(run, (str, os.PathLike)):
        raise ArgumentTypeError(
            f"`run` (={run!r}) is a {type(run).__name__}: give the folder that `fit(run=...)` "
            f"trained in, the `Checkpointer` that it got, or None to begin with `state` itself."
        )
    path = pathlib.Path(run)
    if not path.is_dir():
        raise CheckpointNotFoundError(
            f"There is no folder `run` (={str(run)!r}): give the one that `fit(run=...)` trained "
            f"in, or None to begin with `state` itself."
        )
    inside = path / "checkpoints"
    return Checkpointer(inside if inside.is_dir() else path, keep_last=None)


def _nearest(
    checkpointer: Checkpointer, step: TrainStep, like: TrainState, at: int | None
) -> tuple[_Start, int | None]:
    """The checkpoint to begin with, and the step to go to, where a checkpoint knows it."""
    steps = checkpointer.steps()
    if at is None:
        for number in reversed(steps):
            start = _restored(checkpointer, like, number)
            at = _noted(start.state)
            if at is not None:
                break  # Of a step that was dropped, or let be: before this checkpoint.
            if is_finite(start.state, step._spec.trainable):
                return start, None
    at_or_before = [number for number in steps if at is not None and number <= at]
    if not at_or_before:
        raise CheckpointNotFoundError(_too_late(checkpointer, steps, at))
    return _restored(checkpointer, like, at_or_before[-1]), at


def _too_late(checkpointer: Checkpointer, steps: list[int], at: int | None) -> str:
    where = str(checkpointer.directory)
    kind = "of a finite state" if at is None else f"at or before step {at}"
    there = f"the earliest is that of step {steps[0]}" if steps else "there are none at all"
    step = "..." if at is None else at
    return (
        f"There is no checkpoint {kind} in {where!r}: {there}. If `state` and `data` are those "
        f"that the training began with, `treadle.replay(None, step, state=state, data=data, "
        f"at={step})` goes there from the beginning. (`fit(checkpoint_every=...)` writes "
        f"checkpoints more often, `Checkpointer(keep_last=...)` keeps more of them.)"
    )


def _restored(checkpointer: Checkpointer, like: TrainState, number: int) -> _Start:
    metadata = checkpointer.metadata(number)
    if metadata.get("members_stopped") and not like.has_stopped_members:
        like = like.replace(active=like.active)
    state = checkpointer.restore(like, step=number)
    place = kept(metadata, "data") or {"consumed": number, "position": None}
    return _Start(state, place)


def _noted(state: TrainState) -> int | None:
    """The first bad step that a state knows of."""
    noted = np.asarray(state.parts().faults).reshape(-1, 2)[:, 0]
    noted = noted[noted != NO_FAULT]
    return int(noted.min()) if noted.size else None


def _last_known(run: Any, checkpointer: Checkpointer | None, first: int) -> int:
    """The last step that a training wrote something down about."""
    if checkpointer is None:
        return first
    files = [checkpointer.directory / "history.jsonl"]
    if not isinstance(run, Checkpointer):
        files.append(pathlib.Path(run) / "metrics.jsonl")
    rows = [row["step"] for file in files for row in read_jsonl(file)]
    return max([first, *rows])


class _Steps:
    """Steps that are taken again."""

    def __init__(self, step: TrainStep, state: TrainState, feed: Feed, args: Any):
        self._step = step
        self._state = state
        self._feed = feed
        self._args = args
        self._count = int(state.step)

    def up_to(self, number: int) -> Replayed:
        """Takes all steps before one."""
        while self._count < number:
            batch, args = self._next()
            self._advance(self._state, batch, args)
        batch, args = self._next()
        return Replayed(self._state, batch, number, args)

    def until_bad(self, last: int) -> Replayed:
        """Takes steps up to the first one that is not finite.

        Raises:
            ArgumentValueError: There is none.
        """
        begun = self._count
        while self._count < last:
            # The step consumes its state.
            before = self._state.copy()
            batch, args = self._next()
            metrics = self._advance(self._state, batch, args)
            if self._is_bad(metrics):
                return Replayed(before, batch, self._count - 1, args)
        raise ArgumentValueError(
            f"No step from {begun} to {last - 1} has a loss or a gradient that is not finite. If "
            f"the training met one, were `step`, `data` and `args` the same? Say which step is "
            f"wanted, `at=...`, or look further, `num_steps=...`."
        )

    def _next(self) -> tuple[Batch, Any]:
        batch, size = self._feed.take(1)
        if not size:
            raise DataError(
                f"`data` ended before step {self._count}: hand over the data of the training, from "
                f"its beginning. (An iterator that was used up gives nothing the second time.)"
            )
        return batch, self._args(self._count) if is_function(self._args) else self._args

    def _advance(self, state: TrainState, batch: Batch, args: Any) -> dict[str, Any]:
        self._state, metrics = self._step._replayed(state, batch, args)
        self._count += 1
        return metrics

    def _is_bad(self, metrics: dict[str, Any]) -> bool:
        if self._step.nonfinite != "ignore":
            return _noted(self._state) is not None
        # Nobody looked: the loss, or what became of the model.
        if not bool(jnp.all(jnp.isfinite(metrics["loss"]))):
            return True
        moments = jax.tree.leaves(eqx.filter(self._state.opt_state, eqx.is_inexact_array))
        finite = all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in moments)
        return not (finite and is_finite(self._state, self._step._spec.trainable))
