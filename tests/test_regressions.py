"""Mistakes that were made once, each by the call that showed it."""

import functools
import json
import os
import signal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import treadle
from tests.helpers import Net, assert_same, loss_fn, make_batch
from treadle import _step
from treadle._compat import enable_x64

MODEL = Net(jax.random.key(1))
STEP = treadle.TrainStep(loss_fn, optax.adamw(1e-2))
EVAL = treadle.EvalStep(lambda model, example: {"top": jnp.max(model(example[0]))})


def start(step=STEP):
    return step.init(MODEL, key=jax.random.key(0))


def fit(step=STEP, state=None, data=None, *, num_steps=12, **options):
    options.setdefault("progress", False)
    state = start(step) if state is None else state
    data = [make_batch(seed=seed) for seed in range(50)] if data is None else data
    return treadle.fit(step, state, data, num_steps=num_steps, **options)


# -- the step ---------------------------------------------------------------------------------


def test_an_array_that_the_optimizer_holds_is_not_donated():
    key = jax.random.key(3)
    step = treadle.TrainStep(loss_fn, optax.noisy_sgd(1e-2, key=key))
    for _ in range(2):
        state, _ = step(start(step), make_batch())
    jax.random.normal(key)
    assert np.isfinite(state.model.last.bias).all()


def test_faults_of_one_run_are_not_those_of_the_next():
    def loss(model, example, key):
        return jnp.sum(model) * example

    step = treadle.TrainStep(loss, optax.sgd(0.1))
    bad, good = np.full(2, np.nan, np.float32), np.ones(2, np.float32)
    with pytest.raises(treadle.NonFiniteError, match=r"step 0"):
        treadle.fit(
            step,
            step.init(jnp.ones(2), key=jax.random.key(0)),
            [bad] * 20,
            num_steps=20,
            progress=False,
        )
    state = step.init(jnp.ones(2), key=jax.random.key(1))
    treadle.fit(step, state, [good] * 40, num_steps=40, progress=False)
    # An abandoned run, never asked, says nothing in another one either.
    lost = step.init(jnp.ones(2), key=jax.random.key(0))
    step._calls = 0
    for _ in range(_step._POLL_EVERY - 1):
        lost, _ = step(lost, bad)
    state = step.init(jnp.ones(2), key=jax.random.key(1))
    for _ in range(3 * _step._POLL_EVERY):
        state, _ = step(state, good)
    # A repaired state begins anew.
    mended = lost.replace(model=jnp.ones(2))
    mended, _ = step(mended, good)
    step.check(mended)


def test_faults_are_told_at_the_end_of_fit_without_a_run():
    data = [(np.full((8, 6), np.nan, np.float32), make_batch()[1])]
    with pytest.raises(treadle.NonFiniteError, match=r"step 0"):
        fit(data=data, num_steps=1)


def test_polling_never_waits(monkeypatch):
    class Never:
        def is_ready(self):
            return False

        def __array__(self, *args, **kwargs):
            raise AssertionError("waited")

    step = treadle.TrainStep(loss_fn, optax.sgd(0.1))
    state = start(step)
    state, _ = step(state, make_batch())
    real = step._step
    step._step = lambda *args: (*real(*args)[:2], Never())
    for _ in range(3 * _step._POLL_EVERY):
        state, _ = step(state, make_batch())


@pytest.mark.parametrize("number", [0.5, 3, 1 + 2j, np.float32(2)])
def test_numbers_in_args_are_traced(number):
    def loss(model, example, key, *, args):
        size = jnp.abs(jnp.asarray(args["w"], jnp.complex64))
        return loss_fn(model, example, key)[0] * size

    step = treadle.TrainStep(loss, optax.sgd(0.1))
    state = start(step)
    for factor in range(3):
        state, _ = step(state, make_batch(), args={"w": type(number)(number * factor)})
    assert len(step.compilations) == 1


