"""`pytrees`: containers of every kind inside each other."""

from typing import Any

import hypothesis.strategies as st
from jaxtyping import PyTree

from ..._checks import whole_number
from ..._custom_types import Door
from ..._errors import ArgumentTypeError, ArgumentValueError
from ._draw import Draw
from ._modules import plan_of, without_states
from ._nodes import Place, nodes
from ._printed import remember
from ._sharing import draw_shared
from ._written import as_written


@st.composite
def _pytrees(draw: Draw, place: Place, shared: bool) -> PyTree:
    tree = without_states(draw(nodes(*place)))
    return remember(draw_shared(draw, tree) if shared else tree)


def pytrees(
    leaves: Door[Any] = None,
    *,
    dtype: Door[Any] = None,
    floats_only: bool = False,
    modules: bool = True,
    shared: bool = True,
    special: bool = False,
    max_leaves: Door[int] = 16,
    max_depth: Door[int] = 3,
) -> st.SearchStrategy[PyTree]:
    """Pytrees of containers, modules and leaves inside each other; and bare leaves.

    The containers are dictionaries, lists, tuples, named tuples, `OrderedDict`s, registered
    dataclasses and `jax.tree_util.Partial`s, all of which may be empty; and `None`.

    What fails shrinks towards a bare leaf: an array of shape `()` that is 0.

    Args:
        leaves: A strategy for the leaves; what it draws may be a tree itself, which then is part of
            the whole. By default leaves of every kind, as in `modules`.
        dtype: Of the arrays, as for `arrays`.
        floats_only: All leaves are JAX arrays of floats.
        modules: Whether some of the nodes are Equinox modules.
        shared: Whether the same array may stand at two places.
        special: NaN, infinities, subnormal numbers and -0.0 among the numbers.
        max_leaves: At most so many leaves.
        max_depth: At most so many levels.

    Raises:
        ArgumentTypeError, ArgumentValueError: An argument is none of that, or one that is of
            leaves goes with `leaves`.

    Example:
        >>> @given(pytrees(arrays("float32", shape=(3,))))
        ... def test_my_flattening_can_be_undone(tree): ...
    """
    if leaves is not None and not isinstance(leaves, st.SearchStrategy):
        raise ArgumentTypeError(
            f"`leaves` (={leaves!r}) must be a strategy, such as `treadle.testing.arrays()`."
        )
    told = {"dtype": dtype is not None, "floats_only": floats_only, "special": special}
    for name, given in told.items():
        if leaves is not None and given:
            raise ArgumentValueError(
                f"`{name}` is of the leaves that are drawn where `leaves` is not given: tell it to "
                "that strategy, such as `treadle.testing.arrays(dtype, special=True)`."
            )
    whole_number("max_leaves", max_leaves, minimum=1)
    whole_number("max_depth", max_depth, minimum=0)
    plan = plan_of(dtype, floats_only, special, True, leaves=leaves, modules=modules)
    found = _pytrees(Place(plan, max_depth, max_leaves), shared)
    return as_written(pytrees, locals(), found)
