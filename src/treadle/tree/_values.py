"""Whether two values are the same, and how far the numbers of two arrays are apart."""

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
        max_abs: The largest absolute difference, in float64; elements that are NaN left out. `None`
            for what is no number: bools, keys, strings.
        max_rel: The largest of `|a - b| / |b|`; elements that are NaN left out. `None` as above.
        max_ulps: The largest distance in representable numbers ("units in the last place"), 0
            between `0.0` and `-0.0`, of complex numbers that of either part; `None` for what is not
            of floats.
        nans: Indices where only one of the two is NaN, at most eight; or where both are, of other
            bits.
        nan_count: How many such indices there are.
    """

    count: int
    size: int
    first: tuple[int, ...]
    a: str
    b: str
    max_abs: float | None = None
    max_rel: float | None = None
    max_ulps: int | None = None
    nans: tuple[tuple[int, ...], ...] = ()
    nan_count: int = 0

    def __str__(self) -> str:
        said = []
        if self.size > 1:
            said.append(f"{self.count:,} of {self.size:,}, first {_index(self.first)}")
        if self.max_abs:
            said.append(
                f"abs {self.max_abs:.3g}, rel {self.max_rel:.3g}{_ulps_text(self.max_ulps)}"
            )
        elif self.max_abs is not None and self.nan_count < self.count:
            said.append("sign of zero")
        if self.nan_count:
            listed = "".join(f" {_index(at)}" for at in self.nans[:_NANS_PRINTED])
            rest = self.nan_count - _NANS_PRINTED
            more = f" and {rest:,} more" if rest > 0 else ""
            said.append(f"NaN at{listed}{more}" if self.size > 1 else "NaN")
        return "; ".join(said)


_NANS_TOLD = 8
_NANS_PRINTED = 3


def _index(index: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, index))}]"


def _ulps_text(ulps: int | None) -> str:
    if ulps is None:
        return ""
    if ulps == 1:
        return ", 1 ulp"
    return f", {ulps:,} ulps" if ulps < 1e6 else f", {ulps:.3g} ulps"


def _is_key(array: Any) -> bool:
    return isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key)


def host(array: Any) -> np.ndarray:
    """The numbers of an array, of typed keys their words."""
    numbers = np.asarray(jax.random.key_data(array) if _is_key(array) else array)
    return numbers if numbers.dtype.isnative else numbers.astype(numbers.dtype.newbyteorder("="))


def same_static(a: Any, b: Any) -> bool:
    """Whether two things beside the arrays of a tree are the same: of one type, and equal.

    So must be what is inside of tuples, lists and dictionaries. NaN is the same as NaN, and -0.0
    is not 0.0.
    """
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, (float, complex, np.inexact)):
        return repr(a) == repr(b)
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same_static, a, b))
    if type(a) is dict:
        return a.keys() == b.keys() and all(same_static(a[key], b[key]) for key in a)
    if isinstance(a, (jax.Array, np.ndarray)):
        return a.shape == b.shape and a.dtype == b.dtype and deviation(a, b) is None
    return bool(np.all(a == b))  # Of one whose `==` is by element, all must be equal.


def _is_long(dtype: np.dtype) -> bool:
    """Whether it is one of NumPy's long floats, which have bytes that say nothing."""
    return dtype.type in (np.longdouble, np.clongdouble)


def _is_numeric(dtype: np.dtype) -> bool:
    """Whether JAX computes with it: not so with bools, strings, times and objects."""
    return jnp.issubdtype(dtype, np.number) and dtype.kind != "m" and not _is_long(dtype)


def _bits(array: np.ndarray) -> np.ndarray:
    """Unsigned integers with the bits of each element, on a last axis for complex numbers."""
    width = array.dtype.itemsize
    parts = 2 if array.dtype.kind == "c" else 1
    words = np.ascontiguousarray(array).ravel().view(f"u{width // parts}")
    return words.reshape(*array.shape, parts)


def _any(parts: np.ndarray) -> np.ndarray:
    """Whether one of the parts of each element; an array also of what has no axes."""
    return np.asarray(parts.any(axis=-1))


