"""What is done twice is done once."""

from collections.abc import Callable

from jaxtyping import PyTree

from ._law import Law
from ._law import __tracebackhide__ as __tracebackhide__


def check_idempotent(
    f: Callable[[PyTree], PyTree], tree: PyTree, *, rtol: float = 0.0, atol: float = 0.0
) -> None:
    """Doing it twice changes nothing more: `f(f(x)) = f(x)`.

    Holds for casts, clips, projections, normalisations, masks, and whatever sorts out.

    Args:
        f: From a tree to one that it takes again.
        tree: Where it starts.
        rtol: Arrays of floats may differ by `atol + rtol * |f(x)|`; by default not in a bit.
        atol: See there.

    Raises:
        LawError: The second time makes a difference, or `f` changed its argument in place.

    Example:
        >>> check_idempotent(lambda tree: treadle.tree.cast(tree, jnp.bfloat16), model)
    """
    law = Law("check_idempotent", rtol, atol)
    once = law.call("f", f, tree)
    law.require_same(law.call("f", f, once), once, ("f(f(tree))", "f(tree)"))
