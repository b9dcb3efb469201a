"""What a compiled program depends on, and what differs between two calls."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ..tree._paths import flatten_with_paths, join

Signature = Mapping[str, str]
"""The path of every leaf with its dtype and shape, or what it is."""


def describe(leaf: Any) -> str:
    """`float32[32,64]`; a value that is not an array as itself."""
    if isinstance(leaf, (bool, int, float, complex)):
        return f"{type(leaf).__name__} (a Python number)"
    if isinstance(leaf, (jax.Array, np.ndarray, np.generic, jax.ShapeDtypeStruct)):
        weak = ", weakly typed" if getattr(leaf, "weak_type", False) else ""
        return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]{weak}"
    return repr(leaf)


def signature(**trees: PyTree) -> Signature:
    """The signature of a call, its arguments by name."""
    return {
        join(name, path): describe(leaf)
        for name, tree in trees.items()
        for path, leaf in flatten_with_paths(tree)[0]
    }


def differences(old: Signature, new: Signature) -> list[str]:
    """What changed from one signature to the other, a line each."""
    changed = [
        f"{path}: {old[path]} -> {new[path]}"
        for path in old
        if path in new and old[path] != new[path]
    ]
    gone = [f"{path}: {old[path]} -> absent" for path in old if path not in new]
    come = [f"{path}: absent -> {new[path]}" for path in new if path not in old]
    return changed + gone + come
