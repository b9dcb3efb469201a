"""`fit`: the loop, which only orchestrates."""

import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np

from .._compiled import Compilation
from .._cost import StepCost, cost_of_dispatch
from .._custom_types import Args, Batch, Door
from .._diagnose import explain
from .._errors import ArgumentValueError, CheckpointError, DataError, NonFiniteError
from .._evaluate import evaluate
from .._state import TrainState, pack_args
from .._step import TrainStep
from ..callbacks import Callback, Checkpointing, Context, Log, ProgressBar
from ..callbacks._metrics import Dispatched, StepMetrics
from ..checkpoint import Checkpointer
from ..track import JSONL
from ._arguments import (
    Evaluation,
    is_function,
    on_host,
    require_arguments,
    require_callbacks,
    require_frequencies,
)
from ._collector import FrozenGarbage
from ._failure import Untold, is_finite, is_worth_saving
from ._feed import Feed, leading_size
from ._history import History
from ._resume import is_over, notice
from ._resume import resume as go_on
from ._run_folder import RunFolder
from ._signals import Interrupts

_log = logging.getLogger("treadle")


def fit(
    step: Door[TrainStep],
    state: Door[TrainState],
    data: Door[Iterable[Batch]],
    *,
    num_steps: Door[int],
    args: Door[Args | Callable[[int], Args] | None] = None,
    callbacks: Door[Sequence[Callback]] = (),
    eval: Door[Evaluation | None] = None,  # noqa: A002  (the name users know)
    eval_every: Door[int | None] = None,
    checkpointer: Checkpointer | None = None,
    checkpoint_every: Door[int | None] = None,
    resume: bool = True,
    skip_data: bool = True,
    steps_per_call: Door[int] = 1,
    log_every: Door[int | None] = None,
    run: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> tuple[TrainState, History]:
    """Trains until the state has taken `num_steps` steps.

    Args:
        step: The step.
        state: Where to begin; it is consumed, unless a checkpoint takes its place.
        data: An iterable of batches. It is never cycled: where it ends, the training ends.
        num_steps: At which `state.step` to end; in a notebook, `int(state.step) + n` for n more.
        args: What the loss takes as `args`: a tree, or a function of the step's number (steps are
            then not fused).
        callbacks: What else is to happen.
        eval: `(EvalStep, batches)`, or a function of the state that returns figures by name.
        eval_every: Evaluate on multiples of this; always at `num_steps` as well.
        checkpointer: Where checkpoints go; `run` brings its own, unless one is given. Without `run`
            it also keeps the figures that were logged, in `history.jsonl` beside its checkpoints.
        checkpoint_every: Save on multiples of this; without it, ten times on the way, but at least
            every 1,000 steps. Always at the end, when the training is stopped, and when it ends
            with an error, if the state is finite. They are written while the training goes on.
        resume: Whether to go on from the newest checkpoint there is.
        skip_data: When resuming data that cannot say where it is, whether to skip the batches that
            were consumed before.
        steps_per_call: How many steps one dispatch fuses. Evaluations, checkpoints and callbacks
            stay on their steps; those in between that do not fill a dispatch go one by one, so at
            most two programs are compiled.
        log_every: Steps between two rows in the history and in `metrics.jsonl`; without it 10, or
            1 for fewer than 100 steps.
        run: A folder for everything: `metrics.jsonl`, `checkpoints/`, `environment.json`. The same
            script run again continues there, bit for bit.
        progress: Whether to show a progress bar and notices, on standard error.

    Returns:
        The state at the end, and the history. Ctrl-C or SIGTERM ends the training after the step
        under way, with a checkpoint where there is a place for it; `history.stopped` says why. A
        second Ctrl-C raises `KeyboardInterrupt` at once. A program that the step compiles a second
        time is a warning of the logger "treadle", with its cause; at the end there is the total of
        what was compiled, and `history.compilations`.

    Raises:
        ArgumentTypeError, ArgumentValueError: An argument cannot be used.
        BatchError, LossError: As the step raises them.
        StateUnavailableError: A callback read the state where it had not asked for it.
        DataError: There is no data, or it cannot be put back to where a checkpoint was written.
        CheckpointError: The newest checkpoint does not fit the state, one could not be written, or
            another process is training in that folder.
        NonFiniteError: A loss or gradient was NaN or infinite (`nonfinite="raise"`). The message
            has the call of `treadle.replay` that brings back the state from before.
        ConsumedStateError: The state was consumed before.

    Example:
        >>> state, history = treadle.fit(step, state, batches, num_steps=1_000, run="runs/digits")
    """
    require_arguments(step, state, data, num_steps, eval, args)
    require_frequencies(
        eval_every=eval_every if eval is not None else (eval_every, "`eval`"),
        checkpoint_every=checkpoint_every
        if (run or checkpointer) is not None
        else (checkpoint_every, "`run` or `checkpointer`"),
        log_every=log_every,
        steps_per_call=steps_per_call,
    )
    folder = None if run is None else RunFolder(run, checkpointer)
    place = checkpointer if folder is None else folder.checkpointer
    rows = None if place is None else JSONL(place.directory / "history.jsonl")
    rows = rows if folder is None else folder.metrics
    history = History()
    watchers = _watchers(
        history, rows, place, callbacks, num_steps, log_every, checkpoint_every, steps_per_call
    )
    if progress:
        watchers.insert(0, ProgressBar())
    loop = _Loop(
        step,
        state,
        Feed(data, ahead=steps_per_call > 1),
        num_steps=num_steps,
        args=args,
        callbacks=watchers,
        evaluation=eval,
        eval_every=eval_every,
        # The arguments of a fused dispatch are the same for all of its steps.
        fuse=1 if is_function(args) else steps_per_call,
        history=history,
        progress=progress,
    )
    loop.warn_of_splitting()
    with contextlib.ExitStack() as stack:
        if place is not None and rows is not None:
            if checkpointer is None:
                stack.push(_closing(place))
            if not is_over(place, num_steps, evaluates=eval is not None):
                stack.enter_context(place._exclusively())
            where = place.directory if folder is None else folder.path
            go_on(
                loop,
                place,
                where,
                rows,
                allowed=resume,
                skip_data=skip_data,
                progress=progress,
            )
        if loop.count >= num_steps and not loop.to_be_told:
            notice(f"already at step {loop.count} of {num_steps}: nothing left to do", progress)
            return loop.state, history
        if folder is not None:
            folder.note_start(loop.count)
        try:
            # The step explains its own errors; callbacks and evaluations have theirs.
            with explain():
                trained = loop.run()
        except NonFiniteError as error:
            _tell_of_run(error, place, run)
            raise
    if history.compilations:
        notice(_compiled(history.compilations), progress)
    if history.stopped is not None:
        saved = "" if place is None else "; run it again to continue from here"
        notice(f"stopped at step {loop.count} of {num_steps}: {history.stopped}{saved}", progress)
    return trained, history


def _tell_of_run(error: NonFiniteError, place: Checkpointer | None, run: Any) -> None:
    """Completes the call of `replay` that the message has."""
    if place is None or error.step is None:
        return
    # A save that is under way is of a state from before it; whether it fails is told elsewhere.
    under_way = not place._background.is_idle
    there = under_way or any(number <= error.step for number in place._steps())
    where = str(place.directory if run is None else run)
    error._in_run(where if there else None)


def _compiled(compilations: Sequence[Compilation]) -> str:
    """What compiling has cost in all."""
    count, again = len(compilations), sum(not each.planned for each in compilations)
    seconds = sum(each.seconds or 0.0 for each in compilations)
    programs = "1 program" if count == 1 else f"{count} programs"
    why = f", {again} of them by surprise: `history.compilations` says why" if again else ""
    return f"compiled {programs} in {seconds:.1f} s{why}"


def _names(callbacks: Sequence[Callback]) -> list[str] | None:
    """Who has not heard of an evaluation; who only saves it is told anyway."""
    return [each.name for each in callbacks if not isinstance(each, Checkpointing)] or None


def _closing(checkpointer: Checkpointer) -> Callable[..., None]:
    """Closes it at the end, whatever that is; an error that is under way is told, not another."""

    def close(kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None and not isinstance(error, Exception):
            return  # At once, as the second Ctrl-C is to end; Python waits for a save at its end.
        try:
            checkpointer.close()
        except CheckpointError:
            if error is None:
                raise
            # The log has it.

    return close


def _watchers(
    history: History,
    rows: JSONL | None,
    place: Checkpointer | None,
    callbacks: Door[Sequence[Callback]],
    num_steps: int,
    log_every: int | None,
    checkpoint_every: int | None,
    steps_per_call: int,
) -> list[Callback]:
    """The user's callbacks among our own, in the order in which they are called."""
    interval = log_every or (10 if num_steps >= 100 else 1)
    watchers: list[Callback] = [Log(history, interval)]
    if rows is not None:
        watchers.append(Log(rows, interval))
    require_callbacks(callbacks)
    # Those that save behind the others, whose states they save.
    watchers += sorted(callbacks, key=lambda callback: isinstance(callback, Checkpointing))
    if place is not None:
        # Last, so that its checkpoints hold what the others made of the same evaluation.
        tenth = min(1_000, max(1, math.ceil(num_steps / 10)))
        # On multiples of the fused steps: on others, saving would take them apart.
        every = checkpoint_every or math.ceil(tenth / steps_per_call) * steps_per_call
        watchers.append(Checkpointing(place, every))
    return watchers


class _Loop:
    """One call of `fit` under way."""

    def __init__(
        self,
        step: TrainStep,
        state: TrainState,
        feed: Feed,
        *,
        num_steps: int,
        args: Any,
        callbacks: list[Callback],
        evaluation: Evaluation | None,
        eval_every: int | None,
        fuse: int,
        history: History,
        progress: bool,
    ):
        self.step = step
        self.state = state
        self.feed = feed
        self.num_steps = num_steps
        self.args = args
        self.callbacks = callbacks
        self.evaluation = evaluation
        self.eval_every = eval_every
        self.fuse = fuse
        self.history = history
        self.progress = progress
        self.count = self._first = int(state.step)
        self.seconds = {"data": 0.0, "step": 0.0, "eval": 0.0, "save": 0.0}
        # Known after the first dispatch; and when that was over, and the steps it took.
        self.cost: StepCost | None = None
        self._begun: tuple[float, int] | None = None
        self._figures: dict[str, Any] | None = None
        self._figures_step: int | None = None
        self._metrics: StepMetrics | None = None
        self._stop: str | None = None
        self._seen = 0
        # What an error keeps from being told; and what an earlier one kept.
        self._untold = Untold()
        self._telling: list[Callback] = []
        self.to_be_told: list[str] | None = None
        # A step costs microseconds here, so callbacks that do nothing on it are not called.
        self._on_step = [cb for cb in callbacks if type(cb).on_step is not Callback.on_step]
        self._on_each = [cb for cb in self._on_step if not cb.per_dispatch]
        every = (eval_every, *(callback.every for callback in callbacks))
        self._boundaries = [number for number in every if number is not None]

    def run(self) -> TrainState:
        """Trains to the end, or to a reason to stop."""
        self._first = self.count
        before = len(self.step.compilations)
        self.history.seconds = self.seconds
        with FrozenGarbage(len(self.state.leaves)) as garbage, Interrupts() as interrupts:
            try:
                for callback in self.callbacks:
                    callback.on_start(self._context()._lend(1))
                if self.to_be_told:
                    self._evaluate(self.to_be_told)
                while self.count < self.num_steps and self._stop is None:
                    programs = self.step.compilations
                    self._advance()
                    if self.step.compilations != programs:
                        # Compiling leaves thousands of objects that stay.
                        garbage.freeze()
                    self._stop = self._stop or interrupts.reason
                self.step.check(self.state)
                self._note_speed()
                # A signal that came during the last step or evaluation is told all the same.
                early = self.count < self.num_steps
                self.history.stopped = self._stop if early else interrupts.reason
                for callback in self.callbacks:
                    callback.on_end(self._context()._lend(1))
            except BaseException as error:
                self._tell_of(error)
                raise
            finally:
                self.history.compilations = self.step.compilations[before:]
        return self.state

    def _tell_of(self, error: BaseException) -> None:
        """Each callback is told, whatever the others make of it; the error goes on as it came."""
        for callback in self.callbacks:
            try:
                callback.on_error(self._context()._lend(1), error)
            except Exception:
                _log.exception("%s failed while it was told of an error", callback.name)

    def warn_of_splitting(self) -> None:
        """Says when something happens too often for steps ever to be fused."""
        often = [every for every in self._boundaries if every < self.fuse]
        if often:
            _log.warning(
                "steps_per_call=%d never fuses: something (an evaluation, a checkpoint, a "
                "callback's `every`) happens every %d steps. Choose multiples of steps_per_call.",
                self.fuse,
                min(often),
            )

    def _advance(self) -> None:
        """The next dispatch, and whatever follows its steps."""
        start = time.perf_counter()
        size = 0
        try:
            batch, size = self.feed.take(self._next_size())
            fed = time.perf_counter()
            self.seconds["data"] += fed - start
            if not size:
                self._data_ended()
                return
            self.state, metrics = self._dispatch(batch, size)
        except Exception:
            self.feed.give_back(size)
            raise
        self.seconds["step"] += time.perf_counter() - fed
        dispatched = Dispatched(metrics)
        axis = 0 if size == 1 else 1
        # Members with batches of their own have them behind their own axis.
        each = leading_size(batch, axis=axis if self.step.shared_batches else axis + 1)
        end = self.count + size
        try:
            for index in range(size - 1):
                self._after_step(dispatched, index, each, self._on_each)
            self._after_step(dispatched, None if size == 1 else size - 1, each, self._on_step)
        except Exception:
            self._log_the_rest(dispatched, end, size, each)
            raise
        if self._eval_due():
            self._evaluate()

    def _log_the_rest(self, dispatched: Dispatched, end: int, size: int, each: int) -> None:
        """After the error of a callback: the figures of steps that were taken are written.

        The other callbacks do not hear of them, which a checkpoint says.
        """
        untold = self._telling
        for callback in untold:
            if isinstance(callback, Log):
                callback.on_step(self._context()._lend(callback.every, here=False))
        logs: list[Callback] = [each for each in self._on_step if isinstance(each, Log)]
        while self.count < end:
            self._after_step(dispatched, size - (end - self.count), each, logs)
            untold = [*untold, *self._on_step]
        ours = (Log, ProgressBar, Checkpointing)  # What they missed is made up for.
        names = {callback.name for callback in untold if not isinstance(callback, ours)}
        self._untold.step = sorted(names)
        if self._eval_due():
            self._untold.eval = _names(self.callbacks)

    def _dispatch(self, batch: Batch, size: int) -> tuple[TrainState, dict[str, Any]]:
        args = self.args(self.count) if is_function(self.args) else self.args
        call = self.step if size == 1 else self.step.scan
        state, metrics = call(self.state, batch, args=args)
        if self._begun is None:
            packed = None if args is None else pack_args(args)
            program = self.step._step if size == 1 else self.step._scan
            self.cost = cost_of_dispatch(program, self.step._log, state, batch, packed, size)
            self._begun = (time.perf_counter(), self.count + size)
        return state, metrics

    def _note_speed(self) -> None:
        """Writes into the history how fast it went; every step is over by now."""
        if self.cost is None or self._begun is None:
            return
        since, first = self._begun
        history = self.history
        history.flops = self.cost.flops
        if self.count > first:
            elapsed = time.perf_counter() - since
            history.flops_per_second = self.cost.flops * (self.count - first) / elapsed
            if self.cost.peak is not None:
                history.peak_fraction = history.flops_per_second / self.cost.peak

    def _next_size(self) -> int:
        """As many steps as fuse, unless something happens before they are through."""
        room = self.num_steps - self.count
        for every in self._boundaries:
            room = min(room, every - self.count % every)
        return self.fuse if room >= self.fuse else 1

    def _after_step(
        self, dispatched: Dispatched, index: int | None, examples: int, callbacks: list[Callback]
    ) -> None:
        """Calls those that want to hear of this step; `index` is its place in the dispatch."""
        self.count = count = self.count + 1
        self._seen += examples
        last = callbacks is self._on_step
        due = [callback for callback in callbacks if not count % callback.interval]
        if due or last:
            self._metrics = StepMetrics(dispatched, index)
        if due:
            context = self._context()
            for at, callback in enumerate(due):
                self._telling = due[at:]
                callback.on_step(context._lend(callback.every, here=last))

    def _eval_due(self) -> bool:
        if self.evaluation is None:
            return False
        if self.eval_every is not None and self.count % self.eval_every == 0:
            return True
        return self.count == self.num_steps

    def _evaluate(self, told: Collection[str] | None = None) -> None:
        """Evaluates, and tells the callbacks (of these names)."""
        callbacks = [
            each
            for each in self.callbacks
            if told is None or each.name in told or isinstance(each, Checkpointing)
        ]
        self._untold.eval = _names(callbacks)
        start = time.perf_counter()
        if isinstance(self.evaluation, tuple):
            self._figures = evaluate(self.evaluation[0], self.state, self.evaluation[1])
        elif self.evaluation is not None:
            self._figures = on_host(self.evaluation(self.state))
        self._figures_step = self.count
        if self.state.has_stopped_members and not np.asarray(self.state.active).any():
            self.request_stop("every member of the ensemble has stopped")
        self.seconds["eval"] += time.perf_counter() - start
        for at, callback in enumerate(callbacks):
            # Whoever saves in between has heard of it, and so have those before.
            self._untold.eval = _names(callbacks[at + 1 :])
            try:
                callback.on_eval(self._context()._lend(1))
            except Exception:
                self._untold.eval = _names(callbacks[at:])
                raise
        self._untold.eval = None

    def _data_ended(self) -> None:
        if not self.feed.consumed:
            raise DataError(
                "`data` is empty: it gave no batch at all. An iterator that was used up gives "
                "nothing the second time; `treadle.data.arrays(...)` and lists start anew."
            )
        self._stop = f"the data ended after {self.feed.consumed} batches"

    def _context(self) -> Context:
        return Context(
            self,
            self.count,
            self.num_steps,
            self._metrics,
            self._figures,
            self._eval_due(),
            self._seen,
            self.seconds,
        )

    def request_stop(self, reason: str) -> None:
        """Ends the training after this step; the first reason counts."""
        self._stop = self._stop or reason

    def stop_members(self, mask: Any) -> None:
        """Lets members of an ensemble stand still."""
        if self.state.members is None:
            raise ArgumentValueError(
                "`ctx.stop_members` was called, but the state is that of a single run: "
                "`ctx.stop(reason)` ends it."
            )
        goes_on = np.asarray(self.state.active) & ~np.asarray(mask)
        self.state = self.state.replace(active=goes_on)

    def save_what_is_left(self, checkpointer: Checkpointer, error: BaseException) -> None:
        """After an error: saves, so that only the step under way is lost, where that makes sense.

        Not what is not finite, nor where this call took no step, nor after a second Ctrl-C.
        """
        if self.count == self._first or not is_worth_saving(error):
            return
        if self.state.is_consumed:
            notice("the state was lost with the step that failed, so it is not saved", False)
            return
        try:
            finite = is_finite(self.state, self.step._spec.trainable)
            if finite:
                self.save(checkpointer)
                checkpointer.wait()
        except NonFiniteError:
            finite = False
        if finite:
            notice(
                f"saved step {self.count} after an error; run it again to continue from there",
                self.progress,
            )
        else:
            notice(f"the state is not finite at step {self.count}, so it is not saved", False)

    def save(self, checkpointer: Checkpointer) -> None:
        """Writes a checkpoint of everything that a resume needs."""
        self.step.check(self.state)
        states = {callback.name: callback.get_state() for callback in self.callbacks}
        states = {name: state for name, state in states.items() if state is not None}
        start = time.perf_counter()
        checkpointer.save(
            self.count,
            self.state,
            metadata={
                "data": self.feed.position(),
                "callbacks": states,
                "members_stopped": self.state.has_stopped_members,
                "untold": self._untold.to_json(),
            },
            metrics=self._evaluated_here(),
            # A step that is there is of a training that was cut off behind it, and is taken again.
            overwrite=True,
        )
        self.seconds["save"] += time.perf_counter() - start

    def _evaluated_here(self) -> dict[str, float] | None:
        """The figures of this very step, under the names they have in the rows."""
        if not self._figures or self._figures_step != self.count:
            return None
        # Of an ensemble the mean, so that `keep_best` can choose.
        axes = 0 if self.state.members is None else 1
        numbers = {name: value for name, value in self._figures.items() if np.ndim(value) <= axes}
        return {f"eval/{name}": float(np.mean(value)) for name, value in numbers.items()}

    def restore_callbacks(self, states: dict[str, Any]) -> None:
        """Gives each callback back what it had saved."""
        for callback in self.callbacks:
            if callback.name in states:
                callback.set_state(states[callback.name])
