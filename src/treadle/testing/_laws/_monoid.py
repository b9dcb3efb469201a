"""What can be merged in any grouping."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import PyTree

from ..._custom_types import Door
from ..._errors import ArgumentValueError
from ._law import Law, without_scalars
from ._law import __tracebackhide__ as __tracebackhide__

_NONE = object()


def check_monoid(
    merge: Callable[[Any, Any], Any],
    elements: Door[Sequence[PyTree]],
    *,
    identity: Any = _NONE,
    commutative: bool = False,
    rtol: float = 0.0,
    atol: float = 0.0,
) -> None:
    """`merge` does not care for the grouping: `(a·b)·c = a·(b·c)`.

    So parts can be merged as they come: microbatches, devices, the halves of an evaluation.

    Args:
        merge: Two elements to one.
        elements: What is merged; all triples of them are tried, so three are enough.
        identity: The neutral element `e`, where there is one: `e·a = a = a·e`.
        commutative: Whether the order must not matter either: `a·b = b·a`.
        rtol: Arrays of floats may differ by `atol + rtol * |right side|`; by default not in a bit.
        atol: See there.

    Raises:
        LawError: One of the equations does not hold, or an argument was changed in place.
        ArgumentValueError: There are no elements.

    Example:
        >>> check_monoid(merge_counts, [{"a": 1}, {"a": 2}, {"b": 3}], identity={})
    """
    law = Law("check_monoid", rtol, atol)
    elements = [without_scalars(element) for element in elements]
    if not elements:
        raise ArgumentValueError("`elements` is empty: give a few trees that `merge` takes.")

    def merged(one: Any, two: Any) -> Any:
        return without_scalars(law.call("merge", merge, one, two))

    pairs = itertools.product(range(len(elements)), repeat=2)
    table = {(i, j): merged(elements[i], elements[j]) for i, j in pairs}
    for i, j, k in itertools.product(range(len(elements)), repeat=3):
        left, right = merged(table[i, j], elements[k]), merged(elements[i], table[j, k])
        where = f" for elements {i}, {j}, {k}"
        law.require_same(left, right, ("(a·b)·c", f"a·(b·c){where}"))
    for i, element in enumerate(elements):
        if identity is not _NONE:
            law.require_same(merged(identity, element), element, ("e·a", f"a for element {i}"))
            law.require_same(merged(element, identity), element, ("a·e", f"a for element {i}"))
        for j in range(i if commutative else 0):
            law.require_same(table[i, j], table[j, i], ("a·b", f"b·a for elements {i}, {j}"))
