"""`fit` where something fails: what is saved, and that a resume is the same run, bit for bit."""

import logging
import os
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import treadle
from tests.helpers import Net, assert_same, loss_fn, make_batch
from treadle.checkpoint import _background, _checkpointer
from treadle.checkpoint._steps import steps_in

STEP = treadle.TrainStep(loss_fn, optax.adamw(1e-2))
MODEL = Net(jax.random.key(1))
EXAMPLES = make_batch(64)


class BrokenError(Exception):
    """What goes wrong in these tests."""


def data():
    return treadle.data.arrays(EXAMPLES, 8, key=jax.random.key(5))


def evaluation(state):
    return {"norm": jnp.sum(state.model.last.weight)}


def fit(run, batches=None, *, num_steps=12, **options):
    options = {"progress": False, "log_every": 1, "checkpoint_every": 100} | options
    options = {"eval": evaluation, "eval_every": 4} | options
    state = STEP.init(MODEL, key=jax.random.key(0))
    batches = data() if batches is None else batches
    return treadle.fit(STEP, state, batches, num_steps=num_steps, run=run, **options)


def rows(run):
    return (run / "metrics.jsonl").read_bytes()


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    run = tmp_path_factory.mktemp("straight")
    state, history = fit(run)
    return state.copy(), history, rows(run)


def steps_saved(run):
    return treadle.Checkpointer(run / "checkpoints").steps()


def assert_continues(run, straight, **options):
    """Runs it again, without what broke it, and compares with the run that nothing broke."""
    state, history = fit(run, **options)
    assert_same(state, straight[0])
    assert rows(run) == straight[2]
    assert history.steps == straight[1].steps
    assert history.eval_steps == straight[1].eval_steps


class Break(treadle.Callback):
    """Fails once a step, or the evaluation after it, has come."""

    def __init__(self, at, *, on="step", error=BrokenError, act=None):
        self.at, self.on, self.error, self.act = at, on, error, act
        self.every = 1 if act else None

    def on_step(self, ctx):
        if self.on == "step" and ctx.step == self.at:
            self._break(ctx)

    def on_eval(self, ctx):
        if self.on == "eval" and ctx.step == self.at:
            self._break(ctx)

    def _break(self, ctx):
        if self.act:
            self.act(ctx)
        raise self.error("broken")


class Later(treadle.Callback):
    """Hears of everything after `Break`."""

    def __init__(self):
        self.heard = []

    def on_step(self, ctx):
        self.heard.append(ctx.step)

    def on_eval(self, ctx):
        self.heard.append(f"eval {ctx.step}")

    def get_state(self):
        return self.heard

    def set_state(self, state):
        self.heard = state


class BreakingData:
    """A source with a position, that gives something else at one of its batches."""

    def __init__(self, at, give):
        self.source, self.at, self.give, self.count = iter(data()), at, give, 0

    def __iter__(self):
        return self

    def __next__(self):
        batch, self.count = next(self.source), self.count + 1
        return self.give() if self.count == self.at else batch

    def get_state(self):
        return self.source.get_state()

    def set_state(self, state):
        self.source.set_state(state)


def raise_broken():
    raise BrokenError("broken")


@pytest.mark.parametrize("fuse", [1, 3])
@pytest.mark.parametrize(
    ("give", "error"),
    [
        (raise_broken, BrokenError),
        # The step itself fails, on a batch that was taken already.
        (lambda: (np.zeros((8, 99), np.float32), EXAMPLES[1][:8]), TypeError),
    ],
    ids=["data", "step"],
)
def test_an_error_of_data_or_step_loses_nothing(tmp_path, straight, give, error, fuse):
    with pytest.raises(error):
        fit(tmp_path, BreakingData(6, give), steps_per_call=fuse)
    (saved,) = steps_saved(tmp_path)
    # With fused steps the batches before it were taken too, but not trained on.
    assert saved == 5 if fuse == 1 else saved <= 5
    assert_continues(tmp_path, straight)


@pytest.mark.parametrize("fuse", [1, 3])
def test_an_error_of_a_callback_loses_nothing(tmp_path, straight, fuse, caplog):
    later = Later()
    with pytest.raises(BrokenError, match="broken"):
        fit(tmp_path, callbacks=[Break(5), later], steps_per_call=fuse)
    (saved,) = steps_saved(tmp_path)
    assert saved >= 5
    assert later.heard == [1, 2, 3, 4, "eval 4"]
    with caplog.at_level(logging.WARNING, "treadle"):
        assert_continues(tmp_path, straight, callbacks=[again := Later()])
    assert "never heard of that step: Break, Later" in caplog.text
    before, after = range(1, 5), range(saved + 1, 9)
    assert again.heard == [*before, "eval 4", *after, "eval 8", *range(9, 13), "eval 12"]


