"""Batches on their way into the loop: counted, positioned, several at a time."""

import collections
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._batch import is_batch_leaf
from .._custom_types import Batch, Door
from .._errors import DataError, TreadleError
from ..data import decode_position, encode_position, is_positioned


class Feed:
    """An iterator over batches that knows how many were consumed, and where that is.

    Args:
        data: Any iterable of batches.
        ahead: Whether batches are taken before they are consumed (fused steps), so that each must
            be remembered with its position.
    """

    def __init__(self, data: Door[Iterable[Batch]], *, ahead: bool):
        try:
            self._iterator: Iterator[Batch] = iter(data)
        except TypeError as error:
            raise DataError(
                f"`data` (={data!r}) of type {type(data).__name__} is not an iterable of batches: "
                f"hand over a list of batches, a generator, or `treadle.data.arrays(...)`."
            ) from error
        self._data = data
        self._positioned = is_positioned(self._iterator)
        self._ahead = ahead
        self._held: collections.deque[tuple[Batch, Any]] = collections.deque()
        self._ended = False
        self._position: Any = None
        self._lost = False
        self.consumed = 0

    @property
    def positioned(self) -> bool:
        """Whether the source can be put back to where it was."""
        return self._positioned

    def restore(self, saved: Any, *, skip: bool, continued: bool) -> int:
        """Goes to where a checkpoint was written.

        Args:
            saved: What `position` gave then.
            skip: Whether the batches consumed are skipped where the source cannot be positioned.
            continued: Whether the state was handed over, and not read from the checkpoint: then an
                iterator that cannot start anew is where that state left it.

        Returns:
            How many batches were skipped one by one.

        Raises:
            DataError: The source ends before the place is reached, or does not take the position.
        """
        self.consumed = saved["consumed"]
        if self._positioned and saved["position"] is not None:
            self._go_to(decode_position(saved["position"]))
            self._position = saved["position"]
            return 0
        # Only what is its own iterator gives the same one again: it cannot start anew.
        if not skip or (continued and self._iterator is iter(self._data)):
            return 0
        skipped = sum(1 for _ in itertools.islice(self._iterator, self.consumed))
        if skipped < self.consumed:
            raise DataError(
                f"`data` ended after {skipped} batches, but the checkpoint was written after "
                f"{self.consumed}: hand over the data from its beginning, as in the first run, or "
                f"say `skip_data=False` if it already begins where the checkpoint was written."
            )
        return skipped

    def _go_to(self, position: Any) -> None:
        try:
            self._iterator.set_state(position)  # type: ignore[attr-defined]
        except TreadleError:
            raise
        # Other people's iterators, and whatever they make of the position of another one.
        except Exception as error:
            raise DataError(
                f"`data` does not go to where the checkpoint was written: "
                f"{type(self._iterator).__name__}.set_state raised {type(error).__name__}: {error} "
                f"Hand over the data as in the first run, or train in another folder."
            ) from error

    def give_back(self, count: int) -> None:
        """Batches that were taken, and that no step was made of: a resume takes them again.

        The source has gone past them, so where they began is known by their number only, and the
        resume skips to it from the beginning.

        Args:
            count: How many; 0 after an error of the source itself.
        """
        self.consumed -= count
        self._lost = True

    def position(self) -> dict[str, Any]:
        """Where the consumed batches end, for a checkpoint."""
        position = self._position
        if self._lost:
            position = None
        elif self._positioned and not self._ahead and self.consumed:
            position = encode_position(self._iterator.get_state())  # type: ignore[attr-defined]
        return {"consumed": self.consumed, "position": position}

    def take(self, count: int) -> tuple[Batch | None, int]:
        """`count` batches stacked on a new leading axis; one batch as it is.

        Returns:
            The batches, and how many: `count`, or 1 where fewer are left or their shapes differ;
            `(None, 0)` at the end of the data.
        """
        if count == 1 and not self._held:
            batch = next(self._iterator, _END)
            if batch is _END:
                self._ended = True
                return None, 0
            if self._ahead and self._positioned:
                self._position = encode_position(self._iterator.get_state())  # type: ignore[attr-defined]
            # After what may fail: no step is made of the batch then, and nobody gives it back.
            self.consumed += 1
            return batch, 1
        self._hold(count)
        if not self._held:
            return None, 0
        if len(self._held) >= count > 1:
            stacked = stack([batch for batch, _ in itertools.islice(self._held, count)])
            if stacked is not None:
                self._release(count)
                return stacked, count
        batch = self._held[0][0]
        self._release(1)
        return batch, 1

    def _hold(self, count: int) -> None:
        while len(self._held) < count and not self._ended:
            batch = next(self._iterator, _END)
            if batch is _END:
                self._ended = True
                return
            position = None
            if self._positioned:
                position = encode_position(self._iterator.get_state())  # type: ignore[attr-defined]
            self._held.append((batch, position))

    def _release(self, count: int) -> None:
        for _ in range(count):
            _, self._position = self._held.popleft()
        self.consumed += count


class _End:
    """Marks the end of an iterator whose elements may be anything."""


_END: Any = _End()


def stack(batches: list[Batch]) -> Batch | None:
    """Batches on a new leading axis; `None` where structures, shapes or dtypes differ.

    Or where something is no array: the step says so, of one batch.
    """
    first, *others = batches
    leaves, treedef = jax.tree.flatten(first)
    columns = [leaves]
    for batch in others:
        leaves, structure = jax.tree.flatten(batch)
        if structure != treedef:
            return None
        columns.append(leaves)
    stacked = []
    for column in zip(*columns, strict=True):
        if not is_batch_leaf(column[0]):
            return None
        if any(_type(leaf) != _type(column[0]) for leaf in column):
            return None
        on_device = isinstance(column[0], jax.Array)
        stacked.append(jnp.stack(column) if on_device else np.stack(column))
    return jax.tree.unflatten(treedef, stacked)


def _type(leaf: Any) -> tuple[Any, ...]:
    # `np.stack` would promote dtypes that differ.
    return np.shape(leaf), getattr(leaf, "dtype", type(leaf))


def leading_size(batch: Batch, axis: int = 0) -> int:
    """The size of the first leaf along an axis: quick, because the step has checked the batch."""
    return np.shape(jax.tree.leaves(batch)[0])[axis]