def test_numbers_of_a_module_in_args_stay_what_they_are():
    def loss(model, example, key, *, args):
        return jnp.mean((model(example[0], key=key) - args(example[0])) ** 2)

    step = treadle.TrainStep(loss, optax.sgd(0.1))
    teacher = eqx.nn.inference_mode(treadle.nn.MLP(6, 3, 4, 1, dropout=0.5, key=jax.random.key(0)))
    state = start(step)
    for _ in range(2):
        state, _ = step(state, make_batch(), args=teacher)
    assert len(step.compilations) == 1


def test_a_static_value_in_args_is_named():
    def loss(model, example, key, *, args):
        return loss_fn(model, example, key)[0] * len(args)

    step = treadle.TrainStep(loss, optax.sgd(0.1))
    state = start(step)
    for word in ("a", "bb"):
        state, _ = step(state, make_batch(), args=word)
    assert "args: 'a' → 'bb'" in step.compilations[1].cause


def test_names_are_kept_as_they_are_written():
    def loss(model, example, key):
        return loss_fn(model, example, key)[0], {"train/acc": 1.0, "~x": 2.0, "deep": {"er": 3.0}}

    step = treadle.TrainStep(loss, optax.sgd(0.1))
    _, metrics = step(start(step), make_batch())
    assert {"train/acc", "~x", "deep/er"} < set(metrics)
    top = treadle.EvalStep(lambda model, example: {"top/1": 1.0})
    assert treadle.evaluate(top, MODEL, [make_batch()]) == {"top/1": 1.0}


@pytest.mark.parametrize(
    ("aux", "message"),
    [
        ({"step": 1.0}, "'loss', 'grad_norm', 'step' are taken"),
        ({1: 1.0}, "has the key 1 of type int"),
        ({"a": 1.0, 2: 1.0}, "has the key 2 of type int"),
        ({"a/b": 1.0, "a": {"b": 2.0}}, "has 'a/b' twice"),
    ],
)
def test_names_that_cannot_be_used(aux, message):
    step = treadle.TrainStep(lambda m, e, k: (loss_fn(m, e, k)[0], aux), optax.sgd(0.1))
    with pytest.raises(treadle.LossError, match=message):
        step(start(step), make_batch())


def test_factories_as_equinox_writes_them():
    made = STEP.init(lambda *, key: Net(key), key=jax.random.key(0))
    assert_same(made, STEP.init(Net, key=jax.random.key(0)))
    # The key of the first layer is of a stream of its own.
    expected = Net(jax.random.fold_in(jax.random.key(0), 0x696E6974))
    assert_same(made.model, expected)
    STEP.init(functools.partial(Net, width=4), key=jax.random.key(0))
    with pytest.raises(treadle.ArgumentTypeError, match=r"the parameters a, b"):
        STEP.init(lambda a, b: None, key=jax.random.key(0))


def test_accumulation_in_x64():
    with enable_x64(True):
        step = treadle.TrainStep(loss_fn, optax.sgd(0.1), accumulate=2)
        model = Net(jax.random.key(1))
        x, y = make_batch()
        dtype = model.first.weight.dtype
        state = step.init(model, key=jax.random.key(0))
        step(state, (x.astype(dtype), y.astype(np.int64)))


def test_weights_of_any_scale_train_the_same():
    def loss(model, example, key):
        x, scale = example
        return treadle.Weighted(jnp.sum(model * x), scale)

    for accumulate in (1, 2):
        step = treadle.TrainStep(loss, optax.sgd(0.1), accumulate=accumulate)
        ends = []
        for scale in (1.0, 1e-5, 1e4):
            state = step.init(jnp.ones(3, jnp.float16), key=jax.random.key(0))
            batch = (np.ones((4, 3), np.float16), np.full(4, scale, np.float32))
            state, _ = step(state, batch)
            ends.append(np.asarray(state.model, np.float32))
        np.testing.assert_allclose(ends[1], ends[0], rtol=2e-3)
        np.testing.assert_allclose(ends[2], ends[0], rtol=2e-3)


def test_weights_are_not_differentiated():
    def loss(model, example, key):
        value, weight = jnp.sum(model["a"]) * example, jax.nn.sigmoid(model["b"])
        return treadle.Weighted(value, weight)

    step = treadle.TrainStep(loss, optax.sgd(0.1))
    model = {"a": jnp.ones(2), "b": jnp.ones(())}
    state = step.init(model, key=jax.random.key(0))
    state, _ = step(state, np.arange(4, dtype=np.float32))
    assert float(state.model["b"]) == 1
    assert not np.array_equal(state.model["a"], model["a"])


