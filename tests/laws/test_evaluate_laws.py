"""Laws of `evaluate` and `predict`: exact, however the examples are cut into batches."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers import Net, assert_same, loss_fn, make_batch

import treadle

MODEL = Net(jax.random.key(1))


def metric_fn(model, example):
    x, y = example
    logits = model(x)
    return {
        "accuracy": jnp.argmax(logits) == y,
        "weighted": treadle.Weighted(jnp.max(logits), y),
        "counts": treadle.Sum(jax.nn.one_hot(y, 3)),
        "nested": {"top": jnp.max(logits)},
    }


EVAL = treadle.EvalStep(metric_fn)


def cuts(size):
    """All the ways to cut `size` examples into batches."""
    places = st.lists(st.integers(1, size - 1), unique=True, max_size=6).map(sorted)
    return places.map(lambda inner: [0, *inner, size])


@given(places=cuts(23), on_device=st.booleans(), seed=st.integers(0, 10))
def test_any_split_gives_the_same_figures(places, on_device, seed):
    x, y = make_batch(23, seed=seed)
    put = jnp.asarray if on_device else np.asarray
    batches = [(put(x[a:b]), put(y[a:b])) for a, b in itertools.pairwise(places)]
    got = treadle.evaluate(EVAL, MODEL, batches, batch_size=8)
    whole = treadle.evaluate(EVAL, MODEL, [(x, y)], batch_size=8)
    assert got.keys() == whole.keys()
    for name, value in got.items():
        assert np.array_equal(value, whole[name]), name
    assert EVAL.compilations == 1
    logits = np.asarray(jax.vmap(lambda row: _inference(row))(x), np.float64)
    np.testing.assert_allclose(got["accuracy"], np.mean(logits.argmax(1) == y), rtol=1e-6)
    np.testing.assert_allclose(got["nested/top"], np.mean(logits.max(1)), rtol=1e-5, atol=1e-6)
    expected = np.sum(logits.max(1) * y) / np.sum(y)
    np.testing.assert_allclose(got["weighted"], expected, rtol=1e-5, atol=1e-6)
    assert got["counts"].tolist() == np.bincount(y, minlength=3).tolist()


def _inference(row):
    return MODEL.last(jax.nn.tanh(MODEL.first(row)))


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_first_batch_gives_the_size(sizes):
    x, y = make_batch(sum(sizes))
    ends = np.cumsum(sizes)
    batches = [(x[e - s : e], y[e - s : e]) for s, e in zip(sizes, ends, strict=True)]
    sized = treadle.EvalStep(metric_fn)
    got = treadle.evaluate(sized, MODEL, batches)
    whole = treadle.evaluate(EVAL, MODEL, [(x, y)], batch_size=8)
    np.testing.assert_allclose(got["accuracy"], whole["accuracy"], rtol=1e-6)
    assert sized.compilations == 1


@given(places=cuts(23))
def test_a_batched_metric_compiles_per_size(places):
    def batched(model, batch):
        x, y = batch
        logits = jax.vmap(model)(x)
        return {
            "accuracy": jnp.mean((jnp.argmax(logits, axis=1) == y).astype(jnp.float32)),
            "rows": treadle.Sum(jnp.asarray(x.shape[0])),
        }

    if "step" not in _BATCHED:
        _BATCHED["step"] = treadle.EvalStep(batched, batched=True)
    step = _BATCHED["step"]
    x, y = make_batch(23)
    batches = [(x[a:b], y[a:b]) for a, b in itertools.pairwise(places)]
    got = treadle.evaluate(step, MODEL, batches, batch_size=8)
    whole = treadle.evaluate(EVAL, MODEL, [(x, y)], batch_size=8)
    np.testing.assert_allclose(got["accuracy"], whole["accuracy"], rtol=1e-6)
    assert got["rows"] == 23
    assert step.compilations == 2


_BATCHED: dict[str, treadle.EvalStep] = {}


def test_state_or_model_and_inference_mode():
    state = treadle.TrainStep(loss_fn, optax.sgd(0.1)).init(MODEL, key=jax.random.key(0))
    batches = [make_batch(8)]
    a = treadle.evaluate(EVAL, state, batches, batch_size=8)
    b = treadle.evaluate(EVAL, MODEL, batches, batch_size=8)
    assert a["accuracy"] == b["accuracy"]
    assert not state.is_consumed


@given(count=st.integers(1, 20), size=st.integers(1, 9))
def test_predict_gives_a_row_each(count, size):
    x, _ = make_batch(count)
    got = treadle.predict(MODEL, x, batch_size=size)
    assert isinstance(got, np.ndarray)
    assert got.shape == (count, 3)
    np.testing.assert_allclose(got, jax.vmap(_inference)(x), rtol=1e-5, atol=1e-6)


def test_predict_draws_by_the_example():
    x, _ = make_batch(10)
    key = jax.random.key(4)
    got = treadle.predict(MODEL, x, batch_size=4, key=key, inference=False)
    root = jax.random.fold_in(key, 0x70726564)
    expected = [MODEL(row, key=jax.random.fold_in(root, i)) for i, row in enumerate(x)]
    np.testing.assert_allclose(got, np.stack(expected), rtol=1e-5, atol=1e-6)
    assert_same(got, treadle.predict(MODEL, x, batch_size=4, key=key, inference=False))


def test_what_is_wrong_is_told():
    with pytest.raises(treadle.DataError, match=r"`batches` is empty.*epochs=1"):
        treadle.evaluate(EVAL, MODEL, iter([]))
    with pytest.raises(treadle.ArgumentTypeError, match=r"not an `EvalStep`"):
        treadle.evaluate(metric_fn, MODEL, [make_batch()])
    with pytest.raises(treadle.ArgumentValueError, match=r"`batch_size` .=0. must be"):
        treadle.predict(MODEL, make_batch()[0], batch_size=0)
    with pytest.raises(treadle.BatchError, match=r"changes its structure"):
        treadle.evaluate(EVAL, MODEL, [make_batch(), make_batch()[0]])
    bad = treadle.EvalStep(lambda model, example: {})
    with pytest.raises(treadle.LossError, match=r"empty dictionary"):
        treadle.evaluate(bad, MODEL, [make_batch()])
    zero = treadle.EvalStep(lambda m, e: {"w": treadle.Weighted(1.0, 0.0)})
    with pytest.warns(treadle.ZeroWeightWarning, match=r"'w' were 0"):
        figures = treadle.evaluate(zero, MODEL, [make_batch()])
    assert figures == {"w": 0.0}
