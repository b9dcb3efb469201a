"""`fit`: what happens around the steps, and what it says."""

import gc
import json
import logging
import math
import os
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

import treadle
from tests.helpers import Net, assert_same, loss_fn, make_batch
from treadle.callbacks import _metrics

STEP = treadle.TrainStep(loss_fn, optax.adamw(1e-2))
EVAL = treadle.EvalStep(
    lambda model, example: {"accuracy": jnp.argmax(model(example[0])) == example[1]}
)
MODEL = Net(jax.random.key(1))


def start():
    return STEP.init(MODEL, key=jax.random.key(0))


def batches(count=1_000):
    return [make_batch(seed=seed) for seed in range(min(count, 50))] * math.ceil(count / 50)


def fit(state=None, data=None, *, num_steps=12, **options):
    options.setdefault("progress", False)
    state = start() if state is None else state
    data = batches() if data is None else data
    return treadle.fit(STEP, state, data, num_steps=num_steps, **options)


class Do(treadle.Callback):
    """Calls a function after a step."""

    def __init__(self, function, at=None, every=None):
        self.function, self.at, self.every = function, at, every

    def on_step(self, ctx):
        if self.at is None or ctx.step == self.at:
            self.function(ctx)


def test_fit_is_the_loop_by_hand():
    state = start()
    losses = []
    for batch in batches()[:12]:
        state, metrics = STEP(state, batch)
        losses.append(float(metrics["loss"]))
    fitted, history = fit()
    assert_same(fitted, state)
    assert history.steps == list(range(1, 13))
    assert history.metrics["loss"] == losses
    assert history.stopped is None
    assert set(history.seconds) == {"data", "step", "eval", "save"}


def test_num_steps_is_absolute():
    state, history = fit(num_steps=0)
    assert int(state.step) == 0
    assert history.steps == []
    state, _ = fit(state, num_steps=5)
    state, history = fit(state, num_steps=int(state.step) + 4)
    assert int(state.step) == 9
    assert history.steps == [6, 7, 8, 9]
    same, history = fit(state, num_steps=3)
    assert same is state
    assert history.steps == []


def test_rows_every_ten_steps_of_a_long_training():
    _, history = fit(num_steps=105)
    assert history.steps == list(range(10, 101, 10))
    _, history = fit(num_steps=20, log_every=7)
    assert history.steps == [7, 14]


def test_data_that_ends_early_ends_the_training():
    state, history = fit(data=iter(batches()[:7]))
    assert int(state.step) == 7
    assert history.stopped == "the data ended after 7 batches"
    state, history = fit(data=iter(batches()[:7]), steps_per_call=5)
    assert int(state.step) == 7
    assert len(history.steps) == 7


def test_ragged_last_batch_in_fused_steps():
    data = [*batches()[:5], make_batch(3)]
    step = treadle.TrainStep(loss_fn, optax.sgd(0.1))
    ends = []
    for size in (1, 4):
        state = step.init(MODEL, key=jax.random.key(0))
        ends.append(
            treadle.fit(step, state, data, num_steps=6, steps_per_call=size, progress=False)
        )
    assert_same(ends[0][0], ends[1][0])
    assert ends[0][1].metrics == ends[1][1].metrics


def test_evaluations_by_step_or_function():
    seen = []

    def by_function(state):
        seen.append(int(state.step))
        return {"norm": float(optax.tree.norm(state.model.last.weight))}

    _, history = fit(eval=by_function, eval_every=5)
    assert history.eval_steps == seen == [5, 10, 12]
    _, history = fit(eval=(EVAL, [make_batch()]))
    assert history.eval_steps == [12]
    assert 0 <= history.eval["accuracy"][0] <= 1


def test_args_as_a_tree_or_by_the_step():
    def scaled(model, example, key, *, args):
        return args * loss_fn(model, example, key)[0]

    step = treadle.TrainStep(scaled, optax.sgd(0.1))
    for args, expected in ((jnp.float32(0), [0, 0]), (lambda n: jnp.float32(n == 1), [0, 1])):
        state = step.init(MODEL, key=jax.random.key(0))
        _, history = treadle.fit(
            step, state, batches(), num_steps=2, args=args, steps_per_call=2, progress=False
        )
        assert [loss > 0 for loss in history.metrics["loss"]] == expected


