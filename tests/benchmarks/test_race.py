"""Rounds, turns, who takes part, and what happens when one of them fails."""

import collections
import io

import pytest
from benchmarks._options import Options
from benchmarks._process import WorkerError
from benchmarks.contenders import Contender
from rich.console import Console

from benchmarks import _race, _turns

CONSOLE = Console(file=io.StringIO())


def contender(name, **fields):
    return Contender(name, "floor", "", **fields)


class Double:
    """Stands for a worker: notes what is asked of it."""

    started = 0
    asked: list = []  # noqa: RUF012

    def __init__(self):
        Double.started += 1
        self.number = Double.started
        self._answers = collections.deque()

    def send(self, function, **arguments):
        action = function.rpartition(":")[2]
        Double.asked.append((action, arguments["name"], self.number))
        broken = arguments["name"].startswith("broken") and action == "build"
        built = {"loss_before": 2.0, "loss_after": 1.0, "seconds_to_build": 0.1}
        answer = {"build": built, "calibrate": 100, "run": 0.5}[action]
        self._answers.append(WorkerError("Traceback\nOops: it broke") if broken else answer)

    def receive(self):
        answer = self._answers.popleft()
        if isinstance(answer, WorkerError):
            raise answer
        return answer

    def call(self, function, **arguments):
        self.send(function, **arguments)
        return self.receive()

    def close(self):
        Double.asked.append(("close", "", self.number))


@pytest.fixture
def field(monkeypatch):
    """Contenders of our own making, raced on doubles."""
    Double.started, Double.asked = 0, []
    monkeypatch.setattr(_race, "Worker", Double)

    def enter(*contenders):
        monkeypatch.setattr(_race, "CONTENDERS", {c.name: c for c in contenders})
        return [c.name for c in contenders]

    return enter


def test_each_round_starts_a_process_for_each(field):
    names = field(contender("a"), contender("b"))
    found = _race.race(names, "tiny", Options(rounds=2, turns=3), CONSOLE)
    assert Double.started == 4
    assert [number for action, _, number in Double.asked if action == "close"] == [1, 2, 3, 4]
    # Half a second for 100 steps.
    assert found["contenders"]["a"]["rates"] == [[200.0] * 3] * 2
    assert found["contenders"]["b"]["loss_after"] == 1.0


def test_the_order_moves_on_by_one_each_turn(field):
    names = field(contender("a"), contender("b"), contender("c"))
    _race.race(names, "tiny", Options(rounds=1, turns=3), CONSOLE)
    ran = [name for action, name, _ in Double.asked if action == "run"]
    assert "".join(ran) == "abc" + "bca" + "cab"


def test_a_peer_that_is_missing_is_skipped_by_name(field):
    names = field(contender("a"), contender("b", requires=("no_such_module",)))
    found = _race.race(names, "tiny", Options(rounds=1), CONSOLE)
    assert list(found["contenders"]) == ["a"]
    assert found["skipped"] == {"b": "no_such_module is not installed"}


def test_a_peer_that_is_unsuited_is_skipped_with_the_reason(field):
    names = field(contender("a"), contender("b", unsuited={"resnet": "it has no place for it"}))
    found = _race.race(names, "resnet", Options(rounds=1), CONSOLE)
    assert list(found["contenders"]) == ["a"]
    assert found["skipped"] == {"b": "it has no place for it"}
    assert list(_race.race(names, "tiny", Options(rounds=1), CONSOLE)["contenders"]) == ["a", "b"]


def test_a_peer_that_fails_is_left_out_with_its_error(field):
    names = field(contender("a"), contender("broken"))
    found = _race.race(names, "tiny", Options(rounds=2, turns=1), CONSOLE)
    assert list(found["contenders"]) == ["a"]
    assert found["skipped"] == {"broken": "failed: Oops: it broke"}
    assert found["contenders"]["a"]["rates"] == [[200.0]] * 2


def test_one_of_ours_must_not_fail_and_processes_end(field):
    names = field(contender("broken", ours=True))
    with pytest.raises(WorkerError, match="Oops"):
        _race.race(names, "tiny", Options(rounds=1), CONSOLE)
    assert Double.asked[-1] == ("close", "", 1)


def test_smallest_form_has_ours_only_in_one_process(field):
    names = field(contender("a", ours=True), contender("b", ours=True, multiple=20), contender("c"))
    found = _race.race(names, "tiny", Options(smoke=True, rounds=1, turns=1), CONSOLE)
    assert list(found["contenders"]) == ["a", "b"]
    assert Double.started == 1
    # No calibration: 50 steps, or as many whole dispatches as fit.
    assert found["contenders"]["a"]["rates"] == [[100.0]]
    assert found["contenders"]["b"]["rates"] == [[80.0]]


def test_only_chooses_and_refuses_what_is_unknown(field):
    names = field(contender("a"), contender("b"))
    found = _race.race(names[:1], "tiny", Options(rounds=1, only=("b",)), CONSOLE)
    assert list(found["contenders"]) == ["b"]
    with pytest.raises(ValueError, match="`--only` names x; there are a, b"):
        _race.race(names, "tiny", Options(only=("x",)), CONSOLE)


class Metronome:
    """A contender that takes a millisecond a step, by its own clock."""

    def __init__(self):
        self.now = 0.0

    def run(self, num_steps):
        self.now += num_steps * 1e-3


def test_calibrate_gives_whole_dispatches_of_about_that_long(monkeypatch):
    clock = Metronome()
    monkeypatch.setattr(_turns, "CONTENDERS", {"x": contender("x", multiple=16)})
    monkeypatch.setitem(_turns._running, ("x", "tiny"), clock)
    monkeypatch.setattr(_turns.time, "perf_counter", lambda: clock.now)
    assert _turns.calibrate("x", "tiny", 2.0) == 2000
    assert _turns.calibrate("x", "tiny", 0.7) == 704
