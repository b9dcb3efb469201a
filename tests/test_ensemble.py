"""`ensemble`: one program, many members, each as if it were alone."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import treadle
from tests.helpers import Net, assert_same, loss_fn, make_batch
from treadle._compat import enable_x64
from treadle._random import ENSEMBLE

KEY = jax.random.key(11)
ADAMW = optax.inject_hyperparams(optax.adamw)(learning_rate=1e-2)
SINGLE = treadle.TrainStep(loss_fn, ADAMW, ema=0.9)
THREE = treadle.ensemble(SINGLE, 3)


def member_key(index, key=KEY):
    """As the docs derive it."""
    return jax.random.fold_in(jax.random.fold_in(key, ENSEMBLE), index)


def numbers(tree):
    return [
        np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_array))
    ]


def assert_near(a, b, tolerance):
    for x, y in zip(numbers(a), numbers(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)


def metric_fn(model, example):
    x, y = example
    logits = model(x)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    return {"loss": loss, "accuracy": jnp.argmax(logits) == y}


EVAL = treadle.EvalStep(metric_fn)


def test_members_agree_with_single_runs_over_twenty_steps():
    rates = np.array([1e-3, 1e-2, 3e-2])
    state = THREE.init(Net, key=KEY, hyperparams={"learning_rate": rates})
    singles = [
        SINGLE.init(Net, key=member_key(i), hyperparams={"learning_rate": rates[i]})
        for i in range(3)
    ]
    for single, begun in zip(singles, treadle.tree.unstack(state), strict=True):
        assert_same(begun, single)
    for seed in range(20):
        state, metrics = THREE(state, make_batch(seed=seed))
        for index in range(3):
            singles[index], own = SINGLE(singles[index], make_batch(seed=seed))
            for name, value in own.items():
                np.testing.assert_allclose(metrics[name][index], value, rtol=1e-4, atol=1e-4)
    assert state.step.shape == ()
    assert int(state.step) == 20
    np.testing.assert_array_equal(metrics["learning_rate"], rates.astype(np.float32))
    members = treadle.tree.unstack(state)
    for member, single in zip(members, singles, strict=True):
        assert_near(member.model, single.model, 1e-4)
        assert_near(member.opt_state, single.opt_state, 1e-4)
        assert_near(member.ema_model, single.ema_model, 1e-4)
        assert_same(member.key, single.key)
    # They go on alone, through the program that single runs have.
    programs = len(SINGLE.compilations)
    alone, _ = SINGLE(members[1], make_batch())
    single, _ = SINGLE(singles[1], make_batch())
    assert len(SINGLE.compilations) == programs
    assert_near(alone.model, single.model, 1e-4)


def test_one_step_in_float64_agrees_to_the_last_digits():
    with enable_x64(True):
        single = treadle.TrainStep(loss_fn, optax.adamw(1e-2))
        step = treadle.ensemble(single, 2)
        x, y = make_batch()
        batch = (x.astype(np.float64), y.astype(np.int64))

        def make(key):
            model = Net(key)
            return jax.tree.map(lambda v: v.astype(jnp.float64) if eqx.is_array(v) else v, model)

        state, metrics = step(step.init(make, key=KEY), batch)
        for index, member in enumerate(treadle.tree.unstack(state)):
            alone, own = single(single.init(make, key=member_key(index)), batch)
            assert_near(member.model, alone.model, 1e-9)
            np.testing.assert_allclose(metrics["loss"][index], own["loss"], rtol=1e-9)


def test_scan_is_the_same_bits_as_calls():
    called = THREE.init(Net, key=KEY)
    scanned = called.copy()
    batches = [make_batch(seed=seed) for seed in range(3)]
    rows = []
    for batch in batches:
        called, metrics = THREE(called, batch)
        rows.append(metrics["loss"])
    scanned, metrics = THREE.scan(scanned, jax.tree.map(lambda *x: np.stack(x), *batches))
    assert_same(scanned, called)
    assert_same(metrics["loss"], jnp.stack(rows))


def test_each_member_may_get_a_batch_of_its_own():
    step = treadle.ensemble(SINGLE, 2, shared_batches=False)
    state = step.init(Net, key=KEY)
    batches = [make_batch(seed=seed) for seed in range(2)]
    stacked = jax.tree.map(lambda *x: np.stack(x), *batches)
    _, metrics = step(state.copy(), stacked)
    for index, member in enumerate(treadle.tree.unstack(state)):
        _, own = SINGLE(member, batches[index])
        np.testing.assert_allclose(metrics["loss"][index], own["loss"], rtol=1e-5)
    with pytest.raises(treadle.BatchError, match=r"leading size of 8, but each of the 2 members"):
        step(state, batches[0])


def test_accumulation_and_members():
    step = treadle.TrainStep(loss_fn, optax.sgd(0.1), accumulate=2)
    whole = treadle.TrainStep(loss_fn, optax.sgd(0.1))
    states = []
    for each in (step, whole):
        ensemble = treadle.ensemble(each, 2)
        states.append(ensemble(ensemble.init(Net, key=KEY), make_batch())[0])
    assert_near(states[0].model, states[1].model, 1e-6)


def test_all_may_begin_with_one_model_or_each_with_its_own():
    model = Net(jax.random.key(1))
    state = THREE.init(model, key=KEY)
    for member in treadle.tree.unstack(state):
        assert_same(member.model, model)
    assert len({tuple(np.asarray(jax.random.key_data(k))) for k in state.key}) == 3
    models = [Net(jax.random.key(seed)) for seed in range(3)]
    state = THREE.init(models, key=KEY)
    for member, own in zip(treadle.tree.unstack(state), models, strict=True):
        assert_same(member.model, own)
    # And they stay the caller's.
    THREE(state, make_batch())
    models[0](jnp.ones(6), key=KEY)


def test_a_member_that_stands_still_keeps_its_bits_while_the_others_go_on():
    state, _ = THREE(THREE.init(Net, key=KEY), make_batch())
    before = treadle.tree.unstack(state)
    state = state.replace(active=np.array([True, False, True]))
    for seed in range(3):
        state, metrics = THREE(state, make_batch(seed=seed))
    after = treadle.tree.unstack(state)
    assert_same(after[1].model, before[1].model)
    assert_same(after[1].opt_state, before[1].opt_state)
    assert_same(after[1].ema_model, before[1].ema_model)
    assert int(after[1].step) == 4
    for index in (0, 2):
        assert not np.array_equal(after[index].model.last.weight, before[index].model.last.weight)
    assert state.active.tolist() == [True, False, True]
    # What the others compute does not depend on it.
    alone = THREE.init(Net, key=KEY)
    alone, _ = THREE(alone, make_batch())
    for seed in range(3):
        alone, _ = THREE(alone, make_batch(seed=seed))
    assert_same(treadle.tree.unstack(alone)[2].model, after[2].model)


def poisoned(model, example, key, *, args):
    x, y = example
    loss = optax.softmax_cross_entropy_with_integer_labels(model(x, key=key), y)
    # Members differ in their first bias, which one of them has above the limit.
    return jnp.where(model.last.bias[0] > args, jnp.nan, loss)


def poisoned_state(step):
    state = step.init(Net, key=KEY)
    biases = jnp.array([[0.0, 0, 0], [9.0, 0, 0], [0.0, 0, 0]])
    return state.replace(model=eqx.tree_at(lambda m: m.last.bias, state.model, biases))


@pytest.mark.parametrize("nonfinite", ["skip", "stop"])
def test_a_member_that_diverges_is_dropped_alone(nonfinite):
    single = treadle.TrainStep(poisoned, optax.adam(1e-2))
    step = treadle.ensemble(single, 3, nonfinite=nonfinite)
    begun = poisoned_state(step)
    state, metrics = step(begun.copy(), make_batch(), args=jnp.float32(5))
    assert np.isnan(metrics["loss"]).tolist() == [False, True, False]
    before, after = treadle.tree.unstack(begun), treadle.tree.unstack(state)
    assert_same(after[1].model, before[1].model)
    assert not np.array_equal(after[0].model.last.weight, before[0].model.last.weight)
    step.check(state)
    # With the limit gone the second member would train again, unless it was stopped.
    state, _ = step(state, make_batch(), args=jnp.float32(100))
    moved = not np.array_equal(
        treadle.tree.unstack(state)[1].model.last.weight, before[1].model.last.weight
    )
    assert moved == (nonfinite == "skip")
    if nonfinite == "skip":
        assert state.skipped.tolist() == [0, 1, 0]
    else:
        assert state.active.tolist() == [True, False, True]


def test_raise_names_the_step_and_the_members():
    step = treadle.ensemble(treadle.TrainStep(poisoned, optax.adam(1e-2)), 3)
    state, _ = step(poisoned_state(step), make_batch(), args=jnp.float32(5))
    with pytest.raises(treadle.NonFiniteError, match=r"step 0 \(of the members 1\)"):
        step.check(state)


def test_evaluate_and_predict_give_each_member_or_their_mean():
    state, _ = THREE(THREE.init(Net, key=KEY), make_batch())
    batches = [make_batch(size, seed=size) for size in (5, 8)]
    members = treadle.tree.unstack(state)
    each = treadle.evaluate(EVAL, state, batches, batch_size=4)
    for index, member in enumerate(members):
        own = treadle.evaluate(EVAL, member, batches, batch_size=4)
        np.testing.assert_allclose(each["loss"][index], own["loss"], rtol=1e-6)
        assert each["accuracy"][index] == own["accuracy"]
    mean = treadle.evaluate(EVAL, state, batches, batch_size=4, members="mean")
    np.testing.assert_allclose(mean["loss"], np.mean(each["loss"]), rtol=1e-12)
    assert isinstance(mean["loss"], float)
    averaged = treadle.evaluate(EVAL, state, batches, weights="ema")
    assert averaged["loss"].shape == (3,)
    x = make_batch(7)[0]
    outputs = treadle.predict(state, x, batch_size=3)
    assert outputs.shape == (3, 7, 3)
    for index, member in enumerate(members):
        np.testing.assert_allclose(
            outputs[index], treadle.predict(member, x, batch_size=3), rtol=1e-5, atol=1e-6
        )
    mean = treadle.predict(state, x, batch_size=3, members="mean")
    np.testing.assert_allclose(mean, outputs.mean(axis=0), rtol=1e-5, atol=1e-6)
    with pytest.raises(treadle.ArgumentValueError, match=r"`members` \(='all'\) must be one of"):
        treadle.predict(state, x, batch_size=3, members="all")


def test_fit_resumes_an_ensemble_bit_for_bit(tmp_path):
    def batches():
        return [make_batch(seed=seed) for seed in range(12)]

    def run(folder, steps):
        state = THREE.init(Net, key=KEY)
        return treadle.fit(
            THREE,
            state,
            batches(),
            num_steps=steps,
            run=tmp_path / folder,
            eval=(EVAL, batches()[:2]),
            progress=False,
        )

    straight, history = run("straight", 12)
    run("parts", 5)
    resumed, _ = run("parts", 12)
    assert_same(resumed, straight)
    assert history.metrics["loss"][0].shape == (3,)
    assert history.eval["loss"][0].shape == (3,)
    rows = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("straight", "parts")]
    assert rows[0].splitlines()[:12] == rows[1].splitlines()[:5] + rows[1].splitlines()[6:13]


def test_early_stopping_stops_members_one_by_one():
    state = THREE.init(Net, key=KEY, hyperparams={"learning_rate": np.array([0.0, 1e-2, 0.0])})
    begun = treadle.tree.unstack(state)
    stopping = treadle.callbacks.EarlyStopping("loss", mode="min", patience=2, min_delta=1e-4)
    batches = [make_batch(seed=0)] * 12
    state, history = treadle.fit(
        THREE,
        state,
        batches,
        num_steps=12,
        eval=(EVAL, batches[:1]),
        eval_every=2,
        callbacks=[stopping],
        progress=False,
    )
    assert state.active.tolist() == [False, True, False]
    assert history.stopped is None
    assert stopping.waited[1] == 0
    assert int(state.step) == 12
    assert_same(treadle.tree.unstack(state)[0].model, begun[0].model)
    # Its state is plain JSON, so that a resume has it.
    again = treadle.callbacks.EarlyStopping("loss", mode="min", patience=2, min_delta=1e-4)
    again.set_state(stopping.get_state())
    still = state.replace(active=np.zeros(3, bool))
    _, history = treadle.fit(THREE, still, batches, num_steps=20, callbacks=[again], progress=False)
    assert "none of the 3 members goes on" in history.stopped


def test_a_training_in_which_a_member_was_stopped_resumes_bit_for_bit(tmp_path):
    batches = [make_batch(seed=seed) for seed in range(10)]

    def run(folder, steps):
        rates = {"learning_rate": np.array([0.0, 1e-2, 1e-2])}
        state = THREE.init(Net, key=KEY, hyperparams=rates)
        stopping = treadle.callbacks.EarlyStopping("loss", mode="min", patience=1, min_delta=1e-4)
        return treadle.fit(
            THREE,
            state,
            batches,
            num_steps=steps,
            run=tmp_path / folder,
            eval=(EVAL, batches[:1]),
            eval_every=2,
            callbacks=[stopping],
            progress=False,
        )[0]

    straight = run("straight", 10)
    assert not straight.active[0]
    run("parts", 6)
    assert_same(run("parts", 10), straight)


def test_only_an_ensemble_in_which_a_member_stopped_keeps_a_bool_for_each():
    state = THREE.init(Net, key=KEY)
    assert not state.has_stopped_members
    assert state.active.tolist() == [True, True, True]
    before = len(state.leaves)
    state = state.replace(active=[True, True, False])
    assert state.has_stopped_members
    assert len(state.leaves) == before + 1
    assert "active" in state.leaf_paths()
    with pytest.raises(treadle.TreeError, match=r"'' is bool\[3\] in the state and bool\[2\]"):
        state.replace(active=[True, False])


def stateful_loss(model, state, example, key):
    x, y = example
    hidden, state = model["norm"](x, state)
    logits = model["out"](hidden)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y), state


def test_all_members_may_begin_with_one_model_and_its_state():
    def make(key):
        return {
            "norm": eqx.nn.BatchNorm(6, "batch", mode="ema"),
            "out": eqx.nn.Linear(6, 3, key=key),
        }

    step = treadle.TrainStep(stateful_loss, optax.sgd(0.1), stateful=True)
    pair = eqx.nn.make_with_state(make)(KEY)
    for size in (2, 3):
        state = treadle.ensemble(step, size).init(pair, key=KEY)
        for member in treadle.tree.unstack(state):
            assert_same(member.model["out"], pair[0]["out"])
            assert_same(member.model_state, pair[1])


def test_states_without_a_bool_for_each_member_are_refused_where_members_may_stop():
    single = treadle.TrainStep(loss_fn, optax.sgd(0.1))
    step = treadle.ensemble(single, 2, nonfinite="stop")
    stacked = treadle.tree.stack([single.init(Net, key=jax.random.key(s)) for s in range(2)])
    with pytest.raises(treadle.TreeError, match=r"`state.replace\(active=np.ones\(2, bool\)\)`"):
        step(stacked, make_batch())
    state, _ = step(stacked.replace(active=np.ones(2, bool)), make_batch())
    assert state.active.tolist() == [True, True]


def test_fit_ends_when_every_member_has_stopped():
    step = treadle.ensemble(treadle.TrainStep(poisoned, optax.sgd(0.1)), 3, nonfinite="stop")
    state, history = treadle.fit(
        step,
        step.init(Net, key=KEY),
        [make_batch()] * 12,
        num_steps=12,
        args=jnp.float32(-100),
        eval=(EVAL, [make_batch()]),
        eval_every=4,
        progress=False,
    )
    assert history.stopped == "every member of the ensemble has stopped"
    assert int(state.step) == 4


def test_the_best_checkpoint_of_an_ensemble_is_that_of_the_best_mean(tmp_path):
    step = treadle.ensemble(treadle.TrainStep(loss_fn, optax.sgd(2.0)), 2)
    place = treadle.Checkpointer(tmp_path, keep_last=1, keep_best=("eval/loss", "min", 1))
    _, history = treadle.fit(
        step,
        step.init(Net, key=KEY),
        [make_batch(seed=seed) for seed in range(6)],
        num_steps=6,
        checkpointer=place,
        checkpoint_every=1,
        eval=(EVAL, [make_batch(seed=9)]),
        eval_every=1,
        progress=False,
    )
    best = 1 + int(np.argmin([np.mean(loss) for loss in history.eval["loss"]]))
    assert set(place.steps()) == {best, 6}


def test_what_does_not_fit_is_told():
    with pytest.raises(treadle.ArgumentTypeError, match="not a `TrainStep`"):
        treadle.ensemble(loss_fn, 2)
    with pytest.raises(treadle.ArgumentValueError, match=r"`size` \(=0\)"):
        treadle.ensemble(SINGLE, 0)
    with pytest.raises(treadle.ArgumentTypeError, match="an ensemble of 3 already"):
        treadle.ensemble(THREE, 2)
    with pytest.raises(treadle.ArgumentValueError, match=r"`nonfinite` \(='halt'\)"):
        treadle.ensemble(SINGLE, 2, nonfinite="halt")
    with pytest.raises(treadle.ArgumentValueError, match=r"sets 'lr', .*it has .*'learning_rate'"):
        THREE.init(Net, key=KEY, hyperparams={"lr": np.ones(3)})
    with pytest.raises(treadle.ArgumentValueError, match="one for each of 3 members"):
        THREE.init(Net, key=KEY, hyperparams={"learning_rate": np.ones(2)})
    plain = treadle.ensemble(treadle.TrainStep(loss_fn, optax.adam(1e-2)), 2)
    with pytest.raises(treadle.ArgumentValueError, match="keeps no hyperparameters"):
        plain.init(Net, key=KEY, hyperparams={"learning_rate": np.ones(2)})
    with pytest.raises(treadle.ArgumentTypeError, match="must be a dictionary"):
        THREE.init(Net, key=KEY, hyperparams=[1.0])
    with pytest.raises(treadle.TreeError, match="sequence of 2 models, for an ensemble of 3"):
        THREE.init([Net(KEY), Net(KEY)], key=KEY)
    wide = [Net(KEY), Net(KEY, width=9), Net(KEY)]
    with pytest.raises(treadle.TreeError, match=r"one structure.*index 1.*first/weight"):
        THREE.init(wide, key=KEY)


def test_states_and_steps_of_another_kind_are_told_apart():
    state = THREE.init(Net, key=KEY)
    with pytest.raises(
        treadle.TreeError, match="of an ensemble of 3, and the step that of a single"
    ):
        SINGLE(state, make_batch())
    single = SINGLE.init(Net, key=KEY)
    with pytest.raises(
        treadle.TreeError, match="of a single run, and the step that of an ensemble"
    ):
        THREE(single, make_batch())
    with pytest.raises(treadle.ArgumentTypeError, match=r"'active'; this state has the views"):
        single.replace(active=True)


def test_the_state_is_donated_and_aliased_whole():
    state = THREE.init(Net, key=KEY)
    compiled = THREE.compile(state, make_batch())
    assert compiled.aliased_bytes == compiled.donated_bytes
    assert repr(state).startswith("TrainState(step=0, model=Net, 3 members,")
