"""Models whose layers keep a state: batch norms, spectral norms, layers of one's own."""

import functools
import json
import subprocess
import sys
import textwrap

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import treadle
from tests.helpers import assert_close, assert_same, make_batch
from treadle import ArgumentTypeError, ArgumentValueError, EvalStep, LossError, TrainStep


class Block(eqx.Module):
    linear: eqx.nn.Linear
    norm: eqx.nn.BatchNorm

    def __init__(self, size, mode, axis_name, key):
        self.linear = eqx.nn.Linear(size, 4, key=key)
        self.norm = eqx.nn.BatchNorm(4, axis_name, mode=mode, momentum=0.9)

    def __call__(self, x, model_state):
        return self.norm(self.linear(x), model_state)


class Net(eqx.Module):
    """Batch norms in a list of blocks, and a spectral norm at the end."""

    blocks: list[Block]
    last: eqx.nn.SpectralNorm

    def __init__(self, key, mode="batch", axis_name="batch"):
        one, two, three, four = jax.random.split(key, 4)
        self.blocks = [Block(6, mode, axis_name, one), Block(4, mode, axis_name, two)]
        last = eqx.nn.Linear(4, 3, key=three)
        self.last = eqx.nn.SpectralNorm(last, "weight", key=four)

    def __call__(self, x, model_state, *, key=None):
        for block in self.blocks:
            x, model_state = block(x, model_state)
            x = jax.nn.tanh(x)
        return self.last(x, model_state)


def loss_fn(model, model_state, example, key):
    x, y = example
    logits, model_state = model(x, model_state, key=key)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return (loss, {"accuracy": jnp.argmax(logits) == y}), model_state


def over_batch(model, model_state, x):
    """As Equinox's pages have it."""
    mapped = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    return mapped(x, model_state)


def batched_loss_fn(model, model_state, batch, key):
    x, y = batch
    logits, model_state = over_batch(model, model_state, x)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return jnp.mean(losses), model_state


def made(mode="batch"):
    return eqx.nn.make_with_state(Net)(jax.random.key(1), mode)


def clone(model_state):
    leaves, treedef = jax.tree.flatten(model_state)
    return jax.tree.unflatten(treedef, leaves)


def by_hand(model, model_state, batches, optimizer, microbatches=1):
    """The loop that people write with Equinox and optax, one microbatch after the other."""
    opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def gradient(model, model_state, part):
        def objective(model):
            return batched_loss_fn(model, model_state, part, None)

        return eqx.filter_value_and_grad(objective, has_aux=True)(model)

    @eqx.filter_jit
    def update(model, opt_state, grads):
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return eqx.apply_updates(model, updates), opt_state

    losses = []
    for batch in batches:
        each = []
        for index in range(microbatches):
            part = jax.tree.map(lambda leaf, i=index: leaf[i::microbatches], batch)
            (loss, model_state), grads = gradient(model, clone(model_state), part)
            each.append((loss, grads))
        loss, grads = jax.tree.map(lambda *g: sum(g) / microbatches, *each)
        with jax.numpy_dtype_promotion("standard"):
            model, opt_state = update(model, opt_state, grads)
        losses.append(loss)
    return model, model_state, np.stack(losses)


BATCHES = [make_batch(seed=seed) for seed in range(3)]


def run(step, pair, batches=BATCHES, **options):
    model, model_state = pair
    state = step.init(model, key=jax.random.key(0), model_state=model_state)
    losses = []
    for batch in batches:
        state, metrics = step(state, batch, **options)
        losses.append(metrics["loss"])
    return state, np.stack(losses)


@functools.cache
def plain_step():
    return TrainStep(loss_fn, optax.sgd(0.1, momentum=0.9), stateful=True)


