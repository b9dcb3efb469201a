"""What goes into an exported program: the structure, shapes and dtypes of one example."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .._checks import foreign_to_jax
from .._errors import ArgumentTypeError, BatchError
from ..tree._paths import flatten_with_paths

_NUMBERS = (bool, int, float, complex)


def specs_of(example: PyTree) -> PyTree:
    """The shapes and dtypes of one example.

    Raises:
        ArgumentTypeError: A leaf is neither an array nor stands for one, or there is none.
    """
    paths, treedef = flatten_with_paths(example)
    if not paths:
        raise ArgumentTypeError(
            f"`example` (={example!r}) holds no arrays: give one example as the model takes it, or "
            f"`jax.ShapeDtypeStruct`s."
        )
    return jax.tree.unflatten(treedef, [_spec(path, leaf) for path, leaf in paths])


def _spec(path: str, leaf: Any) -> jax.ShapeDtypeStruct:
    where = f" at {path!r}" if path else ""
    if isinstance(leaf, _NUMBERS):
        raise ArgumentTypeError(
            f"`example` has the Python number {leaf!r}{where}, of which it is not known in what "
            f"format it comes: `np.float32({leaf!r})`, or `jax.ShapeDtypeStruct((), dtype)`."
        )
    if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)):
        raise ArgumentTypeError(
            f"`example` has {leaf!r} of type {type(leaf).__name__}{where}: give arrays, or "
            f"`jax.ShapeDtypeStruct`s. What is the same for all examples belongs into the function "
            f"that is exported."
        )
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        raise ArgumentTypeError(
            f"`example` has a random key{where}, which other programs do not have: give its data, "
            f"`jax.random.key_data(key)`, and let the function make the key of it again, "
            f"`jax.random.wrap_key_data(data)`."
        )
    advice = foreign_to_jax(leaf.dtype)
    if advice is not None:
        raise ArgumentTypeError(
            f"`example` is of {leaf.dtype!r}{where}, which JAX does not have: {advice}."
        )
    dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
    if dtype != leaf.dtype:
        raise ArgumentTypeError(
            f"`example` is of {leaf.dtype}{where}, which JAX has only with `jax_enable_x64`: give "
            f"it as `.astype({dtype})`."
        )
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def require_batch(batch: PyTree, example: PyTree, fixed: int | None) -> None:
    """Refuses a batch that the program does not take.

    Args:
        batch: What it is called with.
        example: The specs of one example.
        fixed: The size that it was exported for; `None` for any.

    Raises:
        BatchError: It is of another structure, shape, dtype or size.
    """
    wanted, wants = flatten_with_paths(example)
    given, gives = flatten_with_paths(batch)
    if wants != gives:
        raise BatchError(
            f"The batch has the structure {gives}, and the program was exported for {wants}."
        )
    sizes = {}
    for (path, spec), (_, leaf) in zip(wanted, given, strict=True):
        shape, dtype = getattr(leaf, "shape", None), getattr(leaf, "dtype", None)
        name = f"The batch at {path!r}" if path else "The batch"
        # PyTorch's tensors have both, and are none.
        is_array = isinstance(leaf, (jax.Array, np.ndarray, np.generic))
        if shape is None or dtype is None or not is_array:
            raise BatchError(
                f"{name} is of type {type(leaf).__name__}: it has to be an array of NumPy's or "
                f"JAX's, `np.asarray(x)`."
            )
        if tuple(shape[1:]) != tuple(spec.shape) or not shape:
            raise BatchError(
                f"{name} has the shape {tuple(shape)}: examples of shape {tuple(spec.shape)} were "
                f"exported, stacked along a leading axis. One example goes as `x[None]`."
            )
        if dtype != spec.dtype:
            raise BatchError(
                f"{name} is of {dtype}, and the program was exported for {spec.dtype}: "
                f"`.astype({str(spec.dtype)!r})`."
            )
        sizes[path] = shape[0]
    if len(set(sizes.values())) > 1:
        raise BatchError(f"The leaves of the batch differ in their leading size: {sizes}.")
    size = next(iter(sizes.values()))
    if size == 0:
        raise BatchError("The batch is empty: its leaves have a leading size of 0.")
    if fixed is not None and size != fixed:
        raise BatchError(
            f"The batch has {size} examples, and the program was exported for {fixed}: export it "
            f"with `batch='b'` for any size."
        )
