"""Axes of data that were seen to be one."""

from collections.abc import Iterable


class Together:
    """Axes that meet, and hence are one: which number stands for all of them."""

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}

    def __call__(self, axis: int) -> int:
        """The number for all that an axis is one with."""
        while axis in self._parents:
            axis = self._parents[axis]
        return axis

    def single(self, axes: Iterable[int]) -> int | None:
        """The number for some axes, if they are one."""
        found = {self(axis) for axis in axes}
        return found.pop() if len(found) == 1 else None

    def join(self, *groups: Iterable[int]) -> None:
        """Makes axes one, where each of the groups is."""
        found = [each for each in map(self.single, groups) if each is not None]
        for other in found[1:]:
            one, other = self(found[0]), self(other)
            if one != other:
                self._parents[max(one, other)] = min(one, other)
