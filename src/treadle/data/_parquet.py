"""Reading Parquet files with pyarrow."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from .._checks import as_path
from .._custom_types import Door
from .._errors import ArgumentTypeError, ArgumentValueError, DataError
from .._extras import required
from ._columns import columns_of
from ._files import too_large, unreadable


def parquet(
    path: Door[str | os.PathLike[str]], columns: Door[Sequence[str] | None] = None
) -> dict[str, np.ndarray]:
    """The columns of a Parquet file, by name, in memory.

    Args:
        path: A file, or a folder of them.
        columns: Which columns; None for all.

    Returns:
        A row for each example, in the types that the file has: columns of numbers as one axis,
        lists of one length (embeddings, images) as further ones. `treadle.data.arrays` takes it.

    Raises:
        ArgumentTypeError, ArgumentValueError: `path` is no path, or a column is not there.
        DataError: The file is missing, is cut off or damaged, or a column has missing values,
            lists of several lengths, or no numbers.
        MissingExtraError: pyarrow is not installed.

    Example:
        >>> table = treadle.data.parquet("train.parquet", ["pixels", "label"])
        >>> batches = treadle.data.arrays(table, 128, key=key)
    """
    where = as_path(path)
    if isinstance(columns, str):
        raise ArgumentTypeError(f"`columns` (={columns!r}) is a string: put it into a list.")
    if columns is not None and not isinstance(columns, Sequence):
        raise ArgumentTypeError(f"`columns` (={columns!r}) must be a list of names, or None.")
    if columns is not None and not columns:
        raise ArgumentValueError("`columns` is empty: name at least one, or None for all.")
    reader = _pyarrow()
    try:
        # Of files whose pages have checksums: Parquet leaves it to the writer.
        dataset = reader.ParquetDataset(where, page_checksum_verification=True)
        _check_columns(columns, dataset.schema.names, where)
        table = dataset.read(columns=None if columns is None else list(columns))
        # Some damage shows only here.
        table.validate(full=True)
    except FileNotFoundError as error:
        raise DataError(f"{where} cannot be read: there is no such file.") from error
    except PermissionError as error:
        raise unreadable(where, error) from error
    except ArgumentValueError:
        raise
    except MemoryError as error:
        raise too_large(where, error) from error
    # Arrow's own derive from all sorts of built-in errors; damaged pages come as `OSError`.
    except (OSError, ValueError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise unreadable(where, error) from error
        raise DataError(
            f"{where} is not a Parquet file, or it is cut off or damaged ({_first(error)}): write "
            "or fetch it again."
        ) from error
    if not table.column_names:
        raise DataError(f"{where} has no columns: a folder without Parquet files, or an empty one.")
    return columns_of(table, str(where))


def _pyarrow() -> Any:
    return required("pyarrow.parquet", extra="data", wanted_by="A Parquet file")


def _check_columns(columns: Any, known: list[str], path: Any) -> None:
    missing = [name for name in columns or () if name not in known]
    if missing:
        raise ArgumentValueError(
            f"`columns` names {', '.join(map(repr, missing))}, which {path} does not have; it has "
            f"{', '.join(map(repr, known))}."
        )


def _first(error: BaseException) -> str:
    return str(error).partition("\n")[0].rstrip(". ")
