"""Arrays of NumPy's that JAX does not have, at every door that takes arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import treadle
from treadle._checks import foreign_to_jax

FOREIGN = {
    "text": (np.array(["a", "b"]), r"turn it into numbers, or leave it out"),
    "objects": (np.array([1, None], object), r"turn it into numbers, or leave it out"),
    "times": (np.zeros(2, "datetime64[s]"), r"turn it into numbers, or leave it out"),
    "records": (np.zeros(2, [("a", "f4")]), r"`\{name: x\[name\] for name in x\.dtype\.names\}`"),
    "bytes": (np.zeros(2, "V2"), r"`x\.view\(jnp\.bfloat16\)`"),
    "the other order of bytes": (np.zeros(2, ">f4"), r"`x\.astype\('<f4'\)`"),
}
if np.dtype(np.longdouble).itemsize == 16:
    FOREIGN["long doubles"] = np.zeros(2, np.longdouble), r"`x\.astype\('f8'\)`"
    FOREIGN["complex of them"] = np.zeros(2, np.clongdouble), r"`x\.astype\('c16'\)`"


def loss_fn(model, example, key):
    return jnp.sum(model)


@pytest.mark.parametrize("name", FOREIGN)
def test_a_batch_with_one_is_refused_with_the_way_out(name):
    array, way_out = FOREIGN[name]
    step = treadle.TrainStep(loss_fn, optax.sgd(0.1))
    state = step.init(jnp.ones(2), key=jax.random.key(0))
    with pytest.raises(treadle.BatchError, match=rf"`batch` has an array of .* at 'x'.*{way_out}"):
        step(state, {"x": array})


@pytest.mark.parametrize("name", FOREIGN)
def test_an_example_that_is_exported_likewise(name):
    array, way_out = FOREIGN[name]
    with pytest.raises(treadle.ArgumentTypeError, match=rf"`example` is of .*{way_out}"):
        treadle.export(lambda x: x, array)


@pytest.mark.parametrize("name", ["records", "bytes", "the other order of bytes"])
def test_rows_of_them_likewise(name):
    array, way_out = FOREIGN[name]
    with pytest.raises(treadle.ArgumentTypeError, match=way_out):
        treadle.data.arrays(array, 2, key=None, shuffle=False)


def test_what_is_advised_gives_an_array_that_jax_has():
    for array, _ in FOREIGN.values():
        if array.dtype.kind in "fc":
            target = str(foreign_to_jax(array.dtype)).split("'")[1]
            assert foreign_to_jax(array.astype(target).dtype) is None


@pytest.mark.parametrize("dtype", [*"?bhilqBHILQefdFD", jnp.bfloat16, jnp.float8_e4m3fn, jnp.int4])
def test_what_jax_has_is_let_through(dtype):
    assert foreign_to_jax(np.dtype(dtype)) is None
