"""`arrays`: arrays of every dtype that JAX has, of small shapes."""

from typing import Any, NamedTuple

import hypothesis.strategies as st
import jax
import numpy as np

from ..._checks import one_of
from ..._custom_types import Door
from .. import pool
from ._draw import Draw
from ._dtypes import dtypes_of, require_enabled
from ._limits import Limits, limits_of
from ._printed import remember
from ._shapes import shapes_of
from ._values import FEW_CHANGES, MANY_CHANGES, Changes, Slot, draw_values
from ._written import as_written


class ArrayPlan(NamedTuple):
    """What `arrays` was asked for.

    Attributes:
        dtypes: A strategy.
        shapes: A strategy.
        limits: Of the values.
        kinds: `"jax"`, `"numpy"`, or both.
        weak: Whether it may be weakly typed.
        changes: How many elements are set to numbers of note; see `FEW_CHANGES`.
    """

    dtypes: st.SearchStrategy[np.dtype[Any]]
    shapes: st.SearchStrategy[tuple[int, ...]]
    limits: Limits
    kinds: tuple[str, ...] = ("jax",)
    weak: bool = False
    changes: Changes = None


# Weak types come from Python numbers, which have these.
_WEAK = ("int32", "float32", "complex64", "int64", "float64", "complex128")


def draw_array(draw: Draw, plan: ArrayPlan) -> jax.Array | np.ndarray:
    """One array by the plan."""
    kind = plan.kinds[0] if len(plan.kinds) == 1 else draw(st.sampled_from(plan.kinds))
    dtype = draw(plan.dtypes)
    if kind == "jax":
        require_enabled(dtype)
    slot = Slot(draw(plan.shapes), dtype, plan.limits)
    (host,) = draw_values(draw, [slot], plan.changes)
    if kind == "numpy":
        return host
    if plan.weak and dtype.name in _WEAK and draw(st.booleans()):
        return pool.weak(host)
    # Not `jnp.array`, which compiles a program for each shape.
    return jax.device_put(host)


@st.composite
def _arrays(draw: Draw, plan: ArrayPlan) -> jax.Array | np.ndarray:
    return remember(draw_array(draw, plan))


def arrays(
    dtype: Door[Any] = None,
    shape: Door[Any] = None,
    *,
    min_value: Door[float | None] = None,
    max_value: Door[float | None] = None,
    special: bool = False,
    allow_nan: bool | None = None,
    allow_infinity: bool | None = None,
    allow_subnormal: bool | None = None,
    allow_negative_zero: bool | None = None,
    allow_weak: bool = False,
    kind: Door[str] = "jax",
) -> st.SearchStrategy[Any]:
    """Arrays of small shapes: zeros, ones, counting up, neat numbers, normal ones, extremes.

    An array takes a handful of choices whatever its size, so all elements come from one seed, and
    up to three are set to numbers of note: 1, the greatest, the least, the smallest, and what is
    special. What fails shrinks to zeros of shape `()`. Nothing is compiled.

    Typed keys are drawn by `treadle.testing.keys`.

    Args:
        dtype: A dtype; a word for a family, which is `"bool"`, `"int"`, `"uint"`, `"integer"`,
            `"float"`, `"complex"` or `"inexact"` (so `"float"` is all floats: one of 64 bits is
            `"float64"`); a list of these; a strategy for dtypes. By default all that JAX has here:
            those of 64 bits where they are switched on, int4, float8 and their like.
        shape: A tuple, or a strategy for tuples, such as `hypothesis.extra.numpy.array_shapes()`.
            By default up to four axes and 24 elements; some arrays have none.
        min_value: No number is less.
        max_value: No number is greater.
        special: The default of the four that follow.
        allow_nan: NaNs, also negative ones and ones with something in their payload.
        allow_infinity: Infinities, on the sides where there is no bound.
        allow_subnormal: Numbers so small that they have fewer digits.
        allow_negative_zero: -0.0.
        allow_weak: Some arrays are weakly typed, as what comes from Python numbers.
        kind: `"jax"`, `"numpy"`, or `"any"` of both.

    Raises:
        ArgumentTypeError, ArgumentValueError: An argument is none of that. Of strategies, and for
            dtypes of 64 bits where JAX has them switched off, when an array is drawn.

    Example:
        >>> @given(arrays("float", special=True))
        ... def test_negation_is_its_own_inverse(x):
        ...     check_roundtrip(lambda x: -x, lambda x: -x, x)
    """
    one_of("kind", kind, ("jax", "numpy", "any"))
    limits = limits_of(
        special,
        allow_nan,
        allow_infinity,
        allow_subnormal,
        allow_negative_zero,
        min_value,
        max_value,
    )
    kinds = ("jax", "numpy") if kind == "any" else (kind,)
    changes = MANY_CHANGES if limits.is_special else FEW_CHANGES
    plan = ArrayPlan(dtypes_of(dtype), shapes_of(shape), limits, kinds, allow_weak, changes)
    return as_written(arrays, locals(), _arrays(plan))
