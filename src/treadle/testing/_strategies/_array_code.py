"""Arrays, keys and numbers as expressions that give back every bit."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from ._dtypes import is_number
from ._layout import Doc, call, followed, sequence
from ._names import name_of

_NESTED = 2
"""Arrays of so many axes have a line for each row, where they need more than one."""


def is_key(leaf: Any) -> bool:
    """Whether a leaf is an array of typed keys."""
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _real(value: float, prefix: str) -> str:
    if math.isfinite(value):
        return repr(value)
    if prefix:
        return f"{prefix}.nan" if math.isnan(value) else f"{'-' if value < 0 else ''}{prefix}.inf"
    return f'float("{value}")'


def _complex(value: complex, real: str, imag: str) -> str:
    # `-1j` is `-(0+1j)`, whose real part is -0.0.
    positive = [math.copysign(1, part) > 0 for part in (value.real, value.imag)]
    if value.real == 0 and all(positive) and math.isfinite(value.imag):
        return f"{imag}j"
    return f"complex({real}, {imag})"


def number_code(value: Any) -> str | None:
    """A Python number; `None` for anything else."""
    if type(value) is float:
        return _real(value, "")
    if type(value) is complex:
        return _complex(value, _real(value.real, ""), _real(value.imag, ""))
    return repr(value) if type(value) in (bool, int) else None


def _shortest(value: float, dtype: np.dtype[Any], prefix: str) -> str:
    """The fewest digits that are rounded to the same bits."""
    if not math.isfinite(value):
        return _real(value, prefix)
    for digits in range(1, 17):
        text = f"{value:.{digits}g}"
        with np.errstate(over="ignore"):  # Fewer digits may be more than the greatest number.
            rounded = np.asarray(float(text)).astype(dtype)
        if float(rounded) == value:
            return repr(float(text))
    return repr(value)


def _element(value: Any, dtype: np.dtype[Any], prefix: str) -> str:
    if dtype.kind == "b":
        return repr(bool(value))
    if dtype.kind == "c":
        parts = (_shortest(float(part), part.dtype, prefix) for part in (value.real, value.imag))
        return _complex(complex(value), *parts)
    if is_float(dtype):
        return _shortest(float(value), dtype, prefix)
    return repr(int(value))


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype is one of real floats, those of `ml_dtypes` included."""
    return bool(jnp.issubdtype(dtype, jnp.floating))


def _dtype_code(dtype: np.dtype[Any]) -> str:
    return f'"{dtype.name if dtype.isnative else dtype.str}"'


def _elements(array: np.ndarray, render: Any) -> Doc:
    if array.ndim == 0:
        return render(array[()])
    inner = [_elements(array[at, ...], render) for at in range(len(array))]
    if array.ndim < _NESTED:
        return f"[{', '.join(map(str, inner))}]"
    return sequence("[", inner, "]")


def _unusual_nan(array: np.ndarray) -> bool:
    """Whether there is a NaN of other bits than those that `jnp.nan` has in that dtype."""
    if not (array.dtype.kind == "c" or is_float(array.dtype)):
        return False
    parts = array.reshape(-1)
    if array.dtype.kind == "c":
        parts = parts.view(f"f{array.itemsize // 2}")
    with np.errstate(invalid="ignore"):  # NumPy warns of signalling NaNs, which are meant.
        nans = parts[np.isnan(parts)]
    return nans.tobytes() != np.full(nans.shape, np.nan).astype(nans.dtype).tobytes()


def _bits(array: np.ndarray) -> Doc:
    """By its bits: an array of unsigned integers, seen as another dtype."""
    if array.dtype.kind == "c":
        words = np.ascontiguousarray(array).reshape(-1).view(f"u{array.itemsize // 2}")
        after = f".reshape({array.shape})"
    else:
        words, after = array.view(f"u{array.itemsize}"), ""
    listed = _elements(words, lambda word: f"0x{int(word):0{2 * words.itemsize}x}")
    made = call("np.array", listed, _dtype_code(words.dtype))
    return followed(made, f".view({_dtype_code(array.dtype)}){after}")


