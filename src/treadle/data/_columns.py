"""Columns of Arrow tables as NumPy arrays of the same type, or an error that says why not."""

from typing import Any

import numpy as np

from .._errors import DataError

_ROWS = "one row of numbers for each example"


def columns_of(table: Any, source: str) -> dict[str, np.ndarray]:
    """Every column as an array: numbers as they are, lists of one length as further axes.

    Args:
        table: A `pyarrow.Table`.
        source: What the table is of, for messages.

    Raises:
        DataError: A column has missing values, or is none of numbers.
    """
    return {
        name: _as_array(column.combine_chunks(), name, source)
        for name, column in zip(table.column_names, table.columns, strict=True)
    }


def _as_array(array: Any, name: str, source: str) -> np.ndarray:
    import pyarrow as pa

    if isinstance(array, pa.ChunkedArray):
        # Columns without rows stay in chunks, of which there may be none.
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    kind = array.type
    if array.null_count:
        raise DataError(
            f"{source} has {array.null_count:,} missing values in the column {name!r}: fill them, "
            "drop those rows, or leave the column out."
        )
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return array.to_numpy(zero_copy_only=False)
    if pa.types.is_fixed_size_list(kind):
        inner = _as_array(array.flatten(), name, source)
        return inner.reshape(len(array), kind.list_size, *inner.shape[1:])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _from_lists(array, name, source)
    if pa.types.is_struct(kind) and {field.name for field in kind} == {"bytes", "path"}:
        raise DataError(
            f"{source} has files in the column {name!r}, images or sounds as `datasets` has them: "
            f"decode them first, under another name, `dataset.map(lambda row: {{'pixels': "
            f"np.asarray(row[{name!r}])}}, remove_columns={name!r})`."
        )
    raise DataError(
        f"{source} has the column {name!r} of {kind}, which JAX does not have: turn it into "
        f"numbers, or leave it out. Every column must have {_ROWS}."
    )


def _from_lists(array: Any, name: str, source: str) -> np.ndarray:
    lengths = np.diff(array.offsets.to_numpy(zero_copy_only=False))
    low, high = (int(lengths.min()), int(lengths.max())) if len(lengths) else (0, 0)
    if low != high:
        raise DataError(
            f"{source} has lists of {low} to {high} elements in the column {name!r}: pad them to "
            f"one length, or leave the column out. Every column must have {_ROWS}."
        )
    inner = _as_array(array.flatten(), name, source)
    return inner.reshape(len(array), high, *inner.shape[1:])
