"""Which leaves of a model are trained."""

from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
from jaxtyping import PyTree

from ._custom_types import Model
from ._errors import ArgumentTypeError, TreeError
from .tree._select import Selector, select

Trainable: TypeAlias = Callable[[Any], bool] | Selector | str | tuple[str, ...] | list[str] | PyTree
"""A filter function on leaves, a selector, globs, or a prefix of the model with bools as leaves."""


def trainable_mask(trainable: Trainable, model: Model) -> PyTree[bool]:
    """`True` where a leaf of `model` is trained: chosen, and an array of floats.

    Raises:
        TreeError: If a glob matches nothing, a prefix does not fit, or nothing is left to train.
        ArgumentTypeError: If `trainable` is none of what it can be.
    """
    chosen = _chosen(trainable, model)
    mask = jax.tree.map(lambda leaf, yes: bool(yes) and eqx.is_inexact_array(leaf), model, chosen)
    if not any(jax.tree.leaves(mask)):
        floats = sum(map(eqx.is_inexact_array, jax.tree.leaves(model)))
        raise TreeError(
            f"The model ({type(model).__name__}) has no trainable leaves: of its {floats} arrays "
            f"of floats, `trainable` (={trainable!r}) chooses none."
            if floats
            else f"The model ({type(model).__name__}) has no trainable leaves: it holds no arrays "
            f"of floats. Integers and NumPy scalars are not trained; make them float arrays."
        )
    return mask


def _chosen(trainable: Trainable, model: Model) -> PyTree:
    if isinstance(trainable, str):
        trainable = (trainable,)
    if isinstance(trainable, (tuple, list)) and trainable and _all_strings(trainable):
        trainable = select(*trainable)
    if isinstance(trainable, Selector):
        return trainable(model)
    # A model-shaped pytree of bools may be callable too, so a function is what is a leaf itself.
    if callable(trainable) and jax.tree_util.all_leaves([trainable]):
        return jax.tree.map(trainable, model)
    return _broadcast_prefix(trainable, model)


def _all_strings(values: tuple[Any, ...] | list[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _broadcast_prefix(prefix: PyTree, model: Model) -> PyTree:
    strange = [leaf for leaf in jax.tree.leaves(prefix) if not isinstance(leaf, bool)]
    if strange:
        raise ArgumentTypeError(
            f"`trainable` holds {strange[0]!r}: give a filter function on leaves, a pytree of "
            f"bools, `treadle.tree.select(...)`, or glob strings such as 'layers/0/**'."
        )
    try:
        return jax.tree.map(lambda yes, part: jax.tree.map(lambda _: yes, part), prefix, model)
    except ValueError as error:
        raise TreeError(
            f"`trainable` is a pytree of bools that does not fit the model: {error}"
        ) from error
