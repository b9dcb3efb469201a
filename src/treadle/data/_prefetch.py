"""Batches made ahead by one background thread, while the device works."""

import atexit
import copy
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sized
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import jax
import numpy as np

from .._checks import whole_number
from .._custom_types import Batch, Door
from .._errors import ArgumentTypeError, DataError
from ._door import check_flag
from ._place import placer
from ._protocol import BatchIterator, is_positioned

# How long `close`, and the interpreter's exit, wait for a thread that is inside a batch.
_LAST_BATCH_SECONDS = 2.0


class _Ready(NamedTuple):
    batch: Batch
    position: Any


class _End(NamedTuple):
    position: Any


class _Failure(NamedTuple):
    error: BaseException


class _Channel:
    """What the two threads share.

    Two `SimpleQueue`s and a flag, for a `SimpleQueue` may be put into by a finalizer: the garbage
    collector may run one in the middle of any line of either thread, where taking a lock that the
    same line holds would be for ever.
    """

    def __init__(self, size: int):
        self.ready: SimpleQueue[_Ready | _End | _Failure] = SimpleQueue()
        self.room: SimpleQueue[None] = SimpleQueue()
        self.stopped = False
        for _ in range(size):
            self.room.put(None)

    def take(self) -> _Ready | _End | _Failure:
        """What was made next, waiting for it."""
        while True:
            try:
                # With an end to the wait, for Ctrl-C does not end one that begins just after it;
                # on Windows, none.
                return self.ready.get(timeout=1.0)
            except Empty:
                pass

    def stop(self) -> None:
        """Tells the worker to end, after the batch that it is making; never waits."""
        self.stopped = True
        self.room.put(None)


# Every thread at work, so that the interpreter's exit can end them.
_at_work: dict[threading.Thread, _Channel] = {}


@atexit.register
def _stop_all() -> None:
    # A daemon thread that comes back from NumPy or JAX into an interpreter that is gone can abort
    # the process, and one that is not a daemon would keep it alive: so they are asked to end, and
    # waited for, but not for ever.
    workers = list(_at_work.items())
    for _, channel in workers:
        channel.stop()
    deadline = time.monotonic() + _LAST_BATCH_SECONDS
    for thread, _ in workers:
        thread.join(max(0.0, deadline - time.monotonic()))


def _position_of(source: Any) -> Any:
    # A copy: an iterator may hand out the very dictionary that it goes on to change.
    return copy.deepcopy(source.get_state())


def _no_position(source: Any) -> None:
    return None


class _Recipe(NamedTuple):
    """How to make a batch, and to say where that was."""

    source: Iterator[Batch]
    place: Callable[[Batch], Batch]
    position_of: Callable[[Any], Any]

    def make(self) -> _Ready | _End:
        try:
            batch = self.place(next(self.source))
        except StopIteration:
            return _End(self.position_of(self.source))
        return _Ready(batch, self.position_of(self.source))


def _work(recipe: _Recipe, channel: _Channel) -> None:
    # It must not hold the consumer, whose finalizer is what ends it, nor a batch while it waits.
    try:
        while True:
            channel.room.get()
            if channel.stopped:
                return
            made = recipe.make()
            channel.ready.put(made)
            if isinstance(made, _End):
                return
            del made
    except BaseException as error:
        # Whatever it is, it belongs to who reads the batches: it is raised there.
        channel.ready.put(_Failure(error))
    finally:
        _at_work.pop(threading.current_thread(), None)


