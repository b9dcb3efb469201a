"""Numbers that stand for values of a program: equal numbers, equal values.

A value is known by a 64-bit hash of how it came about, one for each element of arrays of keys and
of small arrays of integers, one for the whole of any other. The lowest bit says that it is the same
in every call: it came about from constants only.
"""

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from .._private import is_array_of_keys

_LARGEST = 4096
"""Elements of an array of integers that is followed element by element."""

_ONE = np.uint64(1)
_M1, _M2, _M3 = (
    np.uint64(0x9E3779B97F4A7C15),
    np.uint64(0xBF58476D1CE4E5B9),
    np.uint64(0x94D049BB133111EB),
)
_COUNT = itertools.count(1)


def _scrambled(numbers: Any) -> Any:
    """Splitmix64, by Steele, Lea and Flood (2014)."""
    with np.errstate(over="ignore"):
        z = np.asarray(numbers, np.uint64) + _M1
        z = (z ^ (z >> np.uint64(30))) * _M2
        z = (z ^ (z >> np.uint64(27))) * _M3
        return z ^ (z >> np.uint64(31))


def salt(text: str) -> np.uint64:
    """A number for a word, odd: words are constants."""
    return np.uint64(_scrambled(np.uint64(hash(text) & (2**64 - 1)))) | _ONE


def fresh(constant: bool) -> np.uint64:
    """A number like no other."""
    number = np.uint64(_scrambled(np.uint64(next(_COUNT)) ^ np.uint64(0xA5A5A5A5)))
    return (number & ~_ONE) | np.uint64(constant)


def mixed(*numbers: Any) -> Any:
    """One number from several in their order, element by element."""
    total = np.uint64(0x1234567)
    constant = _ONE
    for each in numbers:
        each = np.asarray(each, np.uint64)
        with np.errstate(over="ignore"):
            total = _scrambled(total * _M2 + each)
        constant = constant & each
    return (total & ~_ONE) | (constant & _ONE)


def whole(numbers: Any) -> Any:
    """One number for all elements of an array."""
    flat = np.asarray(numbers, np.uint64).ravel()
    with np.errstate(over="ignore"):
        places = _scrambled(np.arange(flat.size, dtype=np.uint64))
        total = _scrambled(np.bitwise_xor.reduce(_scrambled(flat + places)) if flat.size else 0)
    constant = np.bitwise_and.reduce(flat & _ONE) if flat.size else _ONE
    return (total & ~_ONE) | constant


class Value(NamedTuple):
    """What is known of a variable.

    Attributes:
        ids: A number for each element, in the shape of the variable; `None` where only the whole is
            followed.
        of_all: The number of the whole, where `ids` is `None`.
        origin: Where a key came from: the path of the equation that made it; `None` for what came
            in.
        maker: The `Use` of another key that it came of.
    """

    ids: Any
    of_all: Any = None
    origin: Any = None
    maker: Any = None

    def like(self, other: "Value | None") -> "Value":
        """The same, come from where another value came from."""
        if other is None:
            return self
        return self._replace(origin=other.origin, maker=other.maker)

    @property
    def number(self) -> Any:
        """One number for the whole."""
        return self.of_all if self.ids is None else whole(self.ids)

    @property
    def constant(self) -> bool:
        """Whether it is the same in every call."""
        return bool(self.number & _ONE)


_INT = salt("whole number")
_KNOWN: dict[int, int] = {}


def of_integers(values: Any) -> Value:
    """Whole numbers that are known."""
    values = np.asarray(values).astype(np.int64)
    ids = mixed(_INT, _scrambled(values.astype(np.uint64)) | _ONE)
    ids = np.asarray(ids).reshape(values.shape)
    for number, value in zip(ids.ravel().tolist(), values.ravel().tolist(), strict=True):
        _KNOWN[number] = value
    return Value(ids)


def integers_of(value: Value) -> Any:
    """The whole numbers, where all of them are known; else `None`."""
    if value.ids is None or value.ids.size > _LARGEST:
        return None
    found = [_KNOWN.get(number) for number in value.ids.ravel().tolist()]
    if None in found:
        return None
    return np.asarray(found, np.int64).reshape(value.ids.shape)


def is_followed(aval: Any) -> bool:
    """Whether values of this type are followed element by element."""
    dtype = getattr(aval, "dtype", None)
    if dtype is None:
        return False
    if is_array_of_keys(aval):
        return True
    kind = np.dtype(dtype).kind if isinstance(dtype, np.dtype) else ""
    # Raw keys of a whole batch are followed too.
    most = 64 * _LARGEST if dtype == np.uint32 else _LARGEST
    return kind in "iub" and aval.size <= most


def unknown(aval: Any, number: Any) -> Value:
    """A value that is known by one number."""
    if not is_followed(aval):
        return Value(None, number)
    places = _scrambled(np.arange(aval.size, dtype=np.uint64)) | _ONE
    return Value(np.asarray(mixed(number, places)).reshape(aval.shape))


def child(keys: Any, data: Any) -> Any:
    """The keys that come of folding data into keys."""
    return mixed(_CHILD, keys, data)


_CHILD = salt("fold")


def numbers(values: Iterable[Value]) -> list[Any]:
    """One number for each."""
    return [value.number for value in values]
