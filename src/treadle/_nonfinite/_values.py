"""Numbers of a program on the host: which are NaN or infinite, and in what range they lie."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

KINDS = ("nan", "inf")
"""What a number may be that is not finite."""


def is_float(array: Any) -> bool:
    """Whether an array may hold what is not finite."""
    dtype = getattr(array, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.inexact)


def on_host(array: Any) -> np.ndarray:
    """An array of floats as NumPy can compute with it."""
    host = np.asarray(array)
    return host if host.dtype.kind in "fc" else host.astype(np.float32)


def mask_of(array: np.ndarray, kind: str) -> np.ndarray:
    """Where numbers are NaN, or infinite and not NaN."""
    nan = np.isnan(array)
    # A complex number may be both. NumPy makes scalars of arrays without axes.
    return np.asarray(nan if kind == "nan" else np.isinf(array) & ~nan)


def is_finite(array: Any) -> bool:
    """Whether all numbers of an array are finite; looked at where it lies."""
    if not is_float(array):
        return True
    if isinstance(array, jax.Array) and jax.default_backend() != "cpu":
        return bool(jnp.all(jnp.isfinite(array)))
    return bool(np.isfinite(on_host(array)).all())


class Range(NamedTuple):
    """What is in an array.

    Attributes:
        dtype: Its dtype.
        shape: Its shape.
        low: The smallest finite number; `None` where there is none.
        high: The greatest.
        nan: How many are NaN.
        inf: How many are infinite.
    """

    dtype: str
    shape: tuple[int, ...]
    low: float | None
    high: float | None
    nan: int
    inf: int

    @staticmethod
    def of(array: Any) -> "Range":
        """Looks into an array; of complex numbers at how large they are."""
        dtype, shape = str(array.dtype), tuple(array.shape)
        if not jnp.issubdtype(array.dtype, jnp.number) and array.dtype != bool:
            return Range(dtype, shape, None, None, 0, 0)  # A key.
        host = on_host(array) if is_float(array) else np.asarray(array)
        host = np.abs(host) if host.dtype.kind == "c" else host
        if host.dtype.kind != "f":
            ends = (float(host.min()), float(host.max())) if host.size else (None, None)
            return Range(dtype, shape, *ends, 0, 0)
        nan, inf = (int(mask_of(host, kind).sum()) for kind in KINDS)
        finite = host[np.isfinite(host)]
        ends = (float(finite.min()), float(finite.max())) if finite.size else (None, None)
        return Range(dtype, shape, *ends, nan, inf)
