"""Several trackers as one."""

from collections.abc import Mapping, Sequence
from typing import Any

from .._custom_types import Door
from .._errors import ArgumentTypeError, ArgumentValueError
from ._base import Tracker
from ._guarded import Guarded


def _inner(trackers: Sequence[Tracker]) -> list[Tracker]:
    """The trackers, and those that are in an `All` among them."""
    inner: list[Tracker] = []
    for tracker in trackers:
        inner.append(tracker)
        inner += _inner(tracker.trackers) if isinstance(tracker, All) else []
    return inner


class All(Tracker):
    """Gives every row to each of several trackers; one that fails does not keep it from the others.

    What a tracker raises is told as a warning of the logger `treadle`, when it first happens and
    when it is closed.

    Args:
        trackers: Where rows go, in this order.

    Raises:
        ArgumentTypeError, ArgumentValueError: Something in it is no tracker, is there twice, or
            there is none.

    Example:
        >>> everywhere = treadle.track.All([TensorBoard("runs/tb"), CSV("runs/rows.csv")])
        >>> treadle.fit(..., callbacks=[treadle.callbacks.Log(everywhere)])
    """

    def __init__(self, trackers: Door[Sequence[Tracker]]):
        if isinstance(trackers, Tracker):
            raise ArgumentTypeError(
                f"`trackers` is a single {type(trackers).__name__}: put it into a list."
            )
        if not isinstance(trackers, (list, tuple)):
            raise ArgumentTypeError(f"`trackers` (={trackers!r}) must be a list of trackers.")
        for tracker in trackers:
            if not isinstance(tracker, Tracker):
                raise ArgumentTypeError(
                    f"`trackers` holds {tracker!r}, which is not a `treadle.track.Tracker`: derive "
                    f"from it, and write its four methods."
                )
        if not trackers:
            raise ArgumentValueError("`trackers` is empty: name at least one.")
        inner = _inner(trackers)
        if len({id(tracker) for tracker in inner}) < len(inner):
            raise ArgumentValueError("`trackers` holds one twice, which would get each row twice.")
        self.trackers = tuple(trackers)
        self._guarded = [Guarded(tracker) for tracker in trackers]

    def log(self, step: int, row: Mapping[str, Any]) -> None:
        """Gives each the row."""
        for tracker in self._guarded:
            tracker.log(step, row)

    def resume(self, step: int) -> None:
        """Each drops the rows after `step`."""
        for tracker in self._guarded:
            tracker.resume(step)

    def flush(self) -> None:
        """Each stores what was logged."""
        for tracker in self._guarded:
            tracker.flush()

    def close(self) -> None:
        """Closes each."""
        for tracker in self._guarded:
            tracker.close()
