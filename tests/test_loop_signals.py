"""Signals to a process of its own: the step ends, and the same script goes on where it was."""

import json
import os
import pathlib
import signal
import subprocess
import sys

from tests.compiling import quick_flags

ROOT = pathlib.Path(__file__).parents[1]
ENVIRONMENT = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}", "XLA_FLAGS": quick_flags()}
# Waits at a step until it is told to go on, as often as it gets a signal there.
SCRIPT = """
import json, pathlib, sys, treadle
folder, cache, step, count = pathlib.Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
treadle.compilation_cache(cache)
from benchmarks.kills import outcome, training

def wait(number):
    for _ in range(count if number == step else 0):
        print("waiting", flush=True)
        sys.stdin.readline()

watch = training.Watch(wait)
state, history = training.train(folder, callbacks=[watch], progress=True)
print(json.dumps([int(state.step), history.stopped, outcome.outcome(folder, state, history)]))
"""


class Script:
    """The script in a process, which gets signals at a step."""

    def __init__(self, run, cache, *, at=0, signals=()):
        words = [sys.executable, "-c", SCRIPT, str(run), str(cache), str(at), str(len(signals))]
        self.process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | ENVIRONMENT,
        )
        self.signals = signals

    def end(self):
        """Sends the signals, each when the one before was heard; waits for the end."""
        for number in self.signals:
            assert self.process.stdout.readline() == "waiting\n"
            self.process.send_signal(number)
            # It reads on after the signal, which comes first: it was sent before.
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        out, self.err = self.process.communicate(timeout=120)
        self.err = " ".join(self.err.split())
        self.code = self.process.returncode
        if self.code == 0:
            self.step, self.stopped, self.outcome = json.loads(out.splitlines()[-1])
        return self


def saved(run):
    return sorted(int(path.name[5:]) for path in (run / "checkpoints").iterdir())


def test_signals_to_a_process(tmp_path):
    run, cache = tmp_path / "run", tmp_path / "cache"
    straight = Script(tmp_path / "straight", tmp_path / "other")

    terminated = Script(run, cache, at=5, signals=[signal.SIGTERM]).end()
    assert (terminated.code, terminated.step, terminated.stopped) == (0, 5, "SIGTERM")
    assert "stopped at step 5 of 24: SIGTERM; run it again to continue from" in terminated.err
    assert saved(run) == [3, 5]

    interrupted = Script(run, cache, at=10, signals=[signal.SIGINT]).end()
    assert "from step 5" in interrupted.err
    assert (interrupted.code, interrupted.step) == (0, 10)
    assert interrupted.stopped == "SIGINT (Ctrl-C)"
    assert saved(run) == [6, 9, 10]

    # The second one does not even wait for the step to end.
    twice = Script(run, cache, at=14, signals=[signal.SIGINT, signal.SIGINT]).end()
    assert twice.code == -signal.SIGINT
    assert twice.err.endswith("KeyboardInterrupt")
    assert saved(run) == [9, 10, 12]

    ended = Script(run, cache).end()
    assert "from step 12" in ended.err
    assert (ended.code, ended.step, ended.stopped) == (0, 24, None)
    assert straight.end().outcome == ended.outcome

    again = Script(run, cache, at=24, signals=[]).end()
    assert "already at step 24 of 24: nothing left to do" in again.err
    assert (again.code, again.outcome) == (0, ended.outcome)
