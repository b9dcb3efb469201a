"""The gradient norm against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from treadle._compat import enable_x64
from treadle._norm import tree_norm


@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16, np.complex64])
@pytest.mark.parametrize("sizes", [[3], [5000], [0, 1, 4096, 4097], [2] * 30])
def test_norm_is_numpys(dtype, sizes):
    rng = np.random.default_rng(0)
    unit = 1 + 0.5j if dtype is np.complex64 else 1
    tree = [jnp.asarray(rng.normal(size=size) * unit, dtype) for size in sizes]
    flat = np.concatenate([np.asarray(leaf).astype(np.complex128) for leaf in tree])
    got = jax.jit(tree_norm)(tree)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, np.linalg.norm(flat), rtol=1e-6)


def test_norm_is_optaxs():
    tree = {"a": jnp.arange(6.0).reshape(2, 3), "b": (jnp.ones(()), None)}
    np.testing.assert_allclose(tree_norm(tree), optax.tree.norm(tree), rtol=1e-7)


def test_norm_in_float64():
    with enable_x64(True), jax.numpy_dtype_promotion("standard"):
        tree = [jnp.asarray([3e200, 4e200]), jnp.ones(2, jnp.float32)]
        np.testing.assert_allclose(tree_norm([tree[0] * 1e-200]), 5.0, rtol=1e-15)
        assert tree_norm(tree).dtype == jnp.float64
