"""Batches of rows that can be taken by number: vectorised, and resumed in O(1)."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Int, PyTree

from .._checks import whole_number
from .._custom_types import Batch, Door, PRNGKey
from .._errors import ArgumentTypeError, ArgumentValueError, DataError
from .._random import as_key
from ._door import check_flag
from ._order import epoch_order, order_words
from ._rows import ArrayRows, Rows

_VERSION = 1


class ArrayBatches:
    """Batches of rows; made by `treadle.data.arrays` and `treadle.data.huggingface`.

    Each `iter()` starts again at the first epoch, with the same order. `len()` is the number of
    batches in all, where `epochs` is finite.

    Attributes:
        num_examples: How many examples there are.
        batch_size: How many of them are in a batch.
        epochs: How often they are all visited; None means without end.
        shuffle: Whether each epoch has an order of its own.
        drop_remainder: Whether the examples left over at the end of an epoch are dropped.
    """

    def __init__(
        self,
        rows: Rows,
        batch_size: int,
        *,
        key: Any,
        shuffle: bool,
        drop_remainder: bool,
        epochs: int | None,
    ):
        self.num_examples = rows.num_examples
        self.batch_size = batch_size
        self.epochs = epochs
        self.shuffle = shuffle
        self.drop_remainder = drop_remainder
        if drop_remainder and batch_size > self.num_examples:
            raise ArgumentValueError(
                f"`batch_size` (={batch_size}) is larger than the data, which has "
                f"{self.num_examples} examples: there would be no batch at all. Give a smaller "
                "one, or `drop_remainder=False` for a shorter batch."
            )
        self._rows = rows
        self._root = order_words(as_key(key)) if shuffle else None

    @property
    def batches_per_epoch(self) -> int:
        """How many batches an epoch has."""
        whole, rest = divmod(self.num_examples, self.batch_size)
        return whole if self.drop_remainder or rest == 0 else whole + 1

    @property
    def spec(self) -> PyTree[jax.ShapeDtypeStruct]:
        """The first batch as a tree of `jax.ShapeDtypeStruct`, to compile a step ahead of time."""
        return self._rows.spec(min(self.batch_size, self.num_examples))

    def __len__(self) -> int:
        if self.epochs is None:
            raise ArgumentTypeError(
                "These batches have no length: `epochs` is None, so they never end. Give a number "
                "of `epochs`, or read `batches_per_epoch`."
            )
        return self.epochs * self.batches_per_epoch

    def __bool__(self) -> bool:
        # There is always a batch, and without this `if batches:` would ask for the length.
        return True

    def __iter__(self) -> "ArrayIterator":
        return ArrayIterator(self)

    def __repr__(self) -> str:
        return (
            f"ArrayBatches({self.num_examples} examples, batch_size={self.batch_size}, "
            f"batches_per_epoch={self.batches_per_epoch}, epochs={self.epochs})"
        )

    def _order(self, epoch: int) -> Int[np.ndarray, " n"] | None:
        """The order of one epoch, None for that of the arrays themselves."""
        return None if self._root is None else epoch_order(self._root, epoch, self.num_examples)

    def _batch(self, order: Int[np.ndarray, " n"] | None, number: int) -> Batch:
        """Batch `number` of an epoch, in memory of its own."""
        start = number * self.batch_size
        stop = min(start + self.batch_size, self.num_examples)
        return self._rows.take(slice(start, stop) if order is None else order[start:stop])


class ArrayIterator:
    """An iterator over `ArrayBatches`; its position is an epoch and a batch in it."""

    def __init__(self, batches: ArrayBatches):
        self._batches = batches
        self._order: Int[np.ndarray, " n"] | None = None
        self._go_to(0, 0)

    def __iter__(self) -> "ArrayIterator":
        return self

    def __next__(self) -> Batch:
        if self._epoch == self._batches.epochs:
            raise StopIteration
        if self._order_is_stale:
            self._order = self._batches._order(self._epoch)
            self._order_is_stale = False
        batch = self._batches._batch(self._order, self._number)
        if self._number + 1 == self._batches.batches_per_epoch:
            self._go_to(self._epoch + 1, 0)
        else:
            self._number += 1
        return batch

    def _go_to(self, epoch: int, number: int) -> None:
        self._epoch, self._number, self._order_is_stale = epoch, number, True

    def get_state(self) -> dict[str, int]:
        """The position behind the last batch: plain integers, ready for JSON.

        `num_examples` and `batch_size` are there so that `set_state` can tell a position among
        other batches, which would silently be another place.
        """
        return {
            "version": _VERSION,
            "epoch": self._epoch,
            "batch": self._number,
            "num_examples": self._batches.num_examples,
            "batch_size": self._batches.batch_size,
        }

    def set_state(self, state: Any) -> None:
        """Goes to a position of an iterator over the same arrays, at no cost.

        Args:
            state: What `get_state` returned.

        Raises:
            DataError: If it is not a position among these batches. The iterator stays where it is.
        """
        epoch, number = _position(state, self._batches)
        self._go_to(epoch, number)


def _position(state: Any, batches: ArrayBatches) -> tuple[int, int]:
    names = ("version", "epoch", "batch", "num_examples", "batch_size")
    if not isinstance(state, dict) or not all(type(state.get(name)) is int for name in names):
        raise DataError(
            f"`state` (={state!r}) is not a position among the batches of `treadle.data.arrays`: "
            "it must be what `get_state` returned, a dictionary of the integers "
            f"{', '.join(names)}."
        )
    if state["version"] != _VERSION:
        raise DataError(
            f"`state` is of version {state['version']}, and this treadle reads version {_VERSION}: "
            "continue with the treadle that wrote it, or start at the beginning of the data."
        )
    for name in ("num_examples", "batch_size"):
        if state[name] != (here := getattr(batches, name)):
            raise DataError(
                f"`state` is a position at `{name}`={state[name]}, and these batches have "
                f"`{name}`={here}: it would be another place in the data. Give the same arrays and "
                "`batch_size` as before, or start at the beginning of the data."
            )
    epoch, number = state["epoch"], state["batch"]
    last = batches.epochs
    behind_the_end = last is not None and (epoch, number) > (last, 0)
    if epoch < 0 or behind_the_end or not 0 <= number < batches.batches_per_epoch:
        raise DataError(
            f"`state` (={state!r}) lies outside these batches, which have `epochs`={last} of "
            f"{batches.batches_per_epoch} batches: give as many `epochs` as before, or more."
        )
    return epoch, number


def row_batches(
    rows: Rows,
    batch_size: Any,
    *,
    key: Any,
    shuffle: Any,
    drop_remainder: Any,
    epochs: Any,
) -> ArrayBatches:
    """The batches, once their arguments are known to be good.

    Raises:
        ArgumentTypeError, ArgumentValueError: They are not.
    """
    if shuffle is True and key is None:
        raise ArgumentTypeError(
            "`key` (=None) can be None only with `shuffle=False`: the order of each epoch is drawn "
            "from it. Give it one, `jax.random.key(0)`."
        )
    return ArrayBatches(
        rows,
        int(batch_size),
        key=key,
        shuffle=shuffle,
        drop_remainder=drop_remainder,
        epochs=None if epochs is None else int(epochs),
    )


def check_cut(batch_size: Any, shuffle: Any, drop_remainder: Any, epochs: Any) -> None:
    """Refuses what does not say how data is cut into batches.

    Raises:
        ArgumentTypeError, ArgumentValueError: With the name and the value.
    """
    whole_number("batch_size", batch_size)
    check_flag("shuffle", shuffle)
    check_flag("drop_remainder", drop_remainder)
    if epochs is not None:
        whole_number("epochs", epochs, otherwise=", or None to go on without end")


def arrays(
    tree: PyTree,
    batch_size: Door[int],
    *,
    key: Door[PRNGKey | None],
    shuffle: Door[bool] = True,
    drop_remainder: Door[bool] = True,
    epochs: Door[int | None] = None,
) -> ArrayBatches:
    """Batches of arrays that fit in memory.

    NumPy leaves stay on the host and JAX leaves on their device; each batch is gathered there, in
    memory of its own: nobody who writes into a batch changes the data. The arrays themselves are
    not copied: who writes into them changes the batches that follow.

    Each epoch's order is derived from `key` and the number of the epoch, the same on every
    platform and device, so a position is two numbers, and going to it costs nothing.

    Args:
        tree: A pytree of NumPy or JAX arrays with the same leading size: a row for each example.
        batch_size: How many examples a batch has.
        key: The key that epochs are shuffled by (`jax.random.key(0)`); it may be the one that the
            model and the step got, for each draws from a stream of its own. None only with
            `shuffle=False`.
        shuffle: Whether to visit each epoch's examples in another order.
        drop_remainder: Whether to drop the examples left over when an epoch does not divide into
            batches; otherwise an epoch's last batch is shorter.
        epochs: How often to visit all examples; None means without end.

    Returns:
        Batches that can be iterated over again and again, each time from the start and in the
        same order (so ask for `epochs=10` rather than ten times for one); their iterators have
        `get_state` and `set_state`.

    Raises:
        ArgumentTypeError: If an argument, or a leaf of `tree`, is of the wrong type.
        ArgumentValueError: If a size is not positive, `batch_size` leaves no batch, or `key` is
            an array of keys.
        DataError: If `tree` is empty, or its leaves differ in the number of rows.

    Example:
        >>> data = {"x": np.zeros((100, 8), np.float32), "y": np.arange(100)}
        >>> batches = arrays(data, 32, key=jax.random.key(0), epochs=2)
        >>> len(batches)
        6
    """
    check_cut(batch_size, shuffle, drop_remainder, epochs)
    return row_batches(
        ArrayRows(tree),
        batch_size,
        key=key,
        shuffle=shuffle,
        drop_remainder=drop_remainder,
        epochs=epochs,
    )
