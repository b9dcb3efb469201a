"""The parent's side: a fresh Python process on a terminal of its own."""

import collections
import contextlib
import json
import os
import pathlib
import pty
import subprocess
import sys
import threading
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent


class WorkerError(RuntimeError):
    """What a call raised in the worker, with the traceback from there."""


class Worker:
    """A fresh process that makes calls for us.

    Its output goes to a terminal nobody sees: progress bars draw as they would for a user, and do
    not fall back to what they do in a pipe.

    Args:
        environment: Variables to set, on top of ours.
    """

    def __init__(self, environment: dict[str, str] | None = None):
        self._screen, terminal = pty.openpty()
        commands, self._commands = os.pipe()
        self._answers, answers = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks._worker", str(commands), str(answers)],
            pass_fds=(commands, answers),
            stdin=subprocess.DEVNULL,
            stdout=terminal,
            stderr=terminal,
            cwd=ROOT,
            env=_environment() | (environment or {}),
        )
        for descriptor in (terminal, commands, answers):
            os.close(descriptor)
        self._output: collections.deque[bytes] = collections.deque(maxlen=200)
        self._drain = threading.Thread(target=self._watch, daemon=True)
        self._drain.start()
        self._sink = os.fdopen(self._commands, "w")
        self._source = os.fdopen(self._answers)

    def _watch(self) -> None:
        while True:
            try:
                data = os.read(self._screen, 65536)
            except OSError:  # What a terminal says when its other side has gone.
                break
            if not data:
                break
            self._output.append(data)
        os.close(self._screen)

    def send(self, function: str, **arguments: Any) -> None:
        """Asks for a call of `"module:function"`, without waiting for it."""
        self._sink.write(json.dumps({"function": function, "with": arguments}) + "\n")
        self._sink.flush()

    def receive(self) -> Any:
        """The result of the oldest call not yet answered.

        Raises:
            WorkerError: If it raised, or the process died.
        """
        line = self._source.readline()
        if not line:
            status = self._process.wait()
            # What it printed last may still be on its way through the terminal.
            self._drain.join(timeout=5)
            screen = b"".join(self._output).decode(errors="replace")
            raise WorkerError(f"The worker ended with status {status}. It had printed:\n{screen}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer["result"]

    def call(self, function: str, **arguments: Any) -> Any:
        """Calls `"module:function"` and waits for what it returns, which must be JSON."""
        self.send(function, **arguments)
        return self.receive()

    def close(self) -> None:
        """Ends the process."""
        # It may have died already, and `receive` has told.
        with contextlib.suppress(BrokenPipeError):
            self._sink.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._source.close()
        self._drain.join(timeout=5)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.close()


def platform() -> str:
    """What the workers compute on: the CPU, unless `JAX_PLATFORMS` says otherwise."""
    return os.environ.get("JAX_PLATFORMS", "cpu")


def _environment() -> dict[str, str]:
    """Ours, less what would make the figures depend on the machine's past."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    settled = {
        "PYTHONPATH": path,
        "COLUMNS": "120",
        "TERM": "xterm-256color",
        "TREADLE_CACHE": "off",
        "JAX_PLATFORMS": platform(),
    }
    return os.environ | settled
