"""Choosing leaves by globs over their paths."""

import abc
import dataclasses
import difflib
import functools
import itertools
import re
from collections.abc import Sequence
from typing import Any

import jax
from jaxtyping import PyTree

from .._custom_types import Door
from .._errors import ArgumentTypeError, ArgumentValueError, TreeError
from ._paths import paths_of_structure


class Selector(abc.ABC):
    """A choice of leaves: called on a tree it gives the bool pytree that `eqx.partition` wants.

    Combine with `&`, `|` and `~`. Pass it as it is to `TrainStep(trainable=...)` and to
    `optax.masked`, which call it on the tree they hold. (It is no pytree itself: optax takes a
    callable pytree for a mask.)
    """

    @abc.abstractmethod
    def _hits(self, paths: Sequence[str], tree: PyTree) -> list[bool]:
        """For each leaf of `tree`, whether it is chosen.

        Args:
            paths: The paths of its leaves.
            tree: The tree itself; None where there are only paths.

        Raises:
            TreeError: If a glob matches none of them.
        """

    def matches(self, paths: Sequence[str]) -> list[bool]:
        """For each path, whether the leaf there is chosen.

        Raises:
            TreeError: If a glob matches none of them, or paths alone do not tell.
        """
        return self._hits(paths, None)

    def __call__(self, tree: PyTree) -> PyTree[bool]:
        """The bool pytree: the structure of `tree`, `True` where the leaf is chosen.

        Raises:
            TreeError: If a glob matches no leaf of `tree`.
        """
        treedef = jax.tree.structure(tree)
        names = paths_of_structure(treedef, tree)
        return jax.tree.unflatten(treedef, self._hits(names, tree))

    def __and__(self, other: Door["Selector"]) -> "Selector":
        return _Both(self, _require_selector(other, "&"))

    def __or__(self, other: Door["Selector"]) -> "Selector":
        return _Either(self, _require_selector(other, "|"))

    def __invert__(self) -> "Selector":
        return _Not(self)


def _require_selector(other: Any, sign: str) -> Selector:
    if not isinstance(other, Selector):
        raise ArgumentTypeError(
            f"A selector was combined with {other!r}: both sides of `{sign}` must be selectors, "
            f"`select('layers/**') {sign} select('**/bias')`."
        )
    return other


@dataclasses.dataclass(frozen=True)
class _Globs(Selector):
    globs: tuple[str, ...]

    def _hits(self, paths: Sequence[str], tree: PyTree) -> list[bool]:
        chosen = [False] * len(paths)
        for glob in self.globs:
            pattern = _pattern(glob)
            hits = [pattern.fullmatch(path) is not None for path in paths]
            if not any(hits):
                raise TreeError(_nothing_matched(glob, paths))
            chosen = [a or b for a, b in zip(chosen, hits, strict=True)]
        return chosen


@dataclasses.dataclass(frozen=True)
class _Both(Selector):
    left: Selector
    right: Selector

    def _hits(self, paths: Sequence[str], tree: PyTree) -> list[bool]:
        sides = zip(self.left._hits(paths, tree), self.right._hits(paths, tree), strict=True)
        return [a and b for a, b in sides]


@dataclasses.dataclass(frozen=True)
class _Either(Selector):
    left: Selector
    right: Selector

    def _hits(self, paths: Sequence[str], tree: PyTree) -> list[bool]:
        sides = zip(self.left._hits(paths, tree), self.right._hits(paths, tree), strict=True)
        return [a or b for a, b in sides]


@dataclasses.dataclass(frozen=True)
class _Not(Selector):
    inner: Selector

    def _hits(self, paths: Sequence[str], tree: PyTree) -> list[bool]:
        return [not hit for hit in self.inner._hits(paths, tree)]


@functools.lru_cache(maxsize=512)
def _pattern(glob: str) -> re.Pattern[str]:
    """The glob as a regular expression over whole paths."""
    segments = glob.split("/")
    # Of several `**` in a row one says as much.
    pairs = itertools.zip_longest(segments, segments[1:])
    *inner, last = (one for one, after in pairs if not one == after == "**")
    # A `**` takes its own separator with it, so that it can stand for no segment at all.
    text = "".join("(?:[^/]*/)*" if part == "**" else f"{_one(part)}/" for part in inner)
    if last == "**":
        text = f"{text.removesuffix('/')}(?:/.*)?" if inner else ".*"
    else:
        text += _one(last)
    return re.compile(text, re.DOTALL)


def _one(segment: str) -> str:
    return "".join(
        "[^/]*" if char == "*" else "[^/]" if char == "?" else re.escape(char) for char in segment
    )


def _nothing_matched(glob: str, paths: Sequence[str]) -> str:
    inside = f"{glob.rstrip('/')}/**"
    if any(map(_pattern(inside).fullmatch, paths)):
        hint = f"It is a subtree: write {inside!r} for all of its leaves."
    else:
        near = difflib.get_close_matches(glob, paths, n=3, cutoff=0.3) or list(paths[:3])
        hint = f"The nearest paths are {', '.join(map(repr, near))}." if near else "It is empty."
    return f"The glob {glob!r} matches none of the {len(paths)} leaves of the tree. {hint}"


def select(*globs: Door[str]) -> Selector:
    """Chooses the leaves whose path matches any of the globs.

    `*` stands for any characters within one segment, `?` for one character, `**` for any number
    of whole segments, none included.

    Args:
        globs: Such as `"layers/0/**"`, `"**/bias"`, `"encoder/*/weight"`.

    Raises:
        ArgumentTypeError: If a glob is not a string.
        ArgumentValueError: If there are no globs.

    Example:
        >>> head, rest = eqx.partition(model, select("layers/2/**")(model))
    """
    if not globs:
        raise ArgumentValueError("`select` wants at least one glob, such as `select('**')`.")
    for glob in globs:
        if not isinstance(glob, str):
            raise ArgumentTypeError(f"`globs` holds {glob!r}: write globs as strings, 'layers/**'.")
    return _Globs(globs)