def test_a_failing_evaluation_is_made_again(tmp_path, straight):
    def failing(state):
        if int(state.step) == 8:
            raise BrokenError("broken")
        return evaluation(state)

    later = Later()
    with pytest.raises(BrokenError, match="broken"):
        fit(tmp_path, eval=failing, callbacks=[later])
    assert steps_saved(tmp_path) == [8]
    assert later.heard[-1] == 8
    assert_continues(tmp_path, straight, callbacks=[again := Later()])
    assert again.heard == [*range(1, 5), "eval 4", *range(5, 9), "eval 8", *range(9, 13), "eval 12"]


def test_who_heard_of_an_evaluation_does_not_hear_of_it_again(tmp_path, straight):
    def stopping():
        return treadle.callbacks.EarlyStopping("norm", mode="max", patience=100)

    first, later = stopping(), Later()
    with pytest.raises(BrokenError, match="broken"):
        fit(tmp_path, callbacks=[first, Break(8, on="eval"), later])
    told = first.get_state()
    again, heard = stopping(), Later()
    assert_continues(tmp_path, straight, callbacks=[again, heard], num_steps=12)
    assert heard.heard.count("eval 8") == 1
    uninterrupted = stopping()
    fit(tmp_path / "other", callbacks=[uninterrupted])
    assert again.get_state() == uninterrupted.get_state()
    assert told["best"] is not None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_not_saved(tmp_path, value, caplog):
    step = treadle.TrainStep(loss_fn, optax.sgd(0.1), nonfinite="ignore")
    state = step.init(MODEL, key=jax.random.key(0))
    x, y = make_batch(8)

    def batches():
        yield x, y
        yield np.full_like(x, value), y
        raise BrokenError("broken")

    with caplog.at_level(logging.INFO, "treadle"), pytest.raises(BrokenError, match="broken"):
        treadle.fit(step, state, batches(), num_steps=9, run=tmp_path, checkpoint_every=100)
    assert "not finite at step 2, so it is not saved" in caplog.text
    assert steps_saved(tmp_path) == []


def test_numbers_that_are_not_trained_may_be_infinite(tmp_path):
    model = {"w": jnp.ones(3), "mask": jnp.array([0.0, -jnp.inf, 0.0])}
    step = treadle.TrainStep(
        lambda model, example, key: jnp.sum(model["w"] * example), optax.sgd(0.1), trainable="w"
    )

    def batches():
        yield np.ones((2, 3), np.float32)
        raise BrokenError("broken")

    state = step.init(model, key=jax.random.key(0))
    with pytest.raises(BrokenError, match="broken"):
        treadle.fit(step, state, batches(), num_steps=9, run=tmp_path, progress=False)
    assert steps_saved(tmp_path) == [1]


def test_a_nonfinite_loss_saves_nothing(tmp_path):
    x, y = make_batch(8)
    bad = [(x, y), (np.full_like(x, np.nan), y), (x, y), (x, y), (x, y)]
    with pytest.raises(treadle.NonFiniteError, match="step 1 is NaN"):
        fit(tmp_path, bad, num_steps=5, eval=None, eval_every=None)
    assert steps_saved(tmp_path) == []


def test_a_second_ctrl_c_saves_nothing(tmp_path):
    def twice(ctx):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, callbacks=[Break(3, act=twice)])
    assert steps_saved(tmp_path) == []


def test_a_second_ctrl_c_does_not_wait_for_the_save_under_way(tmp_path, monkeypatch):
    write, goes_on = _checkpointer.write_checkpoint, threading.Event()

    def held_up(*args):
        goes_on.wait(60)
        write(*args)

    def twice(ctx):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(_checkpointer, "write_checkpoint", held_up)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, callbacks=[Break(3, act=twice)], checkpoint_every=2)
    assert steps_there(tmp_path) == []
    goes_on.set()
    # It ends all the same.
    assert steps_saved(tmp_path) == [2]


def steps_there(run):
    """The steps on the disk now, without waiting."""
    return steps_in(run / "checkpoints")


def test_a_state_that_was_lost_is_not_saved(tmp_path, caplog):
    def consume(ctx):
        STEP(ctx.state, make_batch(8))

    with caplog.at_level(logging.INFO, "treadle"), pytest.raises(BrokenError, match="broken"):
        fit(tmp_path, callbacks=[Break(3, act=consume)])
    assert "the state was lost with the step that failed" in caplog.text
    assert steps_saved(tmp_path) == []


