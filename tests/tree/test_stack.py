import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers import Net, assert_same, exactly
from tests.tree.containers import Point

import treadle
from treadle._state import Parts, RawKey, TrainState
from treadle.tree import stack, unstack
from treadle.tree._stack import Stacked


def make_net(seed):
    rng = np.random.default_rng(seed)

    def drawn(leaf):
        is_array = isinstance(leaf, jax.ShapeDtypeStruct)
        return rng.normal(size=leaf.shape).astype(leaf.dtype) if is_array else leaf

    return jax.tree.map(drawn, eqx.filter_eval_shape(Net, jax.random.key(0)))


def test_models_stack_for_vmap_and_come_back():
    models = [make_net(seed) for seed in range(3)]
    stacked = stack(models)
    assert stacked.first.weight.shape == (3, 8, 6)
    assert stacked.dropout.p == 0.5
    x = np.ones(6, np.float32)

    def call(model, x):
        return eqx.nn.inference_mode(model)(x)

    outputs = eqx.filter_vmap(call, in_axes=(eqx.if_array(0), None))(stacked, x)
    np.testing.assert_allclose(outputs[1], call(models[1], x), rtol=1e-5)
    for model, back in zip(models, unstack(stacked), strict=True):
        assert_same(back, model)


@given(
    values=st.lists(
        st.tuples(st.floats(width=32), st.integers(-(2**31), 2**31 - 1)), min_size=1, max_size=4
    )
)
def test_unstack_undoes_stack(values):
    trees = [
        {"x": np.array([a, -a], np.float32), "n": (np.array(b), None), "name": "same", "e": []}
        for a, b in values
    ]
    back = unstack(stack(trees))
    assert len(back) == len(trees)
    for tree, again in zip(trees, back, strict=True):
        assert_same(again, tree)


def test_arrays_of_jax_come_back():
    trees = [{"x": jnp.full((2, 1), number, jnp.float16), "n": None} for number in range(3)]
    stacked = stack(trees)
    assert isinstance(stacked["x"], jax.Array)
    for tree, again in zip(trees, unstack(stacked), strict=True):
        assert_same(again, tree)


def test_typed_keys_stack():
    keys = [jax.random.key(seed) for seed in range(3)]
    stacked = stack([{"key": key} for key in keys])
    assert stacked["key"].shape == (3,)
    assert_same(unstack(stacked)[2]["key"], keys[2])


def test_what_does_not_fit_is_told_leaf_by_leaf():
    first = {"w": jnp.ones(2), "rate": 0.1, "name": "a"}
    with pytest.raises(
        treadle.TreeError, match=r"index 1 .*'w' is float32\[2\] in the first and .*\[3\]"
    ):
        stack([first, {**first, "w": jnp.ones(3)}])
    with pytest.raises(treadle.TreeError, match=r"'rate' is 0.1 in the first and 0.2"):
        stack([first, {**first, "rate": 0.2}])
    with pytest.raises(treadle.TreeError, match="only the first has 'name', 'rate'"):
        stack([first, {"w": jnp.ones(2)}])
    with pytest.raises(treadle.TreeError, match="only the tree at index 1 has 'more'"):
        stack([first, {**first, "more": 1}])
    with pytest.raises(treadle.TreeError, match="a container is a tuple in the first and a list"):
        stack([(jnp.ones(1),), [jnp.ones(1)]])
    with pytest.raises(treadle.TreeError, match="`trees` is empty"):
        stack([])
    with pytest.raises(treadle.ArgumentTypeError, match="give a list of trees"):
        stack(first)


def test_what_cannot_be_unstacked_is_told():
    with pytest.raises(treadle.TreeError, match="no arrays"):
        unstack({"a": 1})
    with pytest.raises(treadle.TreeError, match=r"do not share a leading axis \('a': 2, 'b': 3\)"):
        unstack({"a": jnp.ones(2), "b": jnp.ones(3)})
    with pytest.raises(treadle.TreeError, match=r"'step': None"):
        unstack({"a": jnp.ones(2), "step": jnp.ones(())})


