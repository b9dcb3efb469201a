"""`batches_like`: batches that fit a specification."""

from collections.abc import Mapping
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ..._checks import one_of, whole_number
from ..._custom_types import Batch, Door
from ..._errors import ArgumentTypeError, ArgumentValueError, BatchError
from ...tree._paths import flatten_with_paths
from .._drawn import require_drawn
from ._draw import Draw
from ._dtypes import is_number
from ._key_words import SEEDS, key_of, make_of
from ._limits import Limits, require_bound
from ._printed import remember
from ._values import Slot, draw_values, notable
from ._written import as_written

_LABELS = (0, 1)
"""What integers are where nothing is known: labels, however few classes there are."""


def _is_key_dtype(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jax.dtypes.prng_key))


def _require_leaf(path: str, leaf: Any) -> None:
    shape, dtype = getattr(leaf, "shape", None), getattr(leaf, "dtype", None)
    if shape is None or dtype is None:
        raise ArgumentTypeError(
            f"`spec` has {leaf!r} at {path!r}: give arrays, or `jax.ShapeDtypeStruct`s, with a "
            "leading axis of examples."
        )
    if not shape:
        raise BatchError(
            f"`spec` has a scalar at {path!r}: every leaf of a batch has a leading axis of "
            "examples. What is the same for all of them goes through `step(..., args=...)`."
        )
    if not _is_key_dtype(dtype) and not is_number(np.dtype(dtype)):
        raise ArgumentTypeError(f"`spec` has {dtype} at {path!r}, which JAX does not have.")


def _require_range(name: str, value: Any) -> tuple[Any, Any]:
    if not isinstance(value, tuple) or len(value) != 2:
        raise ArgumentTypeError(f"`{name}` (={value!r}) must be a pair, `(least, greatest)`.")
    low, high = value
    for index, bound in enumerate(value):
        require_bound(f"{name}[{index}]", bound)
    if not low <= high:
        raise ArgumentValueError(f"`{name}` (={value!r}) has its greatest below its least.")
    return low, high


def _seen(leaf: Any) -> tuple[int, int]:
    """The least and greatest that a leaf holds, where it holds something."""
    if isinstance(leaf, jax.Array | np.ndarray) and leaf.size:
        host = np.asarray(leaf)
        return int(host.min()), int(host.max())
    return _LABELS


def _limits(path: str, leaf: Any, floats: tuple[Any, Any], integers: Any) -> Limits:
    limits = _bounds(path, leaf, floats, integers)
    if _is_key_dtype(leaf.dtype):
        return limits
    try:
        notable(np.dtype(leaf.dtype).newbyteorder("="), limits)
    except ArgumentValueError as error:
        whole = jnp.issubdtype(leaf.dtype, jnp.integer)
        raise ArgumentValueError(
            f"`{'integers' if whole else 'floats'}` (={(limits.low, limits.high)}) has no number "
            f"of the dtype that `spec` has at {path!r}, {leaf.dtype}."
        ) from error
    return limits


def _bounds(path: str, leaf: Any, floats: tuple[Any, Any], integers: Any) -> Limits:
    if jnp.issubdtype(leaf.dtype, jnp.inexact):
        return Limits(low=floats[0], high=floats[1])
    if not jnp.issubdtype(leaf.dtype, jnp.integer):
        return Limits()
    told = integers.get(path) if isinstance(integers, Mapping) else integers
    low, high = _seen(leaf) if told is None else told
    return Limits(low=low, high=high)


def _require_integers(integers: Any, paths: list[str]) -> Any:
    if integers is None:
        return None
    if not isinstance(integers, Mapping):
        return _require_range("integers", integers)
    unknown = [path for path in integers if path not in paths]
    if unknown:
        raise ArgumentValueError(
            f"`integers` has {unknown[0]!r}, which is no path of `spec`: those are "
            f"{', '.join(map(repr, paths))}."
        )
    return {path: _require_range(f"integers[{path!r}]", pair) for path, pair in integers.items()}


def _require_one_axis(named: list[tuple[str, Any]]) -> None:
    for path, leaf in named:
        first, other = named[0]
        if leaf.shape[0] != other.shape[0]:
            raise BatchError(
                f"`spec` has {other.shape[0]} examples at {first!r} and {leaf.shape[0]} at "
                f"{path!r}: all leaves of a batch have as many."
            )


@st.composite
def _batches(
    draw: Draw, leaves: list[Any], limits: list[Limits], treedef: Any, size: Any, kind: str
) -> Batch:
    count = size
    if isinstance(size, st.SearchStrategy):
        count = whole_number("size", draw(size), minimum=0)
    shapes = [leaf.shape if count is None else (count, *leaf.shape[1:]) for leaf in leaves]
    keys = [at for at, leaf in enumerate(leaves) if _is_key_dtype(leaf.dtype)]
    others = [at for at in range(len(leaves)) if at not in keys]
    slots = [Slot(shapes[at], np.dtype(leaves[at].dtype), limits[at]) for at in others]
    values: list[Any] = draw_values(draw, slots)
    if kind == "jax":
        values = jax.device_put(values)
    found = dict(zip(others, values, strict=True))
    for at in keys:
        found[at] = key_of(draw(SEEDS), shapes[at], *make_of(leaves[at]))
    return remember(jax.tree.unflatten(treedef, [found[at] for at in range(len(leaves))]))


def batches_like(
    spec: Door[PyTree],
    *,
    size: Door[Any] = None,
    integers: Door[Any] = None,
    floats: Door[tuple[float, float]] = (-2.0, 2.0),
    kind: Door[str] = "numpy",
) -> st.SearchStrategy[Batch]:
    """Batches of the structure, shapes and dtypes of `spec`.

    What fails shrinks to zeros, or what is next to them between the bounds.

    Args:
        spec: A batch, or a pytree of `jax.ShapeDtypeStruct`s; every leaf has a leading axis of
            examples.
        size: How many examples, a number or a strategy; by default as many as `spec` has.
        integers: `(least, greatest)` of all integers, or a dictionary of such pairs by path, such
            as `{"label": (0, 9)}`. By default between what is in `spec`; where that holds no
            values, 0 and 1, which are labels however few classes there are.
        floats: `(least, greatest)` of all floats, also of the parts of complex numbers.
        kind: `"numpy"` or `"jax"` arrays; keys are JAX arrays anyway. As JAX arrays, what has 64
            bits has 32 where JAX has 64 switched off, as everywhere in JAX.

    Raises:
        ArgumentTypeError, ArgumentValueError: An argument is none of that.
        BatchError: A leaf of `spec` has no leading axis, or one of another length than others.

    Example:
        >>> @given(batches_like((np.zeros((8, 4), np.float32), np.arange(8) % 3)))
        ... def test_my_step_learns_from_any_batch(batch): ...
    """
    one_of("kind", kind, ("numpy", "jax"))
    named, treedef = flatten_with_paths(spec)
    require_drawn("`spec`", spec)
    for path, leaf in named:
        _require_leaf(path, leaf)
    _require_one_axis(named)
    if size is not None and not isinstance(size, st.SearchStrategy):
        whole_number("size", size, minimum=0, otherwise=", a strategy, or None")
    told = _require_integers(integers, [path for path, _ in named])
    pair = _require_range("floats", floats)
    limits = [_limits(path, leaf, pair, told) for path, leaf in named]
    found = _batches([leaf for _, leaf in named], limits, treedef, size, kind)
    return as_written(batches_like, locals(), found)
