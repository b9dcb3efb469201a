"""`explain_nonfinite`: which operation made the first NaN or infinity of a step."""

from .._custom_types import Args, Batch, Door
from .._errors import ArgumentTypeError
from .._state import TrainState
from .._step import TrainStep
from ._report import NonFinite


def explain_nonfinite(
    step: Door[TrainStep],
    state: Door[TrainState],
    batch: Batch,
    *,
    args: Door[Args | None] = None,
) -> NonFinite:
    """Names the first operation of a step that made a NaN or an infinity, with your line.

    The step is traced, and run operation by operation, with all that it was made with:
    microbatches, precision and loss scale, layers with a state, members. From a loss, a gradient or
    a new state that is not finite it goes back to where that began: to an operation whose operands
    are finite, or to an argument that was not. An infinity that is meant is passed over: what a
    `where` drops, or a softmax turns into 0, does not reach the end; and a mask of `-inf` that
    stands in the program, or in a leaf that is not trained, is not blamed for what becomes of it.

    It takes the time of two or three traces, and memory for the step's intermediate values. Nothing
    is consumed.

    Args:
        step: The step.
        state: The state before it, as `treadle.replay` gives it.
        batch: Its batch.
        args: What its loss takes as `args`.

    Returns:
        What was found, which prints as an account; false where everything is finite.

    Raises:
        ArgumentTypeError: `step` or `state` is none, or `args` is missing or not wanted.
        ConsumedStateError: The state was donated to a step.
        BatchError, LossError, TreeError: As the step raises them.

    Example:
        >>> state, batch = treadle.replay("runs/digits", step, state=state, data=batches)
        >>> print(treadle.explain_nonfinite(step, state, batch))
    """
    if not isinstance(step, TrainStep):
        raise ArgumentTypeError(
            f"`step` is a {type(step).__name__}, not a `TrainStep`: write "
            f"`treadle.TrainStep(loss_fn, optimizer)`."
        )
    step._require_arguments(state, args)
    state.parts()  # Which raises if it was consumed.
    # What looks at programs is imported when it is needed.
    from ._run import run

    return run(step, state, batch, args)