def make_state(number, *, width=2, step=0):
    """The state of a single run, without a step that made it."""
    numbers = jnp.asarray(np.full(width, number, np.float32))
    key = RawKey(jnp.asarray(np.array([0, number], np.uint32)), "threefry2x32")
    nothing = dict.fromkeys(Parts._fields)
    parts = {"model": {"w": numbers, "f": max}, "opt_state": (numbers,), "key": key}
    faults = jnp.asarray(np.full(2, -1, np.int32))
    step = jnp.asarray(np.int32(step))
    return TrainState.from_parts(Parts(**nothing | parts | {"step": step, "faults": faults}))


def test_states_of_single_runs_become_an_ensemble_and_come_back():
    singles = [make_state(number, step=7) for number in range(3)]
    state = stack(singles)
    assert state.members == 3
    assert int(state.step) == 7
    assert state.key.shape == (3,)
    np.testing.assert_array_equal(state.model["w"], [[0, 0], [1, 1], [2, 2]])
    for single, back in zip(singles, unstack(state), strict=True):
        assert back.members is None
        assert_same(back, single)


def test_states_that_do_not_fit_are_told():
    first = make_state(1)
    with pytest.raises(treadle.TreeError, match=r"index 1 .*'model/w' is float32\[9"):
        stack([first, make_state(1, width=9)])
    with pytest.raises(treadle.TreeError, match="at step 1, not 0"):
        stack([first, make_state(1, step=1)])
    with pytest.raises(treadle.TreeError, match="of a single run: there are no members"):
        unstack(first)
    with pytest.raises(treadle.TreeError, match="cannot be stacked again"):
        stack([stack([first])])


def test_arrays_of_numpy_stay_on_the_host_in_their_formats():
    leaves = [np.array([1.0, 2.0]), np.array(2**40), np.zeros((2, 0), bool)]
    leaves += [np.ones(2, ml_dtypes.bfloat16), np.array(1j), np.ones(1, ml_dtypes.int4)]
    trees = [leaves, [np.asarray(leaf + leaf) for leaf in leaves], leaves]
    stacked = stack(tuple(trees))
    for leaf, first in zip(stacked, leaves, strict=True):
        assert type(leaf) is np.ndarray
        assert (leaf.shape, leaf.dtype) == ((3, *first.shape), first.dtype)
    back = unstack(stacked)
    assert type(back) is list
    for tree, again in zip(trees, back, strict=True):
        assert all(type(leaf) is np.ndarray for leaf in again)
        assert_same(again, tree)


def test_where_one_is_of_jax_the_result_is():
    host, device = np.ones(2, np.float32), jnp.zeros(2)
    for trees in ([host, device], [device, host]):
        stacked = stack(trees)
        assert isinstance(stacked, jax.Array)
        np.testing.assert_array_equal(stacked, np.stack(trees))


def test_one_tree_alone():
    tree = {"a": np.ones((2, 3)), "f": np.tanh}
    stacked = stack([tree])
    assert stacked["a"].shape == (1, 2, 3)
    assert_same(unstack(stacked)[0], tree)


def test_a_weak_type_stays_weak():
    weak = jnp.asarray(1.0)
    assert stack([weak, weak]).weak_type
    assert [leaf.weak_type for leaf in unstack(stack([weak, jnp.asarray(2.0)]))] == [True, True]


def test_what_stands_for_arrays():
    struct = jax.ShapeDtypeStruct((2, 3), "float16")
    trees = [{"w": struct, "f": np.tanh}] * 4
    stacked = stack(trees)
    assert stacked == {"w": jax.ShapeDtypeStruct((4, 2, 3), "float16"), "f": np.tanh}
    assert unstack(stacked) == trees
    with pytest.raises(treadle.TreeError, match=r"'w' is ShapeDtypeStruct.* in the first and arr"):
        stack([{"w": struct}, {"w": np.zeros((2, 3), np.float16)}])


