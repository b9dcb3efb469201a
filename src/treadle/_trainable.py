"""Which leaves of a model are trained."""

import equinox as eqx
import jax
from jaxtyping import PyTree

from ._custom_types import Model
from ._errors import TreeError
from .tree._where import Where, leaf_mask


def trainable_mask(trainable: Where, model: Model) -> PyTree[bool]:
    """`True` where a leaf of `model` is trained: chosen, and an array of floats.

    Raises:
        TreeError: If a glob matches nothing, a prefix does not fit, or nothing is left to train.
        ArgumentTypeError: If `trainable` is none of what it can be.
    """
    chosen = leaf_mask(trainable, model, "trainable")
    mask = jax.tree.map(lambda leaf, yes: bool(yes) and eqx.is_inexact_array(leaf), model, chosen)
    if not any(jax.tree.leaves(mask)):
        floats = sum(map(eqx.is_inexact_array, jax.tree.leaves(model)))
        raise TreeError(
            f"The model ({type(model).__name__}) has no trainable leaves: of its {floats} arrays "
            f"of floats, `trainable` (={trainable!r}) chooses none."
            if floats
            else f"The model ({type(model).__name__}) has no trainable leaves: it holds no arrays "
            f"of floats. Integers are not trained; make them float arrays."
        )
    return mask