def test_state_is_there_on_every_and_nowhere_else():
    steps = []
    fit(callbacks=[Do(lambda ctx: ctx.step % 4 or steps.append(int(ctx.state.step)), every=4)])
    assert steps == [4, 8, 12]
    with pytest.raises(treadle.StateUnavailableError, match=r"after step 3.*`every` \(=None\)"):
        fit(callbacks=[Do(lambda ctx: ctx.model, at=3)])
    with pytest.raises(treadle.StateUnavailableError, match=r"after step 3.*`every` \(=2\)"):
        fit(callbacks=[Do(lambda ctx: ctx.state, at=3, every=2)])
    kept = []
    with pytest.raises(treadle.StateUnavailableError, match=r"after step 4"):
        fit(callbacks=[Do(kept.append, at=4, every=4), Do(lambda ctx: kept[0].state, at=5)])


def test_no_metric_is_fetched_before_it_is_ready(monkeypatch):
    """A double in place of the device: its values are never ready, and reading them counts."""
    reads = []
    monkeypatch.setattr(_metrics.Dispatched, "ready", lambda self: False)
    fetch = _metrics.Dispatched.host
    monkeypatch.setattr(_metrics.Dispatched, "host", lambda self: reads.append(1) or fetch(self))
    during = []

    class Watch(treadle.Callback):
        def on_step(self, ctx):
            during.append(len(reads))

    options = {"num_steps": 60, "log_every": 1, "callbacks": [Watch()]}
    console = Console(file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115
    bar = treadle.callbacks.ProgressBar(console)
    _, history = fit(**(options | {"callbacks": [Watch(), bar]}))
    console.file.close()
    assert during == [0] * 60
    assert len(history.steps) == 60


def test_pending_rows_are_bounded(monkeypatch):
    monkeypatch.setattr(_metrics.Dispatched, "ready", lambda self: False)
    monkeypatch.setattr("treadle.callbacks._logging._MOST_PENDING", 5)
    lengths = []
    log = treadle.callbacks.Log(treadle.History(), 1)
    fit(callbacks=[log, Do(lambda ctx: lengths.append(len(log._pending)))], num_steps=20)
    assert max(lengths) == 5


@pytest.mark.parametrize(
    ("number", "reason"), [(signal.SIGINT, "SIGINT .Ctrl-C."), (signal.SIGTERM, "SIGTERM")]
)
def test_signals_finish_the_step_and_save(tmp_path, number, reason, capsys):
    before = signal.getsignal(number)
    send = Do(lambda ctx: os.kill(os.getpid(), number), at=5)
    state, history = fit(callbacks=[send], run=tmp_path / "run", progress=True)
    assert int(state.step) == 5
    assert history.stopped.startswith(reason.split(" ")[0])
    assert "stopped at step 5 of 12" in capsys.readouterr().err
    assert signal.getsignal(number) is before
    resumed, history = fit(run=tmp_path / "run", progress=True)
    assert "from step 5" in capsys.readouterr().err.replace("\n", "")
    assert int(resumed.step) == 12
    assert history.stopped is None
    assert_same(resumed, fit()[0])


def test_second_ctrl_c_raises_at_once():
    def twice(ctx):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not reached")

    with pytest.raises(KeyboardInterrupt):
        fit(callbacks=[Do(twice, at=3)])


def test_other_threads_leave_signals_alone():
    ends = []
    thread = threading.Thread(target=lambda: ends.append(fit()))
    thread.start()
    thread.join()
    assert int(ends[0][0].step) == 12


def test_early_stopping_counts_across_a_resume(tmp_path):
    values = iter([1.0, 0.5, 0.6, 0.7, 0.8, 0.1])

    def evaluation(state):
        return {"loss": next(values)}

    def stopping():
        return treadle.callbacks.EarlyStopping("loss", mode="min", patience=3)

    options = {"eval": evaluation, "eval_every": 2, "run": tmp_path, "num_steps": 40}
    halt = Do(lambda ctx: ctx.stop("pause"), at=7)
    _, history = fit(callbacks=[stopping(), halt], **options)
    assert history.stopped == "pause"
    second = stopping()
    state, history = fit(callbacks=[second], **options)
    assert int(state.step) == 10
    assert second.best == 0.5
    assert "loss has not improved on 0.5 for 3 evaluations" in history.stopped


def test_early_stopping_directions_and_deltas():
    def run(values, **options):
        given = iter(values)
        stopping = treadle.callbacks.EarlyStopping("x", **options)
        state, _ = fit(
            callbacks=[stopping],
            eval=lambda state: {"x": next(given)},
            eval_every=1,
            num_steps=len(values),
        )
        return int(state.step)

    assert run([1, 2, 3, 4], mode="max", patience=1) == 4
    assert run([1, 2, 3, 4], mode="min", patience=2) == 3
    assert run([1, 0.9, 0.8, 0.7], mode="min", patience=1, min_delta=0.5) == 2
    assert run([1, math.nan, math.nan, 2], mode="max", patience=2) == 3
    with pytest.raises(treadle.ArgumentValueError, match=r"'y'.*not among the evaluation's.*'x'"):
        fit(
            callbacks=[treadle.callbacks.EarlyStopping("y", mode="min")],
            eval=lambda state: {"x": 1.0},
        )
    with pytest.raises(treadle.ArgumentValueError, match=r"must be 'min' or 'max'"):
        treadle.callbacks.EarlyStopping("y", mode="up")


def test_nonfinite_is_raised_at_the_end_and_not_saved(tmp_path):
    data = [*batches()[:3], (np.full((8, 6), np.nan, np.float32), make_batch()[1])]
    with pytest.raises(treadle.NonFiniteError, match=r"step 3 is NaN"):
        fit(data=data, num_steps=4, run=tmp_path, checkpoint_every=2)
    assert treadle.Checkpointer(tmp_path / "checkpoints").steps() == [2]


def test_errors_reach_callbacks_and_the_user(tmp_path):
    told = []

    class Told(treadle.Callback):
        def on_error(self, ctx, error):
            told.append((ctx.step, type(error)))

    def broken():
        yield from batches()[:4]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match=r"the disk is gone"):
        fit(data=broken(), callbacks=[Told()], run=tmp_path, log_every=1)
    assert told == [(4, OSError)]
    rows = treadle.track.read_jsonl(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]


