"""How far the numbers of two arrays are apart."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Deviation:
    """How two arrays of one shape and dtype differ.

    Attributes:
        count: How many elements differ.
        size: How many there are.
        first: The index of the first that differs.
        a: Its value in the first array.
        b: Its value in the second.
        max_abs: The largest absolute difference, in float64; elements that are NaN left out.
        max_rel: The largest of `|a - b| / |b|`; elements that are NaN left out.
        max_ulps: The largest distance in representable numbers ("units in the last place"), 0
            between `0.0` and `-0.0`; `None` for what is not of floats.
        nans: Indices where only one of the two is NaN, at most eight; or where both are, of other
            bits.
        nan_count: How many such indices there are.
    """

    count: int
    size: int
    first: tuple[int, ...]
    a: str
    b: str
    max_abs: float
    max_rel: float
    max_ulps: int | None
    nans: tuple[tuple[int, ...], ...]
    nan_count: int

    def __str__(self) -> str:
        said = []
        if self.size > 1:
            said.append(f"{self.count:,} of {self.size:,}, first {_index(self.first)}")
        if self.max_abs:
            ulps = "" if self.max_ulps is None else f", {self.max_ulps:,} ulps"
            said.append(f"abs {self.max_abs:.3g}, rel {self.max_rel:.3g}{ulps}")
        elif self.nan_count < self.count:
            said.append("sign of zero")
        if self.nan_count:
            listed = " ".join(map(_index, self.nans)) if self.size > 1 else ""
            more = f" and {self.nan_count - len(self.nans):,} more"
            said.append(f"NaN {listed}{more if self.nan_count > len(self.nans) else ''}".strip())
        return "; ".join(said)


_NANS_TOLD = 8


def _index(index: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, index))}]"


def host(array: Any) -> np.ndarray:
    """The numbers of an array, of typed keys their words."""
    if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    return np.asarray(array)


def _bits(array: np.ndarray) -> np.ndarray:
    """Unsigned integers with the bits of each element, on a last axis for complex numbers."""
    width = array.dtype.itemsize
    parts = 2 if array.dtype.kind == "c" else 1
    words = np.ascontiguousarray(array).reshape(-1).view(f"u{width // parts}")
    return words.reshape(*array.shape, parts)


def _ulps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distances in representable numbers: formats order as their sign and magnitude do."""
    bits = jnp.finfo(a.dtype).bits
    sign = 1 << (bits - 1)
    one, two = (_bits(array).astype(np.uint64) for array in (a, b))
    size = [words & np.uint64(sign - 1) for words in (one, two)]
    opposite = ((one ^ two) & np.uint64(sign)) != 0
    apart = np.maximum(*size) - np.minimum(*size)
    return np.where(opposite, size[0] + size[1], apart).max(axis=-1)


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _is_inexact(array: np.ndarray) -> bool:
    return jnp.issubdtype(array.dtype, jnp.inexact)


def _close(a: np.ndarray, b: np.ndarray, rtol: float, atol: float) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):
        near = np.abs(a - b) <= atol + rtol * np.abs(b)
    return (near & np.isfinite(a) & np.isfinite(b)) | (a == b) | (np.isnan(a) & np.isnan(b))


def deviation(one: Any, two: Any, rtol: float = 0.0, atol: float = 0.0) -> Deviation | None:
    """Where the numbers of two arrays of one shape and dtype differ; `None` where they do not.

    Args:
        one: An array.
        two: Another.
        rtol: Elements of floats are the same where `|a - b| <= atol + rtol * |b|`, or both are NaN.
        atol: See there. Where both are 0 the bits are compared, also those of NaN.
    """
    a, b = host(one), host(two)
    differs = (_bits(a) != _bits(b)).any(axis=-1)
    if not differs.any():
        return None
    inexact = _is_inexact(a)
    x, y = _wide(a), _wide(b)
    if inexact and (rtol or atol):
        differs = differs & ~_close(x, y, rtol, atol)
        if not differs.any():
            return None
    places = np.argwhere(differs)
    first = tuple(map(int, places[0]))
    nans = differs & (np.isnan(x) | np.isnan(y))
    numbers = differs & ~nans
    return Deviation(
        count=len(places),
        size=a.size,
        first=first,
        a=_text(a[first]),
        b=_text(b[first]),
        max_abs=_max_abs(a, b, numbers),
        max_rel=_max_rel(x, y, numbers),
        max_ulps=int(_ulps(a, b).max(where=numbers, initial=0)) if inexact else None,
        nans=tuple(tuple(map(int, at)) for at in np.argwhere(nans)[:_NANS_TOLD]),
        nan_count=int(nans.sum()),
    )


def _max_abs(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    if a.dtype.kind in "iu" and a.dtype.itemsize == 8:
        # Exact beyond the 53 bits of float64.
        pairs = zip(a[where].tolist(), b[where].tolist(), strict=True)
        return float(max((abs(x - y) for x, y in pairs), default=0))
    with np.errstate(invalid="ignore", over="ignore"):
        return float(np.abs(_wide(a) - _wide(b)).max(where=where, initial=0))


def _max_rel(x: np.ndarray, y: np.ndarray, where: np.ndarray) -> float:
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        apart = np.abs(x - y)
        relative = np.where(apart == 0, 0.0, apart / np.abs(y))
        # An infinity is infinitely far from any other number.
        relative = np.where(np.isnan(relative), np.inf, relative)
    return float(relative.max(where=where, initial=0))


def _text(value: Any) -> str:
    if not jnp.issubdtype(value.dtype, jnp.inexact):
        return str(value)
    if np.isnan(_wide(np.asarray(value))):
        return f"nan ({_bits(np.asarray(value))[..., 0]:#x})"
    return f"{_wide(np.asarray(value))[()]:.9g}"
