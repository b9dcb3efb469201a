"""`treadle.data.prefetch`: the same batches, made ahead, by a thread that always ends."""

import gc
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from treadle import TreadleError
from treadle._compat import enable_x64
from treadle.data import _prefetch as implementation
from treadle.data import arrays, decode_position, encode_position, prefetch

# How long a test waits for what must happen; only a failing test ever waits that long.
PATIENCE = 30.0


def workers():
    return [thread for thread in threading.enumerate() if thread.name == "treadle-prefetch"]


@pytest.fixture(scope="module", autouse=True)
def only_what_is_new_is_collected():
    """Every test here collects, and what other modules left behind is large."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def no_thread_is_left():
    """Every test must end with each of its threads ended, once what it made is collected."""
    yield
    gc.collect()
    for thread in workers():
        thread.join(PATIENCE)
    assert workers() == []
    assert implementation._at_work == {}


class Numbers:
    """Positioned batches 0, 1, 2, ...; counts how many were made, and says when."""

    def __init__(self, stop=None):
        self.at, self.stop = 0, stop
        self.made = threading.Semaphore(0)

    def __iter__(self):
        return self

    def __next__(self):
        if self.at == self.stop:
            raise StopIteration
        self.at += 1
        self.made.release()
        return np.array([self.at - 1])

    def get_state(self):
        return {"at": self.at}

    def set_state(self, state):
        if state["at"] < 0:
            self.at = 10**6
            raise ValueError("before the start")
        self.at = state["at"]

    def wait_until_made(self, count):
        for _ in range(count):
            assert self.made.acquire(timeout=PATIENCE)


def test_the_position_is_of_batches_handed_out():
    numbers = Numbers()
    iterator = iter(prefetch(numbers, 3))
    assert iterator.get_state() == {"at": 0}
    assert next(iterator) == 0
    numbers.wait_until_made(4)
    assert iterator.get_state() == {"at": 1}


@pytest.mark.parametrize("size", [1, 2, 5])
def test_no_more_than_size_batches_are_made_ahead(size):
    numbers = Numbers()
    iterator = iter(prefetch(numbers, size))
    for _ in range(3):
        next(iterator)
    numbers.wait_until_made(3 + size)
    iterator.close()
    assert numbers.at == 3 + size


def test_nothing_is_made_before_it_is_asked_for():
    numbers = Numbers()
    iterator = iter(prefetch(numbers))
    assert workers() == []
    iterator.set_state({"at": 5})
    assert next(iterator) == 5


def test_a_position_is_a_copy():
    class Mutating(Numbers):
        state = {"at": 0}  # noqa: RUF012

        def __next__(self):
            batch = super().__next__()
            self.state["at"] = self.at
            return batch

        def get_state(self):
            return self.state

    numbers = Mutating(stop=4)
    iterator = iter(prefetch(numbers, 2))
    next(iterator)
    numbers.wait_until_made(3)
    assert iterator.get_state() == {"at": 1}
    iterator.get_state()["at"] = 7
    assert iterator.get_state() == {"at": 1}


def test_the_end_may_be_a_position_of_its_own():
    class Ending(Numbers):
        over = False

        def __next__(self):
            self.over = self.at == self.stop
            return super().__next__()

        def get_state(self):
            return {"at": self.at, "over": self.over}

    iterator = iter(prefetch(Ending(stop=1)))
    next(iterator)
    assert iterator.get_state() == {"at": 1, "over": False}
    assert list(iterator) == []
    assert iterator.get_state() == {"at": 1, "over": True}


def test_going_back_drops_what_was_made_ahead():
    numbers = Numbers(stop=6)
    iterator = iter(prefetch(numbers, 2))
    assert [int(batch[0]) for batch in iterator] == list(range(6))
    assert iterator.get_state() == {"at": 6}
    with pytest.raises(StopIteration):
        next(iterator)
    iterator.set_state({"at": 2})
    assert next(iterator) == 2
    iterator.set_state({"at": 1})
    assert [int(batch[0]) for batch in iterator] == list(range(1, 6))


def test_a_position_that_is_refused_changes_nothing():
    numbers = Numbers()
    iterator = iter(prefetch(numbers, 2))
    next(iterator)
    with pytest.raises(ValueError, match="before the start"):
        iterator.set_state({"at": -1})
    assert iterator.get_state() == {"at": 1}
    assert next(iterator) == 1


def test_batches_without_positions_say_so():
    iterator = iter(prefetch(x for x in [1, 2, 3]))
    assert next(iterator) == 1
    for call in (iterator.get_state, lambda: iterator.set_state({})):
        with pytest.raises(ValueError, match=r"et_state` on .* \(of type generator\) cannot say"):
            call()
    assert list(iterator) == [2, 3]


def test_an_exception_is_raised_in_its_place_with_its_traceback():
    def read_a_broken_file():
        raise OSError("no such shard")

    class Broken(Numbers):
        def __next__(self):
            if self.at == 2:
                read_a_broken_file()
            return super().__next__()

    iterator = iter(prefetch(Broken(), 4))
    assert [int(next(iterator)[0]), int(next(iterator)[0])] == [0, 1]
    for _ in range(2):
        with pytest.raises(OSError, match="no such shard") as raised:
            next(iterator)
        frames = [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
        assert frames[-1] == "read_a_broken_file"
        assert "__next__" in frames
    assert iterator.get_state() == {"at": 2}


def test_even_an_exit_in_the_thread_reaches_the_reader():
    def batches():
        yield 0
        sys.exit("enough")

    iterator = iter(prefetch(batches()))
    next(iterator)
    with pytest.raises(SystemExit, match="enough"):
        next(iterator)


def test_breaking_off_ends_the_thread():
    for _ in prefetch(Numbers()):
        (thread,) = workers()
        break
    del _
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_an_exception_in_the_loop_ends_the_thread():
    with pytest.raises(RuntimeError, match="diverged"):  # noqa: PT012
        for _ in prefetch(Numbers()):
            raise RuntimeError("diverged")


def test_closing_ends_the_thread_and_keeps_the_position():
    numbers = Numbers()
    iterator = iter(prefetch(numbers))
    next(iterator)
    iterator.close()
    assert workers() == []
    assert list(iterator) == []
    assert iterator.get_state() == {"at": 1}
    iterator.close()
    iterator.set_state({"at": 3})
    assert next(iterator) == 3


def test_closing_before_the_start():
    iterator = iter(prefetch(Numbers()))
    iterator.close()
    assert list(iterator) == []


def test_closing_does_not_wait_for_a_batch_that_never_comes(monkeypatch):
    monkeypatch.setattr(implementation, "_LAST_BATCH_SECONDS", 0.01)
    gate = threading.Event()

    def batches():
        yield 0
        gate.wait(PATIENCE)

    iterator = iter(prefetch(batches()))
    next(iterator)
    iterator.close()
    assert len(workers()) == 1
    gate.set()


def test_ctrl_c_while_waiting_for_a_batch():
    asked, gate, waited = threading.Event(), threading.Event(), []

    def batches():
        yield 0
        asked.wait(PATIENCE)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        waited.append(gate.wait(PATIENCE))
        yield 1

    iterator = iter(prefetch(batches()))
    next(iterator)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        asked.set()
        next(iterator)
    gate.set()
    assert next(iterator) == 1
    assert waited == [True]


EXIT = """
import itertools, threading
import numpy as np
from treadle.data import prefetch

