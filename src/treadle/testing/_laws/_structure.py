"""What goes in has the structure of what comes out."""

from collections.abc import Callable

import jax
from jaxtyping import PyTree

from ...tree._diff import diff
from ...tree._difference import Diff, Difference
from ...tree._paths import paths
from ._law import Law, without_scalars
from ._law import __tracebackhide__ as __tracebackhide__

_NUMBERS = (bool, int, float, complex)


def structural_difference(one: PyTree, two: PyTree) -> Diff:
    """What differs beside numbers, and where they lie."""
    one, two = without_scalars(one), without_scalars(two)
    leaves = dict(zip(paths(two), jax.tree.leaves(two), strict=True))

    def counts(difference: Difference) -> bool:
        if difference.kind == "leaf":
            leaf = leaves[difference.path]
            return not isinstance(leaf, _NUMBERS) or type(leaf) is not others[difference.path]
        return difference.kind not in ("value", "sharding")

    others = {path: type(leaf) for path, leaf in zip(paths(one), jax.tree.leaves(one), strict=True)}
    return Diff(tuple(filter(counts, diff(one, two))))


def check_structure(f: Callable[[PyTree], PyTree], tree: PyTree) -> None:
    """`f` keeps the structure: `structure(f(x)) = structure(x)`.

    That is containers, static fields, and of each array the shape, the dtype, whether its type is
    weak and whether it is JAX's or NumPy's; of a leaf that is no array its kind, and where it is no
    number (an activation function) the leaf itself. So `f(x)` fits wherever `x` did: into the same
    compiled program, the same optimizer's state, the same checkpoint. Numbers may change, and where
    they lie.

    Args:
        f: From a tree to a tree.
        tree: What it is tried on.

    Raises:
        LawError: Something of the structure differs, or `f` changed its argument in place.

    Example:
        >>> check_structure(lambda model: eqx.nn.inference_mode(model), model)
    """
    law = Law("check_structure")
    result = law.call("f", f, tree)
    found = structural_difference(result, tree)
    if found:
        raise law.broken(
            "f(tree) does not have the structure of tree; a is f(tree), b is tree", found
        )
