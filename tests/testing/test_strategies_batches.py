"""Batches and second trees: what fits a first one, with other numbers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from tests.helpers import loss_fn, make_batch
from tests.testing.drawing import aliases, bits, drawn

import treadle
from treadle import ArgumentTypeError, ArgumentValueError, BatchError
from treadle._diagnose import compilation_counter
from treadle.testing import arrays, batches_like, modules, pool, same_structure


def make_of(leaf):
    """What two leaves that fit each other agree in: all but the numbers."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return "key", str(leaf.dtype), leaf.shape
    if isinstance(leaf, jax.Array | np.ndarray | np.generic):
        return type(leaf), leaf.dtype, leaf.shape, getattr(leaf, "weak_type", None)
    return id(leaf)


@st.composite
def pairs(draw):
    tree = draw(modules(special=True))
    return tree, draw(same_structure(tree))


def test_a_second_tree_fits_the_first():
    different = 0
    for one, two in drawn(pairs(), 80):
        assert jax.tree.structure(one) == jax.tree.structure(two)
        first, second = jax.tree.leaves(one), jax.tree.leaves(two)
        assert [*map(make_of, first)] == [*map(make_of, second)]
        assert aliases(first) == aliases(second)
        different += [*map(bits, first)] != [*map(bits, second)]
    assert different > 20


def test_a_second_tree_keeps_weak_types_placement_and_scalars():
    mesh = Mesh(np.array(jax.devices()), ("data",))
    placed = jax.device_put(np.zeros(8, np.float32), NamedSharding(mesh, PartitionSpec("data")))
    tree = {"weak": jnp.asarray(1.5), "placed": placed, "scalar": np.float32(2), "word": "a"}
    for other in drawn(same_structure(tree), 5):
        assert other["weak"].weak_type
        assert other["placed"].sharding == placed.sharding
        assert type(other["scalar"]) is np.float32
        assert other["word"] == "a"
        assert not other["weak"].committed


def test_a_second_tree_is_special_on_request():
    tree = jnp.zeros(3)
    plain = np.stack(drawn(same_structure(tree), 60))
    assert np.isfinite(plain).all()
    special = np.stack(drawn(same_structure(tree, special=True), 60))
    assert np.isnan(special).any()
    assert np.isinf(special).any()


def test_a_second_tree_in_the_other_order_of_bytes():
    tree = np.zeros((2, 3), ">f4")
    found = drawn(same_structure(tree), 40)
    assert {leaf.dtype for leaf in found} == {tree.dtype}
    # Of bytes in the wrong order nearly all numbers are next to 0.
    assert any(np.array_equal(leaf, np.arange(6).reshape(2, 3)) for leaf in found)


def test_what_no_array_of_jax_can_hold_stays():
    tree = [np.ones(2, np.longdouble), np.array(["a"])]
    (found, *_) = drawn(same_structure(tree), 2)
    assert [*map(id, found)] == [*map(id, tree)]


@pytest.mark.parametrize("make", [same_structure, batches_like])
def test_a_strategy_in_the_place_of_a_tree_is_told(make):
    with pytest.raises(ArgumentTypeError, match=r"has a strategy at 'x', .*`data\.draw\(\.\.\.\)`"):
        make({"x": arrays()})


def test_a_second_tree_of_many_leaves():
    tree = {str(at): jnp.ones((2, 2)) for at in range(300)}
    (*_, other) = drawn(same_structure(tree), 5)
    assert jax.tree.structure(other) == jax.tree.structure(tree)


# -- batches --------------------------------------------------------------------------------------

SPEC = {
    "image": np.zeros((4, 2, 2), np.float32),
    "label": np.array([3, 4, 6, 5], np.int32),
    "mask": np.zeros(4, bool),
    "half": jnp.zeros((4, 1), jnp.bfloat16),
    "key": jax.random.split(jax.random.key(0, impl="rbg"), 4),
}


