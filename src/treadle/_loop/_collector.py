"""Keeping the garbage collector away from what lives through the whole training."""

import gc
from types import TracebackType

# Some Pythons freeze objects of their own at start (3.12.1 does, hundreds of them).
_AT_START = gc.get_freeze_count()

# How many steps' worth of arrays may come before the collector looks: the old and the new state are
# there together, and the device may be a few steps behind.
_STEPS = 8


class FrozenGarbage:
    """What exists at entry is not looked at by the collector until exit.

    A full collection walks every container in the process, compiled programs' records included:
    in a loop over a model of 901 leaves it took a fifth of the time (equinox#1145). New objects
    are collected as ever, only not several times within a step: a step makes as many arrays as the
    state has leaves before it lets go of as many, which is no garbage, but counts towards the
    threshold of a collection.

    Args:
        num_leaves: How many arrays a step makes.
    """

    def __init__(self, num_leaves: int):
        self._num_leaves = num_leaves

    def __enter__(self) -> "FrozenGarbage":
        self._thresholds = gc.get_threshold()
        youngest, *older = self._thresholds
        if youngest:  # 0 switches the collector off.
            gc.set_threshold(max(youngest, _STEPS * self._num_leaves), *older)
        # Whoever froze objects before has plans of their own, and keeps them.
        self._thaw = gc.get_freeze_count() <= _AT_START
        self.freeze()
        return self

    def freeze(self) -> None:
        """What has come since is left alone as well."""
        gc.freeze()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        gc.set_threshold(*self._thresholds)
        if self._thaw:
            gc.unfreeze()
