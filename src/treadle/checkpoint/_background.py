"""At most one save at a time, beside the training."""

import functools
import logging
import os
import threading
from collections.abc import Callable
from typing import Any

from .._errors import CheckpointError

_log = logging.getLogger("treadle")


class Background:
    """Runs one job after another in a thread of its own.

    The thread is waited for when Python ends, so that a script may end with a save under way.
    """

    def __init__(self) -> None:
        self._done: threading.Event | None = None
        self._process = os.getpid()
        self._error: BaseException | None = None
        self._name = ""

    def start(self, name: str, job: Callable[[], Any]) -> None:
        """Begins with a job, when the one before has ended (see `wait`).

        Args:
            name: What it is, for messages.
            job: What to do.
        """
        self.wait()
        self._name, self._process = name, os.getpid()
        done, taken = threading.Event(), threading.Lock()
        run = functools.partial(self._run, job, done, taken)
        thread = threading.Thread(target=run, name="treadle-checkpoint")
        self._done = done
        try:
            thread.start()
        except BaseException:
            # After Ctrl-C it may be at work nevertheless; if it is not, it never will be.
            if taken.acquire(blocking=False):
                self._done = None
            raise

    @property
    def is_idle(self) -> bool:
        """Whether there is no job, also none that ended and was not waited for."""
        return self._done is None

    # `threading.Lock` is a function until Python 3.13, and so no type for those who check it.
    def _run(self, job: Callable[[], Any], done: threading.Event, taken: Any) -> None:
        if not taken.acquire(blocking=False):
            return
        try:
            job()
        except BaseException as error:
            # For who waits; and at once for who reads the log, since perhaps nobody ever waits.
            self._error = error
            _log.error("%s failed: %s", self._name, error)
        finally:
            done.set()

    def wait(self) -> None:
        """Returns when nothing is under way.

        Raises:
            CheckpointError: If what was under way failed, with the cause.
        """
        done = self._done
        # In a child of `fork` there is no such thread. And not `join`: after a Ctrl-C in the middle
        # of it, Python (3.11) takes the thread for one that has ended.
        if done is not None and self._process == os.getpid():
            done.wait()
        self._done = None
        error, self._error = self._error, None
        if error is not None:
            kind = type(error) if isinstance(error, CheckpointError) else CheckpointError
            what = error if isinstance(error, CheckpointError) else repr(error)
            raise kind(f"{self._name} failed, in the background: {what}") from error
