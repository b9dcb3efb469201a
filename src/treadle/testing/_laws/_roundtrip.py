"""What is undone is as it was."""

from collections.abc import Callable
from typing import Any

from jaxtyping import PyTree

from ._law import Law
from ._law import __tracebackhide__ as __tracebackhide__


def check_roundtrip(
    f: Callable[[PyTree], Any],
    g: Callable[[Any], PyTree],
    tree: PyTree,
    *,
    rtol: float = 0.0,
    atol: float = 0.0,
) -> None:
    """`g` undoes `f`: `g(f(x)) = x`.

    Args:
        f: For one direction: to a dictionary, to another layout, to bytes.
        g: For the way back.
        tree: What is sent there and back.
        rtol: Arrays of floats may differ by `atol + rtol * |x|`; by default not in a single bit.
        atol: See there.

    Raises:
        LawError: What comes back is another tree, or `f` or `g` changed its argument in place.

    Example:
        >>> check_roundtrip(to_dict, lambda flat: from_dict(flat, model), model)
    """
    law = Law("check_roundtrip", rtol, atol)
    there = law.call("f", f, tree)
    law.require_same(law.call("g", g, there), tree, ("g(f(tree))", "tree"))
