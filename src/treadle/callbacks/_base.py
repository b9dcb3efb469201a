"""`Callback`: what the loop calls, and the context it hands over."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from .._custom_types import Model
from .._errors import StateUnavailableError
from .._state import TrainState


@runtime_checkable
class Host(Protocol):
    """The loop, as far as a context needs it."""

    count: int
    state: TrainState
    cost: Any

    def save(self, checkpointer: Any) -> None: ...

    def save_what_is_left(self, checkpointer: Any, error: BaseException) -> None: ...

    def request_stop(self, reason: str) -> None: ...

    def stop_members(self, mask: Any) -> None: ...


class Context:
    """What a callback may look at; nothing here costs anything until it is read.

    Attributes:
        step: How many steps have been taken, counted from the start of the training.
        num_steps: Where `fit` will end.
        metrics: The newest step's own metrics (a `StepMetrics`), or `None` before the first.
        eval: The newest evaluation's figures, or `None` before the first.
        eval_due: Whether an evaluation follows this step.
        seen: How many examples this call of `fit` has trained on.
        seconds: Wall time so far by what it went to: `data`, `step`, `eval`, `save`.
    """

    __slots__ = (
        "_every",
        "_here",
        "_host",
        "eval",
        "eval_due",
        "metrics",
        "num_steps",
        "seconds",
        "seen",
        "step",
    )

    def __init__(
        self,
        host: Host,
        step: int,
        num_steps: int,
        metrics: Any,
        figures: Mapping[str, Any] | None,
        eval_due: bool,
        seen: int,
        seconds: Mapping[str, float],
    ):
        self._host = host
        # Of the callback that holds the context at the moment: one context serves them all.
        self._every: int | None = None
        self._here = True
        self.step = step
        self.num_steps = num_steps
        self.metrics = metrics
        self.eval = figures
        self.eval_due = eval_due
        self.seen = seen
        self.seconds = seconds

    def _lend(self, every: int | None, *, here: bool = True) -> "Context":
        """Hands the context to a callback that reads the state on multiples of `every`.

        `here` says whether the state is that of this step, and not inside a fused dispatch.
        """
        self._every = every
        self._here = here
        return self

    @property
    def state(self) -> TrainState:
        """The state, on steps that the callback's `every` names; borrowed until the next step.

        Raises:
            StateUnavailableError: On any other step: the state may be inside a fused dispatch.
        """
        asked = self._every is not None and not self.step % self._every
        if not (asked and self._here and self._host.count == self.step):
            raise _unavailable(self._every, self.step)
        return self._host.state

    @property
    def model(self) -> Model:
        """The model, where `state` is available."""
        return self.state.model

    @property
    def flops(self) -> float | None:
        """Model flops: operations in the matrix products and convolutions of one step.

        Counted when first asked, from the program that the first step traced; `None` before it.
        """
        return None if self._host.cost is None else self._host.cost.flops

    @property
    def peak_flops(self) -> float | None:
        """The most FLOP/s that the devices could do in such steps, where a datasheet says so."""
        return None if self._host.cost is None else self._host.cost.peak

    def stop(self, reason: str) -> None:
        """Ends the training after this step; `history.stopped` will say why.

        With `steps_per_call=K`, after the dispatch that the step is part of: where the exact step
        matters, give the callback an `every`.
        """
        self._host.request_stop(reason)

    def stop_members(self, mask: Any) -> None:
        """Lets some members of an ensemble stand still from here on, where `state` is available.

        Args:
            mask: A bool for each member: `True` for those that stop.
        """
        _ = self.state
        self._host.stop_members(mask)

    def save(self, checkpointer: Any) -> None:
        """Writes a checkpoint of everything that a resume needs, where `state` is available."""
        _ = self.state
        self._host.save(checkpointer)

    def save_after(self, checkpointer: Any, error: BaseException) -> None:
        """Writes it after an error, in `on_error`, unless the state is not finite.

        Nothing is written after a second Ctrl-C, nor where no step was taken.
        """
        self._host.save_what_is_left(checkpointer, error)


class Callback:
    """What happens besides the training. Every method may be left out.

    Attributes:
        every: On which steps the callback reads `ctx.state`: on multiples of this number; `None`
            for never (outside `on_start`, `on_eval` and `on_end`, where it is always there). With
            `steps_per_call=K` the loop does not run over such a step.
        interval: On which steps `on_step` is called: on multiples of this number.
        per_dispatch: Whether, of steps that are fused, `on_step` is called after the last only.
        name: Under which its own state is kept in checkpoints; must be unique where there is one.

    Example:
        >>> class Norm(treadle.Callback):
        ...     every = 100
        ...     def on_step(self, ctx):
        ...         if ctx.step % self.every == 0:
        ...             print(ctx.step, optax.tree.norm(eqx.filter(ctx.model, eqx.is_array)))
    """

    every: int | None = None
    interval: int = 1
    per_dispatch: bool = False

    @property
    def name(self) -> str:
        """The key of its state in a checkpoint."""
        return type(self).__name__

    def on_start(self, ctx: Context) -> None:
        """Before the first step of this call of `fit`."""

    def on_step(self, ctx: Context) -> None:
        """After each step; `ctx.metrics` may not be ready yet."""

    def on_eval(self, ctx: Context) -> None:
        """After each evaluation; `ctx.eval` has its figures."""

    def on_end(self, ctx: Context) -> None:
        """When `fit` returns, having reached `num_steps` or stopped."""

    def on_error(self, ctx: Context, error: BaseException) -> None:
        """When an exception ends the loop; it is raised again afterwards."""

    def get_state(self) -> Any:
        """What a resume needs of it, as JSON values; `None` for nothing."""
        return None

    def set_state(self, state: Any) -> None:
        """Takes back what `get_state` gave, before `on_start`."""


def _unavailable(every: int | None, step: int) -> StateUnavailableError:
    """The error for reading the state where it was not asked for."""
    return StateUnavailableError(
        f"`ctx.state` was read after step {step}, but the callback says `every` (={every!r}): the "
        f"loop keeps the state for a callback only on multiples of its `every`. Set "
        f"`every = 1` on the callback to have it on each step (steps are then not fused), or "
        f"`every = n` and read it where `ctx.step % n == 0`."
    )
