"""What is there already of the step that a training goes on from."""

from collections.abc import Collection, Mapping
from typing import Any


class Known:
    """The names that have a figure at the step that a training goes on from.

    An evaluation of that step may come once more: it was logged, and the process was killed before
    a checkpoint knew of it.

    Args:
        step: The step; of -1 there is nothing.
        names: What is there of it.
    """

    def __init__(self, step: int = -1, names: Collection[str] = ()):
        self._step = step
        self._names = frozenset(names)

    def new(self, step: int, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """What is not there yet of a row, which may be empty then."""
        if step != self._step or self._names.isdisjoint(row):
            return row
        return {name: value for name, value in row.items() if name not in self._names}
