"""The life of one process: forked, watched, and killed where that was asked for."""

import dataclasses
import json
import os
import pathlib
import select
import signal
import time
import traceback
from typing import Any, NoReturn

import treadle

from . import training
from .faults import Faults
from .outcome import outcome, verify

_MOST_SECONDS = 180.0
"""Who lives longer hangs."""
_STEPPED = b"\n"


@dataclasses.dataclass(frozen=True)
class Life:
    """How it went.

    Attributes:
        killed: Whether it was killed, as it should have been.
        result: What it told at its end: the `outcome`, or an error.
        stepping: The seconds until its first step; None if it took none.
        seconds: All of them.
    """

    killed: bool
    result: dict[str, Any]
    stepping: float | None
    seconds: float


def live(
    run: pathlib.Path,
    *,
    point: str | None = None,
    after: float | None = None,
    from_step: bool = False,
    note: bool = False,
) -> Life:
    """Runs the training in a process of its own, which is a copy of this one.

    JAX is imported here, but nothing must have been computed: a process that has threads cannot be
    copied.

    Args:
        run: The folder of the training.
        point: The write point where it is killed, as `Faults` names them.
        after: After how many seconds it is killed.
        from_step: Whether these are counted from its first step.
        note: Whether its write points are told with the result.
    """
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise RuntimeError(f"a process with {threads} threads cannot be copied")
    source, sink = os.pipe()
    start = time.perf_counter()
    child = os.fork()
    if not child:
        os.close(source)
        _be_born(run, sink, point, note)
    os.close(sink)
    try:
        told, stepping = _watch(source, child, start, after, from_step)
    finally:
        os.close(source)
        _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    seconds = time.perf_counter() - start
    if seconds > _MOST_SECONDS:
        found = {"error": f"it hung, and was killed after {seconds:.0f} s"}
        return Life(False, found, stepping, seconds)
    # Of a killed one the last line may be half a line.
    result = {} if killed else json.loads(told.splitlines()[-1] if told.strip() else "{}")
    if not killed and not result:
        result = {"error": f"it ended with status {status}"}
    return Life(killed, result, stepping, seconds)


def _watch(
    source: int, child: int, start: float, after: float | None, from_step: bool
) -> tuple[bytes, float | None]:
    """Reads what a process tells, until it has ended; kills it when its time has come."""
    told, stepping = b"", None
    deadline = start + (_MOST_SECONDS if after is None or from_step else after)
    while True:
        left = max(0.0, deadline - time.perf_counter())
        if not select.select([source], [], [], left)[0]:
            os.kill(child, signal.SIGKILL)
            select.select([source], [], [])
        news = os.read(source, 1 << 16)
        if not news:
            return told, stepping
        # The first thing it tells is that it took a step; or how it ended, without one.
        if not told and news.startswith(_STEPPED):
            stepping = time.perf_counter() - start
            if after is not None and from_step:
                deadline = time.perf_counter() + after
        told += news


def _be_born(run: pathlib.Path, sink: int, point: str | None, note: bool) -> NoReturn:
    """The process: from here it is as if it had been started anew."""
    code, told, found = 1, False, {}

    def tell(step: int) -> None:
        nonlocal told
        if not told:
            told = True
            os.write(sink, _STEPPED)

    try:
        # The model is made before there is a step that would switch the cache on.
        treadle.compilation_cache(os.environ["TREADLE_CACHE"])
        faults = Faults(run, point)
        if note or point is not None:
            faults.install()
        began = verify(run)
        state, history = training.train(run, callbacks=[training.Watch(tell)])
        points = {"points": faults.points} if note else {}
        found = {"began": began, **points, **outcome(run, state, history)}
        code = 0
    except BaseException:
        found = {"error": traceback.format_exc()}
    finally:
        # Not through the copy of whoever made this one.
        with open(sink, "wb") as pipe:
            pipe.write(json.dumps(found).encode())
        os._exit(code)
