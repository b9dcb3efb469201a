"""`replay`: the state before a step and its batch, bit for bit those of the training."""

import math
import shutil

import jax
import numpy as np
import optax
import pytest

import treadle
from tests.helpers import Net, assert_same, exactly, loss_fn, make_batch

BAD = 7
STEP = treadle.TrainStep(loss_fn, optax.adamw(1e-2))
MODEL = Net(jax.random.key(1))


def start(step=STEP):
    return step.init(MODEL, key=jax.random.key(0))


def poisoned():
    """Arrays of which one example is NaN, and the step that meets it first."""
    x, y = make_batch(96)
    order = treadle.data.arrays(np.arange(96), 8, key=jax.random.key(5))
    rows = [batch for _, batch in zip(range(12), order, strict=False)][BAD]
    x[rows[3], 2] = np.nan
    return x, y


def arrays():
    return treadle.data.arrays(poisoned(), 8, key=jax.random.key(5))


def listed():
    return [batch for _, batch in zip(range(12), arrays(), strict=False)]


def train(run, data=None, step=STEP, *, num_steps=12, state=None, **options):
    options = {"progress": False, "checkpoint_every": 3} | options
    state = start(step) if state is None else state
    data = arrays() if data is None else data
    return treadle.fit(step, state, data, num_steps=num_steps, run=run, **options)


def fails(run, data=None, step=STEP, **options):
    with pytest.raises(treadle.NonFiniteError, match=f"of step {BAD} ") as raised:
        train(run, data, step, **options)
    return raised.value


