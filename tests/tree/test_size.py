import re

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
from treadle.tree._where import leaf_mask


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


def test_what_is_made_of_a_shape_stands_for_an_array_too():
    class Placed(jax.ShapeDtypeStruct):
        pass

    assert count(Placed((2, 3), jnp.float32)) == 6


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
    ways = "give a filter function on leaves, a pytree of bools, `treadle.tree.select"
    for where in ((), {"a": None}):
        message = f"`where` (={where!r}) holds nothing that chooses: {ways}"
        with pytest.raises(TreeError, match=re.escape(message)):
            count(make_linear(), where)
    assert count({"a": None}, {"a": None}) == 0
    inside = "`where` holds a selector inside of a list: combine selectors with"
    with pytest.raises(ArgumentTypeError, match=inside):
        count(make_linear(), [select("weight"), "bias"])


def test_bools_of_numpy_choose_as_well():
    assert count([jnp.ones(2), jnp.ones(3)], [np.True_, np.False_]) == 2
    mask = leaf_mask([np.True_, np.False_], [1, {"a": 2}])
    assert mask == [True, {"a": False}]
    assert {type(yes) for yes in jax.tree.leaves(mask)} == {bool}


def test_a_function_of_the_tree_in_the_place_of_one_of_leaves_is_told():
    for where in (lambda model: model.layers, lambda leaf: leaf.reshape(-1) > 0):
        with pytest.raises((AttributeError, ValueError)) as caught:
            count(make_linear(), where)
        (note,) = caught.value.__notes__
        assert note == (
            "`where` is a function, so it is called on every leaf, here on float32[2,3], and "
            "returns whether that is chosen. Parts of a tree are chosen by their paths: "
            "`where='layers/0/**'`."
        )