def _is_uniform(array: np.ndarray) -> bool:
    """Whether all elements are one plain number, which filling an array with is sure to keep."""
    first = array.reshape(-1)[:1]
    if np.tile(first, array.size).tobytes() != np.ascontiguousarray(array).tobytes():
        return False
    if array.dtype.kind == "c" or array.dtype.isnative is False:
        return False
    value = float(first[0])
    if is_float(array.dtype):
        smallest = float(ml_dtypes.finfo(array.dtype).smallest_normal)
        return math.isfinite(value) and abs(value) >= smallest
    return abs(value) < 2**31


def _is_zeros(array: np.ndarray) -> bool:
    # The one format in which all bits 0 is a number of its own.
    return array.dtype.name != "float8_e8m0fnu" and not any(array.tobytes())


def host_code(array: np.ndarray, prefix: str) -> Doc:
    """An array of numbers.

    Args:
        array: With its bits.
        prefix: `"jnp"` for what makes a JAX array, `"np"` for a NumPy one.
    """
    if not is_number(array.dtype):
        return repr(array)
    dtype = _dtype_code(array.dtype)
    if array.size == 0 or _is_zeros(array):
        return call(f"{prefix}.zeros", repr(array.shape), dtype)
    if _unusual_nan(array):
        bits = _bits(array)
        return bits if prefix == "np" else call(f"{prefix}.array", bits)
    if array.size > 1 and _is_uniform(array):
        element = _element(array.reshape(-1)[0], array.dtype, prefix)
        if element in ("1", "1.0"):
            return call(f"{prefix}.ones", repr(array.shape), dtype)
        return call(f"{prefix}.full", repr(array.shape), element, dtype)
    listed = _elements(array, lambda value: _element(value, array.dtype, prefix))
    return call(f"{prefix}.array", listed, dtype)


def _key_code(key: jax.Array) -> Doc:
    words = np.asarray(jax.random.key_data(key))
    implementation = str(jax.random.key_impl(key))
    named = {} if implementation == "threefry2x32" else {"impl": f'"{implementation}"'}
    # What `jax.random.key` makes of a seed of 32 bits.
    if words.ndim == 1 and not words[::2].any() and len(set(words[1::2].tolist())) == 1:
        return call("jax.random.key", repr(int(words[1])), **named)
    return call("jax.random.wrap_key_data", host_code(words, "jnp"), impl=f'"{implementation}"')


def _weak_code(host: np.ndarray) -> Doc:
    # A Python number becomes a weak array of the default width.
    wide = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    if host.ndim == 0 and host.dtype in (np.int32, np.float32) and np.isfinite(host) and not wide:
        return call("jnp.asarray", _element(host[()], host.dtype, "jnp"))
    return call("pool.weak", host_code(host, "np"))


def array_code(leaf: Any) -> Doc | None:
    """A JAX array, a NumPy array or scalar, or typed keys; `None` for anything else."""
    if is_key(leaf):
        return _key_code(leaf)
    if isinstance(leaf, jax.Array):
        host = np.asarray(leaf)
        return _weak_code(host) if leaf.weak_type else host_code(host, "jnp")
    if isinstance(leaf, np.ma.MaskedArray | np.matrix):
        return repr(leaf)
    if isinstance(leaf, np.ndarray):
        return host_code(leaf, "np")
    if isinstance(leaf, np.generic):
        return _scalar_code(leaf) if is_number(leaf.dtype) else repr(leaf)
    return None


def _scalar_code(leaf: np.generic) -> Doc:
    host = np.asarray(leaf)
    name = name_of(type(leaf))
    if name is not None and name.startswith("np.") and not _unusual_nan(host):
        return call(name, _element(leaf, host.dtype, "np"))
    return followed(host_code(host, "np"), "[()]")
