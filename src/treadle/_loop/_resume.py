"""Going on where an earlier call of `fit` ended."""

import logging
from typing import Any

from .._errors import ArgumentValueError, DamagedCheckpointError
from ..checkpoint import Checkpointer
from ..track import JSONL

_log = logging.getLogger("treadle")


def is_over(checkpointer: Checkpointer, num_steps: int, *, evaluates: bool) -> bool:
    """Whether a training has nothing left to do.

    Args:
        checkpointer: Has the checkpoints.
        num_steps: Where it ends.
        evaluates: Whether an evaluation that an error cut off is to be made again.
    """
    newest = checkpointer.latest_step() or 0
    if newest != num_steps or not evaluates:
        return newest >= num_steps
    return newest == 0 or not kept(checkpointer.metadata(newest), "untold").get("eval")


def kept(metadata: dict[str, Any], name: str) -> dict[str, Any]:
    """What `fit` keeps in a checkpoint; nothing, in one that was saved by hand."""
    kept = metadata.get(name)
    # Without the others, it is something else that the user calls so.
    ours = metadata.keys() >= {"data", "callbacks", "untold"}
    return kept if ours and isinstance(kept, dict) else {}


def resume(
    loop: Any,
    checkpointer: Checkpointer,
    where: Any,
    rows: JSONL,
    *,
    allowed: bool,
    skip_data: bool,
    progress: bool,
) -> None:
    """Goes on from the newest checkpoint, where there is one.

    Args:
        loop: The loop, which is changed.
        checkpointer: Has the checkpoints.
        where: How to call the place in messages.
        rows: What was logged before.
        allowed: `fit(resume=...)`.
        skip_data: `fit(skip_data=...)`.
        progress: Whether notices go to the terminal.

    Raises:
        ArgumentValueError: If it is not allowed, or the state is ahead of the checkpoints.
        CheckpointError: If the newest does not fit the state, or is damaged.
        DataError: If the data ends before the place that was reached.
    """
    newest = checkpointer.latest_step()
    if newest is None:
        return
    if not allowed or loop.count > newest:
        why = "`resume=False`" if not allowed else f"the state is already at step {loop.count}"
        raise ArgumentValueError(
            f"{str(where)!r} holds checkpoints up to step {newest}, but {why}: two trainings in "
            f"one folder would get mixed up. Choose another folder, or remove that one."
        )
    # A state that is already there was handed over on purpose: only the rest is restored.
    continued = loop.count == newest
    metadata = checkpointer.metadata(newest)
    if metadata.get("members_stopped") and not loop.state.has_stopped_members:
        loop.state = loop.state.replace(active=loop.state.active)
    if not continued:
        loop.state = _restored(checkpointer, loop.state, newest)
        loop.count = newest
    loop.restore_callbacks(kept(metadata, "callbacks"))
    untold = kept(metadata, "untold")
    if loop.evaluation is not None and newest <= loop.num_steps:
        loop.to_be_told = untold.get("eval")
    if "Log" in (loop.to_be_told or ()):
        # An earlier call may have made it and written it down, but not saved again before its end.
        rows.drop_evaluation(newest)
    skipped = 0
    if newest < loop.num_steps or loop.to_be_told:
        place = kept(metadata, "data") or {"consumed": newest, "position": None}
        skipped = loop.feed.restore(place, skip=skip_data, continued=continued)
    for row in rows.rows():
        if row["step"] <= newest:
            values = {name: value for name, value in row.items() if name != "step"}
            loop.history.log(row["step"], values)
    _warn_of_untold(untold, newest)
    notice(f"continuing {str(where)!r} from step {newest}", progress)
    if skipped:
        notice(f"skipped the {skipped} batches that were consumed before", progress)


def _restored(checkpointer: Checkpointer, like: Any, newest: int) -> Any:
    try:
        return checkpointer.restore(like, step=newest)
    except DamagedCheckpointError as error:
        earlier = [step for step in checkpointer.steps() if step < newest]
        if not earlier:
            raise
        raise DamagedCheckpointError(
            f"{error} Move the folder of step {newest} out of {str(checkpointer.directory)!r}, and "
            f"the training continues from step {earlier[-1]}."
        ) from error


def _warn_of_untold(untold: dict[str, Any], step: int) -> None:
    """What an error kept from being told, when the checkpoint was written because of it."""
    if untold.get("step"):
        _log.warning(
            "The training had ended with an error after step %d, and these callbacks never heard "
            "of that step: %s",
            step,
            ", ".join(untold["step"]),
        )


def notice(message: str, progress: bool) -> None:
    """Tells the user, on standard error or in the log."""
    if progress:
        from rich.console import Console  # Takes longer to load than all of treadle.

        console = Console(stderr=True)
        console.print(f"treadle: {message}", highlight=False, markup=False, soft_wrap=True)
    else:
        _log.info(message)
