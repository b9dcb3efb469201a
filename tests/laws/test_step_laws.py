"""Laws of the step: what does not depend on how a batch is cut, or on how steps are dispatched."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers import Net, assert_close, assert_same, loss_fn, make_batch

import treadle

OPTIMIZERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": optax.adam(1e-2),
    "adamw": optax.adamw(1e-2, weight_decay=0.1),
    "lamb": optax.lamb(1e-2),
    "lion": optax.lion(1e-3),
    "adafactor": optax.adafactor(1e-2),
    "rmsprop": optax.rmsprop(1e-2),
    "adagrad": optax.adagrad(1e-2),
    "adadelta": optax.adadelta(1e-2),
    "noisy": optax.noisy_sgd(1e-2, key=7),
    "lookahead-free chain": optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2)),
    "schedule": optax.adamw(optax.warmup_cosine_decay_schedule(0.0, 1e-2, 2, 10)),
    "multi steps": optax.MultiSteps(optax.adamw(1e-2), 2),
    "injected": optax.inject_hyperparams(optax.adamw)(learning_rate=1e-2),
    "masked": optax.masked(optax.adamw(1e-2), treadle.tree.select("**/weight")),
    "schedule free": optax.contrib.schedule_free_adamw(1e-2),
    "prodigy": optax.contrib.prodigy(1.0),
    "plateau": optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau()),
    "lbfgs": optax.lbfgs(),
}


def weighted_loss(model, example, key):
    x, y, weight = example
    logits = model(x, key=key)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    aux = {
        "accuracy": treadle.Weighted(jnp.argmax(logits) == y, weight),
        "seen": treadle.Sum(jnp.ones(())),
        "plain": jnp.max(logits),
    }
    return treadle.Weighted(loss, weight), aux


@given(
    seed=st.integers(0, 2**31 - 1),
    zeros=st.floats(0, 0.9),
)
def test_accumulation_changes_nothing_but_rounding(seed, zeros):
    rng = np.random.default_rng(seed)
    weights = (rng.random(8) * (rng.random(8) >= zeros)).astype(np.float32)
    weights[rng.integers(8)] += 0.5
    batch = (*make_batch(8, seed=seed % 1000), weights)
    model = Net(jax.random.key(seed))
    ends = []
    for step in _ACCUMULATING:
        state = step.init(model, key=jax.random.key(seed))
        ends.append(step(state, batch))
    for state, metrics in ends[1:]:
        assert_close(metrics, ends[0][1], rtol=2e-5, atol=2e-6)
        assert_close(state.model, ends[0][0].model, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(ends[0][1]["seen"], 8)
    _, metrics = ends[0]
    logits, losses = _by_hand(model, batch, seed)
    expected = np.sum(losses * weights, dtype=np.float64) / np.sum(weights, dtype=np.float64)
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["plain"], np.mean(logits.max(axis=1)), rtol=1e-5)


_ACCUMULATING = [
    treadle.TrainStep(weighted_loss, optax.sgd(1.0), accumulate=count) for count in (1, 2, 4, 8)
]


def _by_hand(model, batch, seed):
    """The per-example losses of the first step, by the documented derivation of keys."""
    step_key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 0x74726169), 0)
    keys = [jax.random.fold_in(step_key, index) for index in range(8)]
    logits = np.stack([model(x, key=key) for x, key in zip(batch[0], keys, strict=True)])
    losses = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), batch[1])
    return logits, np.asarray(losses)


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_draws_do_not_depend_on_microbatches(accumulate):
    def draws(model, example, key):
        place, drawn = example, jax.random.uniform(key)
        return jnp.sum(model), {"drawn": treadle.Sum(jax.nn.one_hot(place, 8) * drawn)}

    step = treadle.TrainStep(draws, optax.sgd(0.0), accumulate=accumulate)
    state = step.init(jnp.ones(1), key=jax.random.key(3))
    _, metrics = step(state, np.arange(8, dtype=np.int32))
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), 0x74726169), 0)
    expected = [jax.random.uniform(jax.random.fold_in(key, index)) for index in range(8)]
    assert_same(metrics["drawn"], jnp.stack(expected))


@pytest.mark.optimised
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_scan_is_the_same_bits_as_calls(name):
    step = treadle.TrainStep(loss_fn, OPTIMIZERS[name], trainable="last/**")
    model = Net(jax.random.key(1))
    called = step.init(model, key=jax.random.key(0))
    scanned = called.copy()
    batches = [make_batch(seed=seed) for seed in range(4)]
    rows = []
    for batch in batches:
        called, metrics = step(called, batch)
        rows.append(metrics)
    stacked = jax.tree.map(lambda *x: np.stack(x), *batches)
    scanned, metrics = step.scan(scanned, stacked)
    assert_same(scanned, called)
    assert_same(metrics, jax.tree.map(lambda *x: jnp.stack(x), *rows))
    # What is frozen stays the same bit for bit, weight decay or not; and something was learned.
    assert_same(called.model.first, model.first)
    assert len(step.compilations) == 2
    if name != "plateau":
        assert not np.array_equal(called.model.last.weight, model.last.weight)


class Attention(eqx.Module):
    embed: eqx.nn.Linear
    attention: eqx.nn.MultiheadAttention
    out: eqx.nn.Linear

    def __init__(self, key):
        one, two, three = jax.random.split(key, 3)
        self.embed = eqx.nn.Linear(2, 8, key=one)
        self.attention = eqx.nn.MultiheadAttention(2, 8, dropout_p=0.1, key=two)
        self.out = eqx.nn.Linear(8, 3, key=three)

    def __call__(self, x, *, key):
        h = jax.vmap(self.embed)(x.reshape(3, 2))
        h = h + self.attention(h, h, h, key=key)
        return self.out(jnp.mean(h, axis=0))


@pytest.mark.optimised
@pytest.mark.parametrize("accumulate", [1, 2])
def test_scan_is_the_same_bits_for_attention(accumulate):
    step = treadle.TrainStep(loss_fn, optax.adamw(1e-2), accumulate=accumulate)
    called = step.init(Attention, key=jax.random.key(0))
    scanned = called.copy()
    batches = [make_batch(seed=seed) for seed in range(3)]
    for batch in batches:
        called, _ = step(called, batch)
    scanned, _ = step.scan(scanned, jax.tree.map(lambda *x: np.stack(x), *batches))
    assert_same(scanned, called)


@given(globs=st.sets(st.sampled_from(["first/weight", "first/bias", "last/weight", "last/bias"])))
def test_frozen_leaves_keep_their_bits(globs):
    if not globs:
        return
    chosen = tuple(sorted(globs))
    if chosen not in _FREEZING:
        _FREEZING[chosen] = treadle.TrainStep(
            loss_fn, optax.adamw(1e-2, weight_decay=0.5), trainable=chosen
        )
    step = _FREEZING[chosen]
    model = Net(jax.random.key(1))
    state = step.init(model, key=jax.random.key(0))
    for seed in range(2):
        state, _ = step(state, make_batch(seed=seed))
    before = dict(zip(treadle.tree.paths(model), jax.tree.leaves(model), strict=True))
    after = dict(zip(treadle.tree.paths(state.model), jax.tree.leaves(state.model), strict=True))
    for path, leaf in before.items():
        if eqx.is_inexact_array(leaf):
            same = np.asarray(leaf).tobytes() == np.asarray(after[path]).tobytes()
            assert same == (path not in chosen), path


_FREEZING: dict[tuple[str, ...], treadle.TrainStep] = {}


@given(
    seed=st.integers(0, 2**32 - 1),
    steps=st.lists(st.integers(0, 10**6), min_size=4, max_size=4, unique=True),
)
def test_no_two_streams_share_a_key(seed, steps):
    streams = _streams(jax.random.key(seed), jnp.asarray(steps, jnp.int32))
    found = {
        (name, *index): tuple(words[index].tolist())
        for name, words in jax.tree.map(np.asarray, streams).items()
        for index in np.ndindex(words.shape[:-1])
    }
    assert len(set(found.values())) == len(found) > 1_000


@jax.jit
def _streams(key, steps):
    """The words of every key that a run, an ensemble or a user might draw with."""
    random = treadle._random
    members = random.member_keys(key, 3)

    def of_step(root, step):
        of_rounding = random.rounding_key(root, step)
        of_examples = random.step_key(root, step)
        return {
            "step": of_examples,
            "example": random.example_keys(of_examples, jnp.arange(40)),
            "rounding": of_rounding,
            "rounding of a leaf": random.example_keys(of_rounding, jnp.arange(40)),
        }

    def of_run(key):
        root = random.training_key(key)
        own = {"run": key, "training": root, "model": random.model_key(key)}
        return own | jax.vmap(of_step, in_axes=(None, 0))(root, steps)

    single, members = of_run(key), jax.vmap(of_run)(members)
    streams = single | {f"{name} of a member": keys for name, keys in members.items()}
    streams |= {
        "split": jax.random.split(key, 40),
        "data": jax.random.fold_in(key, random.DATA_ORDER),
        "ensemble": jax.random.fold_in(key, random.ENSEMBLE),
        "predict": random.predict_key(key),
        "adapters": jnp.stack([random.adapter_key(key, index) for index in range(20)]),
    }
    return {name: jax.random.key_data(keys) for name, keys in streams.items()}


def test_state_key_is_the_documented_derivation():
    step = treadle.TrainStep(loss_fn, optax.sgd(0.1))
    state = step.init(Net(jax.random.key(1)), key=jax.random.key(5))
    assert_same(state.key, jax.random.fold_in(jax.random.key(5), 0x74726169))
    state, _ = step(state, make_batch())
    assert_same(state.key, jax.random.fold_in(jax.random.key(5), 0x74726169))


def test_batched_losses_draw_with_the_microbatch():
    def draws(model, batch, key):
        return jnp.sum(model), {"drawn": jax.random.uniform(key)}

    step = treadle.TrainStep(draws, optax.sgd(0.0), batched=True, accumulate=2)
    state = step.init(jnp.ones(1), key=jax.random.key(3))
    _, metrics = step(state, np.ones((4, 1), np.float32))
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), 0x74726169), 0)
    expected = np.mean([jax.random.uniform(jax.random.fold_in(key, j)) for j in range(2)])
    np.testing.assert_allclose(metrics["drawn"], expected, rtol=1e-6)