def test_an_error_before_the_first_step_leaves_no_checkpoint(tmp_path):
    with pytest.raises(BrokenError, match="broken"):
        fit(tmp_path, BreakingData(1, raise_broken))
    assert steps_saved(tmp_path) == []
    # A resume that fails at once leaves what was there.
    fit(tmp_path, num_steps=4)
    with pytest.raises(BrokenError, match="broken"):
        fit(tmp_path, BreakingData(1, raise_broken), num_steps=9)
    assert steps_saved(tmp_path) == [4]


def test_the_error_is_told_where_a_checkpoint_is(tmp_path, capsys):
    with pytest.raises(BrokenError, match="broken"):
        fit(tmp_path, callbacks=[Break(5)], progress=True)
    said = " ".join(capsys.readouterr().err.split())
    assert "saved step 5 after an error; run it again to continue from there" in said


def test_two_trainings_in_one_folder_are_refused(tmp_path):
    other = []

    def second(ctx):
        with pytest.raises(treadle.CheckpointError, match="by a training in this process") as told:
            fit(tmp_path)
        other.append(told)
        raise BrokenError("broken")

    with pytest.raises(BrokenError, match="broken"):
        fit(tmp_path, callbacks=[Break(3, act=second)])
    assert other
    # It is free again afterwards, and nothing got mixed up.
    fit(tmp_path)
    assert rows(tmp_path).count(b"\n") == 15


def test_a_finished_run_is_read_while_another_trains(tmp_path):
    state, history = fit(tmp_path)
    with treadle.Checkpointer(tmp_path / "checkpoints")._exclusively():
        again, other = fit(tmp_path)
    assert_same(again, state)
    assert other.steps == history.steps


def test_a_run_takes_a_checkpointer_of_ones_own(tmp_path):
    keeping = treadle.Checkpointer(
        tmp_path / "elsewhere", keep_last=1, keep_best=("eval/norm", "min", 1)
    )
    fit(tmp_path / "run", checkpointer=keeping, checkpoint_every=4)
    figures = {step: keeping_metrics(keeping, step) for step in keeping.steps()}
    assert len(figures) <= 2
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert (tmp_path / "run" / "metrics.jsonl").exists()
    state, _ = fit(tmp_path / "run", checkpointer=keeping, num_steps=14)
    assert int(state.step) == 14


def keeping_metrics(checkpointer, step):
    with treadle.checkpoint.open(checkpointer.directory / f"step_{step:08d}") as saved:
        return saved.metrics


def test_a_metric_that_no_evaluation_has_is_told(tmp_path):
    keeping = treadle.Checkpointer(tmp_path, keep_best=("norm", "min", 1))
    with pytest.raises(treadle.ArgumentValueError, match=r"'norm', which .* mean 'eval/norm'"):
        fit(None, checkpointer=keeping, checkpoint_every=4)


def test_the_history_goes_with_a_checkpointer_too(tmp_path, straight):
    with pytest.raises(BrokenError, match="broken"):
        fit(None, checkpointer=treadle.Checkpointer(tmp_path), callbacks=[Break(5)])
    state, history = fit(None, checkpointer=treadle.Checkpointer(tmp_path))
    assert_same(state, straight[0])
    assert history.steps == straight[1].steps
    assert history.metrics == straight[1].metrics
    assert history.eval == straight[1].eval
    assert (tmp_path / "history.jsonl").read_bytes() == straight[2]


def test_a_damaged_newest_checkpoint_is_told_with_the_way_back(tmp_path, straight):
    fit(tmp_path, num_steps=6, checkpoint_every=3)
    newest = tmp_path / "checkpoints" / "step_00000006"
    with open(newest / "leaves-00000.eqx", "r+b") as file:
        file.seek(300)
        byte = file.read(1)
        file.seek(300)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(
        treadle.DamagedCheckpointError, match=r"step 6 out of .* continues from step 3\."
    ):
        fit(tmp_path)
    newest.rename(tmp_path / "damaged")
    assert_continues(tmp_path, straight)


