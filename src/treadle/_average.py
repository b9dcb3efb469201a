"""The averaged model: an exponential moving average that is right from the first step on."""

import functools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from ._precision import widened

# Of a narrow MLP's 48 averages each was a buffer more to hand over, which cost a third of a step;
# in one vector they cost a twentieth. Larger arrays are not worth a copy.
_SMALL = 4_096


class Average(eqx.Module):
    """The averages of all trained leaves: small ones in one vector for each dtype.

    Attributes:
        small: One vector for each dtype; of an ensemble, a row for each member.
        large: The others as they are.
        treedef: Of the trained leaves.
        shapes: Of each trained leaf.
        dtypes: Of each trained leaf's average.
    """

    small: dict[str, Array]
    large: list[Array]
    treedef: Any = eqx.field(static=True)
    shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    dtypes: tuple[str, ...] = eqx.field(static=True)

    @staticmethod
    def of(trained: PyTree) -> "Average":
        """The average of one model alone, in float32 at least.

        Args:
            trained: The trained leaves, the others `None`.
        """
        leaves, treedef = jax.tree.flatten(widened(trained))
        shapes = tuple(leaf.shape for leaf in leaves)
        dtypes = tuple(leaf.dtype.name for leaf in leaves)
        return Average(*_packed(leaves), treedef, shapes, dtypes)

    def unpacked(self) -> PyTree:
        """The averages in the structure of the trained leaves."""
        vectors = dict.fromkeys(self.small, 0)
        large = iter(self.large)
        leaves = []
        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            if not _is_small(shape):
                leaves.append(next(large))
                continue
            start, size = vectors[dtype], math.prod(shape)
            vectors[dtype] = start + size
            cut = functools.partial(_cut, start=start, shape=shape)
            vector = self.small[dtype]
            # What stands for an array (`jax.ShapeDtypeStruct`) cannot be cut itself.
            leaves.append(cut(vector) if eqx.is_array(vector) else jax.eval_shape(cut, vector))
        return jax.tree.unflatten(self.treedef, leaves)

    def repacked(self, averages: PyTree) -> "Average":
        """The same places with other values, in the structure that `unpacked` gives.

        Args:
            averages: Arrays that have the shapes of those here, those of an ensemble included.
        """
        members = next((vector.ndim - 1 for vector in self.small.values()), 0)
        leaves = jax.tree.leaves(averages)
        return Average(*_packed(leaves, members), self.treedef, self.shapes, self.dtypes)


def _cut(vector: Array, start: int, shape: tuple[int, ...]) -> Array:
    part = vector[..., start : start + math.prod(shape)]
    return part.reshape(*vector.shape[:-1], *shape)


def _is_small(shape: tuple[int, ...]) -> bool:
    return math.prod(shape) <= _SMALL


def _packed(leaves: list[Array], members: int = 0) -> tuple[dict[str, Array], list[Array]]:
    """Small arrays in vectors by dtype, with `members` (0 or 1) axes in front."""
    rows: dict[str, list[Array]] = {}
    large = []
    for leaf in leaves:
        if _is_small(leaf.shape[members:]):
            flat = jnp.reshape(leaf, (*leaf.shape[:members], -1))
            rows.setdefault(leaf.dtype.name, []).append(flat)
        else:
            large.append(leaf)
    return {name: jnp.concatenate(parts, axis=-1) for name, parts in rows.items()}, large


def averaged(average: Average, model: PyTree, decay: float, updates: Int[Array, ""]) -> Average:
    """The average with one more model in it.

    After `t` updates it is `sum(decay**(t - i) * model_i) / sum(decay**(t - i))` over the models
    `i = 1..t`, the one that training began with left out: the bias of an average that starts
    somewhere is corrected as Adam corrects its moments. Written as a step towards the new model,
    the correction needs no state of its own.

    Args:
        average: So far.
        model: The trained leaves after this step.
        decay: Between 0 and 1.
        updates: How many models are in the average, this one included.

    References:
        Kingma and Ba, "Adam", ICLR 2015, arXiv:1412.6980, section 3.
    """

    def step(old: Array, new: Array) -> Array:
        dtype = old.real.dtype
        # 1 - decay**t without losing digits where decay is close to 1: rounded to float32, 0.9999
        # is off by 0.0003 of its distance to 1. Hence the logarithm on the host.
        below_one = -jnp.expm1(dtype.type(math.log(decay)) * updates.astype(dtype))
        weight = dtype.type(1 - decay) / below_one
        # What stays the same needs no step; of an infinity (a mask, say) there would be none.
        return jnp.where(new == old, new, old + weight.astype(old.dtype) * (new - old))

    return jax.tree.map(step, average, Average.of(model))
