"""Laws of models with state: dispatch, microbatches and cuts do not show in what is kept."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers import assert_same, make_batch
from tests.test_stateful import Net, loss_fn

import treadle
from treadle import EvalStep, TrainStep


@pytest.mark.optimised(only=True)
@pytest.mark.parametrize(("mode", "accumulate"), [("batch", 1), ("ema", 1), ("batch", 2)])
def test_scan_is_the_same_bits_as_calls(mode, accumulate):
    step = TrainStep(loss_fn, optax.adamw(1e-2), stateful=True, accumulate=accumulate)
    model, model_state = eqx.nn.make_with_state(Net)(jax.random.key(1), mode)
    called = step.init(model, key=jax.random.key(0), model_state=model_state)
    scanned = called.copy()
    batches = [make_batch(seed=seed) for seed in range(3)]
    rows = []
    for batch in batches:
        called, metrics = step(called, batch)
        rows.append(metrics)
    scanned, metrics = step.scan(scanned, jax.tree.map(lambda *x: np.stack(x), *batches))
    assert_same(scanned, called)
    assert_same(metrics, jax.tree.map(lambda *x: jnp.stack(x), *rows))
    assert len(step.compilations) == 2


class Norms(eqx.Module):
    """Both modes of batch norm on the bare input, and a count of the examples seen."""

    batch: eqx.nn.BatchNorm
    ema: eqx.nn.BatchNorm
    seen: eqx.nn.StateIndex

    def __init__(self):
        self.batch = eqx.nn.BatchNorm(2, "batch", momentum=0.8, mode="batch")
        self.ema = eqx.nn.BatchNorm(2, "batch", momentum=0.8, mode="ema")
        self.seen = eqx.nn.StateIndex(jnp.zeros((), jnp.int32))

    def __call__(self, x, model_state):
        one, model_state = self.batch(x, model_state)
        two, model_state = self.ema(x, model_state)
        return one, two, model_state


def outputs(model, model_state, x, key):
    one, two, model_state = model(x, model_state)
    seen = model_state.get(model.seen) + jax.lax.psum(jnp.int32(1), "batch")
    return (jnp.sum(one + two), {"batch": treadle.Sum(one**2)}), model_state.set(model.seen, seen)


STEPS = {
    count: TrainStep(outputs, optax.sgd(0.0), stateful=True, accumulate=count)
    for count in (1, 2, 4)
}


def inputs(seed, steps=3):
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.1, 10.0, size=2)
    shift = rng.normal(size=2) * scale
    return (rng.normal(size=(steps, 8, 2)) * scale + shift).astype(np.float32)


def by_numpy(batches, count):
    """What the two modes keep, in float64."""
    hidden = np.zeros(2), np.ones(2)
    average = None
    for x in batches.astype(np.float64):
        for index in range(count):
            part = x[index::count]
            own = part.mean(axis=0), part.var(axis=0)
            hidden = tuple(0.8 * h + 0.2 * o for h, o in zip(hidden, own, strict=True))
            if average is None:
                average = own
            else:
                average = tuple(0.8 * a + 0.2 * o for a, o in zip(average, own, strict=True))
    return hidden, average


@given(seed=st.integers(0, 2**31 - 1), count=st.sampled_from(sorted(STEPS)))
def test_statistics_are_those_of_the_microbatches_in_order(seed, count):
    batches = inputs(seed)
    step = STEPS[count]
    state = step.init(lambda: eqx.nn.make_with_state(Norms)(), key=jax.random.key(0))
    metrics = {}
    for batch in batches:
        state, metrics = step(state, batch)
    model, kept = state.model, state.model_state
    hidden, average = by_numpy(batches, count)
    scale = np.abs(batches).max(axis=(0, 1))
    for ours, theirs in (
        (kept.get(model.batch.batch_state_index), hidden),
        (kept.get(model.ema.ema_state_index), average),
    ):
        np.testing.assert_allclose(ours[0] / scale, theirs[0] / scale, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(ours[1] / scale**2, theirs[1] / scale**2, rtol=1e-4, atol=1e-5)
    assert int(kept.get(model.batch.batch_counter)) == 3 * count
    assert int(kept.get(model.seen)) == batches.shape[0] * batches.shape[1]
    # Normalised by the examples of the microbatch alone, whatever was kept.
    parts = [batches[-1][index::count].astype(np.float64) for index in range(count)]
    moments = [part.var(axis=0) / (part.var(axis=0) + 1e-5) for part in parts]
    np.testing.assert_allclose(metrics["batch"] / 8, np.mean(moments, axis=0), rtol=1e-3)


@given(seed=st.integers(0, 2**31 - 1))
def test_the_order_of_examples_does_not_show(seed):
    batches = inputs(seed, steps=1)
    order = np.random.default_rng(seed).permutation(8)
    kept = []
    for batch in (batches[0], batches[0][order]):
        state = STEPS[1].init(lambda: eqx.nn.make_with_state(Norms)(), key=jax.random.key(0))
        state, _ = STEPS[1](state, batch)
        kept.append(jax.tree.leaves(state.model_state))
    scale = np.abs(batches).max() ** 2
    for one, other in zip(*kept, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * scale)


def metric_fn(model, model_state, example):
    x, y = example
    logits, _ = model(x, model_state)
    return {"accuracy": jnp.argmax(logits) == y, "top": jnp.max(logits)}


METRICS = EvalStep(metric_fn, stateful=True)


@given(cuts=st.lists(st.integers(1, 6), min_size=1, max_size=5), size=st.sampled_from([3, 4]))
def test_evaluation_does_not_depend_on_the_cut(cuts, size):
    total = sum(cuts)
    x, y = make_batch(total, seed=total)
    ends = np.cumsum(cuts)
    ragged = [(x[end - cut : end], y[end - cut : end]) for cut, end in zip(cuts, ends, strict=True)]
    pair = _PAIR
    found = treadle.evaluate(METRICS, pair, ragged, batch_size=size)
    logits = treadle.predict(pair, x, batch_size=size)
    np.testing.assert_allclose(found["top"], logits.max(axis=1).mean(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["accuracy"], (logits.argmax(axis=1) == y).mean(), rtol=1e-6)


_PAIR = eqx.nn.make_with_state(Net)(jax.random.key(1), "ema")
