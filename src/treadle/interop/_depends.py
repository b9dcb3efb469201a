"""Whether what a function returns depends on what it is given."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree


def depends(function: Callable[[PyTree], Any], arrays: PyTree) -> bool:
    """Whether an array that a function returns depends on the arrays that it is given.

    Args:
        function: Of one tree of arrays.
        arrays: The tree. The function is traced, not computed.
    """
    mapped = jax.vmap(lambda given: eqx.filter(function(given), eqx.is_array), out_axes=None)
    try:
        # `vmap` follows what is mapped through loops and branches, and has to know it here.
        jax.eval_shape(mapped, jax.tree.map(lambda leaf: leaf[None], arrays))
    except ValueError as error:
        if "out_axes" not in str(error):
            raise
        return True
    return False
