import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers import Net, assert_same, loss_fn, make_batch

import treadle
from treadle.tree import stack, unstack


def test_models_stack_for_vmap_and_come_back():
    models = [Net(key) for key in jax.random.split(jax.random.key(0), 3)]
    stacked = stack(models)
    assert stacked.first.weight.shape == (3, 8, 6)
    assert stacked.dropout.p == 0.5
    x = jnp.ones(6)

    def call(model, x):
        return eqx.nn.inference_mode(model)(x)

    outputs = eqx.filter_vmap(call, in_axes=(eqx.if_array(0), None))(stacked, x)
    np.testing.assert_allclose(outputs[1], call(models[1], x), rtol=1e-6)
    for model, back in zip(models, unstack(stacked), strict=True):
        assert_same(back, model)


@given(
    values=st.lists(
        st.tuples(st.floats(width=32), st.integers(-(2**31), 2**31 - 1)), min_size=1, max_size=4
    )
)
def test_unstack_undoes_stack(values):
    trees = [
        {"x": jnp.array([a, -a], jnp.float32), "n": (jnp.int32(b), None), "name": "same", "e": []}
        for a, b in values
    ]
    back = unstack(stack(trees))
    assert len(back) == len(trees)
    for tree, again in zip(trees, back, strict=True):
        assert_same(again, tree)


def test_typed_keys_stack():
    keys = [jax.random.key(seed) for seed in range(3)]
    stacked = stack([{"key": key} for key in keys])
    assert stacked["key"].shape == (3,)
    assert_same(unstack(stacked)[2]["key"], keys[2])


def test_what_does_not_fit_is_told_leaf_by_leaf():
    first = {"w": jnp.ones(2), "rate": 0.1, "name": "a"}
    with pytest.raises(treadle.TreeError, match=r"index 1 .*'w' is float32\[2\] in the first and .*\[3\]"):
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


def test_states_of_single_runs_become_an_ensemble_and_come_back():
    step = treadle.TrainStep(loss_fn, optax.adam(1e-2), ema=0.9)
    singles = [step.init(Net, key=jax.random.key(seed)) for seed in range(3)]
    singles = [step(state, make_batch())[0] for state in singles]
    state = stack(singles)
    assert state.members == 3
    assert int(state.step) == 1
    for single, back in zip(singles, unstack(state), strict=True):
        assert back.members is None
        assert_same(back, single)
    ensemble = treadle.ensemble(step, 3)
    state, metrics = ensemble(state, make_batch(seed=1))
    assert metrics["loss"].shape == (3,)
    _, metrics_of_one = step(singles[1], make_batch(seed=1))
    np.testing.assert_allclose(metrics["loss"][1], metrics_of_one["loss"], rtol=1e-5)


def test_states_that_do_not_fit_are_told():
    step = treadle.TrainStep(loss_fn, optax.sgd(1e-2))
    first = step.init(Net, key=jax.random.key(0))
    wider = step.init(lambda key: Net(key, width=9), key=jax.random.key(0))
    with pytest.raises(treadle.TreeError, match=r"index 1 .*'model/first/weight' is float32\[9"):
        stack([first, wider])
    with pytest.raises(treadle.TreeError, match="at step 1, not 0"):
        stack([first, step(first.copy(), make_batch())[0]])
    with pytest.raises(treadle.TreeError, match="of a single run: there are no members"):
        unstack(first)
    with pytest.raises(treadle.TreeError, match="cannot be stacked again"):
        stack([stack([first])])
