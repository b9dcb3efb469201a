"""What is written is read again."""

import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ...checkpoint import load as treadle_load
from ...checkpoint import save as treadle_save
from ._law import Law
from ._law import __tracebackhide__ as __tracebackhide__


def check_serialisation(
    tree: PyTree,
    *,
    save: Callable[[pathlib.Path, PyTree], Any] = treadle_save,
    load: Callable[[pathlib.Path, PyTree], PyTree] = treadle_load,
) -> None:
    """What is saved is loaded, bit for bit: `load(save(x), y) = x`.

    `y` is any tree of the structure of `x`; here one whose arrays have other numbers, so that a
    `load` that hands out what it was given is found out. Whether a type is weak does not count:
    files do not know.

    Args:
        tree: What is saved. Its leaves that are no arrays are the same in `y`.
        save: `save(path, tree)`; by default `treadle.save`.
        load: `load(path, like) -> tree`; by default `treadle.load`. The path is one in an empty
            temporary folder.

    Raises:
        LawError: Something else is loaded, or an argument was changed in place.

    Example:
        >>> check_serialisation(
        ...     model,
        ...     save=eqx.tree_serialise_leaves,
        ...     load=lambda path, like: eqx.tree_deserialise_leaves(path, like),
        ... )
    """
    law = Law("check_serialisation", ignored=("weak type",))
    like = jax.tree.map(_other_numbers, tree)
    with tempfile.TemporaryDirectory(prefix="treadle-") as folder:
        path = pathlib.Path(folder) / "tree"
        law.call("save", lambda inner: save(path, inner), tree)
        loaded = law.call("load", lambda inner: load(path, inner), like)
    law.require_same(loaded, tree, ("load(save(tree), like)", "tree"))


def _other_numbers(leaf: Any) -> Any:
    """An array of the same shape and dtype, all of its bits turned."""
    if isinstance(leaf, jax.Array):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            words = ~np.asarray(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(jnp.asarray(words), impl=jax.random.key_impl(leaf))
        return jax.device_put(_turned(np.asarray(leaf)), leaf.sharding)
    if isinstance(leaf, np.generic):
        return _turned(np.asarray(leaf))[()]
    return _turned(leaf) if isinstance(leaf, np.ndarray) else leaf


def _turned(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.bool_:
        return ~array
    words = ~np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    if jnp.issubdtype(array.dtype, jnp.unsignedinteger) and jnp.iinfo(array.dtype).bits < 8:
        words &= (1 << jnp.iinfo(array.dtype).bits) - 1  # A byte each, of which these are used.
    elif jnp.issubdtype(array.dtype, jnp.floating) and jnp.finfo(array.dtype).bits < 8:
        words &= (1 << jnp.finfo(array.dtype).bits) - 1
    return words.view(array.dtype).reshape(array.shape)