def test_run_folder(tmp_path):
    run = tmp_path / "runs" / "one"
    fit(run=run, eval=(EVAL, [make_batch()]), eval_every=6)
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoints",
        "environment.json",
        "metrics.jsonl",
    ]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6, 6, 7, 8, 9, 10, 11, 12, 12]
    assert set(rows[0]) == {"step", "loss", "accuracy", "grad_norm"}
    assert set(rows[6]) == {"step", "eval/accuracy"}
    fit(run=run, num_steps=13)
    environment = json.loads((run / "environment.json").read_text())
    assert [entry["step"] for entry in environment["starts"]] == [0, 12]
    assert environment["starts"][0]["versions"]["jax"] == jax.__version__


def test_resume_refuses_what_it_would_mix_up(tmp_path):
    fit(run=tmp_path, num_steps=4)
    with pytest.raises(treadle.ArgumentValueError, match=r"up to step 4, but `resume=False`"):
        fit(run=tmp_path, resume=False)
    ahead, _ = fit(num_steps=6)
    with pytest.raises(treadle.ArgumentValueError, match=r"the state is already at step 6"):
        fit(ahead, run=tmp_path)
    other = treadle.TrainStep(loss_fn, optax.adamw(1e-2))
    with pytest.raises(treadle.CheckpointError, match=r"model/first/weight"):
        treadle.fit(
            other,
            other.init(Net(jax.random.key(0), width=9), key=jax.random.key(0)),
            batches(),
            num_steps=9,
            run=tmp_path,
            progress=False,
        )


