"""A tracker whose errors end nothing."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from ._base import Tracker

_log = logging.getLogger("treadle")

# Rows that are passed over at most between two tries of a tracker that goes on failing.
_LONGEST_WAIT = 1_000


class Guarded:
    """Hands rows on to a tracker; what it raises is told, and does not go further.

    The first error is a warning of the logger `treadle`, and at the end there is one more with
    their number. In between the tracker is tried again, after 0, 1, 3, 7, ... rows: it may take a
    minute until a server is known to be gone, and that is not to be waited for at each row.

    Args:
        tracker: Any tracker.
    """

    def __init__(self, tracker: Tracker):
        self._tracker = tracker
        self._begin()

    def _begin(self) -> None:
        self._resuming: int | None = None
        self._closed = False
        self._rows = 0
        self._lost = 0
        self._errors = 0
        self._in_a_row = 0
        self._wait = 0
        self._last = ""

    def resume(self, step: int) -> None:
        """Drops the rows after `step`: now, or before the first row that it takes."""
        self._begin()
        self._resuming = step
        self._resume(step)

    def log(self, step: int, row: Mapping[str, Any]) -> None:
        """Hands on a row, unless the tracker failed just before."""
        if self._closed:
            self._begin()
        self._rows += 1
        if self._wait:
            self._wait -= 1
        # Where the rows to be dropped are still there, these would be there twice.
        elif self._resume(step) and self._try(step, self._tracker.log, step, row):
            self._in_a_row = 0
            return
        self._lost += 1

    def flush(self) -> None:
        """Stores what was logged, where the tracker can."""
        if not self._wait and self._resume(None):
            self._try(None, self._tracker.flush)

    def close(self) -> None:
        """Closes the tracker, and says what went wrong in all."""
        stored = self._try(None, self._tracker.close)
        if self._errors and not self._closed:
            times = "once" if self._errors == 1 else f"{self._errors} times"
            _log.warning(
                "%s failed %s; it did not take %d of %d rows%s. Last: %s",
                _name(self._tracker),
                times,
                self._lost,
                self._rows,
                "" if stored else ", and those that it still held are lost",
                self._last,
            )
        # A last checkpoint may flush it once more; whatever comes of that is told already.
        self._closed = True

    def _resume(self, step: int | None) -> bool:
        if self._resuming is None:
            return True
        done = self._try(step, self._tracker.resume, self._resuming)
        if done:
            self._resuming = None
        return done

    def _try(self, step: int | None, action: Callable[..., None], *arguments: Any) -> bool:
        try:
            action(*arguments)
        # Whatever it is: an error of the network, of the disk, or in a tracker of the user's.
        except Exception as error:
            self._errors += 1
            self._in_a_row += 1
            self._wait = min(2 ** min(self._in_a_row - 1, 20) - 1, _LONGEST_WAIT)
            self._last = f"{type(error).__name__}: {error}"
            if self._errors == 1:
                where = "" if step is None else f" at step {step}"
                _log.warning(
                    "%s failed%s. The training goes on, and its rows are missing there; it is "
                    "tried again later, and only the end tells of further errors. %s",
                    _name(self._tracker),
                    where,
                    self._last,
                    exc_info=error,
                )
            return False
        return True


def _name(tracker: Tracker) -> str:
    return f"The tracker {type(tracker).__name__}"