def test_leaves_that_are_no_arrays_stay_as_they_are():
    nan = float("nan")
    tree = {"x": np.ones(1), "nan": nan, "f": [np.tanh, "word", None], "half": np.float16(nan)}
    other = {**tree, "nan": -nan, "half": np.float16(nan)}
    stacked = stack([tree, other])
    assert stacked["nan"] is nan
    assert stacked["f"] == [np.tanh, "word", None]
    assert unstack(stacked)[1]["f"] == [np.tanh, "word", None]


def test_no_places_on_the_axis():
    assert unstack({"a": np.zeros((0, 3)), "b": np.zeros(0)}) == []


def test_works_while_tracing():
    def both(x):
        stacked = stack([{"x": x, "n": 1}, {"x": x + x, "n": 1}])
        return stacked["x"], unstack(stacked)[1]["x"]

    one, two = jax.eval_shape(both, np.ones((3, 2), np.float32))
    assert (one.shape, two.shape) == ((2, 3, 2), (3, 2))


def refused(trees, told):
    message = f"The tree at index {told[0]} does not fit the first, so they cannot be stacked: "
    with pytest.raises(treadle.TreeError, match=exactly(f"{message}{told[1]}.")):
        stack(trees)


def test_which_tree_and_where_it_does_not_fit():
    w = np.ones(2)
    first = {"w": w, "f": max}

    def is_not(path, one, two, index=1):
        return index, f"'{path}' is {one} in the first and {two} in the tree at index {index}"

    refused(
        [first, first, {**first, "w": np.ones((2, 1))}],
        is_not("w", "float64[2]", "float64[2,1]", index=2),
    )
    refused([first, {**first, "w": np.ones(2, int)}], is_not("w", "float64[2]", "int64[2]"))
    refused([first, {**first, "w": 1.0}], is_not("w", "float64[2]", "1.0"))
    refused([first, {**first, "f": abs}], is_not("f", "<max>", "<abs>"))
    names = "only the first has 'f'; only the tree at index 1 has 'g'; "
    refused(
        [first, {"w": np.ones(3), "g": max}],
        (1, names + is_not("w", "float64[2]", "float64[3]")[1]),
    )
    many = {f"x{number}": np.ones(1) for number in range(9)}
    wider = {name: np.ones(2) for name in many}
    told = [is_not(f"x{number}", "float64[1]", "float64[2]")[1] for number in range(8)]
    refused([many, wider], (1, "; ".join([*told, "and 1 more"])))
    container = "a container{} is {} in the first and {} in the tree at index 1".format
    refused([(w,), [w]], (1, container("", "a tuple", "a list")))
    refused(
        [{"a": [(w, ())]}, {"a": [(w, None)]}], (1, container(" at 'a/0/1'", "a tuple", "None"))
    )


def test_what_is_shared_stays_shared():
    for one, two in ((jnp.zeros(2), jnp.ones(2)), (np.zeros(2), np.ones(2))):
        whole = stack([{"a": one, "b": one, "c": one}, {"a": two, "b": two, "c": one}])
        assert whole["a"] is whole["b"]
        np.testing.assert_array_equal(whole["c"], np.zeros((2, 2)))
        first, second = unstack(whole)
        assert first["a"] is first["b"]
        np.testing.assert_array_equal(second["a"], two)


def test_static_fields_that_are_arrays_are_compared():
    one, two = (Point(np.ones(1), None, np.arange(2)) for _ in range(2))
    assert stack([one, two]).x.shape == (2, 1)
    told = "a static field, or the keys of a dictionary, differ at '0'"
    problem = f"{told}: print `treadle.tree.diff` of them"
    refused([[one], [Point(np.ones(1), None, np.arange(3))]], (1, problem))


def test_a_static_field_that_differs_is_told():
    class Layer(eqx.Module):
        weight: object
        size: object = eqx.field(static=True)

    told = (
        "a static field, or the keys of a dictionary, differ{}: print `treadle.tree.diff` of them"
    )
    one, two = Layer(np.ones(1), 1), Layer(np.ones(1), 2)
    refused([one, two], (1, told.format("")))
    refused([{"a": [one, one]}, {"a": [one, two]}], (1, told.format(" at 'a/1'")))