def test_state_at_the_checkpoints_step_is_taken_as_it_is(tmp_path):
    state, _ = fit(run=tmp_path, num_steps=4)
    state, _ = fit(state, run=tmp_path, num_steps=8)
    assert_same(state, fit(num_steps=8)[0])


def test_iterator_that_goes_on_is_not_skipped(tmp_path):
    """In a notebook: the same generator, the same state, a second call."""
    data = iter(batches())
    state, _ = fit(run=tmp_path, data=data, num_steps=4)
    state, _ = fit(state, run=tmp_path, data=data, num_steps=8)
    assert_same(state, fit(num_steps=8)[0])


def test_plain_data_is_skipped_with_one_notice(tmp_path, capsys, caplog):
    fit(run=tmp_path, num_steps=4)
    fit(run=tmp_path, num_steps=6, progress=True)
    assert "skipped the 4 batches" in capsys.readouterr().err.replace("\n", " ")
    caplog.set_level(logging.INFO, "treadle")
    fit(run=tmp_path, num_steps=8)
    assert "skipped the 6 batches" in caplog.text
    rest = batches()[8:]
    state, _ = fit(run=tmp_path, data=rest, num_steps=10, skip_data=False)
    assert_same(state, fit(num_steps=10)[0])
    with pytest.raises(treadle.DataError, match=r"ended after 3 batches.*written after 10"):
        fit(run=tmp_path, data=iter(batches()[:3]), num_steps=12)


def test_checkpointer_of_ones_own(tmp_path):
    checkpointer = treadle.Checkpointer(tmp_path, keep_last=10)
    fit(checkpointer=checkpointer, checkpoint_every=5, num_steps=12)
    assert checkpointer.steps() == [5, 10, 12]
    state, _ = fit(checkpointer=treadle.Checkpointer(tmp_path), num_steps=14)
    assert_same(state, fit(num_steps=14)[0])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_steps": -1}, "ArgumentValueError", "`num_steps` .=-1. must be a whole number"),
        (
            {"num_steps": 2.5},
            "ArgumentTypeError",
            "`num_steps` .=2.5. must be .* type float",
        ),
        ({"data": 3}, "DataError", "`data` .=3. of type int is not an iterable"),
        ({"data": {"x": 1}}, "DataError", "is one batch .a dict., not an iterable"),
        ({"data": []}, "DataError", "`data` is empty"),
        ({"eval_every": 5}, "ArgumentValueError", "`eval_every` .=5. was given without `eval`"),
        ({"checkpoint_every": 5}, "ArgumentValueError", "without `run` or `checkpointer`"),
        ({"steps_per_call": 0}, "ArgumentValueError", "`steps_per_call` .=0. must be a whole"),
        ({"log_every": 0}, "ArgumentValueError", "`log_every` .=0. must be a whole"),
        ({"eval": EVAL}, "ArgumentTypeError", r"must be `\(treadle\.EvalStep"),
        ({"callbacks": [print]}, "ArgumentTypeError", "is not a `treadle.Callback`"),
        (
            {"callbacks": [treadle.History()]},
            "ArgumentTypeError",
            r"holds the tracker History: hand it to `treadle\.callbacks\.Log\(tracker\)`",
        ),
        ({"args": 1.0}, "ArgumentTypeError", "has no parameter `args`"),
        ({"state": MODEL}, "ArgumentTypeError", "is a Net, not a `TrainState`"),
    ],
)
def test_arguments(options, error, message):
    with pytest.raises(getattr(treadle, error), match=message):
        fit(**options)


def test_two_callbacks_of_one_name():
    twice = [treadle.callbacks.EarlyStopping("x", mode="min") for _ in range(2)]
    with pytest.raises(treadle.ArgumentValueError, match=r"two with the name 'EarlyStopping\(x\)'"):
        fit(callbacks=twice)


