"""What tracing a function changed of all that it can reach."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from .._source import Place
from ._contents import Variables, content_of, has_tracer, is_cached, is_other, put_back
from ._reach import Holder, Reach
from ._witness import Witness


class Change(NamedTuple):
    """Something that was changed while tracing.

    Attributes:
        name: `"history"`, `"Trainer.calls"`.
        leaks: Whether it now holds a tracer.
        holder: The number of the object.
        key: What in it.
        place: The line that changes it, once it is known.
    """

    name: str
    leaks: bool
    holder: int
    key: Any
    place: Place | None = None


class Held:
    """What a function can reach, as it is now.

    Args:
        fn: The function.
        arguments: What it is called with: their classes and static parts are reached as well.
    """

    def __init__(self, fn: Any, arguments: Any = ()):
        reach = Reach(fn, arguments)
        self._holders = reach.holders
        self.generators = reach.generators
        self.names_random = reach.names_random
        self.clocked = reach.clocked
        self._iterators = reach.iterators

    def changes(self) -> list[Change]:
        """What is other than it was."""
        return [
            Change(_name(holder, key), leaks, at, key)
            for at, holder in enumerate(self._holders)
            for key, leaks in _changed(holder)
        ]

    def take_back_tracers(self) -> None:
        """Puts back what was there, where there is a tracer now."""
        for holder in self._holders:
            if any(leaks for _, leaks in _changed(holder)):
                put_back(holder.value, holder.content)

    def put_back(self) -> None:
        """Puts back all that was changed, for another trace to change it again."""
        for holder in self._holders:
            if any(True for _ in _changed(holder)):
                put_back(holder.value, holder.content)

    def witness(self, changes: list[Change]) -> Witness:
        """Who watches the lines that make these changes."""
        numbers = sorted({change.holder for change in changes})
        return Witness([self._holders[at] for at in numbers], self.generators, self._iterators)

    @staticmethod
    def placed(changes: list[Change], witness: Witness) -> list[Change]:
        """The changes, each with the line that makes it; each line once for each object."""
        numbers = sorted({change.holder for change in changes})
        seen = {(numbers[each.holder], each.key): each.place for each in witness.changes}
        found: dict[Any, Change] = {}
        for change in changes:
            place = seen.get((change.holder, change.key))
            told = (change.name, place, change.leaks)
            found.setdefault(told, change._replace(place=place))
        return list(found.values())


def _changed(holder: Holder) -> Iterator[tuple[Any, bool]]:
    """What is other in an object, and whether it holds a tracer."""
    now = content_of(holder.value)
    if now is None:
        return
    for key, value in now.items():
        other = key not in holder.content or is_other(value, holder.content[key])
        if other and not is_cached(holder.value, key, value):
            yield key, has_tracer(value)
    for key in holder.content.keys() - now.keys():
        yield key, False


def _name(holder: Holder, key: Any) -> str:
    """What is changed, as the user calls it."""
    value = holder.value
    if isinstance(value, Variables):
        return f"{holder.name}.{key}" if holder.name else str(key)
    plain = isinstance(key, str) and not isinstance(value, dict)
    attribute = plain and key not in ("", "cell_contents")
    return f"{holder.name}.{key}" if attribute else holder.name
