"""What a batch is: a pytree of arrays that share their leading axis."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ._checks import foreign_to_jax
from ._custom_types import Batch
from ._errors import BatchError, DataError
from .tree._paths import flatten_with_paths


def is_batch_leaf(leaf: Any) -> bool:
    """Whether a leaf has a dtype and a shape: an array, or what stands for one."""
    return eqx.is_array_like(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def num_examples(batch: Batch, name: str = "batch") -> int:
    """The size of the leading axis.

    Raises:
        BatchError: If there are no leaves, a leaf is not an array or has no axis, the leading
            sizes differ, or they are 0.
    """
    leaves = flatten_with_paths(batch)[0]
    if not leaves:
        raise BatchError(f"`{name}` (={batch!r}) holds no arrays: there is nothing to learn from.")
    sizes: dict[str, int] = {}
    for path, leaf in leaves:
        if not is_batch_leaf(leaf):
            raise BatchError(f"`{name}` has {_told(leaf)} at {path!r}: {_way_out(leaf)}")
        advice = foreign_to_jax(leaf.dtype) if isinstance(leaf, np.ndarray) else None
        if advice is not None:
            raise BatchError(
                f"`{name}` has an array of {leaf.dtype} at {path!r}, which JAX does not have: "
                f"{advice}."
            )
        if jnp.ndim(leaf) == 0:
            raise BatchError(
                f"`{name}` has a scalar at {path!r}, but every leaf of a batch has a leading axis "
                f"of examples. What is the same for all examples goes through `args`: "
                f"`step(state, batch, args=...)`, and the loss takes it as `args`. If this is one "
                f"example, cut the data into batches first: `treadle.data.arrays`, "
                f"`treadle.data.huggingface`, or Grain's `.batch(...)`."
            )
        sizes[path] = jnp.shape(leaf)[0]
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{path!r}: {size}" for path, size in sizes.items())
        raise BatchError(
            f"The leaves of `{name}` differ in their leading size ({listed}): axis 0 counts the "
            f"examples, so it must be the same for all. The rest goes through `args`."
        )
    size = next(iter(sizes.values()))
    if size == 0:
        raise BatchError(f"`{name}` is empty: its leaves have a leading size of 0.")
    return size


# By the package that the type of a leaf is from.
_WAYS_OUT = {
    "torch": "a batch holds NumPy's or JAX's arrays. Wrap the loader in "
    "`treadle.data.torch(loader)`; one tensor is `tensor.numpy()`.",
    "tensorflow": "a batch holds NumPy's or JAX's arrays. Iterate over "
    "`dataset.as_numpy_iterator()`; one tensor is `tensor.numpy()`.",
}


def _way_out(leaf: Any) -> str:
    package = type(leaf).__module__.partition(".")[0]
    default = "a batch holds arrays only. Leave it out, or capture it in the loss function."
    return _WAYS_OUT.get(package, default)


def _told(leaf: Any) -> str:
    """What it is, in one line: tensors print all of their numbers."""
    kind = type(leaf).__name__
    shape, dtype = getattr(leaf, "shape", None), getattr(leaf, "dtype", None)
    if shape is not None and dtype is not None:
        return f"a {kind} of {dtype} and shape {tuple(shape)}"
    return f"{leaf!r} of type {kind}"


def looks_like_one_batch(batches: Any, name: str) -> None:
    """Refuses a tuple of arrays of one length, which is a batch and not a sequence of batches.

    Raises:
        DataError: With the way out.
    """
    if not isinstance(batches, tuple) or len(batches) < 2:
        return
    if not all(isinstance(leaf, (np.ndarray, jax.Array)) and leaf.ndim for leaf in batches):
        return
    if len({leaf.shape[0] for leaf in batches}) == 1:
        raise DataError(
            f"`{name}` is a tuple of {len(batches)} arrays of one length, which looks like one "
            f"batch: cut it with `treadle.data.arrays({name}, batch_size, key=...)`, or say "
            f"`[{name}]`. (Batches that are bare arrays go into a list.)"
        )


def microbatch(batch: Batch, index: Any, accumulate: int) -> PyTree:
    """Every `accumulate`-th example, from `index` on.

    Strided and not cut in blocks, so that a batch sharded along its leading axis needs no
    resharding: each device holds its part of every microbatch.
    """

    def take(leaf: jax.Array) -> jax.Array:
        grouped = leaf.reshape(leaf.shape[0] // accumulate, accumulate, *leaf.shape[1:])
        return jax.lax.dynamic_index_in_dim(grouped, index, axis=1, keepdims=False)

    return batch if accumulate == 1 else jax.tree.map(take, batch)