def test_progress_bar_draws_what_is_ready():
    with open(os.devnull, "w") as nowhere:
        console = Console(file=nowhere, force_terminal=True, width=140, record=True)
        slow = Do(lambda ctx: jax.block_until_ready(ctx.metrics._dispatched._device))
        pause = Do(lambda ctx: threading.Event().wait(0.06))
        bar = treadle.callbacks.ProgressBar(console)
        fit(callbacks=[slow, pause, bar], eval=(EVAL, [make_batch()]))
    text = console.export_text()
    assert "compiling" in text
    assert "12/12" in text
    for word in ("loss", "accuracy", "eval accuracy", "ex/s"):
        assert word in text


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_progress_bar_never_cuts_the_step(width):
    with open(os.devnull, "w") as nowhere:
        console = Console(file=nowhere, force_terminal=True, width=width, record=True)
        bar = treadle.callbacks.ProgressBar(console)
        fit(callbacks=[bar], eval=(EVAL, [make_batch()]), num_steps=120)
    text = console.export_text()
    assert "120/120" in text
    assert "…" not in text


def test_progress_lines_where_there_is_no_terminal(capsys):
    fit(progress=True)
    assert "step 12/12  loss" in capsys.readouterr().err


def test_throughput_and_time_split():
    throughput = treadle.callbacks.Throughput(flops=100.0)
    split = treadle.callbacks.TimeSplit()
    fit(callbacks=[throughput, split], eval=(EVAL, [make_batch()]))
    assert throughput.steps_per_second > 0
    assert throughput.examples_per_second == pytest.approx(8 * throughput.steps_per_second)
    assert throughput.flops_per_second == pytest.approx(100 * throughput.steps_per_second)
    assert set(split.seconds) == {"data", "step", "eval", "save", "other"}
    assert str(split).count("\n") == 4
    with pytest.raises(treadle.ArgumentValueError, match=r"`flops`"):
        treadle.callbacks.Throughput(flops=-1)


def test_profiler_window(tmp_path):
    profiler = treadle.callbacks.Profiler(tmp_path, start=2, steps=2)
    fit(callbacks=[profiler])
    assert list(tmp_path.rglob("*.xplane.pb"))
    with pytest.raises(treadle.ArgumentValueError, match=r"must be a whole number of at least 1"):
        treadle.callbacks.Profiler(tmp_path, start=0)


def test_collector_is_frozen_only_during_the_training():
    before = gc.get_freeze_count()
    counts = []
    step = treadle.TrainStep(loss_fn, optax.sgd(0.1))
    watch = Do(lambda ctx: counts.append(gc.get_freeze_count()))
    state = step.init(MODEL, key=jax.random.key(0))
    treadle.fit(step, state, batches(), num_steps=3, callbacks=[watch], progress=False)
    # What compiling left behind is frozen after the first step.
    assert counts[0] > before + 1000
    assert counts[1] > counts[0]
    # An unfreeze takes all there is, so where Python froze something at start it is 0 now; and the
    # next training is not taken for one within a freeze of the user's.
    assert gc.get_freeze_count() <= before < 10_000
    fit()
    assert gc.get_freeze_count() <= before


def test_collector_does_not_count_a_steps_arrays_as_garbage():
    before = gc.get_threshold()
    model = [jnp.ones(())] * 300
    step = treadle.TrainStep(lambda m, e, k: sum(m, jnp.zeros(())) * e, optax.sgd(0.1))
    state = step.init(model, key=jax.random.key(0))
    thresholds = []
    treadle.fit(
        step,
        state,
        [np.ones(2, np.float32)] * 20,
        num_steps=20,
        callbacks=[Do(lambda ctx: thresholds.append(gc.get_threshold()))],
        progress=False,
    )
    assert thresholds[0][0] > max(before[0], len(state.leaves))
    assert thresholds[0][1:] == before[1:]
    assert gc.get_threshold() == before


def test_collector_frozen_by_the_user_stays_frozen():
    gc.freeze()
    try:
        before = gc.get_freeze_count()
        fit()
        # Of the frozen, some may have died by themselves.
        assert gc.get_freeze_count() > before / 2 > 0
    finally:
        gc.unfreeze()


def test_history_prints_and_fills_gaps():
    history = treadle.History()
    history.log(1, {"loss": 1.0})
    history.log(2, {"loss": 0.5, "late": 3.0})
    assert history.metrics["late"] == [None, 3.0]
    assert "2 rows, last loss 0.5" in repr(history)
