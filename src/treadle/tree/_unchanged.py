"""What a surgery left alone: which leaves of a model are those of the model before."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from .._errors import TreeError
from ._paths import flatten_with_paths


class Trained(NamedTuple):
    """A model and which of its leaves are trained, in the order of `jax.tree.leaves`."""

    model: PyTree
    mask: list[bool]

    def leaves(self) -> list[tuple[str, Any]]:
        """The trained leaves with their paths."""
        named = zip(flatten_with_paths(self.model)[0], self.mask, strict=True)
        return [leaf for leaf, trained in named if trained]

    def params(self) -> PyTree:
        """The model with `None` for what is not trained, as an optimizer gets it."""
        return eqx.filter(self.model, jax.tree.unflatten(jax.tree.structure(self.model), self.mask))


def unchanged(old: Trained, new: Trained) -> list[int | None]:
    """For each trained leaf of the new model, which of the old model's trained leaves it is.

    It is the one that is the same array, wherever that stands now: at the same path if it is there
    as well, else one that is nowhere else. Failing that, it is the one at the same path with the
    same bits, unless that is found to be another leaf of the new model.

    Returns:
        An index into the trained leaves of the old model; `None` for a leaf that is new.

    Raises:
        TreeError: Bits are wanted of a leaf that is being traced.
    """
    before = old.leaves()
    at = {path: index for index, (path, _) in enumerate(before)}
    named, _ = flatten_with_paths(new.model)
    found = _by_identity(before, at, named)
    taken = set(found.values())
    for place, ((path, leaf), trained) in enumerate(zip(named, new.mask, strict=True)):
        index = at.get(path)
        if place in found or not trained or index is None or index in taken:
            continue
        if _has_same_bits(path, before[index][1], leaf):
            found[place] = index
    return [found.get(place) for place, trained in enumerate(new.mask) if trained]


def _by_identity(
    before: list[tuple[str, Any]], at: dict[str, int], named: list[tuple[str, Any]]
) -> dict[int, int]:
    """Places in the new model, trained or not, of leaves that are the very arrays of before."""
    homes: dict[int, list[int]] = {}
    for index, (_, leaf) in enumerate(before):
        homes.setdefault(id(leaf), []).append(index)
    found = {
        place: at[path]
        for place, (path, leaf) in enumerate(named)
        if path in at and before[at[path]][1] is leaf
    }
    taken = set(found.values())
    for place, (_, leaf) in enumerate(named):
        if place in found or id(leaf) not in homes:
            continue
        same = homes[id(leaf)]
        found[place] = next((index for index in same if index not in taken), same[0])
        taken.add(found[place])
    return found


def _has_same_bits(path: str, old: Any, new: Any) -> bool:
    """Whether two arrays of floats are the same to the bit: NaN is NaN, and -0.0 is not 0.0."""
    if old.shape != new.shape or old.dtype != new.dtype:
        return False
    if isinstance(old, Tracer) or isinstance(new, Tracer):
        raise TreeError(
            f"While tracing (`jax.jit`, `jax.eval_shape`, `jax.vmap`) the values of {path!r} are "
            f"not known, so it cannot be told whether it is unchanged: it has the shape of the "
            f"leaf that was there, and is another array. Build the new model from the old one, so "
            f"that they share what is unchanged (`eqx.tree_at(where, old_model, ...)`), or migrate "
            f"outside of the transformation."
        )
    a, b = (np.ravel(np.asarray(leaf)).view(np.uint8) for leaf in (old, new))
    return bool(np.array_equal(a, b))
