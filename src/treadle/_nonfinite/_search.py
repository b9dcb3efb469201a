"""From what is not finite at the end of a program back to where that began.

An infinity may be meant: a mask of `-inf` vanishes in a softmax, and a `where` drops what it does
not choose. So nothing is blamed for being infinite: only what reaches the end is followed, from
there backwards, through those operands that have such numbers in the same places.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

from ._interpret import Birth, Event, Interpreter, Value

Root = tuple[Value, str]
"""A value, and the kind of number in it that is followed: `"nan"` or `"inf"`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Origin:
    """Where numbers that are not finite began.

    Attributes:
        event: The operation.
        index: Which of its results.
        birth: What it looked like; `None` where what is inside of a loop could not be found.
        kind: What it made, `"nan"` or `"inf"`.
        then: Where the infinities became NaN.
        from_constant: Whether it reads a number that is not finite and stands in the program.
    """

    event: Event
    index: int
    birth: Birth | None
    kind: str
    then: "Origin | None" = None
    from_constant: bool = False

    @property
    def order(self) -> tuple[bool, int, bool]:
        """What comes first: computed before written down, then as the program runs."""
        return self.from_constant, self.event.number, self.kind != "nan"


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """An argument of the program that was not finite before.

    Attributes:
        value: The argument.
        kind: What is in it.
        then: Where its infinities became NaN.
    """

    value: Value
    kind: str
    then: Origin | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """What a search found.

    Attributes:
        origins: Operations, the first one first.
        sources: Arguments.
    """

    origins: list[Origin]
    sources: list[Source]


def search(interpreter: Interpreter, roots: Iterable[Root], then: Origin | None = None) -> Found:
    """Where numbers that are not finite come from.

    Args:
        interpreter: Ran the program, and opens its loops.
        roots: What to begin with.
        then: Where the infinities that are looked for became NaN.
    """
    origins: list[Origin] = []
    sources: list[Source] = []
    waiting = list(roots)
    seen: set[tuple[int, str]] = set()
    held: list[Value] = []  # An `id` is only good as long as its value lives.
    while waiting:
        value, kind = waiting.pop()
        if (id(value), kind) in seen:
            continue
        seen.add((id(value), kind))
        held.append(value)
        event = value.event
        if event is None:
            if value.name:
                sources.append(Source(value, kind, then))
            continue
        if event.is_loop:
            inner = interpreter.inside(value, kind)
            if inner is None:
                origins.append(Origin(event, value.index, None, kind, then))
            else:
                waiting.append((inner, kind))
            continue
        trace = event.traces[value.index, kind]
        birth = event.births.get((value.index, kind))
        waiting += [(cause, kind) for cause in trace.causes]
        if trace.born:
            _add_birth(
                interpreter, Origin(event, value.index, birth, kind, then), trace, origins, sources
            )
        elif any(cause.event is None and not cause.name for cause in trace.causes):
            origins.append(Origin(event, value.index, birth, kind, then, from_constant=True))
    return Found(sorted(origins, key=lambda origin: origin.order), sources)


def _add_birth(
    interpreter: Interpreter,
    here: Origin,
    trace: Any,
    origins: list[Origin],
    sources: list[Source],
) -> None:
    """NaNs that infinities became began where those did, unless they stand in the program."""
    earlier = search(interpreter, [(each, "inf") for each in trace.infinities], here)
    computed = [origin for origin in earlier.origins if not origin.from_constant]
    sources += earlier.sources
    origins += computed
    if not computed:
        origins.append(here)
