"""Writing checkpoints as the training goes on."""

from typing import Any

from .._checks import whole_number
from .._custom_types import Door
from ._base import Callback, Context


class Checkpointing(Callback):
    """Saves on multiples of `every`, at the end, and when the training is stopped or fails.

    `fit(run=..., checkpoint_every=...)` sets it up; add another for a second place.

    Args:
        checkpointer: A `treadle.Checkpointer`.
        every: On which steps; `None` for the end only.

    Raises:
        ArgumentValueError: `every` is not a positive number.
    """

    def __init__(self, checkpointer: Any, every: Door[int | None] = None):
        if every is not None:
            whole_number("every", every, otherwise=", or None for the end only")
        self.checkpointer = checkpointer
        self.every = every
        self._saved: int | None = None

    def on_start(self, ctx: Context) -> None:
        """What is saved already is not saved again."""
        # A step further on is of another training, or of this one before it was cut off.
        self._saved = ctx.step if self.checkpointer.latest_step() == ctx.step else None

    def on_step(self, ctx: Context) -> None:
        """Saves, unless an evaluation follows, whose figures belong to the checkpoint."""
        if self._due(ctx) and not ctx.eval_due:
            self._save(ctx)

    def on_eval(self, ctx: Context) -> None:
        """Saves with the figures of the evaluation; again, if it was saved without them."""
        if self._due(ctx) or ctx.step == self._saved:
            self._save(ctx)

    def on_end(self, ctx: Context) -> None:
        """Saves where the training ended."""
        if ctx.step != self._saved:
            self._save(ctx)
        self.checkpointer.wait()

    def on_error(self, ctx: Context, error: BaseException) -> None:
        """Saves what there is, so that only the step that failed is lost."""
        if ctx.step != self._saved:
            ctx.save_after(self.checkpointer, error)

    def _due(self, ctx: Context) -> bool:
        return self.every is not None and ctx.step % self.every == 0 and ctx.step != self._saved

    def _save(self, ctx: Context) -> None:
        ctx.save(self.checkpointer)
        self._saved = ctx.step