def test_a_save_that_fails_in_the_background_ends_the_training(tmp_path, monkeypatch, straight):
    write = _checkpointer.write_checkpoint

    def failing(path, *args):
        if path.name == "step_00000006":
            raise treadle.CheckpointError("the disk is full")
        write(path, *args)

    monkeypatch.setattr(_checkpointer, "write_checkpoint", failing)
    with pytest.raises(
        treadle.CheckpointError, match=r"save of step 6 .* the disk is full"
    ) as told:
        fit(tmp_path, checkpoint_every=3)
    assert str(told.value.__cause__) == "the disk is full"
    monkeypatch.undo()
    assert steps_saved(tmp_path) == [3]
    assert_continues(tmp_path, straight)


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch, straight):
    """What is written is the state as it was, though steps take it meanwhile."""
    steps, seen, start = [], [], _background.Background.start

    def held_up(self, name, job):
        def later():
            # Until the training is three steps further.
            reached.wait(30)
            seen.append(len(steps))
            job()

        reached = threading.Event()
        if over:
            reached.set()
        events.append((len(steps) + 3, reached))
        start(self, name, later)

    events, over = [], []

    class Count(treadle.Callback):
        def on_step(self, ctx):
            steps.append(ctx.step)
            for at, event in events:
                if len(steps) >= at:
                    event.set()

        def on_end(self, ctx):
            over.append(True)
            for _, event in events:
                event.set()

    monkeypatch.setattr(_background.Background, "start", held_up)
    fit(tmp_path, callbacks=[Count()], checkpoint_every=4, num_steps=11)
    # Three steps at least were taken between the save and its writing.
    assert [after - at >= 3 for after, at in zip(seen, (4, 8), strict=False)] == [True, True]
    monkeypatch.undo()
    # From the middle one, everything comes out as it did.
    newest = tmp_path / "checkpoints" / "step_00000011"
    newest.rename(tmp_path / "newest")
    assert_continues(tmp_path, straight)


class _Once:
    """An evaluation that fails the first time at a step."""

    def __init__(self, at):
        self.at = at

    def __call__(self, state):
        if int(state.step) == self.at:
            self.at = None
            raise BrokenError
        return evaluation(state)


def test_a_last_evaluation_that_failed_is_made_again(tmp_path, straight):
    with pytest.raises(BrokenError):
        fit(tmp_path, eval=_Once(12))
    assert_continues(tmp_path, straight)
    # It is over now, and nothing is made a third time.
    fit(tmp_path, eval=None, eval_every=None)
    _, history = fit(tmp_path, eval=_Once(12))
    assert history.eval_steps == straight[1].eval_steps
    assert rows(tmp_path) == straight[2]


def test_an_evaluation_that_was_written_down_but_not_saved_is_there_once(tmp_path, straight):
    with pytest.raises(BrokenError):
        fit(tmp_path, eval=_Once(4))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "eval/norm": 0.0}\n')
    assert_continues(tmp_path, straight)


class _Count(treadle.Callback):
    seen = 0

    def on_step(self, ctx):
        self.seen += 1

    def get_state(self):
        return self.seen

    def set_state(self, state):
        self.seen = state


def test_a_second_place_has_what_all_callbacks_made_of_the_step(tmp_path):
    second = treadle.Checkpointer(tmp_path / "second")
    saving = treadle.callbacks.Checkpointing(second, every=6)
    fit(tmp_path / "run", callbacks=[saving, _Count()])
    assert second.metadata(6)["callbacks"] == {"_Count": 6}


def test_what_another_training_left_in_a_second_place_is_not_taken_for_this_one(tmp_path):
    second = treadle.Checkpointer(tmp_path / "second")
    second.save(12, {"of": 1})
    fit(tmp_path / "run", callbacks=[treadle.callbacks.Checkpointing(second)])
    with treadle.checkpoint.open(tmp_path / "second" / "step_00000012") as saved:
        assert "of" not in saved


@pytest.mark.parametrize("name", ["data", "callbacks", "untold"])
def test_metadata_of_a_checkpoint_by_hand_is_the_users_own(tmp_path, name):
    state = STEP.init(MODEL, key=jax.random.key(0))
    with treadle.Checkpointer(tmp_path / "checkpoints") as checkpointer:
        checkpointer.save(0, state, metadata={name: 3})
    state, _ = fit(tmp_path, num_steps=1)
    assert int(state.step) == 1


def test_a_process_that_goes_elsewhere_writes_where_it_was_told(tmp_path, monkeypatch, straight):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)

    class Leave(treadle.Callback):
        def on_start(self, ctx):
            os.chdir("elsewhere")

    fit("run", callbacks=[Leave()])
    assert rows(tmp_path / "run") == straight[2]
    assert steps_saved(tmp_path / "run") == [12]
    assert not list((tmp_path / "elsewhere").iterdir())


class _Unplaced:
    """Data that cannot tell where it is after one of its batches."""

    def __init__(self):
        self.given = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.given += 1
        return jax.tree.map(lambda x: x[:8], EXAMPLES)

    def get_state(self):
        if self.given == 3:
            raise BrokenError
        return self.given

    def set_state(self, state):
        self.given = state


def test_a_batch_without_a_place_was_not_consumed(tmp_path):
    with pytest.raises(BrokenError):
        fit(tmp_path, _Unplaced(), steps_per_call=2, checkpoint_every=1)
    metadata = treadle.Checkpointer(tmp_path / "checkpoints").metadata()
    assert metadata["data"]["consumed"] == 2
