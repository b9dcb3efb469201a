"""What can be done in either order."""

from collections.abc import Callable

from jaxtyping import PyTree

from ._law import Law
from ._law import __tracebackhide__ as __tracebackhide__


def check_commutes(
    f: Callable[[PyTree], PyTree],
    g: Callable[[PyTree], PyTree],
    tree: PyTree,
    *,
    rtol: float = 0.0,
    atol: float = 0.0,
) -> None:
    """The order does not matter: `f(g(x)) = g(f(x))`.

    Args:
        f: From a tree to a tree.
        g: Another.
        tree: Where they start.
        rtol: Arrays of floats may differ by `atol + rtol * |g(f(x))|`; by default not in a bit.
        atol: See there.

    Raises:
        LawError: The order matters, or an argument was changed in place.

    Example:
        >>> check_commutes(freeze, lambda model: treadle.tree.cast(model, jnp.bfloat16), model)
    """
    law = Law("check_commutes", rtol, atol)
    one = law.call("f", f, law.call("g", g, tree))
    two = law.call("g", g, law.call("f", f, tree))
    law.require_same(one, two, ("f(g(tree))", "g(f(tree))"))
