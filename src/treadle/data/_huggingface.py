"""Data sets of Hugging Face's `datasets` as batches, in the types that their tables have."""

import sys
from collections.abc import Iterator
from typing import Any

import jax
from jaxtyping import PyTree

from .._custom_types import Batch, Door, PRNGKey
from .._errors import ArgumentTypeError, ArgumentValueError, DataError
from ._arrays import ArrayBatches, check_cut, row_batches
from ._columns import columns_of
from ._rows import Index
from ._stream import StreamBatches

_SOURCE = "`dataset`"


class _TableRows:
    """The rows of a data set, read from its tables when they are asked for."""

    def __init__(self, dataset: Any):
        # Not its NumPy format, which turns all integers into int64 and all floats into float32.
        self._dataset = dataset.with_format("arrow")
        self.num_examples = len(dataset)

    def take(self, index: Index) -> Batch:
        """Rows as a batch."""
        return columns_of(self._dataset[index], _SOURCE)

    def spec(self, size: int) -> PyTree[jax.ShapeDtypeStruct]:
        """A batch of that many as shapes and dtypes."""
        first = columns_of(self._dataset[:1], _SOURCE)
        return {
            name: jax.ShapeDtypeStruct((size, *array.shape[1:]), array.dtype)
            for name, array in first.items()
        }


def _stream_of(stream: Any, batch_size: int, drop_remainder: bool) -> Iterator[Batch]:
    from pyarrow import ArrowInvalid

    tables = stream.iter(batch_size, drop_last_batch=drop_remainder)
    while True:
        try:
            table = next(tables, None)
        except ArrowInvalid as error:
            told = " ".join(str(error).split())
            raise DataError(
                f"`dataset` gives examples that make no table together ({told}): give them one "
                "type, or give the data set its `features`."
            ) from error
        if table is None:
            return
        yield columns_of(table, _SOURCE)


def huggingface(
    dataset: Door[Any],
    batch_size: Door[int],
    *,
    key: Door[PRNGKey | None],
    shuffle: Door[bool] = True,
    drop_remainder: Door[bool] = True,
    epochs: Door[int | None] = None,
) -> "ArrayBatches | StreamBatches":
    """Batches of a data set of Hugging Face's `datasets`, each a dictionary of its columns.

    Numbers keep the type that the table has (a data set's own NumPy format makes int64 of all
    integers and float32 of all floats). Only the rows of a batch are read.

    Args:
        dataset: A `datasets.Dataset`: one split, of columns of numbers. Or a
            `datasets.IterableDataset`, with `shuffle=False`: it has its own `shuffle`.
        batch_size: How many examples a batch has.
        key: The key that epochs are shuffled by, as for `treadle.data.arrays`.
        shuffle: Whether to visit each epoch's examples in another order.
        drop_remainder: Whether to drop the examples left over at the end of an epoch.
        epochs: How often to visit all examples; None means without end.

    Returns:
        Batches whose iterators have `get_state` and `set_state`. Going to a position costs nothing;
        of an `IterableDataset` it is its own `state_dict`, which is exact unless it was shuffled:
        the examples in its buffer are not part of it.

    Raises:
        ArgumentTypeError: If `dataset` is no data set, or an argument is of the wrong type.
        ArgumentValueError: If `dataset` has several splits or a transform, or a size is not
            positive.
        DataError: If it is empty, or, when batches are made, if a column has missing values, lists
            of several lengths, or no numbers.

    Example:
        >>> dataset = datasets.load_dataset("mnist", split="train")
        >>> pixels = lambda row: {"pixels": np.asarray(row["image"])}
        >>> dataset = dataset.map(pixels, remove_columns="image")
        >>> batches = treadle.data.huggingface(dataset, 128, key=jax.random.key(0))
    """
    check_cut(batch_size, shuffle, drop_remainder, epochs)
    # Who has a data set has imported the package.
    package = sys.modules.get("datasets")
    kinds = () if package is None else (package.Dataset, package.IterableDataset)
    splits = () if package is None else (package.DatasetDict, package.IterableDatasetDict)
    if isinstance(dataset, splits):
        names = ", ".join(map(repr, dataset))
        raise ArgumentValueError(
            f"`dataset` has several splits ({names}): choose one, "
            f"`dataset[{next(iter(dataset))!r}]`."
        )
    if not isinstance(dataset, kinds):
        raise ArgumentTypeError(
            f"`dataset` is of type {type(dataset).__name__}, not a `datasets.Dataset`: arrays go "
            "to `treadle.data.arrays`, and any iterable of batches to `fit` itself."
        )
    if getattr(dataset, "format", {}).get("type") == "custom":
        raise ArgumentValueError(
            "`dataset` has a transform (`with_transform`, `set_transform`), which makes Python's "
            "objects of rows, and batches are read from its tables: put it there by "
            "`dataset.map(...)`, or let Grain apply it to each example, "
            "`grain.MapDataset.source(dataset)`."
        )
    if package is not None and isinstance(dataset, package.IterableDataset):
        if shuffle:
            raise ArgumentValueError(
                "`shuffle` (=True) needs a data set whose rows have numbers, and `dataset` is a "
                "`datasets.IterableDataset`: give `shuffle=False, key=None`, and shuffle it "
                "itself, `dataset.shuffle(seed=0, buffer_size=10_000)`."
            )
        stream, size = dataset.with_format("arrow"), int(batch_size)
        return StreamBatches(stream, lambda: _stream_of(stream, size, drop_remainder), epochs)
    if len(dataset) == 0:
        raise DataError("`dataset` has no examples.")
    return row_batches(
        _TableRows(dataset),
        batch_size,
        key=key,
        shuffle=shuffle,
        drop_remainder=drop_remainder,
        epochs=epochs,
    )
