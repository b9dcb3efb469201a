"""Floating-point arrays in another format."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._custom_types import Door
from .._errors import ArgumentTypeError, ArgumentValueError
from ._once import once
from ._where import Where, leaf_mask


@functools.cache
def _is_real(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.floating)


def is_real(leaf: Any) -> bool:
    """Whether a leaf is an array of real floating-point numbers: the only ones ever cast."""
    is_array = isinstance(leaf, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct))
    return is_array and _is_real(leaf.dtype)


def converted(leaf: Any, dtype: np.dtype) -> Any:
    """One leaf in another format, where it is one that has formats."""
    if not is_real(leaf):
        return leaf
    if leaf.dtype == dtype and not getattr(leaf, "weak_type", False):
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=leaf.sharding)
    # NumPy would warn of what the new format does not reach.
    with np.errstate(over="ignore", invalid="ignore"):
        return leaf.astype(dtype)


def cast(tree: PyTree, dtype: Door[Any], where: Door[Where | None] = None) -> PyTree:
    """`tree` with its arrays of real floating-point numbers in another format.

    Keys, integers, bools, complex numbers and whatever is no array (a dropout's rate) are not
    touched, even where they are chosen. NumPy arrays stay NumPy arrays, and an array that is
    several leaves stays one. A weak type becomes a common one. Numbers are rounded to the nearest,
    from float64 to less than 32 bits by way of float32, as XLA does. What the new format does not
    reach is infinite, or NaN, or in a format that has neither the largest number.

    Args:
        tree: Any pytree.
        dtype: A floating-point dtype, or its name: `jnp.bfloat16`, `"float32"`.
        where: Which leaves: a filter function, a `treadle.tree.select(...)`, globs, or a prefix
            with bools as leaves. All by default.

    Raises:
        ArgumentTypeError: `dtype` is no dtype, or `where` is none of what it can be.
        ArgumentValueError: `dtype` is not one of JAX's floating-point formats, or is float64 while
            JAX has it switched off.
        TreeError: A glob matches nothing, or a prefix does not fit.

    Example:
        >>> small = treadle.tree.cast(model, jnp.bfloat16, where="layers/**")
    """
    target = _format(dtype)
    convert = once(lambda leaf: converted(leaf, target))
    if where is None:
        return jax.tree.map(convert, tree)
    mask = leaf_mask(where, tree)
    return jax.tree.map(lambda leaf, yes: convert(leaf) if yes else leaf, tree, mask)


def _format(dtype: Any) -> np.dtype:
    try:
        target = jnp.dtype(dtype)
    except TypeError as error:
        raise ArgumentTypeError(
            f"`dtype` (={dtype!r}) is no dtype: give one such as `jnp.bfloat16` or 'float32'."
        ) from error
    if dtype is None or not _is_real(target) or not target.isnative or target.itemsize > 8:
        raise ArgumentValueError(
            f"`dtype` (={dtype!r}) must be a floating-point dtype of JAX's, such as "
            "`jnp.bfloat16`: only arrays of real floating-point numbers are cast."
        )
    if target == np.float64 and jax.dtypes.canonicalize_dtype(target) != target:
        raise ArgumentValueError(
            f"`dtype` (={dtype!r}) needs float64, which JAX has switched off: "
            "`jax.config.update('jax_enable_x64', True)` before anything else."
        )
    return target