@pytest.fixture(scope="module")
def before():
    """The state of a training that was stopped before the bad step, and that step's batch."""
    state, _ = treadle.fit(STEP, start(), arrays(), num_steps=BAD, progress=False)
    return state.copy(), listed()[BAD]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a training that failed; its message."""
    folder = tmp_path_factory.mktemp("failed")
    return folder, str(fails(folder))


def assert_replayed(replayed, before):
    state, batch = replayed
    assert replayed.number == BAD == int(state.step)
    assert_same(state, before[0])
    assert_same(batch, before[1])


def test_the_state_before_a_bad_step(run, before):
    state = start()
    replayed = treadle.replay(run[0], STEP, state=state, data=arrays(), at=BAD)
    assert_replayed(replayed, before)
    # Nothing was consumed, and the step shows what it met again.
    assert not state.is_consumed
    _, metrics = STEP(replayed.state, replayed.batch)
    assert math.isnan(metrics["loss"])
    with pytest.raises(treadle.NonFiniteError, match=r"of step 7 is NaN"):
        STEP.check()


def test_the_message_is_the_call(run, before):
    folder, message = run
    call = f"`state, batch = treadle.replay({str(folder)!r}, step, state=step.init(model, key=key)"
    assert f"{call}, data=data, at={BAD})`" in message
    assert "`print(treadle.explain_nonfinite(step, state, batch))`" in message
    names = {
        "treadle": treadle,
        "step": STEP,
        "model": MODEL,
        "key": jax.random.key(0),
        "data": arrays(),
    }
    exec(message.split("`")[1], names)
    assert_same(names["state"], before[0])


def test_the_first_bad_step_is_found(run, before):
    assert_replayed(treadle.replay(run[0], STEP, state=start(), data=arrays()), before)
    assert_replayed(
        treadle.replay(run[0], STEP, state=start(), data=arrays(), num_steps=BAD + 1), before
    )
    # It was only replayed: nobody is told of it afterwards.
    STEP.check()
    nothing = r"No step from 6 to 6 has a loss or a gradient that is not finite.*`num_steps="
    with pytest.raises(treadle.ArgumentValueError, match=nothing):
        treadle.replay(run[0], STEP, state=start(), data=arrays(), num_steps=BAD)


@pytest.mark.parametrize(("at", "steps"), [(6, 0), (7, 1), (5, 2), (3, 0)])
def test_any_step_behind_a_checkpoint(run, at, steps, monkeypatch):
    taken = []
    again = treadle.TrainStep._replayed
    monkeypatch.setattr(
        treadle.TrainStep, "_replayed", lambda *given: taken.append(1) or again(*given)
    )
    state, batch = treadle.replay(run[0], STEP, state=start(), data=arrays(), at=at)
    # From the nearest checkpoint: they are of the steps 3 and 6.
    assert len(taken) == steps
    expected, _ = treadle.fit(STEP, start(), arrays(), num_steps=at, progress=False)
    assert_same(state, expected)
    assert_same(batch, listed()[at])


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (listed, {}),
        (lambda: iter(listed()), {}),
        (lambda: treadle.data.prefetch(arrays()), {}),
        (arrays, {"steps_per_call": 2, "checkpoint_every": 2}),
        (listed, {"steps_per_call": 3}),
    ],
    ids=["list", "iterator", "prefetch", "fused", "fused list"],
)
def test_other_data_and_fused_steps(tmp_path, before, data, options):
    fails(tmp_path, data(), **options)
    assert_replayed(treadle.replay(tmp_path, STEP, state=start(), data=data(), at=BAD), before)


def test_data_that_begins_where_the_checkpoint_was_written(tmp_path, before):
    fails(tmp_path, listed())
    rest = listed()[6:]
    replayed = treadle.replay(tmp_path, STEP, state=start(), data=rest, at=BAD, skip_data=False)
    assert_replayed(replayed, before)


def test_a_training_that_was_continued(tmp_path, before):
    train(tmp_path, num_steps=4)
    fails(tmp_path)
    replayed = treadle.replay(tmp_path, STEP, state=start(), data=arrays(), at=BAD)
    assert_replayed(replayed, before)


def test_a_checkpointer_or_its_directory(tmp_path, before):
    checkpointer = treadle.Checkpointer(tmp_path / "here")
    error = fails(None, checkpointer=checkpointer)
    assert f"treadle.replay({str(checkpointer.directory)!r}, step" in str(error)
    for place in (checkpointer, checkpointer.directory, str(checkpointer.directory)):
        assert_replayed(treadle.replay(place, STEP, state=start(), data=arrays()), before)


def test_before_the_first_checkpoint(tmp_path, before):
    error = fails(tmp_path, checkpoint_every=100)
    assert "`state, batch = treadle.replay(None, step" in str(error)
    state = start()
    assert_replayed(treadle.replay(None, STEP, state=state, data=arrays(), at=BAD), before)
    assert_replayed(treadle.replay(None, STEP, state=state, data=arrays()), before)
    none = r"no checkpoint at or before step 7 in .*: there are none at all.*treadle\.replay\(None"
    with pytest.raises(treadle.CheckpointNotFoundError, match=none):
        treadle.replay(tmp_path, STEP, state=state, data=arrays(), at=BAD)
    with pytest.raises(treadle.CheckpointNotFoundError, match=r"of a finite state .*none at all"):
        treadle.replay(tmp_path, STEP, state=state, data=arrays())


def test_all_checkpoints_are_later(run, tmp_path):
    with pytest.raises(treadle.CheckpointNotFoundError, match=r"the earliest is that of step 3"):
        treadle.replay(run[0], STEP, state=start(), data=arrays(), at=2)


def test_a_run_without_a_folder_tells_the_call():
    error = fails(None, checkpoint_every=None)
    assert "`state, batch = treadle.replay(run, step" in str(error)
    assert error.step == BAD


def args_of(number):
    return np.float32(1 + number)


def with_args(model, example, key, *, args):
    return loss_fn(model, example, key)[0] * args


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ({"loss": with_args}, args_of),
        ({"accumulate": 2, "precision": "fp16", "ema": 0.9}, None),
    ],
    ids=["args", "accumulate, fp16, ema"],
)
def test_options_of_the_step(tmp_path, options, given):
    loss = options.pop("loss", loss_fn)
    step = treadle.TrainStep(loss, optax.adamw(1e-2), **options)
    error = fails(tmp_path, step=step, args=given)
    assert ("at=7, args=args)" in str(error)) == (given is not None)
    replayed = treadle.replay(tmp_path, step, state=start(step), data=arrays(), args=given)
    expected, _ = treadle.fit(
        step, start(step), arrays(), num_steps=BAD, args=given, progress=False
    )
    assert replayed.number == BAD
    assert_same(replayed.state, expected)
    assert replayed.args == (None if given is None else args_of(BAD))


def test_members_of_an_ensemble(tmp_path):
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
    step = treadle.ensemble(treadle.TrainStep(loss_fn, optimizer), 2, nonfinite="stop")

    def begin():
        rates = np.array([0.1, 0.2])
        return step.init(Net, key=jax.random.key(0), hyperparams={"learning_rate": rates})

    train(tmp_path, step=step, state=begin())
    replayed = treadle.replay(tmp_path, step, state=begin(), data=arrays())
    expected, _ = treadle.fit(step, begin(), arrays(), num_steps=BAD, progress=False)
    assert replayed.number == BAD
    assert_same(replayed.state, expected)


@pytest.mark.parametrize("nonfinite", ["skip", "ignore"])
def test_steps_that_nobody_was_told_of(tmp_path, nonfinite):
    step = treadle.TrainStep(loss_fn, optax.sgd(0.1), nonfinite=nonfinite)
    keep = treadle.Checkpointer(tmp_path, keep_last=None)
    train(None, step=step, checkpointer=keep)
    replayed = treadle.replay(keep, step, state=start(step), data=arrays())
    expected, _ = treadle.fit(step, start(step), arrays(), num_steps=BAD, progress=False)
    assert replayed.number == BAD
    assert_same(replayed.state, expected)
    for number in (3, 6):
        shutil.rmtree(tmp_path / f"step_{number:08d}")
    message = "at or before step 7" if nonfinite == "skip" else "of a finite state"
    with pytest.raises(treadle.CheckpointNotFoundError, match=message):
        treadle.replay(keep, step, state=start(step), data=arrays())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"run": 3}, treadle.ArgumentTypeError, r"`run` \(=3\) is a int: give the folder"),
        ({"run": "nowhere"}, treadle.CheckpointNotFoundError, r"no folder `run` \(='nowhere'\)"),
        ({"at": -1}, treadle.ArgumentValueError, r"`at` \(=-1\) must be a whole number"),
        ({"at": 20, "data": listed()}, treadle.DataError, r"`data` ended before step 12"),
        ({"step": 1}, treadle.ArgumentTypeError, r"`step` is a int, not a `TrainStep`"),
        ({"data": 1}, treadle.DataError, r"not an iterable of batches"),
        ({"num_steps": -1}, treadle.ArgumentValueError, r"`num_steps` \(=-1\)"),
    ],
)
def test_arguments(options, error, message):
    options = {"run": None, "step": STEP, "state": start(), "data": arrays()} | options
    run, step = options.pop("run"), options.pop("step")
    with pytest.raises(error, match=message):
        treadle.replay(run, step, **options)


def test_a_state_behind_the_step():
    state, _ = treadle.fit(STEP, start(), arrays(), num_steps=3, progress=False)
    told = (
        "`at` (=2) lies before `state`, which is at step 3, and `run` is None: hand over the state "
        "that the training began with."
    )
    with pytest.raises(treadle.ArgumentValueError, match=exactly(told)):
        treadle.replay(None, STEP, state=state, data=arrays(), at=2)