def structs(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


@pytest.mark.parametrize("spec", [SPEC, structs(SPEC)])
def test_batches_fit_their_spec(spec):
    for batch in drawn(batches_like(spec), 30):
        assert jax.tree.structure(batch) == jax.tree.structure(SPEC)
        for name, leaf in batch.items():
            assert (leaf.shape, leaf.dtype) == (SPEC[name].shape, SPEC[name].dtype)
            assert isinstance(leaf, jax.Array) == (name == "key")
        assert np.abs(batch["image"]).max() <= 2
        assert np.abs(batch["half"].astype(float)).max() <= 2


def test_integers_stay_between_those_that_were_seen():
    found = np.stack([batch["label"] for batch in drawn(batches_like(SPEC), 40)])
    assert (found.min(), found.max()) == (3, 6)
    found = np.stack([batch["label"] for batch in drawn(batches_like(structs(SPEC)), 40)])
    assert (found.min(), found.max()) == (0, 1)


@pytest.mark.parametrize("integers", [(0, 9), {"label": (0, 9)}])
def test_integers_between_bounds(integers):
    found = np.stack([b["label"] for b in drawn(batches_like(SPEC, integers=integers), 60)])
    assert (found.min(), found.max()) == (0, 9)


def test_floats_between_bounds_and_jax_arrays():
    strategy = batches_like({"x": np.zeros((3, 2), np.float32)}, floats=(0, 1), kind="jax")
    found = drawn(strategy, 30)
    assert all(isinstance(batch["x"], jax.Array) for batch in found)
    values = np.stack([batch["x"] for batch in found])
    assert (values.min(), values.max()) == (0, 1)


def test_batches_of_any_size():
    sizes = {len(batch["mask"]) for batch in drawn(batches_like(SPEC, size=st.integers(1, 3)), 30)}
    assert sizes == {1, 2, 3}
    (batch, *_) = drawn(batches_like(SPEC, size=7), 2)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(batch)} == {7}


def test_a_step_trains_on_what_is_drawn():
    step = treadle.TrainStep(loss_fn, optax.sgd(0.1))
    state = step.init(
        treadle.nn.MLP(6, 3, width=4, depth=1, key=jax.random.key(0)), key=jax.random.key(0)
    )
    for batch in drawn(batches_like(make_batch()), 10):
        state, metrics = step(state, batch)
        assert jnp.isfinite(metrics["loss"])
    assert len(step.compilations) == 1


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: batches_like({"x": 1.0}), ArgumentTypeError, "`spec` has 1.0 at 'x': give arrays"),
        (lambda: batches_like(np.float32(1)), BatchError, "`spec` has a scalar at ''"),
        (lambda: batches_like(SPEC, integers=3), ArgumentTypeError, "`integers` .* must be a pair"),
        (lambda: batches_like(SPEC, integers=(3, 1)), ArgumentValueError, "below its least"),
        (
            lambda: batches_like(SPEC, integers={"lable": (0, 1)}),
            ArgumentValueError,
            "'lable', which is no path of `spec`: those are .*'label'",
        ),
        (
            lambda: batches_like({"a": np.zeros(2), "b": np.zeros((3, 2))}),
            BatchError,
            "`spec` has 2 examples at 'a' and 3 at 'b'",
        ),
        (
            lambda: batches_like(SPEC, integers=("0", "9")),
            ArgumentTypeError,
            r"`integers\[0\]` \(='0'\) must be a number\.",
        ),
        (
            lambda: batches_like(SPEC, floats=(0, np.nan)),
            ArgumentValueError,
            r"`floats\[1\]` \(=nan\) must be finite",
        ),
        (
            lambda: batches_like(SPEC, integers={"label": (0.2, 0.7)}),
            ArgumentValueError,
            r"`integers` \(=\(0.2, 0.7\)\) has no number of .* at 'label', int32",
        ),
        (
            lambda: batches_like(SPEC, floats=(1e39, 1e40)),
            ArgumentValueError,
            r"`floats` \(=\(1e\+39, 1e\+40\)\) has no number of .* at '(half|image)'",
        ),
        (lambda: batches_like(SPEC, floats=1.0), ArgumentTypeError, "`floats` .* must be a pair"),
        (lambda: batches_like(SPEC, size=-1), ArgumentValueError, r"`size` \(=-1\) must be"),
        (lambda: batches_like(SPEC, kind="list"), ArgumentValueError, r"`kind` \(='list'\)"),
        (lambda: batches_like(np.array(["a"])), ArgumentTypeError, "which JAX does not have"),
    ],
)
def test_wrong_arguments_are_told_at_once(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("size", [-1, "2"])
def test_a_wrong_size_is_told_when_it_is_drawn(size):
    with pytest.raises(treadle.TreadleError, match=r"`size` \(=.* must be a whole number"):
        drawn(batches_like(SPEC, size=st.just(size)), 2)


def test_drawing_them_compiles_nothing():
    model = eqx.nn.make_with_state(lambda: pool.Branches(pool.Scale(jnp.ones(2)), 1))()
    strategy = st.tuples(batches_like(SPEC, kind="jax"), same_structure(model))
    drawn(strategy, 2)  # What the implementation of keys is, is asked by tracing once.
    before = compilation_counter().count
    drawn(strategy, 20)
    assert compilation_counter().count == before