def test_what_weighs_nothing_may_be_nan():
    def loss(model, example, key):
        x, weight = example
        return treadle.Weighted(jnp.sum(model) * x, weight), {"aux": treadle.Weighted(x, weight)}

    step = treadle.TrainStep(loss, optax.sgd(0.1))
    x = np.array([1, np.nan, 3], np.float32)
    weight = np.array([1, 0, 1], np.float32)
    state = step.init(jnp.ones(()), key=jax.random.key(0))
    _, metrics = step(state, (x, weight))
    assert float(metrics["loss"]) == 2
    assert float(metrics["aux"]) == 2


def test_mistakes_with_donated_arrays_are_told():
    def loss(model, example, key, *, args):
        return loss_fn(model, example, key)[0] + 0 * jnp.sum(args.last.bias)

    step = treadle.TrainStep(loss, optax.sgd(0.1))
    state = start(step)
    with pytest.raises(treadle.ArgumentValueError, match=r"`args` holds arrays of the state"):
        step(state, make_batch(), args=state.model)
    state = start(step)
    teacher = state.model
    state, _ = step(state, make_batch(), args=MODEL)
    with pytest.raises(treadle.ConsumedStateError, match=r"`args` holds arrays that are gone"):
        step(state, make_batch(), args=teacher)
    with pytest.raises(treadle.ConsumedStateError, match=r"borrowed from a state"):
        treadle.evaluate(EVAL, teacher, [make_batch()])
    with pytest.raises(treadle.ArgumentTypeError, match=r"`args` is missing.*args=\.\.\."):
        step(start(step), make_batch())
    with pytest.raises(treadle.ArgumentTypeError, match=r"jax.device_put"):
        STEP(jax.device_get(start()), make_batch())
    with pytest.raises(treadle.ArgumentTypeError, match=r"use `step.pure` there"):
        jax.jit(lambda state, batch: STEP(state, batch))(start(), make_batch())
    compiled = STEP.compile(start(), make_batch())
    state = start()
    compiled(state, make_batch())
    with pytest.raises(treadle.ConsumedStateError, match=r"was consumed"):
        compiled(state, make_batch())


def test_losses_that_take_anything():
    step = treadle.TrainStep(lambda *args: loss_fn(*args)[0], optax.sgd(0.1))
    step(start(step), make_batch())
    with pytest.raises(treadle.ArgumentTypeError, match=r"has no parameter `args`"):
        step(start(step), make_batch(), args=1.0)


def test_compile_and_other_devices_are_recorded():
    step = treadle.TrainStep(loss_fn, optax.sgd(0.1))
    compiled = step.compile(start(step), make_batch())
    (entry,) = step.compilations
    assert entry.seconds == pytest.approx(compiled.trace_seconds + compiled.compile_seconds)
    step(start(step), jax.tree.map(jnp.asarray, make_batch()))
    count = len(step.compilations)
    for batch in (make_batch(), jax.tree.map(jnp.asarray, make_batch())):
        step(start(step), batch)
    assert len(step.compilations) == count
    other = jax.device_put((start(step), make_batch()), jax.devices()[1])
    step(*other)
    assert "not committed to a device → committed to " in step.compilations[-1].cause


def test_state_of_adam_is_not_taken_by_sgd():
    with pytest.raises(treadle.TreeError, match=r"does not belong there"):
        treadle.TrainStep(loss_fn, optax.sgd(0.1))(start(), make_batch())


def test_scan_wants_stacked_batches_and_donates():
    with pytest.raises(treadle.BatchError, match=r"stacked on a new leading axis.*np\.stack"):
        STEP.scan(start(), np.ones(4, np.float32))
    state = start()
    STEP.scan(state, jax.tree.map(lambda leaf: np.stack([leaf] * 2), make_batch()))
    assert state.is_consumed


