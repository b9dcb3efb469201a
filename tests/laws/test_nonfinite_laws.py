"""Laws of steps that are not finite: what is dropped, what goes on, and what is told."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import assert_same

import treadle


class Net(eqx.Module):
    """A layer, a leaf whose gradient can be poisoned, and a batch norm where it is stateful."""

    norm: eqx.nn.BatchNorm | None
    last: eqx.nn.Linear
    extra: jax.Array

    def __init__(self, stateful, key):
        # Few leaves, since every one is a kernel more to compile.
        affine = {"channelwise_affine": False}
        self.norm = eqx.nn.BatchNorm(3, "batch", mode="batch", **affine) if stateful else None
        self.last = eqx.nn.Linear(3, 2, use_bias=False, key=key)
        self.extra = jnp.ones(3)

    def __call__(self, x, state=None):
        if self.norm is not None:
            x, state = self.norm(x, state)
        return jnp.tanh(self.last(x)), state


def common_loss(model, example, key):
    """Finite, unless the example says otherwise.

    `added` goes to the loss alone. `under` is 1; where it is 0 the value stays finite while the
    gradient of one leaf is `0 * inf`. `factor` scales everything.
    """
    x, added, under, factor = example

    def loss(out):
        extra = jnp.sum(jnp.sqrt(under * model.extra.astype(jnp.float32) ** 2))
        noise = jax.random.uniform(key)
        return factor * (jnp.sum((out - noise) ** 2) + extra) + added

    return loss, x


def plain_loss(model, example, key):
    loss, x = common_loss(model, example, key)
    return loss(model(x)[0])


def stateful_loss(model, model_state, example, key):
    loss, x = common_loss(model, example, key)
    out, model_state = model(x, model_state)
    return loss(out), model_state


KINDS = ("nan in the loss", "infinite loss", "nan in one leaf", "infinite gradient")


def batch(seed, kind=None, size=4):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, 3)).astype(np.float32)
    added, under, factor = np.zeros(size), np.ones(size), np.ones(size)
    # In the last example only, which with microbatches is in the last of them.
    if kind == "nan in the loss":
        added[-1] = np.nan
    elif kind == "infinite loss":
        added[-1] = np.inf
    elif kind == "nan in one leaf":
        under[-1] = 0
    elif kind == "infinite gradient":
        factor[-1] = 3e38
    elif kind == "large":
        factor[:] = 1e25
    return x, *(column.astype(np.float32) for column in (added, under, factor))


# Float16 with a scale, and one that is not lowest at the beginning.
SCALED = treadle.Precision(
    "float32", "float16", "float32", loss_scale=treadle.LossScale(initial=2.0**4)
)
CONFIGURATIONS = list(itertools.product((1, 2), (None, 0.75), (False, True), (False, True)))
_STEPS: dict = {}


def step_for(accumulate, ema, scaled, stateful, nonfinite="skip"):
    """One compiled step for each configuration."""
    name = (accumulate, ema, scaled, stateful, nonfinite)
    if name not in _STEPS:
        _STEPS[name] = treadle.TrainStep(
            stateful_loss if stateful else plain_loss,
            optax.sgd(0.0625, momentum=0.5),
            accumulate=accumulate,
            ema=ema,
            precision=SCALED if scaled else None,
            nonfinite=nonfinite,
            stateful=stateful,
        )
    return _STEPS[name]


def start(step, stateful):
    if stateful:
        return step.init(eqx.nn.make_with_state(lambda key: Net(True, key)), key=jax.random.key(0))
    return step.init(Net(False, jax.random.key(1)), key=jax.random.key(0))


def learned(state):
    """Everything that an update moves."""
    return state.model, state.opt_state, state.model_state, state.ema_model


@pytest.mark.optimised
@pytest.mark.parametrize(("accumulate", "ema", "scaled", "stateful"), CONFIGURATIONS)
def test_a_skipped_step_leaves_every_bit_and_the_run_goes_on(accumulate, ema, scaled, stateful):
    step = step_for(accumulate, ema, scaled, stateful)
    state = start(step, stateful)
    kinds = [None, *KINDS, None]
    batches = [batch(seed, kind) for seed, kind in enumerate(kinds)]
    skipped = 0
    rows = []
    for index, (kind, data) in enumerate(zip(kinds, batches, strict=True)):
        before = state.copy()
        state, metrics = step(state, data)
        rows.append(metrics)
        skipped += kind is not None
        assert state.step == index + 1
        assert metrics["skipped"] == state.skipped == skipped
        if kind is not None:
            assert_same(learned(state), learned(before))
            finite = np.isfinite(metrics["loss"]), np.isfinite(metrics["grad_norm"])
            # Reported as it was.
            assert not all(finite)
            if kind == "nan in one leaf":
                assert finite == (True, False)
            if kind == "nan in the loss":
                assert finite == (False, True)
            continue
        for was, now in zip(learned(before), learned(state), strict=True):
            if was is not None:
                assert not eqx.tree_equal(was, now)
    if scaled:
        # Twice a gradient overflowed or was none; a loss alone does not touch the scale.
        assert state.loss_scale == 2.0**2
    # The step after is what it would be had there only been the counter, and the scale.
    reference = start(step, stateful)
    reference, _ = step(reference, batches[0])
    parts = reference.parts()._replace(
        step=jnp.int32(len(KINDS) + 1), loss_scale=before.parts().loss_scale
    )
    reference, _ = step(treadle.TrainState.from_parts(parts), batches[-1])
    assert_same(learned(state), learned(reference))
    # Fused, they are the same bits. In half of the cases, with any three options among them.
    if sum((accumulate == 2, ema is not None, scaled, stateful)) % 2:
        fused, metrics = step.scan(
            start(step, stateful), jax.tree.map(lambda *x: np.stack(x), *batches)
        )
        assert_same(fused, state)
        assert_same(metrics, jax.tree.map(lambda *x: jnp.stack(x), *rows))
    step.check()


@given(kinds=st.lists(st.sampled_from([None, None, *KINDS]), min_size=1, max_size=12))
@settings(max_examples=10)
def test_whatever_is_skipped_the_rest_is_as_if_it_had_not_been_tried(kinds):
    step = step_for(1, 0.75, False, False)
    state, reference = start(step, False), start(step, False)
    for index, kind in enumerate(kinds):
        state, metrics = step(state, batch(index, kind))
        if kind is None:
            reference, _ = step(reference.replace(step=index), batch(index))
    assert_same(learned(state), learned(reference))
    assert metrics["skipped"] == sum(kind is not None for kind in kinds)


def test_a_norm_that_overflows_over_finite_gradients_is_no_fault():
    for nonfinite in ("raise", "skip"):
        step = step_for(2, 0.75, False, False, nonfinite)
        state = start(step, False)
        before = state.copy()
        state, metrics = step(state, batch(0, "large"))
        step.check()
        assert np.isfinite(metrics["loss"])
        assert np.isinf(metrics["grad_norm"])
        assert not eqx.tree_equal(before.model, state.model)
        assert state.skipped is None or state.skipped == 0


def call_on(step, kind):
    """Many calls, each waited for, the second one on a bad batch."""
    state = start(step, False)
    for index in range(100):
        state, _ = step(state, batch(index, kind if index == 1 else None))
        jax.block_until_ready(state.leaves)


@pytest.mark.parametrize("kind", KINDS)
def test_raising_names_the_step_whichever_way_it_comes_out(kind):
    step = step_for(2, 0.75, False, False, "raise")
    match = "The loss or the gradient of step 1 is NaN or infinite, and the steps since"

    state = start(step, False)
    for index in range(3):
        state, metrics = step(state, batch(index, kind if index == 1 else None))
    assert "skipped" not in metrics
    assert state.skipped is None
    with pytest.raises(treadle.NonFiniteError, match=match):
        step.check()
    with pytest.raises(treadle.NonFiniteError, match=match):
        step.check(state)

    with pytest.raises(treadle.NonFiniteError, match=match):
        call_on(step, kind)

    with pytest.raises(treadle.NonFiniteError, match=match):
        treadle.fit(
            step,
            start(step, False),
            [batch(index, kind if index == 1 else None) for index in range(3)],
            num_steps=3,
            progress=False,
        )


def test_a_fused_dispatch_names_the_step_as_well():
    step = step_for(2, 0.75, False, False, "raise")
    batches = [batch(index, "nan in one leaf" if index == 2 else None) for index in range(4)]
    step.scan(start(step, False), jax.tree.map(lambda *x: np.stack(x), *batches))
    with pytest.raises(treadle.NonFiniteError, match="of step 2 is NaN"):
        step.check()


@pytest.mark.parametrize("kind", KINDS)
def test_raising_with_a_loss_scale_drops_what_has_no_gradient(kind):
    step = step_for(1, None, True, False, "raise")
    state = start(step, False)
    state, _ = step(state, batch(0))
    before = state.copy()
    state, metrics = step(state, batch(1, kind))
    if kind in ("nan in one leaf", "infinite gradient"):
        assert_same(learned(state), learned(before))
        assert metrics["skipped"] == 1
    else:
        # The gradient was finite, and only the loss was not: it is told, and the update counts.
        assert metrics["skipped"] == 0
        assert not eqx.tree_equal(before.model, state.model)
    if kind == "nan in one leaf":
        step.check()  # As what a lower scale may mend.
    else:
        with pytest.raises(treadle.NonFiniteError, match="of step 1 is NaN"):
            step.check()


def test_ignoring_lets_it_be():
    step = step_for(1, 0.75, False, False, "ignore")
    state = start(step, False)
    state, metrics = step(state, batch(0, "nan in one leaf"))
    step.check()
    step.check(state)
    assert "skipped" not in metrics
    assert np.all(np.isnan(state.model.extra))
    assert np.all(np.isnan(state.ema_model.extra))
    assert np.all(np.isfinite(state.model.last.weight))
    history = treadle.fit(
        step, start(step, False), [batch(0, "nan in the loss")], num_steps=1, progress=False
    )[1]
    assert np.isnan(history.metrics["loss"][-1])


def test_fit_goes_on_over_what_is_skipped(tmp_path):
    step = step_for(1, 0.75, False, False)
    batches = [batch(index, KINDS[0] if index in (1, 4) else None) for index in range(6)]
    whole, history = treadle.fit(
        step, start(step, False), batches, num_steps=6, progress=False, steps_per_call=3
    )
    assert whole.step == 6
    assert history.metrics["skipped"][-1] == 2
    options = {"run": tmp_path / "run", "progress": False}
    treadle.fit(step, start(step, False), batches, num_steps=2, **options)
    resumed, _ = treadle.fit(step, start(step, False), batches, num_steps=6, **options)
    assert_same(resumed, whole)


@pytest.mark.parametrize("kind", KINDS[:3])
def test_only_the_faulty_member_of_an_ensemble_skips(kind):
    single = step_for(1, 0.75, False, False)
    if "ensemble" not in _STEPS:
        _STEPS["ensemble"] = treadle.ensemble(single, 3, shared_batches=False)
    step = _STEPS["ensemble"]
    state = step.init(lambda key: Net(False, key), key=jax.random.key(0))
    good = [batch(seed) for seed in range(3)]
    bad = [good[0], batch(1, kind), good[2]]
    stacked = [jax.tree.map(lambda *x: np.stack(x), *batches) for batches in (good, bad)]
    before = treadle.tree.unstack(state)
    clean, _ = step(state.copy(), stacked[0])
    state, metrics = step(state, stacked[1])
    np.testing.assert_array_equal(metrics["skipped"], [0, 1, 0])
    members, cleaned = treadle.tree.unstack(state), treadle.tree.unstack(clean)
    assert_same(learned(members[1]), learned(before[1]))
    for index in (0, 2):
        assert_same(learned(members[index]), learned(cleaned[index]))
    assert state.step == 1


def test_keys_in_the_optimizer_and_counts_of_its_own_stand_still():
    optimizer = optax.chain(
        optax.add_noise(0.1, 0.5, key=jax.random.key(3)),
        optax.scale_by_adam(),
        optax.scale_by_schedule(lambda count: -0.1 / (1 + count)),
    )
    step = treadle.TrainStep(plain_loss, optimizer, nonfinite="skip")
    state = start(step, False)
    state, _ = step(state, batch(0))
    before = state.copy()
    state, _ = step(state, batch(1, "nan in one leaf"))
    assert_same(state.opt_state, before.opt_state)


def test_all_of_the_state_stays_in_place():
    for name, scaled in (("skip", False), ("skip", True), ("raise", True)):
        step = step_for(1, 0.75, scaled, False, name)
        compiled = step.compile(start(step, False), batch(0))
        assert compiled.aliased_bytes == compiled.donated_bytes > 0