def batches():
    yield np.zeros(3)
    {rest}

iterator = iter(prefetch(batches(), 2, to_device=True))
next(iterator)
print("done", flush=True)
"""


@pytest.mark.parametrize(
    "rest",
    ["while True: yield np.zeros(3)", "threading.Event().wait()"],
    ids=["endless", "blocked"],
)
def test_the_interpreter_exits(rest):
    done = subprocess.run(
        [sys.executable, "-c", EXIT.format(rest=rest)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_a_batch_that_was_handed_out_is_not_held():
    at_the_second, gate = threading.Event(), threading.Event()

    def batches():
        yield np.zeros(3)
        at_the_second.set()
        gate.wait(PATIENCE)

    iterator = iter(prefetch(batches()))
    batch = next(iterator)
    assert at_the_second.wait(PATIENCE)
    alive = weakref.ref(batch)
    del batch
    assert alive() is None
    gate.set()


def test_batches_stay_numpy_on_cpu_unless_asked():
    batches = [{"x": np.arange(3, dtype=np.float32), "name": "a", "y": jnp.arange(2)}]
    (left,) = prefetch(batches)
    assert type(left["x"]) is np.ndarray
    (placed,) = prefetch(batches, to_device=True)
    assert isinstance(placed["x"], jax.Array)
    assert placed["x"].tolist() == [0, 1, 2]
    assert placed["name"] == "a"
    assert placed["y"] is batches[0]["y"]


def test_batches_go_to_the_device_of_the_reader():
    device = jax.devices()[-1]
    with jax.default_device(device), enable_x64(True):
        (placed,) = prefetch([np.arange(3.0)], to_device=True)
    assert placed.devices() == {device}
    assert placed.dtype == np.float64


def test_length_and_truth_are_those_of_the_batches():
    batches = arrays(np.arange(10), 5, key=None, shuffle=False, epochs=3)
    assert len(prefetch(batches)) == 6
    assert [len(list(prefetch(batches))) for _ in range(2)] == [6, 6]
    with pytest.raises(TypeError, match=r"no length: what is prefetched, of type generator"):
        len(prefetch(x for x in []))
    with pytest.raises(TypeError, match=r"`epochs` is None"):
        len(prefetch(arrays(np.arange(4), 2, key=None, shuffle=False)))
    assert prefetch([])
    assert repr(prefetch([1])) == "prefetch([1], size=2)"


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        (({"x": np.zeros(3)},), TypeError, r"`batches` is of type dict, which is data.*arrays"),
        ((np.zeros(3),), TypeError, r"`batches` is of type ndarray, which is data"),
        ((3,), TypeError, r"`batches` \(=3\) cannot be iterated over"),
        (([], 0), ValueError, r"`size` \(=0\) must be a whole number of at least 1"),
        (([], 1.5), TypeError, r"`size` \(=1\.5\) .* not of type float"),
        (([], 2, "gpu"), TypeError, r"`to_device` \(='gpu'\) .* or None to choose by the device"),
    ],
)
def test_what_cannot_be_prefetched_is_told(args, error, message):
    keywords = {"to_device": args[2]} if len(args) == 3 else {}
    with pytest.raises(error, match=message) as raised:
        prefetch(*args[:2], **keywords)
    assert isinstance(raised.value, TreadleError)


def test_grain_iterators_go_through():
    grain = pytest.importorskip("grain.python")
    data = grain.MapDataset.range(23).shuffle(seed=3).batch(4)
    loader = grain.DataLoader(
        data_source=range(20),
        sampler=grain.IndexSampler(20, num_epochs=1, shuffle=True, seed=0),
        operations=[grain.Batch(4)],
    )
    for batches in (data.to_iter_dataset(), loader):
        plain, ahead = iter(batches), iter(prefetch(batches))
        for number, batch in enumerate(ahead):
            assert np.array_equal(next(plain), batch)
            assert ahead.get_state() == plain.get_state()
            if number == 2:
                position = json.dumps(encode_position(ahead.get_state()))
        with pytest.raises(StopIteration):
            next(plain)
        for fresh in (plain, ahead):
            fresh.set_state(decode_position(json.loads(position)))
        rest = [np.asarray(batch).tolist() for batch in plain]
        assert [np.asarray(batch).tolist() for batch in ahead] == rest != []
