"""From what is not finite at the end of a program back to where that began.

An infinity may be meant: a mask of `-inf` vanishes in a softmax, and a `where` drops what it does
not choose. So nothing is blamed for being infinite: only what reaches the end is followed, from
there backwards, through those operands that have such numbers in the same places.
"""

import dataclasses
from collections.abc import Iterable

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


def search(interpreter: Interpreter, roots: Iterable[Root]) -> Found:
    """Where numbers that are not finite come from.

    Args:
        interpreter: Ran the program, and opens its loops.
        roots: What to begin with.
    """
    origins: list[Origin] = []
    sources: list[Source] = []
    born = _walk(interpreter, roots, None, {}, origins, sources)
    # In the order of the program, so that an infinity is told with the first NaN it became.
    seen: dict[tuple[int, str], Value] = {}
    for here, infinities in sorted(born, key=lambda pair: pair[0].order):
        earlier: list[Origin] = []
        wanted = [(each, "inf") for each in infinities]
        _walk(interpreter, wanted, here, seen, earlier, sources)
        computed = [origin for origin in earlier if not origin.from_constant]
        origins += computed or [here]
    return Found(sorted(origins, key=lambda origin: origin.order), sources)


def _walk(
    interpreter: Interpreter,
    roots: Iterable[Root],
    then: Origin | None,
    seen: dict[tuple[int, str], Value],
    origins: list[Origin],
    sources: list[Source],
) -> list[tuple[Origin, list[Value]]]:
    """Goes backwards, and adds what it comes to to `origins` and `sources`.

    Args:
        interpreter: Opens loops.
        roots: Where to begin.
        then: Where the infinities that are looked for became NaN.
        seen: What was looked at before.
        origins: Operations that made such numbers.
        sources: Arguments that had them.

    Returns:
        NaNs that came of no NaN, each with the infinities they came of: those began earlier.
    """
    born: list[tuple[Origin, list[Value]]] = []
    waiting = list(roots)
    while waiting:
        value, kind = waiting.pop()
        if (id(value), kind) in seen:
            continue
        # The value is kept, for an `id` is only good as long as it lives.
        seen[id(value), kind] = value
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
        here = Origin(event, value.index, birth, kind, then)
        if trace.born and kind == "nan":
            born.append((here, trace.infinities))
        elif trace.born:
            origins.append(here)
        elif any(cause.event is None and not cause.name for cause in trace.causes):
            origins.append(dataclasses.replace(here, from_constant=True))
    return born
