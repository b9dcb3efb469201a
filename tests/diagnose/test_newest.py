"""What is remembered of the newest program: how to trace it again, and none of its arrays."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from treadle._diagnose import remember
from treadle._diagnose._newest import newest_program


class Identity:
    """Has a method that traces, as a step has."""

    def trace(self, x):
        return jax.make_jaxpr(lambda x: x)(x)


@pytest.mark.parametrize("make", [np.ones, jnp.ones], ids=["numpy", "jax"])
def test_no_array_is_kept(make):
    identity, x = Identity(), make(3, np.float32)
    kept = weakref.ref(x)
    remember(identity.trace, x)
    del x
    gc.collect()
    assert kept() is None
    (aval,) = newest_program().in_avals
    assert (aval.shape, aval.dtype) == ((3,), np.float32)


@pytest.mark.parametrize("dtype", ["bool", "int64", "bfloat16", "float16"])
def test_it_is_traced_again_in_the_types_of_jax(dtype):
    identity = Identity()
    remember(identity.trace, np.ones(3, jnp.dtype(dtype)))
    (aval,) = newest_program().in_avals
    assert aval.dtype == jax.dtypes.canonicalize_dtype(jnp.dtype(dtype))