def test_replace_copies_what_it_takes():
    bias = jnp.arange(3.0)
    state = start()
    state = state.replace(model=eqx.tree_at(lambda m: m.last.bias, state.model, bias))
    STEP(state, make_batch())
    assert bias.tolist() == [0, 1, 2]


def test_no_weak_types_in_the_optimizers_state():
    def init(params):
        return jnp.zeros(())

    def update(grads, state, params=None):
        return grads, jnp.asarray(1.0) + 0 * 1.0

    step = treadle.TrainStep(loss_fn, optax.GradientTransformation(init, update))
    state = start(step)
    for _ in range(3):
        state, _ = step(state, make_batch())
        assert not state.opt_state.weak_type
    assert len(step.compilations) == 1


def test_static_floats_keep_their_sign():
    class Signed(eqx.Module):
        weight: jax.Array
        sign: float

    for sign in (0.0, -0.0):
        step = treadle.TrainStep(lambda m, e, k: jnp.sum(m.weight * e), optax.sgd(0.1))
        state = step.init(Signed(jnp.ones(1), sign), key=jax.random.key(0))
        assert str(state.model.sign) == str(sign)


def test_convolutions_are_unrolled_on_the_cpu():
    class Conv(eqx.Module):
        conv: eqx.nn.Conv1d

        def __call__(self, x):
            return jnp.sum(self.conv(x[None]))

    def loss(model, example, key):
        return model(example)

    model = Conv(eqx.nn.Conv1d(1, 1, 3, key=jax.random.key(0)))
    texts = {}
    for unroll in (None, False, True):
        step = treadle.TrainStep(loss, optax.sgd(0.1), accumulate=2, unroll=unroll)
        state = step.init(model, key=jax.random.key(0))
        batch = np.ones((4, 8), np.float32)
        texts[unroll] = step.compile(state, batch).executable.as_text()
    assert "while" in texts[False]
    assert "while" not in texts[True]
    assert "while" not in texts[None]


def test_disabled_jit_is_no_compilation():
    with jax.disable_jit():
        step = treadle.TrainStep(loss_fn, optax.sgd(0.1))
        step(start(step), make_batch())
    assert step.compilations == ()


# -- evaluation -------------------------------------------------------------------------------


def test_evaluation_that_would_not_end_is_refused():
    endless = treadle.data.arrays(make_batch(8), 4, key=None, shuffle=False)
    with pytest.raises(treadle.DataError, match=r"never end.*epochs=1"):
        treadle.evaluate(EVAL, MODEL, endless)


@pytest.mark.parametrize("batches", [3, {"x": np.ones(3)}, np.ones((3, 2)), make_batch()])
def test_evaluation_of_one_batch_is_told(batches):
    with pytest.raises(treadle.DataError, match=r"a list, `.batch.`|looks like one batch"):
        treadle.evaluate(EVAL, MODEL, batches)


def test_a_sum_over_a_filled_up_tail():
    total = treadle.EvalStep(lambda model, x: {"sum": treadle.Sum(x)})
    data = [np.array([1, 2, np.inf], np.float32)]
    for size in (1, 2, 3):
        assert treadle.evaluate(total, MODEL, data, batch_size=size) == {"sum": np.inf}


def test_sums_across_batches_are_float64():
    ones = treadle.EvalStep(lambda model, x: {"sum": treadle.Sum(x), "mean": x})
    data = [np.array([2.0**24], np.float32), *[np.ones(1, np.float32)] * 8]
    got = treadle.evaluate(ones, MODEL, data, batch_size=1)
    assert got["sum"] == 2.0**24 + 8
    assert got["mean"] == (2.0**24 + 8) / 9


# -- the loop ---------------------------------------------------------------------------------


def test_dtypes_that_alternate_are_not_stacked():
    def loss(model, example, key):
        # Each dtype is another program.
        factor = 2.0 if example.dtype == jnp.float32 else 1.0
        return jnp.sum(model) * factor * example.astype(jnp.float32)

    data = [np.arange(4, dtype=np.float32), np.arange(4, dtype=np.int32)] * 2
    ends = []
    for size in (1, 4):
        step = treadle.TrainStep(loss, optax.sgd(0.1))
        state = step.init(jnp.ones(()), key=jax.random.key(0))
        ends.append(fit(step, state, data, num_steps=4, steps_per_call=size)[0])
    assert_same(*ends)


