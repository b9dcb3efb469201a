"""At most one save at a time, beside the training."""

import logging
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
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._name = ""

    def start(self, name: str, job: Callable[[], Any]) -> None:
        """Begins with a job, when the one before has ended (see `wait`).

        Args:
            name: What it is, for messages.
            job: What to do.
        """
        self.wait()
        self._name = name
        thread = threading.Thread(target=self._run, args=(job,), name="treadle-checkpoint")
        thread.start()
        self._thread = thread

    def _run(self, job: Callable[[], Any]) -> None:
        try:
            job()
        except BaseException as error:
            # For who waits; and at once for who reads the log, since perhaps nobody ever waits.
            self._error = error
            _log.error("%s failed: %s", self._name, error)

    def wait(self) -> None:
        """Returns when nothing is under way.

        Raises:
            CheckpointError: If what was under way failed, with the cause.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            kind = type(error) if isinstance(error, CheckpointError) else CheckpointError
            what = error if isinstance(error, CheckpointError) else repr(error)
            raise kind(f"{self._name} failed, in the background: {what}") from error