def _unequal(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where elements that are no numbers differ."""
    if a.dtype.itemsize == 0:  # As the gradient of an integer is (`jax.dtypes.float0`).
        return np.zeros(a.shape, bool)
    if a.dtype.hasobject or _is_long(a.dtype):
        unequal = [not same_static(x, y) for x, y in zip(a.flat, b.flat, strict=True)]
        return np.asarray(unequal, bool).reshape(a.shape)
    one, two = (np.ascontiguousarray(array).ravel().view(np.uint8) for array in (a, b))
    return _any((one != two).reshape(*a.shape, a.dtype.itemsize))


def _first(where: np.ndarray) -> tuple[int, ...]:
    return tuple(map(int, np.argwhere(where)[0]))


def _text(value: Any) -> str:
    # Of a key the words, which NumPy would align.
    return f"[{' '.join(map(str, value))}]" if isinstance(value, np.ndarray) else str(value)


def _unlike(a: np.ndarray, b: np.ndarray, differs: np.ndarray) -> Deviation | None:
    """Where elements that are no numbers differ, as a deviation."""
    if not differs.any():
        return None
    first = _first(differs)
    words = repr if a.dtype.hasobject else _text
    return Deviation(int(differs.sum()), differs.size, first, words(a[first]), words(b[first]))


def _has_sign(dtype: np.dtype) -> bool:
    return float(jnp.finfo(dtype).min) < 0


def _ulps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distances in representable numbers: formats order as their sign and magnitude do."""
    sign = 1 << (jnp.finfo(a.dtype).bits - 1) if _has_sign(a.dtype) else 0
    one, two = (_bits(array).astype(np.uint64) for array in (a, b))
    size = [words & ~np.uint64(sign) for words in (one, two)]
    opposite = ((one ^ two) & np.uint64(sign)) != 0
    apart = np.maximum(*size) - np.minimum(*size)
    return np.asarray(np.where(opposite, size[0] + size[1], apart).max(axis=-1))


def _wide(array: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # Of NaNs that signal.
        return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _close(a: np.ndarray, b: np.ndarray, rtol: float, atol: float) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):
        near = np.abs(a - b) <= atol + rtol * np.abs(b)
    same = (near & np.isfinite(a) & np.isfinite(b)) | (a == b) | (np.isnan(a) & np.isnan(b))
    return np.asarray(same)  # NumPy makes scalars of arrays without axes.


def _apart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if x.dtype.kind == "c":
        return np.asarray(np.hypot(_apart(np.real(x), np.real(y)), _apart(np.imag(x), np.imag(y))))
    return np.where(x == y, 0.0, np.abs(x - y))  # Of two infinities there is no difference.


def _furthest(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> tuple[float, float]:
    """The largest differences, absolute and relative."""
    if a.dtype.kind in "iu" and a.dtype.itemsize == 8:
        # Exact beyond the 53 bits of float64.
        pairs = list(zip(a[where].tolist(), b[where].tolist(), strict=True))
        relative = (abs(x - y) / abs(y) if y else np.inf for x, y in pairs)
        return float(max(abs(x - y) for x, y in pairs)), float(max(relative))
    x, y = _wide(a), _wide(b)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        apart = _apart(x, y)
        relative = np.where(apart == 0, 0.0, apart / np.abs(y))
    # An infinity is infinitely far from any other number.
    relative = np.where(np.isnan(relative), np.inf, relative)
    return float(apart.max(where=where, initial=0)), float(relative.max(where=where, initial=0))


def deviation(one: Any, two: Any, rtol: float = 0.0, atol: float = 0.0) -> Deviation | None:
    """Where the numbers of two arrays of one shape and dtype differ; `None` where they do not.

    Args:
        one: An array.
        two: Another.
        rtol: Elements of floats are the same where `|a - b| <= atol + rtol * |b|`, or both are NaN.
        atol: See there. Where both are 0 the bits are compared, also those of NaN.
    """
    a, b = host(one), host(two)
    if _is_key(one):
        return _unlike(a, b, _any(a != b))
    if not _is_numeric(a.dtype):
        return _unlike(a, b, _unequal(a, b))
    differs = _any(_bits(a) != _bits(b))
    inexact = jnp.issubdtype(a.dtype, jnp.inexact)
    if inexact and (rtol or atol):
        differs = np.asarray(differs & ~_close(_wide(a), _wide(b), rtol, atol))
    return _numeric(a, b, differs, inexact) if differs.any() else None


def _numeric(a: np.ndarray, b: np.ndarray, differs: np.ndarray, inexact: bool) -> Deviation:
    one, two = (np.asarray(np.isnan(_wide(array))) for array in (a, b))
    nans = np.asarray(differs & (one | two))
    numbers = np.asarray(differs & ~nans)
    first = _first(differs)
    words = _with_bits if one[first] and two[first] else str
    max_abs, max_rel = _furthest(a, b, numbers)
    return Deviation(
        count=int(differs.sum()),
        size=a.size,
        first=first,
        a=words(a[first]),
        b=words(b[first]),
        max_abs=max_abs,
        max_rel=max_rel,
        max_ulps=int(_ulps(a, b).max(where=numbers, initial=0)) if inexact else None,
        nans=tuple(tuple(map(int, at)) for at in np.argwhere(nans)[:_NANS_TOLD]),
        nan_count=int(nans.sum()),
    )


def _with_bits(value: Any) -> str:
    bits = " ".join(f"{int(word):#x}" for word in _bits(np.asarray(value)))
    return f"{value} ({bits})"