@pytest.mark.parametrize("mode", ["batch", "ema"])
@pytest.mark.parametrize("kind", ["examples", "batched", "microbatches"])
def test_agrees_with_a_loop_by_hand(mode, kind):
    step = {
        "examples": plain_step(),
        "batched": TrainStep(
            batched_loss_fn, optax.sgd(0.1, momentum=0.9), batched=True, stateful=True
        ),
        "microbatches": TrainStep(
            loss_fn, optax.sgd(0.1, momentum=0.9), stateful=True, accumulate=4
        ),
    }[kind]
    state, losses = run(step, made(mode))
    count = 4 if kind == "microbatches" else 1
    model, model_state, expected = by_hand(
        *made(mode), BATCHES, optax.sgd(0.1, momentum=0.9), count
    )
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert_close(state.model, model, rtol=1e-5, atol=2e-6)
    assert_close(state.model_state, model_state, rtol=1e-5, atol=2e-6)
    # Everything in the state went on.
    before = jax.tree.leaves(made(mode)[1])
    for old, new in zip(before, jax.tree.leaves(state.model_state), strict=True):
        assert not np.array_equal(old, new)


def test_microbatches_hand_the_state_on_in_order():
    def last_seen(model, model_state, example, key):
        value = jax.lax.pmax(example, "batch")
        return model.weight * example, model_state.set(model.index, value)

    class Remembers(eqx.Module):
        weight: jax.Array
        index: eqx.nn.StateIndex

        def __init__(self):
            self.weight = jnp.float32(1.0)
            self.index = eqx.nn.StateIndex(jnp.float32(-1.0))

    step = TrainStep(last_seen, optax.sgd(0.1), stateful=True, accumulate=3)
    state = step.init(lambda: eqx.nn.make_with_state(Remembers)(), key=jax.random.key(0))
    state, _ = step(state, np.array([9.0, 8.0, 1.0, 7.0, 6.0, 2.0], np.float32))
    # The last microbatch holds examples 2 and 5.
    assert float(state.model_state.get(state.model.index)) == 2.0


def test_a_spectral_norm_alone():
    class Spectral(eqx.Module):
        layer: eqx.nn.SpectralNorm

        def __init__(self, key):
            one, two = jax.random.split(key)
            linear = eqx.nn.Linear(6, 3, key=one)
            self.layer = eqx.nn.SpectralNorm(linear, "weight", num_power_iterations=3, key=two)

        def __call__(self, x, model_state, *, key=None):
            return self.layer(x, model_state)

    pair = eqx.nn.make_with_state(Spectral)(jax.random.key(2))
    # It needs no name of an axis, so the loss may have another.
    step = TrainStep(loss_fn, optax.sgd(0.1), stateful=True, axis_name="other")
    state, losses = run(step, pair)
    model, model_state, expected = by_hand(*pair, BATCHES, optax.sgd(0.1))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert_close((state.model, state.model_state), (model, model_state))
    sigma = np.linalg.svd(state.model.layer.layer.weight, compute_uv=False)[0]
    u, v = state.model_state.get(state.model.layer.uv_index)
    np.testing.assert_allclose(u @ state.model.layer.layer.weight @ v, sigma, rtol=5e-2)


def test_args_and_axis_of_another_name():
    def loss(model, model_state, example, key, *, args):
        (value, aux), model_state = loss_fn(model, model_state, example, key)
        return (args * value, aux), model_state

    pair = eqx.nn.make_with_state(Net)(jax.random.key(1), axis_name="examples")
    step = TrainStep(loss, optax.sgd(0.1), stateful=True, axis_name="examples")
    state, losses = run(step, pair, BATCHES[:2], args=jnp.float32(2.0))
    half = TrainStep(loss_fn, optax.sgd(0.2), stateful=True)
    expected, halves = run(half, made(), BATCHES[:2])
    np.testing.assert_allclose(losses, 2 * halves, rtol=1e-5)
    arrays = [eqx.filter(model, eqx.is_array) for model in (state.model, expected.model)]
    assert_close(*map(jax.tree.leaves, arrays))
    assert_close(jax.tree.leaves(state.model_state), jax.tree.leaves(expected.model_state))


