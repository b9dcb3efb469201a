"""Handing metrics to trackers, late: what is ready, in order, without waiting for the device."""

import collections
from collections.abc import Mapping
from typing import Any

from .._custom_types import Door
from .._errors import ArgumentTypeError
from ..track import Tracker
from ..track._guarded import Guarded
from ._base import Callback, Context

# Rows still on the device at most; beyond that the oldest is waited for, so that memory is bounded.
_MOST_PENDING = 256


class Log(Callback):
    """Gives a tracker the metrics of every `interval`-th step, and every evaluation.

    An error of the tracker does not end the training: it is a warning of the logger `treadle`, with
    a second one at the end that says how many rows are missing.

    Args:
        tracker: Where to; several go as one, `treadle.track.All`.
        interval: Steps between two rows.

    Raises:
        ArgumentTypeError: `tracker` is none.
    """

    def __init__(self, tracker: Door[Tracker], interval: int = 10):
        if not isinstance(tracker, Tracker):
            raise ArgumentTypeError(
                f"`tracker` (={tracker!r}) is not a `treadle.track.Tracker`: make one, such as "
                f"`TensorBoard(folder)`; several go as one, `treadle.track.All([...])`."
            )
        self.tracker = tracker
        self.interval = interval
        self._guarded = Guarded(tracker)
        self._pending: collections.deque[tuple[int, Mapping[str, Any], str]] = collections.deque()

    def on_step(self, ctx: Context) -> None:
        """Queues the row; writes those that are ready."""
        self._pending.append((ctx.step, ctx.metrics, ""))
        self._write(_MOST_PENDING)

    def on_eval(self, ctx: Context) -> None:
        """Queues the figures of the evaluation behind the steps before it."""
        assert ctx.eval is not None
        self._pending.append((ctx.step, ctx.eval, "eval/"))

    def _write(self, keep: int) -> None:
        """Writes what is ready; waits only while more than `keep` rows are pending."""
        while self._pending:
            step, metrics, prefix = self._pending[0]
            if len(self._pending) <= keep and not getattr(metrics, "ready", True):
                return
            self._pending.popleft()
            self._guarded.log(step, {prefix + name: value for name, value in metrics.items()})

    def flush(self) -> None:
        """Writes every row there is; waits for the device."""
        self._write(-1)
        self._guarded.flush()

    def on_start(self, ctx: Context) -> None:
        """Drops what the tracker has of steps that will be taken again."""
        self._guarded.resume(ctx.step)

    def on_end(self, ctx: Context) -> None:
        """Writes the rest."""
        self.flush()
        self._guarded.close()

    def on_error(self, ctx: Context, error: BaseException) -> None:
        """Writes the rest."""
        self.flush()
        self._guarded.close()

    def get_state(self) -> Any:
        """Nothing of its own; but a checkpoint wants the rows before it on disk."""
        self.flush()
        return None
