"""Laws of the averaged model: the weighted mean of the models so far, whatever the decay."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import Net, assert_same, loss_fn, make_batch

import treadle
from treadle._average import Average, averaged
from treadle._compat import enable_x64

DECAYS = (0.1, 0.9, 0.9999)
_STEPS = {
    decay: treadle.TrainStep(
        loss_fn, optax.sgd(0.5), ema=decay, trainable="last/**", nonfinite="skip"
    )
    for decay in DECAYS
}


def by_numpy(models, decay):
    """`sum(decay**(t - i) * model_i) / sum(decay**(t - i))` in float64."""
    weights = np.float64(decay) ** np.arange(len(models) - 1, -1, -1)
    return np.tensordot(weights / weights.sum(), np.asarray(models, np.float64), axes=1)


@given(
    decay=st.floats(0.1, 0.9999) | st.sampled_from([1e-3, 0.999999]),
    count=st.integers(1, 40),
    seed=st.integers(0, 2**31 - 1),
    far=st.sampled_from([0.0, 1.0, 100.0]),
)
@settings(max_examples=40)
def test_the_average_is_that_of_numpy(decay, count, seed, far):
    rng = np.random.default_rng(seed)
    models = rng.normal(size=(count, 3)).astype(np.float32)
    # What the average begins with does not count, however far away it is.
    start = {"w": jnp.full(3, np.float32(far)), "z": jnp.full(3, far, jnp.complex64)}
    average = Average.of(start)
    for t, model in enumerate(models, start=1):
        leaves = {"w": jnp.asarray(model), "z": jnp.asarray(model * (1 + 2j), jnp.complex64)}
        average = averaged(average, leaves, decay, jnp.int32(t))
        expected = by_numpy(models[:t], decay)
        # A few roundings of the largest number so far.
        error = 4 * 2.0**-23 * (far + np.abs(models).max())
        found = average.unpacked()
        np.testing.assert_allclose(found["w"], expected, rtol=0, atol=error)
        np.testing.assert_allclose(found["z"], expected * (1 + 2j), rtol=0, atol=4 * error)


def test_the_average_of_many_steps_and_of_float64():
    with enable_x64():
        rng = np.random.default_rng(0)
        models = rng.normal(size=(2_000, 2))
        average = Average.of(jnp.zeros(2))
        step = jax.jit(lambda average, model, t: averaged(average, model, 0.999, t))
        for t, model in enumerate(models, start=1):
            average = step(average, jnp.asarray(model), jnp.int32(t))
        np.testing.assert_allclose(average.unpacked(), by_numpy(models, 0.999), rtol=1e-12)


@given(
    shapes=st.lists(st.sampled_from([(), (3,), (0,), (2, 5), (4_097,), (64, 64), (65, 64)])),
    dtypes=st.lists(st.sampled_from(["float32", "bfloat16", "complex64"]), min_size=1),
    members=st.sampled_from([None, 3]),
)
def test_small_leaves_share_a_vector_and_come_back(shapes, dtypes, members):
    rng = np.random.default_rng(len(shapes))
    lead = () if members is None else (members,)
    trained = [
        (jnp.asarray(rng.normal(size=(*lead, *shape)), dtypes[i % len(dtypes)]), None)
        for i, shape in enumerate(shapes)
    ]
    make = Average.of if members is None else eqx.filter_vmap(Average.of)
    if not shapes and members:
        return
    average = make(trained)
    back = average.unpacked()
    expected = jax.tree.map(
        lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, trained
    )
    assert_same(back, expected)
    assert_same(average.repacked(back), average)
    large = [shape for shape in shapes if np.prod(shape) > 4_096]
    assert len(average.large) == len(large)
    assert len(average.small) <= 2


@pytest.mark.parametrize("decay", DECAYS)
@given(kinds=st.lists(st.booleans(), min_size=1, max_size=8))
@settings(max_examples=6)
def test_a_step_averages_the_models_it_left_and_no_others(decay, kinds):
    step = _STEPS[decay]
    model = Net(jax.random.key(1))
    state = step.init(model, key=jax.random.key(0))
    assert_same(state.ema_model, model)
    models = []
    for seed, finite in enumerate(kinds):
        x, y = make_batch(seed=seed)
        before = state.copy()
        state, _ = step(state, (x if finite else x * np.float32(np.nan), y))
        if not finite:
            # Dropped: not in the average, nor in its count.
            assert_same(state.ema_model, before.ema_model)
            continue
        models.append(np.asarray(state.model.last.weight))
        expected = by_numpy(models, decay)
        np.testing.assert_allclose(state.ema_model.last.weight, expected, rtol=0, atol=2e-6)
    # What is not trained is as in the model, functions and numbers included.
    assert_same(state.ema_model.first, model.first)
    assert state.ema_model.dropout.p == model.dropout.p
    assert jax.tree.structure(state.ema_model) == jax.tree.structure(model)


def test_evaluating_the_average_is_evaluating_its_model():
    step = _STEPS[0.9]
    evaluation = treadle.EvalStep(lambda model, example: {"logit": model(example[0])[0]})
    state = step.init(Net(jax.random.key(1)), key=jax.random.key(0))
    weights, biases = [], []
    seen = {}

    def figures(state):
        return treadle.evaluate(evaluation, state, [make_batch(16)], weights="ema")

    batches = [make_batch(seed=seed) for seed in range(5)]
    for data in batches:
        state, _ = step(state, data)
        weights.append(np.asarray(state.model.last.weight))
        biases.append(np.asarray(state.model.last.bias))
        seen[int(state.step)] = figures(state)["logit"]
    where = lambda m: (m.last.weight, m.last.bias)
    mean = tuple(np.float32(by_numpy(leaves, 0.9)) for leaves in (weights, biases))
    model = eqx.tree_at(where, state.model, tuple(map(jnp.asarray, mean)))
    np.testing.assert_allclose(
        figures(state)["logit"],
        treadle.evaluate(evaluation, model, [make_batch(16)])["logit"],
        rtol=1e-5,
    )
    assert figures(state) == treadle.evaluate(evaluation, state.ema_model, [make_batch(16)])
    assert figures(state) != treadle.evaluate(evaluation, state, [make_batch(16)])
    # A prediction as well.
    predicted = treadle.predict(state, make_batch(16)[0], batch_size=16, weights="ema")
    np.testing.assert_allclose(np.mean(predicted[:, 0]), seen[5], rtol=1e-6)
    # And what `fit` evaluates with a function of the state.
    _, history = treadle.fit(
        step,
        step.init(Net(jax.random.key(1)), key=jax.random.key(0)),
        batches,
        num_steps=5,
        eval=figures,
        eval_every=2,
        progress=False,
    )
    np.testing.assert_array_equal(history.eval["logit"], [seen[2], seen[4], seen[5]])


def test_the_average_goes_on_through_a_checkpoint_and_a_resumed_run(tmp_path):
    step = _STEPS[0.9999]
    batches = [make_batch(seed=seed) for seed in range(6)]
    whole = step.init(Net(jax.random.key(1)), key=jax.random.key(0))
    for index, data in enumerate(batches):
        if index == 3:
            treadle.save(tmp_path / "state", whole)
            like = step.init(Net(jax.random.key(2)), key=jax.random.key(3))
            whole = treadle.load(tmp_path / "state", like)
        whole, _ = step(whole, data)

    def fresh():
        return step.init(Net(jax.random.key(1)), key=jax.random.key(0))

    options = {"run": tmp_path / "run", "progress": False}
    treadle.fit(step, fresh(), batches, num_steps=2, **options)
    resumed, _ = treadle.fit(step, fresh(), batches, num_steps=6, **options)
    assert_same(resumed, whole)
    fused, _ = treadle.fit(step, fresh(), batches, num_steps=6, steps_per_call=3, progress=False)
    assert_same(fused, whole)
    assert "ema_model/small/float32" in whole.leaf_paths()
    # The frozen part is there once.
    assert "ema_model/first/weight" not in whole.leaf_paths()


def test_setting_the_step_leaves_the_average_alone():
    step = _STEPS[0.9]
    state = step.init(Net(jax.random.key(1)), key=jax.random.key(0))
    models = []
    for seed, number in enumerate((0, 100, 0, 7)):
        state, _ = step(state.replace(step=number), make_batch(seed=seed))
        models.append(np.asarray(state.model.last.bias))
    np.testing.assert_allclose(state.ema_model.last.bias, by_numpy(models, 0.9), atol=1e-6)


def test_replacing_the_average():
    step = _STEPS[0.9]
    state = step.init(Net(jax.random.key(1)), key=jax.random.key(0))
    state, _ = step(state, make_batch())
    other = eqx.tree_at(lambda m: m.last.bias, state.ema_model, jnp.full(3, 7.0))
    replaced = state.replace(ema_model=other)
    assert_same(replaced.ema_model, other)
    assert_same(replaced.model, state.model)
    with pytest.raises(treadle.TreeError, match=r"`ema_model` does not fit .*'last/bias' is float"):
        state.replace(ema_model=eqx.tree_at(lambda m: m.last.bias, other, jnp.ones(4)))
    with pytest.raises(treadle.TreeError, match="`ema_model` does not fit the state"):
        state.replace(ema_model=other.last)
    with pytest.raises(treadle.TreeError, match="`ema_model` does not fit the state"):
        state.replace(ema_model=None)
    # It goes on from there, as an average of two models of which this is the first.
    before = np.float64(np.asarray(state.model.last.bias))
    after, _ = step(replaced, make_batch(seed=1))
    assert before.shape == (3,)
    expected = by_numpy([np.full(3, 7.0), np.asarray(after.model.last.bias)], 0.9)
    np.testing.assert_allclose(after.ema_model.last.bias, expected, rtol=1e-6)


def test_a_member_that_stands_still_has_its_own_count():
    def distance(model, example, key):
        return jnp.sum((model["w"] - example) ** 2)

    step = treadle.ensemble(treadle.TrainStep(distance, optax.sgd(0.25), ema=0.9), 2)
    state = step.init(lambda key: {"w": jax.random.normal(key, (3,))}, key=jax.random.key(0))
    models = [[], []]
    for seed, active in enumerate(([True, True], [True, False], [True, False], [True, True])):
        state = state.replace(active=np.array(active))
        before = state.copy()
        state, _ = step(state, np.random.default_rng(seed).normal(size=(2, 3)).astype(np.float32))
        for member in range(2):
            if active[member]:
                models[member].append(np.asarray(state.model["w"][member]))
        if not active[1]:
            assert_same(state.ema_model["w"][1], before.ema_model["w"][1])
    for member in range(2):
        expected = by_numpy(models[member], 0.9)
        np.testing.assert_allclose(state.ema_model["w"][member], expected, atol=1e-6)


def test_a_model_in_bfloat16_has_an_average_in_float32():
    step = treadle.TrainStep(loss_fn, optax.sgd(0.5), ema=0.5, precision="bf16-true")
    state = step.init(Net(jax.random.key(1)), key=jax.random.key(0))
    models = []
    for seed in range(4):
        state, _ = step(state, make_batch(seed=seed))
        models.append(np.asarray(state.model.last.weight, np.float64))
    assert state.model.last.weight.dtype == jnp.bfloat16
    assert state.ema_model.last.weight.dtype == jnp.float32
    np.testing.assert_allclose(state.ema_model.last.weight, by_numpy(models, 0.5), atol=1e-6)
    # Finer than any of the models.
    narrow = state.ema_model.last.weight.astype(jnp.bfloat16).astype(jnp.float32)
    assert not np.array_equal(state.ema_model.last.weight, narrow)
    compiled = step.compile(state, make_batch())
    assert compiled.aliased_bytes == compiled.donated_bytes
