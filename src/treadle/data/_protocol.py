"""The one protocol of treadle's data, which is Grain's: an iterator that can say where it is."""

import base64
import binascii
import math
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np

from .._custom_types import Batch
from .._errors import DataError

# A dictionary with this one key stands for bytes, which JSON does not have.
_BYTES = "$bytes"


@runtime_checkable
class BatchIterator(Protocol):
    """An iterator over batches that can be put back to where it was.

    `treadle.data.arrays` gives such iterators, and so does
    [Grain](https://google-grain.readthedocs.io). An iterator that wraps another may also have an
    attribute `positioned`: whether the one inside can say where it is.
    """

    def __iter__(self) -> Iterator[Batch]: ...

    def __next__(self) -> Batch: ...

    def get_state(self) -> Any:
        """The position behind the last batch that was handed out: JSON values or bytes."""
        ...

    def set_state(self, state: Any) -> None:
        """Goes to a position that `get_state` gave."""
        ...


def is_positioned(iterator: object) -> bool:
    """Whether `iterator` can say where it is and be put back there.

    Args:
        iterator: Anything. A generator, for one, cannot.
    """
    return isinstance(iterator, BatchIterator) and bool(getattr(iterator, "positioned", True))


def encode_position(state: object) -> Any:
    """The position of an iterator as plain JSON values, for a checkpoint's metadata.

    NumPy's numbers become plain ones and tuples become lists. Bytes (Grain's `DataLoader`) are
    written in base64, under a tag that `decode_position` knows.

    Args:
        state: What `get_state` returned.

    Raises:
        DataError: If part of it is neither JSON nor bytes.
    """
    return _encode(state, "")


def _encode(value: object, where: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes):
        return {_BYTES: base64.b64encode(value).decode("ascii")}
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, (list, tuple)):
        return [_encode(item, f"{where}[{at}]") for at, item in enumerate(value)]
    if isinstance(value, dict):
        return {
            _name(key, where): _encode(item, f"{where}[{key!r}]") for key, item in value.items()
        }
    raise DataError(
        f"The position of an iterator cannot be written down: `get_state(){where}` (={value!r}) is "
        f"of type {type(value).__name__}. `get_state` must return bytes, or dictionaries and lists "
        "of strings, booleans and finite numbers."
    )


def _name(key: object, where: str) -> str:
    if isinstance(key, str) and key != _BYTES:
        return key
    raise DataError(
        f"The position of an iterator cannot be written down: `get_state(){where}` has the key "
        f"{key!r}. The keys of its dictionaries must be strings other than {_BYTES!r}."
    )


def decode_position(position: Any) -> Any:
    """The inverse of `encode_position`: what `set_state` takes.

    Args:
        position: What `encode_position` returned, perhaps read back from JSON.

    Raises:
        DataError: If a tag for bytes is damaged.
    """
    if isinstance(position, list):
        return [decode_position(item) for item in position]
    if not isinstance(position, dict):
        return position
    if position.keys() != {_BYTES}:
        return {key: decode_position(item) for key, item in position.items()}
    try:
        return base64.b64decode(position[_BYTES], validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise DataError(
            f"`position` has bytes that are not base64 (={position[_BYTES]!r}): it was not written "
            "by `encode_position`, or it was changed since."
        ) from error
