"""The norm of a tree of arrays, quickly where there are many small ones."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

# Below this size, starting a reduction costs more than the reduction: 48 gradients of a narrow MLP
# took 37 of a step's 313 microseconds one by one. Above, a copy of everything would cost memory.
_SMALL = 4_096


def tree_norm(tree: PyTree[Array]) -> Float[Array, ""]:
    """The Euclidean norm of all the elements, `sqrt(sum(abs(x) ** 2))`, in float32 at least."""
    leaves = [_real(leaf) for leaf in jax.tree.leaves(tree)]
    small = [leaf for leaf in leaves if leaf.size <= _SMALL]
    parts = [leaf for leaf in leaves if leaf.size > _SMALL]
    if small:
        parts.append(jnp.concatenate(small))
    return jnp.sqrt(sum((jnp.sum(part * part) for part in parts), start=jnp.float32(0)))


def _real(leaf: Array) -> Float[Array, " n"]:
    """The elements in a row; of complex numbers both parts, whose squares add up all the same."""
    flat = leaf.reshape(-1)
    if jnp.iscomplexobj(flat):
        flat = jnp.concatenate([flat.real, flat.imag])
    return flat if flat.dtype == jnp.float64 else flat.astype(jnp.float32)
