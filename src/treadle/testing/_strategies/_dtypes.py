"""Which dtypes are meant by a name, a word for a family, a list or a strategy."""

import functools
from typing import Any, TypeAlias

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import DTypeLike

from ..._errors import ArgumentTypeError, ArgumentValueError
from ._draw import Draw

DTypes: TypeAlias = DTypeLike | str | list[Any] | tuple[Any, ...] | st.SearchStrategy[Any] | None
"""One dtype, a word for a family, a list, a strategy; `None` for all of them."""

# The usual ones first: what fails shrinks towards them.
_FLOAT = ("float32", "bfloat16", "float16", "float64")
_NARROW_FLOAT = (
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3b11fnuz",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
    "float8_e3m4",
    "float8_e4m3",
    "float8_e8m0fnu",
    "float4_e2m1fn",
)
_INT = ("int32", "int8", "int16", "int64", "int4", "int2")
_UINT = ("uint8", "uint32", "uint16", "uint64", "uint4", "uint2")
_COMPLEX = ("complex64", "complex128")
_WIDE = frozenset({"float64", "int64", "uint64", "complex128"})

FAMILIES: dict[str, tuple[str, ...]] = {
    "bool": ("bool",),
    "int": _INT,
    "uint": _UINT,
    "integer": (*_INT, *_UINT),
    "float": (*_FLOAT, *_NARROW_FLOAT),
    "complex": _COMPLEX,
    "inexact": (*_FLOAT, *_COMPLEX, *_NARROW_FLOAT),
}
"""The words for families, and what is in them."""

_OFTEN = {
    "float32": 6,
    "bfloat16": 4,
    "float16": 3,
    "float64": 4,
    "bool": 5,
    "int32": 4,
    "int8": 2,
    "int64": 2,
    "uint8": 3,
    "complex64": 5,
}
"""How often a dtype is drawn of all that there are; the others once."""


def _is_wide_enabled() -> bool:
    return bool(jax.config.jax_enable_x64)  # pyright: ignore[reportAttributeAccessIssue]


_ANY = (*FAMILIES["float"], *_INT, "bool", *_UINT, *_COMPLEX)


@functools.cache
def _members(names: tuple[str, ...], wide: bool) -> st.SearchStrategy[np.dtype[Any]]:
    """Those that this JAX has, each as often as it is to be drawn."""
    # Every JAX has the dtypes of NumPy; not every one all of the others.
    known = [name for name in names if name == "bool" or hasattr(jnp, name)]
    return st.sampled_from(
        [
            np.dtype(getattr(jnp, name, name))
            for name in known
            if wide or name not in _WIDE
            for _ in range(_OFTEN.get(name, 1))
        ]
    )


@st.composite
def _of_names(draw: Draw, names: tuple[str, ...]) -> np.dtype[Any]:
    # Whether there are 64 bits is known when an array is drawn, not when it is described.
    return draw(_members(names, _is_wide_enabled()))


# NumPy has a `longdouble` beside these, of which JAX knows nothing.
_LARGEST = {"f": 8, "c": 16}


def is_number(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype is one of the numbers of JAX, in any order of bytes; or bool."""
    if dtype.kind in "biufc":
        return dtype.itemsize <= _LARGEST.get(dtype.kind, 8)
    return bool(jnp.issubdtype(dtype, jnp.number))


def as_dtype(name: str, value: Any) -> np.dtype[Any]:
    """One dtype of numbers.

    Raises:
        ArgumentTypeError: It is none.
        ArgumentValueError: It is one of keys.
    """
    try:
        is_key = jnp.issubdtype(value, jax.dtypes.prng_key)
        dtype = None if is_key else np.dtype(value)
    except TypeError as error:
        raise ArgumentTypeError(
            f"`{name}` (={value!r}) is no dtype. Give one, such as 'float32', a word for a family "
            f"({', '.join(map(repr, FAMILIES))}), a list of dtypes, or a strategy."
        ) from error
    if dtype is None:
        raise ArgumentValueError(
            f"`{name}` (={value!r}) is of typed keys: draw them with `treadle.testing.keys()`."
        )
    if not is_number(dtype) or not dtype.isnative:
        raise ArgumentValueError(f"`{name}` (={value!r}) is a dtype that JAX does not have.")
    return dtype


def dtypes_of(dtype: Any, name: str = "dtype") -> st.SearchStrategy[np.dtype[Any]]:
    """A strategy for what a `dtype` argument stands for.

    Raises:
        ArgumentTypeError, ArgumentValueError: It is nothing of the kind, or an empty list.
    """
    if dtype is None:
        return _of_names(_ANY)
    if isinstance(dtype, st.SearchStrategy):
        return dtype.map(functools.partial(as_dtype, name))
    if isinstance(dtype, str) and dtype in FAMILIES:
        return _of_names(FAMILIES[dtype])
    if isinstance(dtype, list | tuple):
        if not dtype:
            raise ArgumentValueError(f"`{name}` is empty: there is no dtype to draw.")
        return st.one_of([dtypes_of(one, name) for one in dtype])
    return st.just(as_dtype(name, dtype))


def require_floats(dtype: Any) -> None:
    """Refuses what no array of floats has. Of a strategy nothing is known before it is drawn from.

    Raises:
        ArgumentValueError: A dtype is one of whole numbers, or bool.
    """
    for one in dtype if isinstance(dtype, list | tuple) else [dtype]:
        if one is None or isinstance(one, st.SearchStrategy):
            continue
        members = FAMILIES.get(one, (one,)) if isinstance(one, str) else (one,)
        if not all(jnp.issubdtype(as_dtype("dtype", each), jnp.inexact) for each in members):
            raise ArgumentValueError(
                f"`dtype` (={dtype!r}) must be of floats where `floats_only=True`."
            )


def require_enabled(dtype: np.dtype[Any]) -> None:
    """Refuses 64 bits where JAX would cut them to 32.

    Raises:
        ArgumentValueError: They are switched off.
    """
    if dtype.name in _WIDE and not _is_wide_enabled():
        raise ArgumentValueError(
            f"`dtype` (={dtype.name!r}) needs 64 bits, which JAX has switched off: give one of 32 "
            "bits, or `jax.config.update('jax_enable_x64', True)`, or draw NumPy arrays with "
            "`kind='numpy'`."
        )
