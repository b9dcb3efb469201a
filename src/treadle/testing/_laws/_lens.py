"""What is put somewhere is found there, and nothing else is touched."""

from collections.abc import Callable
from typing import Any

from jaxtyping import PyTree

from ._law import Law
from ._law import __tracebackhide__ as __tracebackhide__


def check_lens(
    get: Callable[[PyTree], Any],
    put: Callable[[PyTree, Any], PyTree],
    tree: PyTree,
    first: Any,
    second: Any,
    *,
    rtol: float = 0.0,
    atol: float = 0.0,
) -> None:
    """`get` and `put` are a lens: they read and write one and the same part of a tree.

    `get(put(x, v)) = v`; `put(x, get(x)) = x`; `put(put(x, v), w) = put(x, w)`.

    Args:
        get: Reads the part.
        put: Gives the tree with another part in its place.
        tree: The tree.
        first: A part that can be put into it, `v`.
        second: Another, `w`. It should differ from the first and from what the tree has.
        rtol: Arrays of floats may differ by `atol + rtol * |x|`; by default not in a single bit.
        atol: See there.

    Raises:
        LawError: One of the equations does not hold, or an argument was changed in place.

    Example:
        >>> path = "layers/0/bias"
        >>> get = lambda model: to_dict(model)[path]
        >>> put = lambda model, value: replace(model, {path: value})
        >>> check_lens(get, put, model, jnp.zeros(8), jnp.ones(8))

    References:
        Foster et al., "Combinators for bidirectional tree transformations", POPL 2005 (their laws
        GetPut, PutGet and PutPut).
    """
    law = Law("check_lens", rtol, atol)

    def read(whole: PyTree) -> Any:
        return law.call("get", get, whole)

    def write(whole: PyTree, part: Any) -> PyTree:
        return law.call("put", put, whole, part)

    one = write(tree, first)
    law.require_same(read(one), first, ("get(put(tree, first))", "first"))
    law.require_same(write(tree, read(tree)), tree, ("put(tree, get(tree))", "tree"))
    both, only = write(one, second), write(tree, second)
    law.require_same(both, only, ("put(put(tree, first), second)", "put(tree, second)"))