def test_figures_of_a_function_outlive_the_state():
    _, history = fit(
        eval=lambda state: {"bias": state.model.last.bias, "n": np.int64(3)}, eval_every=1
    )
    assert history.eval["bias"][0].shape == (3,)
    assert history.eval["n"] == [3] * 12
    for returned in (None, 3, {"a": {"b": 1.0}}, {"a": "x"}, {1: 2.0}):
        with pytest.raises(treadle.ArgumentTypeError, match=r"given as `eval` returned"):
            fit(eval=lambda state, returned=returned: returned, num_steps=1)


def test_a_training_that_was_stopped_early_stays_stopped(tmp_path):
    def again():
        stopping = treadle.callbacks.EarlyStopping("m", mode="min", patience=2)
        return fit(
            eval=lambda state: {"m": 1.0},
            eval_every=2,
            callbacks=[stopping],
            run=tmp_path,
            num_steps=40,
        )

    first, history = again()
    rows = (tmp_path / "metrics.jsonl").read_bytes()
    second, told = again()
    assert int(first.step) == int(second.step) == 6
    assert_same(first, second)
    assert told.stopped == history.stopped
    assert (tmp_path / "metrics.jsonl").read_bytes() == rows


def test_a_second_place_for_checkpoints_does_not_stop_a_resume(tmp_path):
    def again(fail):
        def broken():
            for seed in range(30):
                if fail and seed == 8:
                    raise OSError("gone")
                yield make_batch(seed=seed)

        second = treadle.Checkpointer(tmp_path / "second", keep_last=None)
        return fit(
            data=broken(),
            run=tmp_path / "run",
            checkpoint_every=5,
            num_steps=12,
            callbacks=[treadle.callbacks.Checkpointing(second, every=2)],
        )

    with pytest.raises(OSError, match=r"gone"):
        again(fail=True)
    state, _ = again(fail=False)
    assert int(state.step) == 12


def test_figures_belong_to_the_checkpoint_of_their_step(tmp_path):
    values = iter(range(100))
    checkpointer = treadle.Checkpointer(tmp_path, keep_last=1, keep_best=("eval/m", "max", 1))
    fit(
        eval=lambda state: {"m": -abs(next(values) - 1)},
        eval_every=4,
        num_steps=12,
        checkpointer=checkpointer,
        checkpoint_every=2,
    )
    # The second evaluation, after step 8, is the best.
    assert checkpointer.steps() == [8, 12]


def test_a_checkpoint_saved_by_hand_is_gone_on_from(tmp_path):
    state, _ = fit(num_steps=4)
    treadle.Checkpointer(tmp_path).save(4, state)
    resumed, _ = fit(checkpointer=treadle.Checkpointer(tmp_path), num_steps=8)
    assert_same(resumed, fit(num_steps=8)[0])


def test_a_finished_run_leaves_the_data_alone(tmp_path):
    fit(run=tmp_path, num_steps=5)
    taken = []
    state, _ = fit(run=tmp_path, num_steps=2, data=(taken.append(1) for _ in range(9)))
    assert int(state.step) == 5
    assert not taken


def test_damaged_run_folders(tmp_path, caplog):
    fit(run=tmp_path, num_steps=5)
    (tmp_path / "environment.json").write_text("")
    fit(run=tmp_path, num_steps=6)
    assert "was damaged" in caplog.text
    assert len(json.loads((tmp_path / "environment.json").read_text())["starts"]) == 1
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b"\0\0\n")
    with pytest.raises(treadle.DataError, match=r"is damaged: line 7 is not JSON"):
        fit(run=tmp_path, num_steps=7)
    with pytest.raises(treadle.ArgumentValueError, match=r"is a file: give a folder"):
        fit(run=tmp_path / "environment.json")


