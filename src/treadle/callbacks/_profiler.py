"""A window of steps under JAX's profiler."""

import os

import jax

from .._checks import whole_number
from ._base import Callback, Context


class Profiler(Callback):
    """Records some steps with `jax.profiler`, for TensorBoard or Perfetto.

    Args:
        folder: Where the trace is written.
        start: The step after which recording begins; past the first, which compiles.
        steps: How many steps are recorded.

    Raises:
        ArgumentValueError: A window that is empty or begins before the first step.
    """

    def __init__(self, folder: str | os.PathLike[str], *, start: int = 10, steps: int = 5):
        whole_number("start", start)
        whole_number("steps", steps)
        self.folder = os.fspath(folder)
        self.start = start
        self.steps = steps
        self._running = False

    def on_step(self, ctx: Context) -> None:
        """Begins and ends the window."""
        if not self._running and ctx.step == self.start:
            dict(ctx.metrics)  # Waits: what came before is not to be in the window.
            jax.profiler.start_trace(self.folder)
            self._running = True
        elif self._running and ctx.step >= self.start + self.steps:
            dict(ctx.metrics)
            self._finish()

    def on_end(self, ctx: Context) -> None:
        """Ends a window that the training did not fill."""
        self._finish()

    def on_error(self, ctx: Context, error: BaseException) -> None:
        """Ends it too."""
        self._finish()

    def _finish(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
