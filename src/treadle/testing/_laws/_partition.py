"""What is split is all there, and nothing twice."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PyTree

from ...tree._diff import diff
from ...tree._paths import paths
from ._law import Law
from ._law import __tracebackhide__ as __tracebackhide__


def check_partition(
    split: Callable[[PyTree], Sequence[PyTree]],
    tree: PyTree,
    *,
    combine: Callable[..., PyTree] = eqx.combine,
) -> None:
    """`split` takes a tree apart, each leaf into exactly one part.

    With `p₁, …, pₙ = split(x)`: `combine(p₁, …, pₙ) = x`, and each leaf of `x` is in one `pᵢ` and
    `None` in the others, whose containers and static fields are those of `x`.

    Args:
        split: From a tree to a sequence of trees of its structure, with `None` where a leaf is in
            another part, as `eqx.partition` gives them.
        tree: What is taken apart.
        combine: Puts the parts together again.

    Raises:
        LawError: A leaf is in no part, or in several, or the parts together are another tree; or
            an argument was changed in place.

    Example:
        >>> check_partition(lambda tree: eqx.partition(tree, select("**/bias")(tree)), model)
    """
    law = Law("check_partition")

    def parts_of(whole: PyTree) -> list[PyTree]:
        parts = split(whole)
        if not isinstance(parts, Iterable) or isinstance(parts, Mapping):
            kind = type(parts).__name__
            raise law.broken(f"split returned a {kind}: it must return a sequence of parts")
        return list(parts)

    parts = law.call("split", parts_of, tree)
    seen = dict.fromkeys(paths(tree), 0)
    for number, part in enumerate(parts):
        for path in paths(part):
            if path not in seen:
                raise law.broken(f"part {number} has a leaf at {path!r}, where the tree has none")
            seen[path] += 1
        found = diff(_emptied(part), _emptied(tree))
        if found:
            told = f"part {number} is no tree of that structure with `None` for leaves; a is the "
            raise law.broken(f"{told}part, b the tree, each without its leaves", found)
    wrong = [f"{path!r} is in {count} of the parts" for path, count in seen.items() if count != 1]
    if wrong:
        listed = "; ".join(wrong[:5])
        raise law.broken(f"each leaf must be in exactly one of {len(parts)} parts, but {listed}")
    together = law.call("combine", combine, *parts)
    law.require_same(together, tree, ("combine(*split(tree))", "tree"))


def _is_none(node: Any) -> bool:
    return node is None


def _emptied(tree: PyTree) -> PyTree:
    """Containers and static fields alone."""
    return jax.tree.map(lambda leaf: 0, tree, is_leaf=_is_none)