@pytest.mark.parametrize("data", [make_batch(), (np.ones(3), jnp.ones(3))])
def test_one_batch_for_data_is_told(data):
    with pytest.raises(treadle.DataError, match=r"`data` is a tuple of 2 arrays.*one batch"):
        fit(data=data)


def test_one_callback_without_a_list_is_told():
    with pytest.raises(treadle.ArgumentTypeError, match=r"a single Throughput: put it into a list"):
        fit(callbacks=treadle.callbacks.Throughput())


def test_fused_steps_fuse_with_the_default_checkpoints(tmp_path, caplog):
    step = treadle.TrainStep(loss_fn, optax.sgd(0.1))
    fit(step, num_steps=60, data=[make_batch()] * 60, steps_per_call=20, run=tmp_path)
    assert [entry.program for entry in step.compilations] == ["scan of 20"]
    fit(num_steps=10, steps_per_call=5, eval=lambda state: {}, eval_every=2)
    assert "steps_per_call=5 never fuses" in caplog.text


def test_every_callback_is_told_of_an_error(caplog):
    told = []

    class Broken(treadle.Callback):
        def on_error(self, ctx, error):
            raise ValueError("mine")

    class Told(treadle.Callback):
        def on_error(self, ctx, error):
            told.append(error)

    def data():
        raise OSError("theirs")
        yield

    with pytest.raises(OSError, match=r"theirs"):
        fit(data=data(), callbacks=[Broken(), Told()])
    assert len(told) == 1
    assert "Broken failed while it was told" in caplog.text


def test_second_sigterm_is_no_keyboard_interrupt():
    class Twice(treadle.Callback):
        def on_step(self, ctx):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    state, history = fit(callbacks=[Twice()])
    assert int(state.step) == 1
    assert history.stopped == "SIGTERM"


def test_a_signal_in_the_last_evaluation_is_told():
    def evaluation(state):
        os.kill(os.getpid(), signal.SIGINT)
        return {"m": 1.0}

    state, history = fit(eval=evaluation)
    assert int(state.step) == 12
    assert history.stopped.startswith("SIGINT")


def test_prefetched_generator_goes_on(tmp_path):
    data = treadle.data.prefetch(make_batch(seed=seed) for seed in range(50))
    state, _ = fit(run=tmp_path, data=data, num_steps=5)
    state, _ = fit(state=state, run=tmp_path, data=data, num_steps=10)
    assert_same(state, fit(num_steps=10)[0])


def test_position_within_a_fused_window_is_of_consumed_batches(tmp_path):
    """Epochs of 4, 4 and 2 examples: a window of 4 steps never fits, and is taken apart."""

    def data():
        arrays = make_batch(10)
        return treadle.data.arrays(arrays, 4, key=jax.random.key(2), drop_remainder=False)

    class Stop(treadle.Callback):
        every = 1_000

        def on_step(self, ctx):
            if ctx.step == 5:
                ctx.stop("here")

    options = {"num_steps": 12, "steps_per_call": 4}
    expected, _ = fit(data=data(), **options)
    options |= {"run": tmp_path, "checkpoint_every": 100}
    fit(data=data(), callbacks=[Stop()], **options)
    resumed, _ = fit(data=data(), **options)
    assert_same(resumed, expected)


def test_arrays_in_the_history_stay_arrays_after_a_resume(tmp_path):
    options = {"run": tmp_path, "eval": lambda state: {"v": np.arange(2.0)}, "eval_every": 2}
    fit(num_steps=4, **options)
    _, history = fit(num_steps=6, **options)
    assert all(isinstance(value, np.ndarray) for value in history.eval["v"])


def test_the_last_save_is_in_the_time_split(tmp_path):
    split = treadle.callbacks.TimeSplit()
    fit(callbacks=[split], run=tmp_path, checkpoint_every=100)
    assert split.seconds["save"] > 0


def test_csv_drops_a_line_that_was_cut_off(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("step,loss\n1,0.5\n2,0")
    tracker = treadle.track.CSV(path)
    tracker.resume(2)
    tracker.log(2, {"loss": 0.25})
    assert tracker.rows() == [{"step": "1", "loss": "0.5"}, {"step": "2", "loss": "0.25"}]
