"""What of a checkpoint does not fit a tree, leaf by leaf."""

import dataclasses
import difflib
from collections.abc import Collection, Iterable, Mapping

from ._storage import Spec, quoted

# Looking for the nearest of thousands of names, for thousands of names, would take minutes.
_MOST_NEAREST = 16


@dataclasses.dataclass(frozen=True)
class Mismatch:
    """What does not fit.

    Attributes:
        fitting: The leaves that do, by path.
        lines: A line for each leaf and field that does not fit; empty if all of them do.
        renames: The leaf of `like` that a leaf of the checkpoint is likely to be by now; empty
            unless names are all that does not fit.
    """

    fitting: list[str]
    lines: list[str]
    renames: dict[str, str]


def mismatches(
    saved: Mapping[str, Spec],
    wanted: Mapping[str, Spec],
    statics: tuple[Mapping[str, str], Mapping[str, str]] = ({}, {}),
    *,
    cast: bool = False,
    beside: Mapping[str, Spec] | None = None,
    hints: bool = True,
) -> Mismatch:
    """What does not fit.

    Args:
        saved: The leaves of the checkpoint.
        wanted: The leaves of `like`.
        statics: The static fields of both.
        cast: Whether numbers of another precision fit.
        beside: Leaves of the checkpoint that nobody asks for, and that a missing one may go by.
        hints: Whether to look for the nearest names, which takes long.
    """
    missing = [path for path in wanted if path not in saved]
    unexpected = [path for path in saved if path not in wanted]
    others = {path: saved[path] for path in unexpected} | dict(beside or {})
    lines, renames = [], {}
    most = _MOST_NEAREST if hints else 0
    for at, path in enumerate(missing):
        near = _nearest(path, others if at < most else ())
        if near is not None and not _difference(others[near], wanted[path], cast):
            renames.setdefault(near, path)
        lines.append(
            f"missing     {quoted(path)} {wanted[path]} is not in the checkpoint{_which(near)}"
        )
    for at, path in enumerate(unexpected):
        near = _nearest(path, missing if at < most else ())
        lines.append(f"unexpected  {quoted(path)} {saved[path]} is not in `like`{_which(near)}")
    if len(renames) < len(missing) or not renames.keys() >= set(unexpected):
        renames = {}
    named = len(lines)
    fitting = []
    for path, spec in wanted.items():
        if path not in saved:
            continue
        if kind := _difference(saved[path], spec, cast):
            lines.append(
                f"{kind:<12}{quoted(path)} is {saved[path]} in the checkpoint and {spec} in `like`"
            )
        else:
            fitting.append(path)
    there, here = statics
    lines += [
        f"static      {quoted(path)} is {there[path]} in the checkpoint and {here[path]} in `like`"
        for path in here
        if path in there and there[path] != here[path]
    ]
    return Mismatch(fitting, lines, renames if len(lines) == named else {})


def nearest(path: str, candidates: Iterable[str], count: int = 3) -> list[str]:
    """The names that are most like one."""
    return difflib.get_close_matches(path, candidates, n=count)


def _nearest(path: str, candidates: Collection[str]) -> str | None:
    return next(iter(nearest(path, candidates, 1)), None) if candidates else None


def _which(near: str | None) -> str:
    return "" if near is None else f", which has {quoted(near)}"


def _difference(saved: Spec, wanted: Spec, cast: bool) -> str | None:
    if saved.shape != wanted.shape:
        return "shape"
    same = (saved.dtype, saved.key_implementation) == (wanted.dtype, wanted.key_implementation)
    return None if same or (cast and saved.casts_to(wanted)) else "dtype"
