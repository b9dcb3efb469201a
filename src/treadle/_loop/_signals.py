"""Ctrl-C and SIGTERM: finish the step, then stop; the second Ctrl-C stops at once."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any


class Interrupts:
    """Turns the first SIGINT or SIGTERM into a reason to stop, while it is entered.

    Signal handlers belong to the main thread; in any other, signals are left alone.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.reason is not None:
            raise KeyboardInterrupt
        self.reason = "SIGINT (Ctrl-C)" if number == signal.SIGINT else "SIGTERM"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            # A handler that was not installed from Python cannot be put back from here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
