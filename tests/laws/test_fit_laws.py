"""Laws of the loop: how steps are dispatched and where they are interrupted changes nothing."""

import itertools
import json
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import Net, assert_same, loss_fn, make_batch

import treadle

STEP = treadle.TrainStep(loss_fn, optax.adamw(1e-2))
EVAL = treadle.EvalStep(
    lambda model, example: {"accuracy": jnp.argmax(model(example[0])) == example[1]}
)
TEST = [make_batch(8, seed=99)]
MODEL = Net(jax.random.key(1))


def start():
    return STEP.init(MODEL, key=jax.random.key(0))


def arrays():
    return treadle.data.arrays(make_batch(40), 8, key=jax.random.key(2))


def generator():
    """Batches from something that cannot say where it is."""
    for seed in range(1_000):
        yield make_batch(8, seed=seed)


class Recorder(treadle.Callback):
    """Notes what it was called with."""

    def __init__(self, every=None):
        self.every = every
        self.steps, self.losses, self.evals, self.norms = [], [], [], []

    def on_step(self, ctx):
        self.steps.append(ctx.step)
        self.losses.append(ctx.metrics)
        if self.every is not None and ctx.step % self.every == 0:
            self.norms.append((ctx.step, float(optax.tree.norm(ctx.model.last.weight))))

    def on_eval(self, ctx):
        self.evals.append((ctx.step, ctx.eval["accuracy"]))


class StopAt(treadle.Callback):
    def __init__(self, step):
        self.step = step

    def on_step(self, ctx):
        if ctx.step == self.step:
            ctx.stop("the test says so")


FUSED = {size: treadle.TrainStep(loss_fn, optax.adamw(1e-2)) for size in (1, 7, 50)}


@pytest.mark.parametrize("data", [arrays, generator])
@pytest.mark.parametrize(("eval_every", "every"), [(25, None), (50, 100), (7, 3)])
def test_fused_steps_change_nothing(data, eval_every, every):
    ends = []
    for size, step in FUSED.items():
        recorder = Recorder(every)
        state, history = treadle.fit(
            step,
            step.init(MODEL, key=jax.random.key(0)),
            data(),
            num_steps=110,
            eval=(EVAL, TEST),
            eval_every=eval_every,
            callbacks=[recorder],
            steps_per_call=size,
            progress=False,
        )
        assert len(step.compilations) <= 2
        assert recorder.steps == list(range(1, 111))
        assert [at for at, _ in recorder.evals] == [
            n for n in range(1, 111) if n % eval_every == 0 or n == 110
        ]
        losses = [metrics["loss"] for metrics in recorder.losses]
        ends.append((state, history, losses, recorder.evals, recorder.norms))
    for state, history, *rest in ends[1:]:
        assert_same(state, ends[0][0])
        assert history.steps == ends[0][1].steps
        assert history.metrics == ends[0][1].metrics
        assert (history.eval_steps, history.eval) == (ends[0][1].eval_steps, ends[0][1].eval)
        assert rest == list(ends[0][2:])


def train(run, *, num_steps=23, stop=None, data=arrays, size=1, checkpoint_every=5):
    return treadle.fit(
        STEP,
        start(),
        data(),
        num_steps=num_steps,
        eval=(EVAL, TEST),
        eval_every=4,
        callbacks=[] if stop is None else [StopAt(stop)],
        checkpoint_every=checkpoint_every,
        steps_per_call=size,
        log_every=1,
        run=run,
        progress=False,
    )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    found = {}
    for name, data in (("arrays", arrays), ("generator", generator)):
        run = tmp_path_factory.mktemp(name)
        state, history = train(run, data=data)
        found[name] = (state, history, (run / "metrics.jsonl").read_bytes())
    return found


@pytest.mark.optimised
@settings(max_examples=8)
@given(
    stops=st.lists(st.integers(1, 22), max_size=3, unique=True).map(sorted),
    data=st.sampled_from([arrays, generator]),
    size=st.sampled_from([1, 4]),
    checkpoint_every=st.sampled_from([3, 5, 100]),
)
def test_stop_anywhere_and_run_again(uninterrupted, stops, data, size, checkpoint_every):
    expected, history, rows = uninterrupted[data.__name__]
    with tempfile.TemporaryDirectory() as run:
        for stop in stops:
            state, part = train(
                run, stop=stop, data=data, size=size, checkpoint_every=checkpoint_every
            )
            assert int(state.step) >= stop
            assert int(state.step) == 23 or part.stopped == "the test says so"
        state, again = train(run, data=data, size=size, checkpoint_every=checkpoint_every)
        assert_same(state, expected)
        assert (pathlib.Path(run) / "metrics.jsonl").read_bytes() == rows
    assert again.metrics == history.metrics
    assert (again.eval_steps, again.eval) == (history.eval_steps, history.eval)
    assert again.stopped is None


@pytest.mark.optimised
def test_killed_between_checkpoints(uninterrupted, tmp_path):
    """What was logged behind the newest checkpoint is logged again, once."""

    class Killed(BaseException):
        pass

    class Kill(treadle.Callback):
        def on_step(self, ctx):
            if ctx.step == 13:
                raise Killed("now")

    with pytest.raises(Killed, match="now"):
        treadle.fit(
            STEP,
            start(),
            arrays(),
            num_steps=23,
            eval=(EVAL, TEST),
            eval_every=4,
            callbacks=[Kill()],
            checkpoint_every=5,
            log_every=1,
            run=tmp_path,
            progress=False,
        )
    file = tmp_path / "metrics.jsonl"
    assert max(json.loads(line)["step"] for line in file.read_text().splitlines()) >= 12
    file.write_text(file.read_text() + '{"step": 14, "lo')
    state, _ = train(tmp_path)
    assert_same(state, uninterrupted["arrays"][0])
    assert file.read_bytes() == uninterrupted["arrays"][2]


def test_finished_run_returns_at_once(uninterrupted, tmp_path):
    train(tmp_path)
    before = STEP._calls
    state, history = train(tmp_path)
    assert STEP._calls == before
    assert_same(state, uninterrupted["arrays"][0])
    assert history.metrics == uninterrupted["arrays"][1].metrics
    longer, _ = train(tmp_path, num_steps=30)
    assert int(longer.step) == 30
    shorter, _ = train(tmp_path, num_steps=10)
    assert int(shorter.step) == 30


def test_batches_are_not_shared_across_epochs():
    """Two epochs see every example once each, in another order."""
    seen = [np.asarray(batch[1]).tolist() for batch in _take(arrays(), 10)]
    assert sorted(itertools.chain(*seen[:5])) == sorted(itertools.chain(*seen[5:]))
    assert seen[:5] != seen[5:]


def _take(iterable, count):
    iterator = iter(iterable)
    return [next(iterator) for _ in range(count)]