class PrefetchIterator:
    """An iterator over batches made ahead by a thread; its position is of those handed out.

    Dropping it ends the thread: an early `break`, an exception or Ctrl-C in the loop, the end of
    the program. `close` does so by name.

    Attributes:
        positioned: Whether the iterator inside can say where it is, and so whether this one can.
    """

    def __init__(self, source: Iterator[Batch], size: int, place: Callable[[Batch], Batch]):
        self.positioned = is_positioned(source)
        self._recipe = _Recipe(source, place, _position_of if self.positioned else _no_position)
        self._size = size
        self._channel: _Channel | None = None
        self._thread: threading.Thread | None = None
        self._over: _End | _Failure | None = None
        self._position = self._recipe.position_of(source)

    def __iter__(self) -> "PrefetchIterator":
        return self

    def __next__(self) -> Batch:
        if self._over is None:
            # Not before: a position that is set first would throw away what was made until then.
            channel = self._channel or self._start()
            made = channel.take()
            if isinstance(made, _Ready):
                self._position = made.position
                channel.room.put(None)
                return made.batch
            self._over = made
            if isinstance(made, _End):
                self._position = made.position
        if isinstance(self._over, _Failure):
            raise self._over.error
        raise StopIteration

    def _start(self) -> _Channel:
        channel = _Channel(self._size)
        thread = threading.Thread(
            target=_work,
            args=(self._recipe, channel),
            name="treadle-prefetch",
            daemon=True,
        )
        weakref.finalize(self, channel.stop).atexit = False
        _at_work[thread] = channel
        thread.start()
        self._channel, self._thread = channel, thread
        return channel

    def _halt(self, timeout: float | None) -> None:
        if self._channel is not None and self._thread is not None:
            self._channel.stop()
            self._thread.join(timeout)
            self._channel = self._thread = None

    def close(self) -> None:
        """Ends the thread and the iteration, whatever was made ahead being dropped.

        A thread that is inside a batch is waited for, two seconds at most.
        """
        self._halt(_LAST_BATCH_SECONDS)
        if self._over is None:
            self._over = _End(self._position)

    def get_state(self) -> Any:
        """The position behind the last batch handed out, however many were made ahead.

        Raises:
            DataError: If the iterator inside cannot say where it is.
        """
        self._require_position("get_state")
        return copy.deepcopy(self._position)

    def set_state(self, state: Any) -> None:
        """Goes to a position, waiting for the thread to finish the batch that it is making.

        Args:
            state: What `get_state` returned, here or on the iterator inside.

        Raises:
            DataError: If the iterator inside has no positions, or does not take this one; it then
                stays where it is.
        """
        source = self._require_position("set_state")
        self._halt(timeout=None)
        try:
            source.set_state(state)
        except BaseException:
            # It has run ahead of what was handed out.
            source.set_state(self._position)
            raise
        self._position = _position_of(source)
        self._over = None

    def _require_position(self, method: str) -> BatchIterator:
        source = self._recipe.source
        if isinstance(source, BatchIterator) and self.positioned:
            return source
        raise DataError(
            f"`{method}` on prefetched batches, and what is prefetched (of type "
            f"{type(source).__name__}) cannot say where it is: it needs `get_state` and "
            "`set_state`, as the iterators of `treadle.data.arrays` and of Grain have them."
        )


class PrefetchedBatches:
    """Batches to be made ahead by a thread; made by `treadle.data.prefetch`.

    Each `iter()` is an iteration over the batches inside, with a thread of its own; where those are
    an iterator, which cannot start anew, each goes on with the one there is. `len()` is theirs,
    where they have one.
    """

    def __init__(self, batches: Iterable[Batch], size: int, to_device: bool | None):
        self._batches = batches
        self._size = size
        self._to_device = to_device
        self._only: PrefetchIterator | None = None

    def __iter__(self) -> PrefetchIterator:
        # A second one over the same source would miss what the first has taken ahead.
        if self._only is not None:
            return self._only
        source = iter(self._batches)
        iterator = PrefetchIterator(source, self._size, placer(self._to_device))
        if source is self._batches:
            self._only = iterator
        return iterator

    def __len__(self) -> int:
        if isinstance(self._batches, Sized):
            return len(self._batches)
        raise ArgumentTypeError(
            f"These batches have no length: what is prefetched, of type "
            f"{type(self._batches).__name__}, has none."
        )

    def __bool__(self) -> bool:
        # Without this, `if batches:` would ask for the length.
        return True

    def __repr__(self) -> str:
        return f"prefetch({self._batches!r}, size={self._size})"


def _check_batches(batches: Any) -> None:
    if isinstance(batches, (dict, str, bytes, np.ndarray, jax.Array)):
        raise ArgumentTypeError(
            f"`batches` is of type {type(batches).__name__}, which is data, not batches of it: cut "
            "it into batches first, `treadle.data.arrays(data, batch_size, key=key)`."
        )
    if not isinstance(batches, Iterable):
        raise ArgumentTypeError(
            f"`batches` (={batches!r}) cannot be iterated over: give it an iterable of batches, "
            "such as `treadle.data.arrays(...)`, a Grain dataset or a generator."
        )


def prefetch(
    batches: Door[Iterable[Batch]], size: Door[int] = 2, *, to_device: Door[bool | None] = None
) -> PrefetchedBatches:
    """Makes batches ahead on a background thread, and puts them on the device.

    Args:
        batches: Any iterable of batches. While it is prefetched, nobody else should take from it.
        size: How many batches to hold ready.
        to_device: Whether to put the NumPy arrays of a batch on the default device. None means on
            accelerators only: on CPU, handing NumPy arrays to the compiled step is faster.

    Returns:
        The same batches in the same order. Where the iterators of `batches` have `get_state` and
        `set_state`, so have these, and the position is of batches *handed out*, not of those made
        ahead. An exception in `batches` is raised in its place, after the batches before it, and
        again by every later `next`.

    Raises:
        ArgumentTypeError: If an argument is of the wrong type, or `batches` is data itself.
        ArgumentValueError: If `size` is not positive.

    Example:
        >>> batches = arrays(np.arange(10), 5, key=None, shuffle=False, epochs=1)
        >>> [int(batch[0]) for batch in prefetch(batches)]
        [0, 5]
    """
    _check_batches(batches)
    whole_number("size", size)
    if to_device is not None:
        check_flag("to_device", to_device, ", or None to choose by the device")
    return PrefetchedBatches(batches, int(size), to_device)