def test_the_caller_keeps_model_and_state():
    model, model_state = made()
    before = jax.tree.map(np.array, (jax.tree.leaves(model), jax.tree.leaves(model_state)))
    for copy in (True, False):
        own = model if copy else jax.tree.map(lambda x: x + 0, eqx.filter(model, eqx.is_array))
        own = eqx.combine(own, model)
        state = plain_step().init(own, key=jax.random.key(0), model_state=model_state, copy=copy)
        plain_step()(state, BATCHES[0])
        assert_same((jax.tree.leaves(model), jax.tree.leaves(model_state)), before)
    # Not used up either: it can be set.
    over_batch(model, model_state, BATCHES[0][0])


def test_made_by_a_function_that_makes_both():
    made_inside = plain_step().init(eqx.nn.make_with_state(Net), key=jax.random.key(3))
    key = jax.random.fold_in(jax.random.key(3), 0x696E6974)
    model, model_state = eqx.nn.make_with_state(Net)(key)
    outside = plain_step().init(model, key=jax.random.key(3), model_state=model_state)
    pair = plain_step().init((model, model_state), key=jax.random.key(3))
    assert_same(made_inside, outside)
    assert_same(pair, outside)
    # Two calls of `make_with_state` give one structure, so there is one program.
    count = len(plain_step().compilations)
    plain_step()(made_inside, BATCHES[0])
    plain_step()(outside, BATCHES[0])
    assert len(plain_step().compilations) <= max(count, 1)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_line_search_leaves_the_state_alone(accumulate):
    optimizer = optax.chain(
        optax.sgd(5.0), optax.scale_by_backtracking_linesearch(6, slope_rtol=0.5)
    )
    step = TrainStep(loss_fn, optimizer, stateful=True, accumulate=accumulate)
    state, _ = run(step, made("ema"), BATCHES[:1])
    # The statistics are those of one pass at the parameters before the step.
    model, model_state = made("ema")
    for index in range(accumulate):
        _, model_state = over_batch(model, model_state, BATCHES[0][0][index::accumulate])
    assert_close(state.model_state, model_state)


def test_a_zoom_line_search_advances_the_state_once_a_step():
    state, _ = run(TrainStep(loss_fn, optax.lbfgs(), stateful=True), made("batch"))
    counter = state.model_state.get(state.model.blocks[0].norm.batch_counter)
    assert int(counter) == len(BATCHES)


def test_the_state_can_be_exchanged():
    state, _ = run(plain_step(), made())
    fresh = state.replace(model_state=made()[1])
    assert_same(fresh.model_state, made()[1])
    assert_same(fresh.model, state.model)
    with pytest.raises(treadle.TreeError, match="`model_state` does not fit"):
        state.replace(model_state=made("ema")[1])


# -- ensembles ------------------------------------------------------------------------------------


def test_members_of_an_ensemble_are_single_runs():
    step = plain_step()
    many = treadle.ensemble(step, 2)
    state = many.init(eqx.nn.make_with_state(Net), key=jax.random.key(4))
    root = jax.random.fold_in(jax.random.key(4), 0x656E7365)
    singles = [
        step.init(eqx.nn.make_with_state(Net), key=jax.random.fold_in(root, index))
        for index in range(2)
    ]
    batches = [make_batch(seed=seed) for seed in range(20)]
    stacked = jax.tree.map(lambda *x: np.stack(x), *batches)
    state, metrics = many.scan(state, stacked)
    members = treadle.tree.unstack(state)
    for index, single in enumerate(singles):
        single, own = step.scan(single, stacked)
        np.testing.assert_allclose(metrics["loss"][:, index], own["loss"], atol=1e-4)
        assert_close(members[index].model, single.model, rtol=1e-3, atol=1e-4)
        assert_close(members[index].model_state, single.model_state, rtol=1e-3, atol=1e-4)
    with jax.numpy_dtype_promotion("standard"):
        each = treadle.evaluate(METRICS, state, BATCHES)
        for index, member in enumerate(members):
            alone = treadle.evaluate(METRICS, member, BATCHES)
            np.testing.assert_allclose(each["loss"][index], alone["loss"], rtol=1e-5)


# -- evaluation -----------------------------------------------------------------------------------


