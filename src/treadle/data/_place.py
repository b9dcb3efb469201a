"""Where a batch goes: to the device ahead of time, or as NumPy arrays into the compiled call."""

from collections.abc import Callable

import jax
import numpy as np

from .._compat import enable_x64
from .._custom_types import Batch


def placer(to_device: bool | None) -> Callable[[Batch], Batch]:
    """The function that places a batch, to be called on any thread.

    Args:
        to_device: Whether to put batches on the default device. None means on accelerators only:
            on CPU an explicit `device_put` of each batch costs a quarter of the throughput against
            handing NumPy arrays to the compiled call.
    """
    if to_device is None:
        to_device = jax.default_backend() != "cpu"
    if not to_device:
        return lambda batch: batch
    # Both can be set for one thread (`with jax.default_device(...)`), and another would not see it.
    device = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    x64 = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]

    def place(batch: Batch) -> Batch:
        leaves, treedef = jax.tree.flatten(batch)
        host = [at for at, leaf in enumerate(leaves) if isinstance(leaf, np.ndarray)]
        with jax.default_device(device), enable_x64(x64):
            for at, leaf in zip(host, jax.device_put([leaves[at] for at in host]), strict=True):
                leaves[at] = leaf
        return jax.tree.unflatten(treedef, leaves)

    return place
