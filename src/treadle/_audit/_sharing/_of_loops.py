"""What loops and branches are to the axes of data."""

from collections.abc import Callable
from typing import Any

from .._keys._lineage import Path
from ._spread import DATA, NONE, Spread, differing, either, with_new, without
from ._walk import Rule, Walk

_MOST_TURNS = 8
"""Turns after which a loop is taken as settled."""


def _scan(walk: Walk, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
    params = equation.params
    first, carried = params["num_consts"], params["num_carry"]
    stacked = values[first + carried :]
    for value in stacked:
        walk.runs_over(value, 0, walk.scanned if carried else walk.mapped)
    leading = [value.axes[0] for value in stacked if value.axes[0]]
    for each in leading[1:]:
        walk.pair(leading[0], each)
    rows = [without(value, [0]) for value in stacked]

    def body(carry: list[Spread]) -> list[Spread]:
        return walk.program(params["jaxpr"], [*values[:first], *carry, *rows], path)

    outs = _settled(walk, body, values[first : first + carried], path)
    axes = NONE.union(*(value.axes[0] for value in stacked))
    found = list(outs[:carried])
    for value in outs[carried:]:
        whole = differing(with_new(value, 0, params["length"]), 0, drawn=bool(value.draws))
        if value.depends & DATA:
            whole = whole._replace(axes=(axes, *whole.axes[1:]))
        found.append(whole)
    return found


def _settled(
    walk: Walk, body: Callable[[list[Spread]], list[Spread]], carry: list[Spread], path: Path
) -> list[Spread]:
    """What a loop ends with; only what it does once nothing changes any more is noted."""
    outs: list[Spread] = []
    for _ in range(_MOST_TURNS):
        before = len(walk.meetings)
        outs = body(carry)
        new = [either(old, out) for old, out in zip(carry, outs, strict=False)]
        if new == carry:
            break
        del walk.meetings[before:]
        carry = new
    return [*carry, *outs[len(carry) :]]


def _while(walk: Walk, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
    params = equation.params
    tested, held = params["cond_nconsts"], params["body_nconsts"]
    of_body, carry = values[tested : tested + held], values[tested + held :]

    def body(carry: list[Spread]) -> list[Spread]:
        return walk.program(params["body_jaxpr"], [*of_body, *carry], path)

    return _settled(walk, body, carry, path)


def _cond(walk: Walk, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
    _, *operands = values
    outs = [walk.program(branch, operands, path) for branch in equation.params["branches"]]
    found = outs[0]
    for other in outs[1:]:
        found = [either(a, b) for a, b in zip(found, other, strict=True)]
    return found


RULES: dict[str, Rule] = {
    "scan": _scan,
    "while": _while,
    "cond": _cond,
}