def metric_fn(model, model_state, example):
    x, y = example
    logits, _ = model(x, model_state)
    return {"loss": optax.softmax_cross_entropy_with_integer_labels(logits, y)}


METRICS = EvalStep(metric_fn, stateful=True)


@pytest.mark.parametrize("mode", ["batch", "ema"])
def test_evaluation_and_predictions_use_what_was_kept(mode):
    state, _ = run(plain_step(), made(mode))
    kept = state.copy()
    x, y = make_batch(11, seed=9)
    # Equinox's batch mode raises a float to the power of an integer in inference.
    with jax.numpy_dtype_promotion("standard"):
        model = eqx.nn.inference_mode(state.model)
        logits = jax.vmap(lambda x: model(x, clone(state.model_state))[0])(x)
        found = treadle.evaluate(METRICS, state, [(x, y)], batch_size=4)
        pair = treadle.evaluate(METRICS, (state.model, state.model_state), [(x, y)])
        predicted = treadle.predict(state, x, batch_size=4)
        again = treadle.predict((state.model, state.model_state), x, batch_size=11)
    expected = np.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(pair["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(predicted, logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(again, logits, rtol=1e-5, atol=1e-6)
    # By the statistics kept, not by those of the batch.
    in_training, _ = over_batch(state.model, clone(state.model_state), x)
    assert not np.allclose(logits, in_training, atol=1e-3)
    assert_same(state, kept)


def test_a_stateful_metric_needs_a_state():
    model, _ = made()
    with pytest.raises(
        ArgumentTypeError, match=r"`EvalStep\(stateful=True\)`.*\(model, model_state\)"
    ):
        treadle.evaluate(METRICS, model, BATCHES)
    with pytest.raises(ArgumentTypeError, match="With `stateful=True` it takes the model's state"):
        EvalStep(lambda model, example: {}, stateful=True)
    with pytest.raises(ArgumentTypeError, match="say `stateful=True`"):
        EvalStep(metric_fn)


# -- checkpoints ----------------------------------------------------------------------------------


def test_saved_under_readable_names_and_loaded_again(tmp_path):
    state, _ = run(plain_step(), made())
    treadle.save(tmp_path / "saved", state)
    manifest = json.loads((tmp_path / "saved" / "manifest.json").read_text())
    names = [leaf["path"] for leaf in manifest["leaves"] if "model_state" in leaf["path"]]
    assert names == [
        "model_state/Net.blocks[0].norm.batch_counter",
        "model_state/Net.blocks[0].norm.batch_state_index/0",
        "model_state/Net.blocks[0].norm.batch_state_index/1",
        "model_state/Net.blocks[1].norm.batch_counter",
        "model_state/Net.blocks[1].norm.batch_state_index/0",
        "model_state/Net.blocks[1].norm.batch_state_index/1",
        "model_state/Net.last.uv_index/0",
        "model_state/Net.last.uv_index/1",
    ]
    like = plain_step().init(eqx.nn.make_with_state(Net), key=jax.random.key(7))
    again = treadle.load(tmp_path / "saved", like)
    assert_same(again, state)
    assert_same(plain_step()(again, BATCHES[0]), plain_step()(state, BATCHES[0]))


def test_a_run_that_was_stopped_goes_on_with_the_same_bits(tmp_path):
    x, y = make_batch(16)

    def train(num_steps, **options):
        step = plain_step()
        state = step.init(eqx.nn.make_with_state(Net), key=jax.random.key(0))
        batches = treadle.data.arrays((x, y), batch_size=8, key=jax.random.key(0))
        return treadle.fit(step, state, batches, num_steps=num_steps, progress=False, **options)[0]

    train(3, run=tmp_path / "run")
    assert_same(train(6, run=tmp_path / "run"), train(6))


SCRIPT = """
import sys

import equinox as eqx
import jax
import optax

import treadle
from tests.test_stateful import BATCHES, Net, loss_fn

# A state made by hand: its markers are bare objects, other ones in each process.
with_state = Net(jax.random.key(int(sys.argv[2])))
model_state = eqx.nn.State(with_state)
model = eqx.nn.delete_init_state(with_state)
step = treadle.TrainStep(loss_fn, optax.sgd(0.1), stateful=True)
state = step.init(model, key=jax.random.key(0), model_state=model_state)
if sys.argv[2] == "1":
    state, _ = step(state, BATCHES[0])
    treadle.save(sys.argv[1], state)
else:
    state = treadle.load(sys.argv[1], state)
    counter = int(state.model_state.get(state.model.blocks[0].norm.batch_counter))
    state, metrics = step(state, BATCHES[1])
    print(counter, float(metrics["loss"]))
"""


def test_states_made_by_hand_are_loaded_in_another_process(tmp_path):
    printed = ""
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path / "saved"), seed],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        printed = done.stdout
    with_state = Net(jax.random.key(1))
    pair = eqx.nn.delete_init_state(with_state), eqx.nn.State(with_state)
    _, losses = run(TrainStep(loss_fn, optax.sgd(0.1), stateful=True), pair, BATCHES[:2])
    counter, loss = printed.split()
    assert int(counter) == 1
    np.testing.assert_allclose(float(loss), losses[1], rtol=1e-6)


