"""Arrays from elsewhere as leaves of a tree here."""

from typing import Any

import equinox as eqx
import jax
import numpy as np

from .._errors import CheckpointError
from ..checkpoint._storage import Spec, casted, from_storage

_NO_NUMBERS = "OSUMm"  # Objects, text and times, in NumPy's letters.


def holds_numbers(leaf: Any) -> bool:
    """Whether a leaf is an array of numbers, or stands for one: functions and typed keys do not."""
    is_array = eqx.is_array(leaf) or isinstance(leaf, np.ndarray | np.generic)
    known = is_array or isinstance(leaf, jax.ShapeDtypeStruct)
    return known and isinstance(leaf.dtype, np.dtype)


def form_of(array: Any) -> str:
    """An array's dtype and shape, in a word."""
    return f"{np.dtype(array.dtype).name}[{','.join(map(str, array.shape))}]"


def is_read_as(theirs: Any, ours: Any, cast: bool) -> bool:
    """Whether numbers of one dtype may be put where those of another are."""
    dtypes = [np.dtype(dtype) for dtype in (theirs, ours)]
    if theirs == ours or not cast or any(dtype.kind in _NO_NUMBERS for dtype in dtypes):
        return bool(theirs == ours)
    one, two = (Spec((), dtype.name, dtype.name) for dtype in dtypes)
    return one.casts_to(two)


def leaf_like(stored: np.ndarray, like: Any, name: str) -> Any:
    """An array as the kind of leaf that `like` is, on its devices; see `settled`.

    Args:
        stored: In memory that nobody else has: JAX takes an array as it is where it can.
        like: The leaf, of the same shape.
        name: For messages.

    Raises:
        CheckpointError: A number does not fit the dtype of `like`.
    """
    try:
        spec = Spec(stored.shape, stored.dtype.name, stored.dtype.name)
        return from_storage(casted(stored, spec, like), like)
    except OverflowError as error:
        raise CheckpointError(f"{name} cannot be cast to what `like` has: {error}.") from error
