"""What was found wrong in use, each with the shortest way to show it."""

import copy
import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import treadle
from tests.helpers import assert_same

KEY = jax.random.key(0)


class Affine(eqx.Module):
    """A model with an array that is NumPy's."""

    weight: jax.Array
    shift: np.ndarray

    def __call__(self, x):
        return self.weight * x + self.shift


def loss_fn(model, example, key):
    return jnp.sum(model * example) ** 2


def make_state(**options):
    step = treadle.TrainStep(loss_fn, optax.adam(0.1), **options)
    return step, step.init(jnp.ones(3), key=KEY)


def test_a_bare_model_with_a_numpy_array_is_measured_and_predicts():
    model = Affine(jnp.ones(2), np.array([1.0, 2.0], np.float32))
    inputs = np.zeros((3, 2), np.float32)
    outputs = treadle.predict(model, inputs, batch_size=2)
    np.testing.assert_array_equal(outputs, [[1.0, 2.0]] * 3)
    measured = treadle.EvalStep(lambda model, x: {"sum": jnp.sum(model(x))})
    assert treadle.evaluate(measured, model, [inputs]) == {"sum": 3.0}


def test_batches_that_cannot_be_joined_are_told():
    measured = treadle.EvalStep(lambda model, x: {"mean": jnp.mean(model * x)})
    four, five = np.ones((2, 4), np.float32), np.ones((2, 5), np.float32)
    with pytest.raises(
        treadle.BatchError,
        match=r"shapes \(2, 4\), \(2, 5\), .* pad them .* leave out `batch_size`",
    ):
        treadle.evaluate(measured, jnp.float32(2), [four, five], batch_size=3)
    # None of these is cut, so none is joined.
    assert treadle.evaluate(measured, jnp.float32(2), [four, five]) == {"mean": 2.0}


def test_a_prediction_with_a_random_key_is_told():
    def model(x):
        return {"y": x, "draws": [jax.random.key(0)]}

    with pytest.raises(
        treadle.ArgumentTypeError, match=r"a random key at 'draws/0'.*jax\.random\.key_data"
    ):
        treadle.predict(model, np.ones((2, 1), np.float32), batch_size=2)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"growth_interval": 10**10}, r"`growth_interval` .*at most 2\*\*31 - 1.*`maximum` to"),
        ({"growth_interval": 2**31}, r"`growth_interval` .*at most 2\*\*31 - 1"),
        ({"maximum": 2.0**127}, r"`maximum` .*at most 2\.0\*\*126"),
        ({"minimum": 2.0**-101}, r"`minimum` .*at least 2\.0\*\*-100"),
    ],
)
def test_loss_scales_beyond_float32_and_int32_are_refused(arguments, match):
    with pytest.raises(treadle.ArgumentValueError, match=match):
        treadle.LossScale(**arguments)


def test_loss_scales_at_the_ends_of_their_ranges():
    ends = treadle.LossScale(minimum=2.0**-100, maximum=2.0**126, growth_interval=2**31 - 1)
    tiny = np.finfo(np.float32).tiny
    assert 1 / np.float32(ends.maximum) >= tiny
    assert np.float32(ends.minimum) >= tiny
    assert np.int32(ends.growth_interval) == ends.growth_interval


def test_a_state_is_saved_and_not_pickled():
    _, state = make_state()
    with pytest.raises(treadle.ArgumentTypeError, match=r"treadle\.save\(path, state\).*load"):
        pickle.dumps({"state": state})


def test_copies_of_a_state_by_the_standard_library():
    step, state = make_state()
    shallow, deep = copy.copy(state), copy.deepcopy({"state": state})["state"]
    assert_same(shallow, state)
    step(state, np.ones((2, 3), np.float32))
    assert shallow.is_consumed
    new, _ = step(deep, np.ones((2, 3), np.float32))
    assert int(new.step) == 1
    assert len(step.compilations) == 1
    with pytest.raises(treadle.ConsumedStateError, match=r"was consumed"):
        copy.deepcopy(state)


def test_stack_keeps_the_bits_of_numpy_arrays():
    trees = [
        {"count": np.array([2**40 + i]), "x": np.array([0.1]), "at": jnp.float32(i)} for i in (0, 1)
    ]
    stacked = treadle.tree.stack(trees)
    assert stacked["count"].dtype == np.int64
    assert isinstance(stacked["at"], jax.Array)
    for back, tree in zip(treadle.tree.unstack(stacked), trees, strict=True):
        assert_same(back, tree)
    # Down to no axis, and up again.
    singles = treadle.tree.unstack(np.array([1.5, 2.5]))
    assert singles[1].shape == ()
    np.testing.assert_array_equal(treadle.tree.stack(singles), [1.5, 2.5])
    half = treadle.tree.stack([np.zeros(2, jnp.bfloat16), np.ones(2, jnp.bfloat16)])
    assert half.dtype == jnp.bfloat16


class ByElement:
    """Compares as arrays do."""

    def __init__(self, *values):
        self.values = np.array(values)

    def __eq__(self, other):
        return self.values == other.values

    def __ne__(self, other):
        return self.values != other.values

    def __hash__(self):
        return 0


def test_stack_compares_what_is_no_array():
    def tree(rate, table):
        return {"w": jnp.ones(1), "rate": rate, "table": table}

    stacked = treadle.tree.stack(
        [tree(float("nan"), ByElement(1, 2)), tree(float("nan"), ByElement(1, 2))]
    )
    assert stacked["w"].shape == (2, 1)
    with pytest.raises(treadle.TreeError, match=r"'rate' is nan in the first and 1\.0"):
        treadle.tree.stack([tree(float("nan"), "a"), tree(1.0, "a")])
    with pytest.raises(treadle.TreeError, match=r"'table' is "):
        treadle.tree.stack([tree(1.0, ByElement(1, 2)), tree(1.0, ByElement(1, 3))])


@pytest.mark.parametrize(
    "leaf", [np.array(["a"]), np.array([None]), np.zeros(1, "M8[s]"), np.zeros(1, [("a", "f4")])]
)
def test_stack_refuses_arrays_of_what_is_no_number(leaf):
    with pytest.raises(treadle.TreeError, match=r"array of .* at 'a', which JAX does not have"):
        treadle.tree.stack([{"a": leaf}, {"a": leaf}])


def test_the_average_of_a_state_of_shapes():
    step, state = make_state(ema=0.9)
    shapes = eqx.filter_eval_shape(step.init, jnp.ones(3), key=KEY)
    average = shapes.ema_model
    assert (average.shape, average.dtype) == ((3,), jnp.float32)
    assert isinstance(average, jax.ShapeDtypeStruct)
    assert state.ema_model.shape == (3,)


def test_a_program_that_fails_tells_its_own_error_and_a_shared_leaf_that_of_the_state():
    def checked(model, example, key):
        return eqx.error_if(jnp.sum(model * example), example[0] > 1, "mine: too large")

    step = treadle.TrainStep(checked, optax.sgd(0.1))
    state = step.init(jnp.ones(3), key=KEY)
    with pytest.raises(Exception, match=r"mine: too large"):
        jax.block_until_ready(step(state, np.full((2, 3), 2, np.float32)))
    state = step.init(jnp.ones(3), key=KEY)
    other = state.replace(model=jnp.zeros(3))
    step(state, np.ones((2, 3), np.float32))
    with pytest.raises(treadle.ConsumedStateError, match=r"was consumed"):
        step(other, np.ones((2, 3), np.float32))
