"""Keeping the garbage collector away from what lives through the whole training."""

import gc
from types import TracebackType

# Some Pythons freeze objects of their own at start (3.12.1 does, hundreds of them).
_AT_START = gc.get_freeze_count()


class FrozenGarbage:
    """What exists at entry is not looked at by the collector until exit.

    A full collection walks every container in the process, compiled programs' records included:
    in a loop over a model of 901 leaves it took a fifth of the time (equinox#1145). New objects
    are collected as ever.
    """

    def __enter__(self) -> "FrozenGarbage":
        # Whoever froze objects before has plans of their own, and keeps them.
        self._thaw = gc.get_freeze_count() == _AT_START
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
        if self._thaw:
            gc.unfreeze()
