"""What of a checkpoint does not fit a tree, leaf by leaf."""

import difflib
from collections.abc import Iterable, Mapping

from ._storage import Spec, quoted

# Looking for the nearest of thousands of names, for thousands of names, would take minutes.
_MOST_NEAREST = 16


def mismatches(saved: Mapping[str, Spec], wanted: Mapping[str, Spec]) -> list[str]:
    """A line for each leaf that does not fit; empty if all of them do.

    Args:
        saved: The leaves of the checkpoint.
        wanted: The leaves of `like`.
    """
    missing = [path for path in wanted if path not in saved]
    unexpected = [path for path in saved if path not in wanted]
    lines = []
    for at, path in enumerate(missing):
        near = _nearest(path, unexpected if at < _MOST_NEAREST else ())
        lines.append(f"missing     {quoted(path)} {wanted[path]} is not in the checkpoint{near}")
    for at, path in enumerate(unexpected):
        near = _nearest(path, missing if at < _MOST_NEAREST else ())
        lines.append(f"unexpected  {quoted(path)} {saved[path]} is not in `like`{near}")
    for path, spec in wanted.items():
        if path in saved and (kind := _difference(saved[path], spec)):
            lines.append(
                f"{kind:<12}{quoted(path)} is {saved[path]} in the checkpoint and {spec} in `like`"
            )
    return lines


def _nearest(path: str, candidates: Iterable[str]) -> str:
    found = difflib.get_close_matches(path, candidates, n=1)
    return f", which has {quoted(found[0])}" if found else ""


def _difference(saved: Spec, wanted: Spec) -> str | None:
    if saved.shape != wanted.shape:
        return "shape"
    same = (saved.dtype, saved.key_implementation) == (wanted.dtype, wanted.key_implementation)
    return None if same else "dtype"
