"""Batches of a stream that keeps its own position, by `state_dict` and `load_state_dict`."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

from .._custom_types import Batch
from .._errors import DataError
from ._position import check_position

_VERSION = 1


class StreamBatches:
    """Batches of a stream, epoch after epoch; made by `treadle.data.huggingface`.

    One iterator at a time: they share the stream, which knows one position only.

    Args:
        stream: Has `state_dict`, `load_state_dict` and `set_epoch`.
        batches: Starts one epoch of batches where the stream is.
        epochs: How many; None means without end.
    """

    def __init__(self, stream: Any, batches: Callable[[], Iterator[Batch]], epochs: int | None):
        self.epochs = epochs
        self._stream = stream
        self._batches = batches
        # Where every iterator begins, wherever an earlier one went.
        self._beginning = copy.deepcopy(stream.state_dict())

    def __iter__(self) -> "StreamIterator":
        return StreamIterator(self)


class StreamIterator:
    """An iterator over `StreamBatches`; its position is an epoch, and the stream's own in it."""

    def __init__(self, batches: StreamBatches):
        self._of = batches
        self._go_to(0, None)

    def __iter__(self) -> "StreamIterator":
        return self

    def __next__(self) -> Batch:
        while self._epoch != self._of.epochs:
            if self._current is None:
                start = self._start or self._of._beginning
                # A copy: the stream writes into the one it is given.
                self._of._stream.load_state_dict(copy.deepcopy(start))
                self._of._stream.set_epoch(self._epoch)
                self._current = self._of._batches()
            batch = next(self._current, None)
            if batch is not None:
                self._number += 1
                return batch
            if self._number == 0:
                raise DataError(
                    f"Epoch {self._epoch} of the stream has no batch at all: it is empty, or "
                    "shorter than `batch_size` with `drop_remainder=True`."
                )
            self._go_to(self._epoch + 1, None)
        raise StopIteration

    def _go_to(self, epoch: int, start: Any, number: int = 0) -> None:
        self._epoch, self._start, self._number = epoch, start, number
        self._current: Iterator[Batch] | None = None

    def get_state(self) -> dict[str, Any]:
        """The position behind the last batch."""
        here = self._start if self._current is None else self._of._stream.state_dict()
        here = copy.deepcopy(here)
        return {
            "version": _VERSION,
            "epoch": self._epoch,
            "batch": self._number,
            "stream": here,
        }

    def set_state(self, state: Any) -> None:
        """Goes to a position of an iterator over the same stream.

        Args:
            state: What `get_state` returned.

        Raises:
            DataError: If it is not a position of a stream, or lies behind `epochs`. The
                iterator stays where it is.
        """
        check_position(
            state,
            ("epoch", "batch", "stream"),
            of="a stream",
            version=_VERSION,
            epochs=self._of.epochs,
        )
        self._go_to(state["epoch"], state["stream"], state["batch"])
