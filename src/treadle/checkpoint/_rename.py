"""Leaves that go by other names now: `{"encoder/**": "backbone/**"}`."""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .._custom_types import Door
from .._errors import ArgumentTypeError, ArgumentValueError
from ..tree import select

_WILD = re.compile(r"\*|\?")


def renamed(paths: Sequence[str], rename: Door[Mapping[str, str] | None]) -> dict[str, str]:
    """The new name of each path, by the old one.

    Args:
        paths: The leaves of a checkpoint.
        rename: New names by globs over the old ones. What each `*`, `?` and `**` of the old one
            stands for is put where the new one has the same sign. Of several globs that match, the
            first counts.

    Raises:
        ArgumentTypeError: If it is no mapping of strings.
        ArgumentValueError: If the signs differ, or two leaves get the same name.
        TreeError: If a glob matches nothing.
    """
    rules = []
    for old, new in _checked(rename).items():
        select(old).matches(paths)  # Tells of a glob that matches nothing.
        rules.append((old.split("/"), new.split("/")))
    names: dict[str, str] = {}
    owners: dict[str, str] = {}
    for path in paths:
        name = next((n for o, w in rules if (n := applied(o, w, path)) is not None), path)
        if name in owners:
            raise ArgumentValueError(
                f"`rename` gives {name!r} to two leaves, {owners[name]!r} and {path!r}: rename one "
                "of them to something else."
            )
        owners[name] = path
        names[path] = name
    return names


def _checked(rename: Any) -> Mapping[str, str]:
    if rename is None:
        return {}
    if not isinstance(rename, Mapping):
        raise ArgumentTypeError(
            f"`rename` (={rename!r}) must be a dictionary, {{'old/**': 'new/**'}}, not of type "
            f"{type(rename).__name__}."
        )
    for old, new in rename.items():
        if not isinstance(old, str) or not isinstance(new, str):
            raise ArgumentTypeError(f"`rename` has {old!r}: {new!r}, and both must be strings.")
        if signs(old) != signs(new):
            raise ArgumentValueError(
                f"`rename` has {old!r}: {new!r}, and the new name must have the same signs "
                f"({', '.join(signs(old)) or 'none'}) in the same order, as in "
                "'encoder/**': 'backbone/**'."
            )
    return rename


def signs(glob: str) -> list[str]:
    """The signs in a glob, in their order."""
    return [
        sign
        for segment in glob.split("/")
        for sign in (["**"] if segment == "**" else _WILD.findall(segment))
    ]


def applied(old: list[str], new: list[str], path: str) -> str | None:
    """The new name of a path; None if the old glob does not match it."""
    found = _match(old, path.split("/"))
    if not path:  # The tree itself, which is no segment to `**`, and one of no letters to others.
        found = next((f for f in (_match(old, []), found) if f is not None), None)
    if found is None:
        return None
    meanings = iter(found)
    segments: list[str] = []
    for segment in new:
        if segment == "**":
            segments += next(meanings)
        else:
            segments.append(_WILD.sub(lambda _: next(meanings)[0], segment))
    return "/".join(segments)


def _match(globs: list[str], segments: list[str]) -> list[list[str]] | None:
    """What each sign stands for; None if the globs do not match."""
    if not globs:
        return None if segments else []
    if globs[0] == "**":
        for count in range(len(segments) + 1):
            rest = _match(globs[1:], segments[count:])
            if rest is not None:
                return [segments[:count], *rest]
        return None
    if not segments:
        return None
    pieces = _WILD.split(globs[0])
    wild = ["([^/]*)" if sign == "*" else "([^/])" for sign in _WILD.findall(globs[0])]
    pairs = itertools.zip_longest(map(re.escape, pieces), wild, fillvalue="")
    found = re.fullmatch("".join(itertools.chain.from_iterable(pairs)), segments[0], re.DOTALL)
    rest = None if found is None else _match(globs[1:], segments[1:])
    return None if found is None or rest is None else [*([text] for text in found.groups()), *rest]
