"""Positions of what is read epoch after epoch: whether one may be gone to."""

from collections.abc import Sequence
from typing import Any

from .._errors import DataError


def check_position(
    state: Any, names: Sequence[str], *, of: str, version: int, epochs: int | None
) -> None:
    """Refuses what is no position.

    Args:
        state: What was handed to `set_state`.
        names: What it holds beside its version.
        of: What it is a position of, for messages.
        version: The one that is read.
        epochs: How many there are; None for any number.

    Raises:
        DataError: It was not made by `get_state`, or lies behind the last epoch.
    """
    if not isinstance(state, dict) or not all(name in state for name in ("version", *names)):
        raise _strange(state, names, of)
    if state["version"] != version:
        raise DataError(
            f"`state` is of version {state['version']}, and this treadle reads version {version}: "
            "continue with the treadle that wrote it, or start at the beginning of the data."
        )
    epoch, number = state["epoch"], state["batch"]
    if not all(type(each) is int and each >= 0 for each in (epoch, number)):
        raise _strange(state, names, of)
    if epochs is not None and (epoch, number) > (epochs, 0):
        raise DataError(
            f"`state` is a position in epoch {epoch}, behind batch {number} of it, and there are "
            f"`epochs`={epochs}: give as many as before, or more."
        )


def _strange(state: Any, names: Sequence[str], of: str) -> DataError:
    return DataError(
        f"`state` (={state!r}) is not a position of {of}: it must be what `get_state` returned, a "
        f"dictionary of {', '.join(('version', *names))}."
    )
