"""Laws of precision: errors as the formats allow, scaling as by hand, rounding that is unbiased."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import assert_close, assert_same

import treadle
from treadle._rounding import narrowed, stochastically

# -- against float64 --------------------------------------------------------------------------

RATE = 0.125
# The unit roundoff of each format: half the distance from 1 to the next number.
ROUNDOFF = {"f32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8, "stochastic": 2.0**-8}
STOCHASTIC = treadle.Precision("bfloat16", "bfloat16", "float32", stochastic_rounding=True)


class Small(eqx.Module):
    first: eqx.nn.Linear
    last: eqx.nn.Linear

    def __init__(self, key):
        one, two = jax.random.split(key)
        self.first = eqx.nn.Linear(4, 8, key=one)
        self.last = eqx.nn.Linear(8, 2, key=two)

    def __call__(self, x):
        return self.last(jnp.tanh(self.first(x)))


def squares(model, example, key):
    x, y = example
    return jnp.sum((model(x) - y) ** 2)


def in_float64(model, xs, ys):
    """Gradient descent by hand; yields all the parameters after each step."""
    a, b, c, d = (np.asarray(leaf, np.float64) for leaf in parameters(model))
    for x, y in zip(np.float64(xs), np.float64(ys), strict=True):
        h = np.tanh(x @ a.T + b)
        out = 2 * (h @ c.T + d - y) / len(x)
        back = (out @ c) * (1 - h * h)
        a, b = a - RATE * back.T @ x, b - RATE * back.sum(0)
        c, d = c - RATE * out.T @ h, d - RATE * out.sum(0)
        yield flat([a, b, c, d])


def parameters(model):
    return [model.first.weight, model.first.bias, model.last.weight, model.last.bias]


def flat(leaves):
    return np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in leaves])


_AGAINST_FLOAT64 = {
    name: treadle.TrainStep(
        squares, optax.sgd(RATE), precision=STOCHASTIC if name == "stochastic" else name
    )
    for name in ROUNDOFF
}


@given(seed=st.integers(0, 2**31 - 1))
@settings(max_examples=10)
def test_errors_against_float64_grow_as_the_formats_allow(seed):
    """The distance to a run in float64 after N steps, relative to the parameters' size.

    A gradient goes through a handful of roundings in the compute format, so its relative error is
    a small multiple of the unit roundoff u; a step adds it times the learning rate, and the errors
    of N steps add up at worst: `4 * u * rate * N`. Parameters in float32 are rounded once a step,
    `2**-24 * N`. Parameters in bfloat16, rounded at random, are off by up to 2 * u each time, in
    either direction: a random walk, `2 * u * sqrt(N)`, and rounded to nearest at the start, u.
    """
    rng = np.random.default_rng(seed)
    model = Small(jax.random.key(seed))
    xs = rng.normal(size=(32, 16, 4)).astype(np.float32)
    ys = 0.5 * rng.normal(size=(32, 16, 2)).astype(np.float32)
    exact = list(in_float64(model, xs, ys))
    size = np.linalg.norm(flat(parameters(model)))
    for name, step in _AGAINST_FLOAT64.items():
        state = step.init(model, key=jax.random.key(seed))
        u = ROUNDOFF[name]
        for count in range(1, 33):
            state, _ = step(state, (xs[count - 1], ys[count - 1]))
            error = np.linalg.norm(flat(parameters(state.model)) - exact[count - 1]) / size
            bound = 4 * u * RATE * count + 2.0**-24 * count
            if name == "stochastic":
                bound += 2 * u * np.sqrt(count) + u
            assert error <= bound, (name, count, error / bound)
            if count == 1:
                # And the format is the one that was asked for, not a better one.
                assert error >= 0.05 * u * RATE, (name, error)


# -- loss scaling -----------------------------------------------------------------------------

FACTOR = np.float32(2.0**-10)
POLICIES = {
    "doubling": treadle.LossScale(
        initial=2.0**10, growth_interval=2, minimum=2.0**4, maximum=2.0**14
    ),
    "uneven": treadle.LossScale(
        initial=1000.0,
        growth_factor=3.0,
        backoff_factor=0.3,
        growth_interval=3,
        minimum=50.0,
        maximum=20_000.0,
    ),
    "off": None,
}


class Dot(eqx.Module):
    weight: jax.Array

    def __call__(self, x):
        return jnp.sum(self.weight * x)


def times(model, example, key):
    """The gradient is `c * x`, and exact where both are powers of two."""
    x, c = example
    return model(x) * c


def scaling_step(policy, **options):
    precision = treadle.Precision("float32", "float16", "float32", loss_scale=policy)
    return treadle.TrainStep(times, optax.sgd(float(FACTOR)), precision=precision, **options)


_SCALING = {name: scaling_step(policy, nonfinite="skip") for name, policy in POLICIES.items()}
START = np.array([0.5, -0.25], np.float32)


def batch_of(exponent, other=-3):
    x = np.array([[1.0, 2.0**other]], np.float32)
    return x, np.array([2.0**exponent], np.float32)


def by_hand(policy, batches):
    """The loop that people write; yields what each step sees and leaves behind."""
    weight, scale, good, skipped = START, np.float32(policy.initial), 0, 0
    for x, c in batches:
        used = scale
        with np.errstate(over="ignore"):
            gradient = np.float16(scale * c[0]) * np.float16(x[0])
        if np.all(np.isfinite(gradient)):
            weight = weight - FACTOR * (np.float32(gradient) * (np.float32(1) / scale))
            good += 1
            if good == policy.growth_interval:
                scale = min(scale * np.float32(policy.growth_factor), np.float32(policy.maximum))
                good = 0
        else:
            skipped += 1
            scale = max(scale * np.float32(policy.backoff_factor), np.float32(policy.minimum))
            good = 0
        yield used, weight, scale, good, skipped


@pytest.mark.parametrize("name", ["doubling", "uneven"])
@given(
    exponents=st.lists(st.integers(-6, 14), min_size=1, max_size=24),
    stop=st.integers(0, 24),
)
def test_loss_scaling_is_the_loop_by_hand(name, exponents, stop, tmp_path_factory):
    policy, step = POLICIES[name], _SCALING[name]
    batches = [batch_of(exponent) for exponent in exponents]
    state = step.init(Dot(jnp.asarray(START)), key=jax.random.key(0))
    for index, expected in enumerate(by_hand(policy, batches)):
        if index == stop:
            # The scale and its count are in the state, so in its checkpoints as well.
            path = tmp_path_factory.mktemp("saved") / "state"
            treadle.save(path, state)
            like = step.init(Dot(jnp.asarray(START)), key=jax.random.key(1))
            state = treadle.load(path, like)
        state, metrics = step(state, batches[index])
        used, weight, scale, good, skipped = expected
        assert metrics["loss_scale"] == used
        assert state.loss_scale == scale
        assert state.loss_scale.dtype == jnp.float32
        assert state.parts().loss_scale.finite_steps == good
        assert metrics["skipped"] == state.skipped == skipped
        if name == "doubling":
            assert_same(state.model.weight, jnp.asarray(weight))
        else:
            # What is no power of two is rounded in float16 once more.
            np.testing.assert_allclose(state.model.weight, weight, rtol=1e-5)
    assert state.step == len(batches)
    step.check()  # With "skip" nothing is told.


@given(exponents=st.lists(st.integers(-6, 1), min_size=1, max_size=12))
def test_a_scale_changes_no_bit_where_nothing_overflows(exponents):
    ends = []
    for name in ("doubling", "off"):
        state = _SCALING[name].init(Dot(jnp.asarray(START)), key=jax.random.key(0))
        for exponent in exponents:
            state, metrics = _SCALING[name](state, batch_of(exponent))
        ends.append((state.model, state.opt_state, metrics["grad_norm"], metrics["loss"]))
        assert metrics["skipped"] == 0
    assert_same(*ends)


def test_what_vanishes_without_a_scale_and_what_overflows_with_too_large_a_one():
    tiny = batch_of(-20, other=-8)  # 2**-28 is nothing in float16, which ends at 2**-24.
    state, metrics = _SCALING["off"](
        _SCALING["off"].init(Dot(jnp.asarray(START)), key=jax.random.key(0)), tiny
    )
    assert state.model.weight[1] == START[1]
    wide = scaling_step(treadle.LossScale())
    state, metrics = wide(wide.init(Dot(jnp.zeros(2)), key=jax.random.key(0)), tiny)
    assert state.model.weight[1] == -FACTOR * 2.0**-28
    assert metrics["loss_scale"] == 2.0**15
    # Twice in a row: 2**15 * 2**3 is beyond float16, so is 2**14 * 2**3, and 2**12 * 2**3 is not.
    for index, used in enumerate((2.0**15, 2.0**14, 2.0**13, 2.0**12)):
        state, metrics = wide(state, batch_of(3))
        assert metrics["loss_scale"] == used
        assert metrics["skipped"] == min(index + 1, 3)
    wide.check()  # What a scale is backed off for is no fault.


def test_a_gradient_that_overflows_at_the_lowest_scale_is_a_fault():
    policy = treadle.LossScale(initial=4.0, minimum=2.0)
    step = scaling_step(policy)
    state = step.init(Dot(jnp.zeros(2)), key=jax.random.key(0))
    state, _ = step(state, batch_of(15))  # 4 * 2**15
    step.check()
    assert state.loss_scale == 2
    before = state.copy()
    state, _ = step(state, batch_of(15))
    with pytest.raises(treadle.NonFiniteError, match="of step 1 is NaN or infinite, and its upda"):
        step.check()
    # Dropped all the same.
    assert_same(state.model, before.model)
    ignoring = scaling_step(policy, nonfinite="ignore")
    state, _ = ignoring(before, batch_of(15))
    ignoring.check()
    assert state.skipped == 2


def test_a_network_scaled_and_unscaled_agree_as_float16_allows():
    precision = treadle.Precision("float32", "float16", "float32", loss_scale=None)
    unscaled = treadle.TrainStep(squares, optax.sgd(RATE), precision=precision)
    rng = np.random.default_rng(0)
    batch = tuple(rng.normal(size=(16, size)).astype(np.float32) for size in (4, 2))
    ends = []
    for step in (_AGAINST_FLOAT64["fp16"], unscaled):
        state, metrics = step(step.init(Small, key=jax.random.key(0)), batch)
        ends.append((state.model, metrics["loss"]))
    # The same roundings, but for what is below 2**-14, where float16 is evenly spaced by 2**-24.
    assert_close(ends[0], ends[1], rtol=2.0**-23, atol=RATE * 2.0**-20)


def test_the_scale_goes_on_through_a_resumed_run(tmp_path):
    exponents = [0, 9, 9, 1, 2, 3, 7, 7, 0, 1, 2, 11]
    batches = [batch_of(exponent) for exponent in exponents]
    step = _SCALING["doubling"]

    def fresh():
        return step.init(Dot(jnp.asarray(START)), key=jax.random.key(0))

    whole, history = treadle.fit(step, fresh(), batches, num_steps=12, progress=False)
    run = tmp_path / "run"
    options = {"run": run, "progress": False}
    treadle.fit(step, fresh(), batches, num_steps=5, **options)
    resumed, _ = treadle.fit(step, fresh(), batches, num_steps=12, **options)
    assert_same(resumed, whole)
    assert resumed.skipped > 0
    assert resumed.loss_scale == whole.loss_scale
    expected = [used for used, *_ in by_hand(POLICIES["doubling"], batches)]
    assert history.metrics["loss_scale"][-1] == expected[-1]
    assert len(set(expected)) > 2
    # Fused steps are the same as well.
    fused, _ = treadle.fit(step, fresh(), batches, num_steps=12, steps_per_call=4, progress=False)
    assert_same(fused, whole)


# -- stochastic rounding ----------------------------------------------------------------------


def bfloat16s():
    """All of them: as bits, and as float32."""
    bits = np.arange(2**16, dtype=np.uint32)
    return bits, (bits << 16).view(np.float32)


@given(drawn=st.integers(0, 2**16 - 1))
@settings(max_examples=5)
def test_what_bfloat16_holds_stays_as_it_is(drawn):
    bits, values = bfloat16s()
    rounded = stochastically(jnp.asarray(values), jnp.full(values.shape, drawn, jnp.uint32))
    assert rounded.dtype == jnp.bfloat16
    after = np.asarray(jax.lax.bitcast_convert_type(rounded, jnp.uint16))
    number = ~np.isnan(values)
    # Zeros of both signs, subnormals, the largest, infinities.
    np.testing.assert_array_equal(after[number], bits[number])
    assert np.all(np.isnan(np.asarray(rounded, np.float32)[~number]))


@given(word=st.integers(0, 2**32 - 1))
@settings(max_examples=50)
def test_the_mean_over_all_draws_is_the_number_itself(word):
    x = np.uint32(word).view(np.float32)
    draws = jnp.arange(2**16, dtype=jnp.uint32)
    rounded = np.asarray(stochastically(jnp.full(2**16, x), draws), np.float64)
    if not np.isfinite(x):
        assert np.all(np.isnan(rounded) if np.isnan(x) else rounded == x)
        return
    down = np.uint32(word & 0xFFFF0000)
    lower, upper = (np.float64(w.view(np.float32)) for w in (down, down + np.uint32(2**16)))
    away = np.sum(rounded == upper)
    # Only the two neighbours, and the further one exactly as often as x is far from the nearer.
    assert np.sum(rounded == lower) + away == 2**16
    assert away == word & 0xFFFF
    if np.isfinite(upper):
        assert np.mean(rounded) == np.float64(x)


def test_a_number_beyond_the_largest_rounds_to_it_or_to_infinity():
    largest = np.float32(jnp.finfo(jnp.bfloat16).max)
    beyond = np.nextafter(largest, np.float32(np.inf))
    few, many = (
        np.float32(stochastically(jnp.full(1, beyond), jnp.full(1, bits, jnp.uint32)))[0]
        for bits in (0, 2**16 - 1)
    )
    assert few == largest
    assert np.isinf(many)


def creep(model, example, key):
    return -sum(jnp.sum(leaf.astype(jnp.float32)) for leaf in jax.tree.leaves(model))


SIZE, STEPS = 4096, 64


def creeping(stochastic, **options):
    precision = treadle.Precision("bfloat16", stochastic_rounding=stochastic)
    return treadle.TrainStep(creep, optax.sgd(2.0**-11), precision=precision, **options)


def test_updates_too_small_for_the_format_add_up_on_average():
    model = {"a": jnp.ones(SIZE), "b": jnp.ones(SIZE)}
    batches = np.ones((STEPS, 1, 1), np.float32)
    lost = creeping(False)
    state, _ = lost.scan(lost.init(model, key=jax.random.key(0)), batches)
    # An update is a sixteenth of the distance to the next number.
    assert np.all(np.asarray(state.model["a"], np.float32) == 1)

    step = creeping(True, ema=0.5)
    called = step.init(model, key=jax.random.key(0))
    scanned = called.copy()
    ones = np.ones((1, 1), np.float32)
    history = []
    for _ in range(STEPS):
        called, _ = step(called, ones)
        history.append(np.asarray(called.model["a"], np.float32))
    values = np.asarray(called.model["a"], np.float64)
    # Each step rounds up with probability 1/16 by 2**-7: the binomial's deviation, and five of it.
    deviation = 2.0**-7 * np.sqrt(STEPS * (1 / 16) * (15 / 16) / SIZE)
    assert abs(np.mean(values) - (1 + STEPS * 2.0**-11)) < 5 * deviation
    # The average is in float32, of the rounded models.
    assert called.ema_model["a"].dtype == jnp.float32
    weights = 0.5 ** np.arange(STEPS - 1, -1, -1.0)
    mean = np.tensordot(weights / weights.sum(), np.stack(history), axes=1)
    np.testing.assert_allclose(called.ema_model["a"], mean, rtol=1e-6)
    # Leaves and steps draw for themselves.
    assert not np.array_equal(called.model["a"], called.model["b"])
    moved = np.diff(np.stack([np.ones(SIZE, np.float32), *history]), axis=0) > 0
    together = np.mean(moved[:-1] & moved[1:])
    assert abs(together - 1 / 256) < 5 * np.sqrt(1 / 256 / moved[1:].size)
    # The draws are those of (seed, step).
    scanned, _ = step.scan(scanned, batches)
    assert_same(scanned, called)
    first = np.float32(step(step.init(model, key=jax.random.key(0)), ones)[0].model["a"])
    np.testing.assert_array_equal(first, history[0])
    other = np.float32(step(step.init(model, key=jax.random.key(1)), ones)[0].model["a"])
    assert not np.array_equal(other, history[0])
    later = step.init(model, key=jax.random.key(0)).replace(step=1)
    assert not np.array_equal(np.float32(step(later, ones)[0].model["a"]), history[0])


def test_members_of_an_ensemble_round_on_their_own():
    step = treadle.ensemble(creeping(True), 2)
    state = step.init({"a": jnp.ones(SIZE)}, key=jax.random.key(0))
    state, _ = step(state, np.ones((1, 1), np.float32))
    one, two = np.float32(state.model["a"])
    assert not np.array_equal(one, two)
    assert abs(np.mean(one != 1) - 1 / 16) < 5 * np.sqrt(15 / 256 / SIZE)


def test_only_bfloat16_is_rounded_at_random():
    like = {
        "narrow": jnp.ones(4, jnp.bfloat16),
        "wide": jnp.ones(4),
        "half": jnp.ones(4, jnp.float16),
        "complex": jnp.ones(4, jnp.complex64),
    }
    updated = {
        "narrow": jnp.full(4, 1 + 2**-8),
        "wide": jnp.full(4, 1 + 2**-20),
        "half": jnp.full(4, 1 + 2**-12),
        "complex": jnp.full(4, 1 + 1j, jnp.complex64),
    }
    rounded = narrowed(updated, like, jax.random.key(0))
    for name, leaf in like.items():
        assert rounded[name].dtype == leaf.dtype
    assert_same(rounded["wide"], updated["wide"])
    assert_same(rounded["complex"], updated["complex"])
    assert_same(rounded["half"], jnp.ones(4, jnp.float16))
    assert set(np.float32(rounded["narrow"])) <= {1, 1 + 2**-7}
    assert_same(narrowed(updated, like, None)["narrow"], updated["narrow"].astype(jnp.bfloat16))
