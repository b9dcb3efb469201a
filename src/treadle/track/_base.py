"""`Tracker`: where rows of metrics go."""

import abc
from collections.abc import Mapping
from typing import Any


class Tracker(abc.ABC):
    """Takes rows of metrics; hand it to `treadle.callbacks.Log`.

    Whatever its methods raise, the training goes on: it is told as a warning of the logger
    `treadle`.
    """

    @abc.abstractmethod
    def log(self, step: int, row: Mapping[str, Any]) -> None:
        """One row: the step, and names with numbers (or arrays)."""

    @abc.abstractmethod
    def resume(self, step: int) -> None:
        """Drops the rows of steps after `step`, which will be taken again.

        Called at the start of each training, also at step 0. The evaluation of `step` itself may be
        logged once more, when the process was killed right behind it.
        """

    @abc.abstractmethod
    def flush(self) -> None:
        """Everything logged so far is stored when this returns."""

    @abc.abstractmethod
    def close(self) -> None:
        """No more rows for now; logging another opens it again."""
