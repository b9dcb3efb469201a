import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle._errors import ArgumentTypeError, TreeError
from treadle.tree._select import select
from treadle.tree._size import count, nbytes


def make_linear():
    return eqx.nn.Linear(3, 2, key=jax.random.key(0))


shapes = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3)), max_size=4)
dtypes = st.sampled_from(["float32", "bfloat16", "int8", "bool", "complex64"])


@given(shapes, dtypes)
def test_sums_over_leaves(shapes, dtype):
    arrays = [jnp.zeros(shape, dtype) for shape in shapes]
    assert count(arrays) == sum(a * b for a, b in shapes)
    assert nbytes(arrays) == sum(array.nbytes for array in arrays)


@given(shapes, dtypes)
def test_what_stands_for_an_array_counts_as_it_does(shapes, dtype):
    arrays = [jnp.zeros(shape, dtype) for shape in shapes]
    structs = jax.eval_shape(lambda: [jnp.zeros(shape, dtype) for shape in shapes])
    assert (count(structs), nbytes(structs)) == (count(arrays), nbytes(arrays))


def test_typed_keys_numpy_arrays_and_what_is_no_array():
    keys = jax.random.split(jax.random.key(0), 3)
    assert count(keys) == 3
    assert nbytes(keys) == jax.random.key_data(keys).nbytes
    assert nbytes(jax.eval_shape(lambda: keys)) == nbytes(keys)
    tree = {"array": np.zeros((2, 3), np.float64), "number": 3.0, "function": jnp.tanh}
    assert (count(tree), nbytes(tree)) == (6, 48)


def test_works_while_tracing():
    sizes = []
    jax.jit(lambda x: sizes.append((count(x), nbytes(x))))(jnp.zeros((2, 3), "float16"))
    assert sizes == [(6, 12)]


def test_a_shared_array_counts_once_and_a_struct_twice():
    array = jnp.zeros(5)
    assert count([array, {"tied": array}]) == 5
    assert nbytes([array, jnp.zeros(5)]) == 40
    assert count([jax.ShapeDtypeStruct((5,), "float32")] * 2) == 10


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (eqx.is_inexact_array, 8),
        (lambda leaf: eqx.is_array(leaf) and leaf.ndim == 2, 6),
        (select("**/bias"), 2),
        ("0/weight", 6),
        (("0/*", "1"), 12),
        ((True, False), 8),
        (False, 0),
        (True, 12),
        ((jax.tree.map(lambda leaf: leaf.ndim == 1, make_linear()), True), 6),
    ],
)
def test_where_chooses(where, expected):
    tree = (make_linear(), jnp.zeros(4, "int32"))
    assert count(tree, where) == expected
    assert nbytes(tree, where) == 4 * expected


def test_a_mask_that_can_be_called_is_a_mask():
    mask = jax.tree.map(lambda leaf: leaf.ndim == 1, make_linear())
    assert callable(mask)
    assert count(make_linear(), mask) == 2


def test_where_that_does_not_fit_is_told():
    with pytest.raises(TreeError, match=r"The glob 'wieght' matches none .*'weight'"):
        count(make_linear(), "wieght")
    with pytest.raises(TreeError, match="`where` is a pytree of bools that does not fit the tree"):
        count(make_linear(), {"weight": True})
    with pytest.raises(ArgumentTypeError, match="`where` holds 3: give a filter function"):
        nbytes(make_linear(), 3)
