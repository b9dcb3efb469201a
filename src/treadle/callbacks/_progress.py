"""The progress bar: live in a terminal or notebook, a line now and then in a log file."""

import collections
import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .._units import short, speed
from ._base import Callback, Context

# Drawing takes a millisecond: at ten times a second it was the slowest hundredth of fast steps.
_REFRESH_SECONDS = 0.25
_LINE_SECONDS = 10.0
_LINES = 10
_BAR_WIDTH = 16
_TIME_WIDTH = len("1:23:45")
_RATE_SECONDS = 5.0
_LAST = "grad_norm"


class _Mark(NamedTuple):
    """A step on its way: its metrics, and how many examples and steps there are by then."""

    metrics: Any
    seen: int
    step: int


class _Reached(NamedTuple):
    """A step that was over at some time."""

    time: float
    seen: int
    step: int


class ProgressBar(Callback):
    """Steps, the metrics that are ready, examples and model FLOPs a second, time left.

    It never waits for the device: it shows the newest metrics that have arrived. Where the output
    is no terminal, it prints a line about ten times in a training instead. A terminal too narrow
    for all of it gets the speed in a line below, at the end.

    Of an ensemble's metrics it shows the means over the members.

    Args:
        console: Where to, a `rich.console.Console`; standard error by default.
    """

    per_dispatch = True

    def __init__(self, console: Any = None):
        from rich.console import Console  # Takes longer to load than all of treadle.

        self._console: Console = console or Console(stderr=True)
        self._live = self._console.is_terminal or self._console.is_jupyter
        self._progress: Any = None
        self._task: Any = None
        self._waiting: _Mark | None = None
        self._shown: Mapping[str, Any] = {}
        self._eval: Mapping[str, Any] = {}
        self._rate: float | None = None
        self._flops: str = ""
        # What was over when: the speed is that of the last few seconds.
        self._window: collections.deque[_Reached] = collections.deque()
        self._first: _Reached | None = None

    def on_start(self, ctx: Context) -> None:
        """Shows an empty bar: compiling may take a while."""
        self._printed = self._drawn = time.perf_counter()
        self._window.clear()
        self._printed_step = ctx.step
        self._rate = self._waiting = self._first = None
        self._flops = ""
        if self._live:
            self._progress = _bar(self._console)
            self._task = self._progress.add_task(
                "compiling", total=ctx.num_steps, completed=ctx.step
            )
            self._progress.start()
            self._progress.refresh()

    def on_step(self, ctx: Context) -> None:
        """Draws, at most four times a second."""
        now = time.perf_counter()
        waiting = self._waiting
        if waiting is None:
            # As soon as this is over the clock runs, so that compiling is not counted.
            if not self._window:
                self._waiting = _Mark(ctx.metrics, ctx.seen, ctx.step)
        elif waiting.metrics.ready:
            self._note(now, waiting)
        if now - self._drawn < _REFRESH_SECONDS:
            return
        self._drawn = now
        if self._window:
            self._measure(ctx, self._window[0], self._window[-1])
        if self._progress is not None:
            self._draw(ctx)
        elif self._line_due(ctx, now):
            self._print_line(ctx, now)
        if self._waiting is None:
            self._waiting = _Mark(ctx.metrics, ctx.seen, ctx.step)

    def on_eval(self, ctx: Context) -> None:
        """Shows the figures from the next drawing on."""
        assert ctx.eval is not None
        self._eval = dict(ctx.eval)
        # The evaluation is not part of the training's speed.
        self._window.clear()
        self._waiting = None

    def on_end(self, ctx: Context) -> None:
        """Shows the last figures, and leaves them standing."""
        self._finish(ctx)

    def on_error(self, ctx: Context, error: BaseException) -> None:
        """Leaves the terminal as it was."""
        self._finish(ctx)

    def _note(self, now: float, over: _Mark) -> None:
        """The device has reached a step; the host may be many steps ahead of it."""
        self._shown, self._waiting = dict(over.metrics), None
        reached = _Reached(now, over.seen, over.step)
        self._first = self._first or reached
        self._window.append(reached)
        while len(self._window) > 2 and now - self._window[0].time > _RATE_SECONDS:
            self._window.popleft()

    def _measure(self, ctx: Context, since: _Reached, until: _Reached) -> None:
        elapsed = until.time - since.time
        if until.step == since.step or not elapsed:
            return
        self._rate = (until.seen - since.seen) / elapsed
        # A step without products to count has no speed to tell.
        if ctx.flops:
            flops, peak = ctx.flops * (until.step - since.step) / elapsed, ctx.peak_flops
            self._flops = speed(flops, None if peak is None else flops / peak)

    def _draw(self, ctx: Context) -> None:
        assert self._progress is not None
        self._progress.update(
            self._task, completed=ctx.step, description=self._fitting(ctx) or "training"
        )
        self._progress.refresh()

    def _line_due(self, ctx: Context, now: float) -> bool:
        share = max(1, math.ceil(ctx.num_steps / _LINES))
        enough = ctx.step - self._printed_step >= share
        return enough or now - self._printed >= _LINE_SECONDS

    def _print_line(self, ctx: Context, now: float) -> None:
        self._printed_step, self._printed = ctx.step, now
        self._console.print(
            f"step {ctx.step}/{ctx.num_steps}  {'  '.join(self._figures())}",
            soft_wrap=True,
            highlight=False,
        )

    def _fitting(self, ctx: Context) -> str:
        """As many figures as the terminal is wide for: rich would cut the step's number first."""
        room = self._console.width - _BAR_WIDTH - 2 * len(str(ctx.num_steps)) - _TIME_WIDTH - 5
        line = ""
        for entry in self._figures():
            longer = f"{line}  {entry}" if line else entry
            if len(longer) > room:
                break
            line = longer
        return line

    def _figures(self) -> list[str]:
        names = sorted(self._shown, key=lambda name: (name != "loss", name == _LAST))
        shape = np.shape(self._shown.get("loss", 0.0))
        shown = [_entry(name, self._shown[name], shape) for name in names if name != _LAST]
        if self._rate is not None:
            # Third, so that it still has room where there are many figures.
            shown.insert(2, f"{short(self._rate)} ex/s")
        shown += [_entry(f"eval {name}", value, shape) for name, value in self._eval.items()]
        if shape:
            shown.append(f"(means of {math.prod(shape)})")
        return [entry for entry in (*shown, self._flops) if entry]

    def _finish(self, ctx: Context) -> None:
        if ctx.metrics is not None and ctx.metrics.ready:
            self._note(time.perf_counter(), _Mark(ctx.metrics, ctx.seen, ctx.step))
            since = self._window[0]
            if self._rate is None and self._first is not None:
                # Short, or with an evaluation at the end: the whole call's speed has to do.
                since = self._first
            self._measure(ctx, since, self._window[-1])
        if self._progress is not None:
            self._draw(ctx)
            self._progress.stop()
            self._progress = None
            if self._flops and not self._fitting(ctx).endswith(self._flops):
                self._console.print(self._flops, highlight=False, soft_wrap=True)
        elif ctx.step != self._printed_step:
            self._print_line(ctx, time.perf_counter())


def _bar(console: Any) -> Any:
    from rich import progress

    return progress.Progress(
        progress.BarColumn(bar_width=_BAR_WIDTH),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        progress.TextColumn("{task.description}"),
        console=console,
        auto_refresh=False,
    )


def _entry(name: str, value: Any, members: tuple[int, ...]) -> str:
    """A number, or the mean of what has one for each member; other arrays are not shown."""
    if members and np.shape(value) == members:
        value = float(np.mean(value))
    return f"{name} {value:.4g}" if isinstance(value, float) else ""
