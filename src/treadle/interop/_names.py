"""Two lists of named arrays beside each other: what does not fit, name by name."""

import difflib
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

_T = TypeVar("_T")

# Looking for the nearest of thousands of names, for thousands of names, would take minutes.
_NEAR = 16
_AMONG = 2000


def nearest(name: str, candidates: Collection[str], count: int = 1) -> list[str]:
    """The candidates that are most like a name; `a.b` and `a/b` count as the same."""
    plain: dict[str, str] = {}
    for candidate in list(candidates)[:_AMONG]:
        plain.setdefault(candidate.replace(".", "/"), candidate)
    found = difflib.get_close_matches(name.replace(".", "/"), plain, n=count, cutoff=0.5)
    return [plain[each] for each in found]


def or_near(name: str, candidates: Collection[str], count: int = 1) -> str:
    """What is told behind a name that is not there."""
    near = nearest(name, candidates, count) if candidates else []
    return f", which has {' and '.join(f'`{each}`' for each in near)}" if near else ""


def misfits(
    theirs: Mapping[str, _T],
    ours: Mapping[str, _T],
    *,
    told: Callable[[_T], str],
    fit: Callable[[Any, Any], bool],
    where: tuple[str, str],
) -> list[str]:
    """A line for each name that does not fit; empty if all of them do.

    Args:
        theirs: What there is.
        ours: What is wanted, by the same names.
        told: A thing in words.
        fit: Whether one of theirs fits one of ours.
        where: What to call the two.
    """
    missing = [name for name in ours if name not in theirs]
    unexpected = [name for name in theirs if name not in ours]
    lines = []
    for word, names, of, there, others in (
        ("missing", missing, ours, where[0], unexpected),
        ("unexpected", unexpected, theirs, where[1], missing),
    ):
        for at, name in enumerate(names):
            near = or_near(name, others) if at < _NEAR else ""
            lines.append(f"{word:<12}`{name}` {told(of[name])} is not in {there}{near}")
    lines += [
        f"{'unlike':<12}`{name}` is {told(theirs[name])} in {where[0]} and {told(ours[name])} in "
        f"{where[1]}"
        for name in ours
        if name in theirs and not fit(theirs[name], ours[name])
    ]
    return lines
