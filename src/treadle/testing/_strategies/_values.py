"""Numbers for arrays: a pattern or a seed for all elements, and a few places with numbers of note.

An array takes a handful of choices, whatever its size: drawing each element by itself would take
longer than any test of it.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import hypothesis.strategies as st
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from ..._errors import ArgumentValueError
from ._draw import Draw
from ._limits import PLAIN, Limits

# What a seed below each bound gives, the simplest first, so that what fails shrinks to it: zeros,
# ones, 0 and 1 and 2 and so on, neat numbers (quarters), and normal ones.
_ZEROS, _ONES, _COUNTING, _NEAT, _NORMAL = 2_000, 4_000, 6_000, 20_000, 65_536

_FULL_RANGE = 7
"""Of the seeds above, those with this remainder by 8 give any number that the dtype has."""

_SEEDS = st.integers(0, _NORMAL - 1)


class Slot(NamedTuple):
    """The place of one array, and what its elements may be."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    limits: Limits = PLAIN

    @property
    def size(self) -> int:
        """How many elements."""
        return math.prod(self.shape)


class Change(NamedTuple):
    """One element set to a number of note: where, and which of `notable`."""

    position: int
    choice: int


def _is_float(dtype: np.dtype[Any]) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating))


def _part(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Of a complex dtype, that of its real and imaginary parts."""
    return np.dtype(f"f{dtype.itemsize // 2}") if dtype.kind == "c" else dtype


def _is_small(dtype: np.dtype[Any]) -> bool:
    return dtype.itemsize <= 2


@functools.cache
def _every(dtype: np.dtype[Any]) -> np.ndarray:
    """All that a dtype of at most 16 bits can hold, every NaN included."""
    if dtype.kind == "b":
        return np.array([False, True])
    if not _is_float(dtype):
        low, high = (int(ml_dtypes.iinfo(dtype).min), int(ml_dtypes.iinfo(dtype).max))
        return np.arange(low, high + 1, dtype=np.int32).astype(dtype)
    bits = ml_dtypes.finfo(dtype).bits
    return np.arange(2**bits, dtype=np.uint32).astype(f"u{dtype.itemsize}").view(dtype)


def _wide(array: np.ndarray) -> np.ndarray:
    """As float64, which holds every number of at most 16 bits."""
    with np.errstate(invalid="ignore"):  # A signalling NaN is told of when it is converted.
        return array.astype(np.float64)


def _within(values: np.ndarray, limits: Limits) -> np.ndarray:
    inside = np.ones(values.shape, bool)
    if limits.low is not None:
        inside &= values >= limits.low
    if limits.high is not None:
        inside &= values <= limits.high
    return inside


@functools.lru_cache(maxsize=256)
def _table(dtype: np.dtype[Any], limits: Limits) -> tuple[np.ndarray, np.ndarray]:
    """The allowed numbers of a small dtype in order, and the same as float64.

    NaNs, infinities and -0.0 are not among them.
    """
    every = _every(dtype)
    values = _wide(every)
    keep = np.isfinite(values) & _within(values, limits)
    if _is_float(dtype):
        keep &= (values != 0) | ~np.signbit(values)
        if not limits.subnormal:
            smallest = float(ml_dtypes.finfo(dtype).smallest_normal)
            keep &= (values == 0) | (np.abs(values) >= smallest)
    every, values = every[keep], values[keep]
    if not values.size:
        raise ArgumentValueError(
            f"{dtype.name} has no number between `min_value` (={limits.low}) and `max_value` "
            f"(={limits.high})."
        )
    order = np.argsort(values, kind="stable")
    return every[order], values[order]


def _nearest(dtype: np.dtype[Any], wanted: np.ndarray, limits: Limits) -> np.ndarray:
    """The allowed numbers of a small dtype that are nearest to those that are wanted."""
    table, values = _table(dtype, limits)
    above = np.clip(np.searchsorted(values, wanted), 0, len(values) - 1)
    below = np.maximum(above - 1, 0)
    closer = np.abs(values[below] - wanted) <= np.abs(values[above] - wanted)
    return table[np.where(closer, below, above)]


def _bounds(dtype: np.dtype[Any], limits: Limits) -> tuple[Any, Any]:
    """The least and the greatest number of a dtype of 32 or 64 bits that is allowed."""
    if _is_float(dtype):
        low, high = dtype.type(np.finfo(dtype).min), dtype.type(np.finfo(dtype).max)
        if limits.low is not None:
            low = max(low, _rounded(dtype, limits.low, np.inf))
        if limits.high is not None:
            high = min(high, _rounded(dtype, limits.high, -np.inf))
    else:
        low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
        low = low if limits.low is None else max(low, math.ceil(limits.low))
        high = high if limits.high is None else min(high, math.floor(limits.high))
    if low > high:
        raise ArgumentValueError(
            f"{dtype.name} has no number between `min_value` (={limits.low}) and `max_value` "
            f"(={limits.high})."
        )
    return low, high


def _rounded(dtype: np.dtype[Any], bound: Any, towards: float) -> Any:
    """The bound in the dtype, rounded to the inside."""
    with np.errstate(over="ignore"):
        value = dtype.type(bound)
    # As Python floats: NumPy would round the bound first.
    outside = float(value) < bound if towards > 0 else float(value) > bound
    return np.nextafter(value, dtype.type(towards)) if outside else value


def _fitted(dtype: np.dtype[Any], wanted: np.ndarray, limits: Limits) -> np.ndarray:
    """What is wanted, in any real dtype and within the limits."""
    if _is_small(dtype):
        return _nearest(dtype, wanted.astype(np.float64), limits)
    low, high = _bounds(dtype, limits)
    if not _is_float(dtype):
        if wanted.dtype.kind == "f":
            wanted = np.rint(wanted).astype(np.int64)
        if dtype.kind == "u":
            wanted = np.abs(wanted).astype(np.uint64)
        return np.clip(wanted, low, high).astype(dtype)
    values = np.clip(wanted.astype(dtype), low, high)
    tiny = np.abs(values) < np.finfo(dtype).smallest_normal
    if not limits.subnormal:
        values = np.where(tiny, np.clip(dtype.type(0), low, high), values)
    return values + dtype.type(0)  # Of -0.0 it makes 0.0.


def _any_number(
    dtype: np.dtype[Any], size: int, rng: np.random.Generator, limits: Limits
) -> np.ndarray:
    """Over the whole range of a dtype."""
    if _is_small(dtype):
        return rng.choice(_table(dtype, limits)[1], size)
    if not _is_float(dtype):
        low, high = _bounds(dtype, limits)
        return rng.integers(low, high, size, dtype=dtype, endpoint=True)
    info = np.finfo(dtype)
    exponents = rng.uniform(float(info.minexp), float(info.maxexp) - 1, size)
    return np.exp2(exponents) * rng.choice([-1.0, 1.0], size)


def _spread(
    dtype: np.dtype[Any], size: int, rng: np.random.Generator, seed: int, limits: Limits
) -> np.ndarray:
    """Random numbers by the seed's kind."""
    whole = not _is_float(dtype)
    # Of whole numbers it is the large ones that are lost: beyond 2**24 in float32.
    if seed >= _NEAT and (seed % 8 == _FULL_RANGE or (whole and seed % 3 == 0)):
        return _any_number(dtype, size, rng, limits)
    if limits.low is not None and limits.high is not None:
        low, high = float(limits.low), float(limits.high)
        share = rng.random(size) if seed >= _NEAT else rng.integers(0, 5, size) / 4
        return low + (high - low) * share
    if seed < _NEAT:
        return rng.integers(-4, 5, size) / (1 if whole else 4)
    return rng.normal(size=size) * (30 if whole else 1)


def _counted(size: int, whole: bool, limits: Limits) -> np.ndarray:
    """0, 1, 2 and so on; whole numbers between two bounds begin again."""
    count = np.arange(size, dtype=np.float64)
    if whole and limits.low is not None and limits.high is not None:
        return limits.low + count % (limits.high - limits.low + 1)
    return count


def _filled(slot: Slot, seed: int, index: int) -> np.ndarray:
    """A flat array, before the changes."""
    dtype, limits = _part(slot.dtype), slot.limits
    size = slot.size * (slot.dtype.itemsize // dtype.itemsize)
    if seed < _ONES:
        wanted = np.full(size, float(seed >= _ZEROS))
        if slot.dtype.kind == "c":
            wanted[1::2] = 0
    elif seed < _COUNTING:
        wanted = _counted(size, not _is_float(dtype), limits)
    else:
        wanted = _spread(dtype, size, np.random.default_rng([seed, index]), seed, limits)
    return _fitted(dtype, wanted, limits).view(slot.dtype)


def _nans(dtype: np.dtype[Any]) -> np.ndarray:
    """NaNs of several bits: quiet, negative, and with something in its payload."""
    if _is_small(dtype):
        every = _every(dtype)
        nans = every[np.isnan(_wide(every))]
        return nans[sorted({0, len(nans) // 2, len(nans) - 1})] if nans.size else nans
    quiet = np.array(np.nan, dtype).view(f"u{dtype.itemsize}")
    sign = np.array(1, quiet.dtype) << (8 * dtype.itemsize - 1)
    return np.array([quiet, quiet | sign, quiet | 1, quiet | sign | 77]).view(dtype)


def _specials(dtype: np.dtype[Any], limits: Limits) -> list[np.ndarray]:
    """What is only there on request."""
    found = [_nans(dtype)] if limits.nan else []
    info = ml_dtypes.finfo(dtype)
    signs = [sign for sign, bound in ((1, limits.high), (-1, limits.low)) if bound is None]
    if limits.infinity:
        # Where a format has none, it makes a NaN or the largest number of it.
        infinities = np.array([sign * np.inf for sign in signs]).astype(dtype)
        found.append(infinities[np.isinf(_wide(infinities))])
    if limits.subnormal:
        tiny = np.array([info.smallest_subnormal, -info.smallest_subnormal]).astype(dtype)
        # Of the negative one a format without signs makes a NaN.
        usable = np.isfinite(_wide(tiny)) & (_wide(tiny) != 0)
        found.append(tiny[usable & _within(_wide(tiny), limits)])
    if limits.negative_zero and _within(np.zeros(()), limits):
        zero = np.array([-0.0, -0.0]).astype(dtype)
        found.append(zero[(_wide(zero) == 0) & np.signbit(_wide(zero))])
    return found


@functools.lru_cache(maxsize=256)
def notable(dtype: np.dtype[Any], limits: Limits) -> np.ndarray:
    """Numbers of note that a dtype has, plain ones first."""
    part = _part(dtype)
    if part.kind == "b":
        return np.array([True, False])
    if not _is_float(part):
        info = ml_dtypes.iinfo(part) if _is_small(part) else np.iinfo(part)
        wanted = np.array([1, int(info.min), int(info.max)], object)
        if _is_small(part):
            return np.unique(_nearest(part, wanted.astype(np.float64), limits))
        low, high = _bounds(part, limits)
        return np.array([min(max(int(value), low), high) for value in wanted], part)
    info = ml_dtypes.finfo(part)
    wanted = np.array([1, -1, float(info.eps), float(info.max), float(info.min)])
    wanted = np.append(wanted, float(info.smallest_normal))
    with np.errstate(over="ignore"):
        plain = _fitted(part, wanted, limits)
    # What was asked for comes as often as the rest.
    reals = np.concatenate([plain, *(2 * _specials(part, limits))])
    if dtype.kind != "c":
        return reals
    pairs = np.zeros((2, len(reals), 2), part)
    pairs[0, :, 0] = pairs[1, :, 1] = reals
    return pairs.reshape(-1, 2).view(dtype).reshape(-1)


def fill(slots: Sequence[Slot], seed: int, changes: Sequence[Change] = ()) -> list[np.ndarray]:
    """Arrays for all slots from one seed; changes count positions through all of them."""
    arrays = [_filled(slot, seed, index) for index, slot in enumerate(slots)]
    for change in changes:
        start = 0
        for array, slot in zip(arrays, slots, strict=True):
            if start <= change.position < start + array.size:
                choices = notable(slot.dtype, slot.limits)
                array[change.position - start] = choices[change.choice % len(choices)]
            start += array.size
    return [array.reshape(slot.shape) for array, slot in zip(arrays, slots, strict=True)]


Changes: TypeAlias = st.SearchStrategy[int] | None
"""How many elements are set to numbers of note; `None` for none, which takes no choice."""

FEW_CHANGES = st.sampled_from([0, 0, 0, 1, 1, 2, 3])
MANY_CHANGES = st.sampled_from([0, 1, 1, 2, 2, 3])


def draw_changes(draw: Draw, slots: Sequence[Slot], changes: Changes) -> list[Change]:
    """A few elements to set."""
    size = sum(slot.size for slot in slots)
    if not size or changes is None:
        return []
    last = max(len(notable(slot.dtype, slot.limits)) for slot in slots if slot.size) - 1
    return [
        Change(draw(st.integers(0, size - 1)), draw(st.integers(0, last)))
        for _ in range(draw(changes))
    ]


def draw_values(draw: Draw, slots: Sequence[Slot], changes: Changes = None) -> list[np.ndarray]:
    """Arrays for all slots, some of their elements set to numbers of note."""
    if not slots:
        return []
    # Bits are put together in the order of bytes of this machine; files have the other one, too.
    native = [slot._replace(dtype=slot.dtype.newbyteorder("=")) for slot in slots]
    values = fill(native, draw(_SEEDS), draw_changes(draw, native, changes))
    return [array.astype(slot.dtype, copy=False) for array, slot in zip(values, slots, strict=True)]