# -- mistakes -------------------------------------------------------------------------------------


class Counter(eqx.Module):
    """Sums up what it has seen, in whatever way it is told to."""

    weight: jax.Array
    total: eqx.nn.StateIndex
    calls: eqx.nn.StateIndex

    def __init__(self):
        self.weight = jnp.ones(())
        self.total = eqx.nn.StateIndex(jnp.zeros(2))
        self.calls = eqx.nn.StateIndex(jnp.zeros((), jnp.int32))


def counting(update):
    """A step of a model with a state that `update(model, model_state, example)` makes anew."""

    def loss(model, model_state, example, key):
        return model.weight * jnp.sum(example), update(model, model_state, example)

    step = TrainStep(loss, optax.sgd(0.1), stateful=True)
    state = step.init(lambda: eqx.nn.make_with_state(Counter)(), key=jax.random.key(0))
    return step, state


def raises_in_a_step(update, match):
    step, state = counting(update)
    with pytest.raises(LossError, match=match) as raised:
        step(state, np.ones((4, 2), np.float32))
    return raised.value


def test_a_layer_of_ones_own_reduces_over_the_examples():
    def update(model, model_state, example):
        total = model_state.get(model.total) + jax.lax.psum(example, "batch")
        model_state = model_state.set(model.total, total)
        return model_state.set(model.calls, model_state.get(model.calls) + 1)

    step, state = counting(update)
    for _ in range(2):
        state, _ = step(state, np.ones((4, 2), np.float32))
    assert state.model_state.get(state.model.total).tolist() == [8.0, 8.0]
    assert int(state.model_state.get(state.model.calls)) == 2
    assert len(step.compilations) == 1


def test_a_state_that_differs_from_example_to_example_is_refused():
    def update(model, model_state, example):
        model_state = model_state.set(model.total, model_state.get(model.total) + example)
        return model_state.set(model.calls, model_state.get(model.calls) + 1)

    error = raises_in_a_step(update, r"differs from example to example \(in 'Counter.total'\)")
    assert "jax.lax.pmean(value, 'batch')" in str(error)
    assert "Counter.calls" not in str(error)


def test_a_state_that_was_used_up_is_refused():
    def update(model, model_state, example):
        model_state.set(model.calls, model_state.get(model.calls) + 1)
        return model_state

    raises_in_a_step(update, "was used up")


def test_another_state_is_refused():
    told = "another structure than it was given: "
    raises_in_a_step(
        lambda model, state, example: state.substate(model.calls),
        f"{told}it lacks 'Counter.total'",
    )
    raises_in_a_step(
        lambda model, state, example: None, f"{told}it lacks 'Counter.total', 'Counter.calls'"
    )
    raises_in_a_step(
        lambda model, state, example: {"mean": jnp.zeros(1)},
        f"{told}it lacks 'Counter.total', 'Counter.calls' and it has 'mean' beside",
    )

    def changed(model, model_state, example):
        leaves, treedef = jax.tree.flatten(model_state)
        return jax.tree.unflatten(treedef, [leaf.astype(jnp.float16) for leaf in leaves])

    raises_in_a_step(changed, r"'Counter.total' of `model_state` from float32\[2\] into float16")


