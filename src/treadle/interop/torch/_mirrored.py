"""Kernels that lie in another way than PyTorch's, though their shapes may be the same."""

import equinox as eqx
import jax
from jaxtyping import PyTree

from ...tree._paths import join, path_of


def mirrored_of(model: PyTree) -> set[str]:
    """The kernels of transposed convolutions.

    Equinox has them as those of the convolution that it runs, `(out, in, ...)`; PyTorch as those of
    the one whose gradient it is: `(in, out, ...)`, and from the last to the first along the others.
    """
    nodes = jax.tree_util.tree_flatten_with_path(model, is_leaf=_is_transposed)[0]
    return {join(path_of(keys), "weight") for keys, node in nodes if _is_transposed(node)}


def _is_transposed(node: object) -> bool:
    return isinstance(node, eqx.nn.ConvTranspose)