def test_a_bad_call_is_told_in_full():
    array = np.ones(2)
    with pytest.raises(
        treadle.TreeError, match=exactly("`trees` is empty: there is nothing to stack.")
    ):
        stack([])
    for trees, kind in (
        ({"a": array}, "dict"),
        (array, "ndarray"),
        (iter([array]), "list_iterator"),
    ):
        message = f"`trees` is a {kind}: give a list of trees, `stack([first, second])`."
        with pytest.raises(treadle.ArgumentTypeError, match=exactly(message)):
            stack(trees)
    for words in (np.array(["a"]), np.array([object()]), np.array(["2020"], "M8[D]")):
        message = (
            f"The tree has an array of {words.dtype} at 'w/1', which JAX does not have: turn it "
            "into numbers, or into a tuple, whose leaves must be equal in all trees."
        )
        with pytest.raises(treadle.TreeError, match=exactly(message)):
            stack([{"w": [array, words]}])
    message = "`tree` has no arrays: there is no leading axis to unstack."
    with pytest.raises(treadle.TreeError, match=exactly(message)):
        unstack({"a": 1, "b": np.float32(1)})


def test_axes_that_differ_are_told_with_the_first_leaf_of_each():
    message = (
        "The arrays of `tree` do not share a leading axis ({}): only what `treadle.tree.stack` or "
        "`eqx.filter_vmap` stacked can be unstacked."
    )
    tree = {"a": np.ones(3), "b": [np.ones((2, 3)), np.ones((3, 1))], "c": np.ones(2), "f": 1}
    with pytest.raises(treadle.TreeError, match=exactly(message.format("'a': 3, 'b/0': 2"))):
        unstack(tree)
    with pytest.raises(treadle.TreeError, match=exactly(message.format("'a': None, 'b': 2"))):
        unstack({"a": np.ones(()), "b": np.ones(2)})
    with pytest.raises(treadle.TreeError, match=exactly(message.format("'a': None"))):
        unstack({"a": np.ones(()), "b": np.ones(())})
    many = [np.ones(size) for size in range(10)]
    listed = ", ".join(f"'{size}': {size}" for size in range(8))
    with pytest.raises(treadle.TreeError, match=exactly(message.format(f"{listed}, and 2 more"))):
        unstack(many)


class Box(Stacked):
    """Keeps its own way of being stacked."""

    def __init__(self, *contents):
        self.contents = contents

    def unstacked(self):
        return [Box(content) for content in self.contents]

    @staticmethod
    def stacked(states):
        return Box(*(box.contents[0] for box in states))


def test_nodes_that_know_themselves_how_they_are_stacked():
    assert stack([Box(1), Box(2)]).contents == (1, 2)
    assert [box.contents for box in unstack(Box(1, 2))] == [(1,), (2,)]
    with pytest.raises(treadle.TreeError, match="The tree at index 1 does not fit the first"):
        stack([Box(1), 2])


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [("bfloat16", 0x7F81), ("float8_e5m2", 0x7D), ("float16", 0x7C01), ("float32", 0x7F800001)],
)
def test_signalling_nans_keep_their_bits(dtype, bits):
    carrier = f"uint{8 * jnp.dtype(dtype).itemsize}"
    leaf = jnp.asarray(np.array([bits, 0], carrier).view(jnp.dtype(dtype)))
    whole = stack([{"a": leaf}, {"a": leaf}])["a"]
    assert whole.dtype == dtype
    assert np.asarray(whole).view(carrier).tolist() == [[bits, 0]] * 2


def test_stacking_has_a_derivative_in_bfloat16():
    grad = jax.grad(lambda a: stack([a, a])[1].astype(jnp.float32).sum())
    assert grad(jnp.ones(2, jnp.bfloat16)).tolist() == [1, 1]