def test_a_loss_that_returns_no_state_is_refused():
    def make(returned):
        def loss(model, model_state, example, key):
            return returned(model.weight * jnp.sum(example), model_state)

        step = TrainStep(loss, optax.sgd(0.1), stateful=True)
        state = step.init(lambda: eqx.nn.make_with_state(Counter)(), key=jax.random.key(0))
        step(state, np.ones((4, 2), np.float32))

    wanted = r"return \(loss, aux\), model_state"
    with pytest.raises(LossError, match=f"returned a .*: with `stateful=True`.*{wanted}"):
        make(lambda loss, state: loss)
    with pytest.raises(LossError, match=f"returned a tuple of 3: .*{wanted}"):
        make(lambda loss, state: (loss, {}, state))
    with pytest.raises(LossError, match="another structure"):
        make(lambda loss, state: (loss, {"aux": loss}))
    with pytest.raises(LossError, match="the state comes second"):
        make(lambda loss, state: (state, loss))


def test_losses_with_and_without_state_are_told_apart():
    def plain(model, example, key):
        return jnp.sum(model.weight)

    with pytest.raises(ArgumentTypeError, match=r"`stateful=True` it takes the model's state"):
        TrainStep(plain, optax.sgd(0.1), stateful=True)
    with pytest.raises(ArgumentTypeError, match=r"say `stateful=True`"):
        TrainStep(loss_fn, optax.sgd(0.1))


def test_the_state_at_the_start_is_asked_for_once():
    model, model_state = made()
    key = jax.random.key(0)
    with pytest.raises(ArgumentTypeError, match=r"`model_state` is missing.*make_with_state"):
        plain_step().init(model, key=key)
    with pytest.raises(ArgumentTypeError, match=r"a state of its own.*give one"):
        plain_step().init(eqx.nn.make_with_state(Net), key=key, model_state=model_state)

    def plain(model, example, key):
        return jnp.sum(model.last.layer.weight)

    stateless = TrainStep(plain, optax.sgd(0.1))
    for arguments in ({"model": model, "model_state": model_state}, {"model": made}):
        with pytest.raises(ArgumentTypeError, match=r"`model_state` was given.*stateful=True"):
            stateless.init(**arguments, key=key)


def test_functions_that_hide_what_they_take_get_a_key_by_name():
    with pytest.raises(ArgumentTypeError, match=r"unexpected keyword argument 'key'.*lambda key"):
        plain_step().init(eqx.nn.make_with_state(Counter), key=jax.random.key(0))


def test_a_state_of_another_model_is_refused():
    class Other(eqx.Module):
        norm: eqx.nn.BatchNorm

        def __init__(self):
            self.norm = eqx.nn.BatchNorm(2, "batch", mode="ema")

    model, _ = made()
    _, other = eqx.nn.make_with_state(Other)()
    with pytest.raises(treadle.TreeError, match="lacks the state of 'blocks/0/norm/batch_counter'"):
        plain_step().init(model, key=jax.random.key(0), model_state=other)


def test_a_state_that_was_used_up_before_is_refused():
    model, model_state = made()
    model_state.set(model.blocks[0].norm.batch_counter, jnp.array(3))
    with pytest.raises(ArgumentValueError, match="used up"):
        plain_step().init(model, key=jax.random.key(0), model_state=model_state)


def test_axes_of_two_names_are_told():
    pair = eqx.nn.make_with_state(Net)(jax.random.key(1), axis_name="devices")
    with pytest.raises(LossError, match=r"'batch'.*axis_name='batch'"):
        run(plain_step(), pair)


def test_training_mode_in_predictions_says_why_not():
    state, _ = run(plain_step(), made())
    with pytest.raises(ArgumentValueError, match=r"`inference` \(=False\).*BatchNorm"):
        treadle.predict(state, BATCHES[0][0], batch_size=4, inference=False)
