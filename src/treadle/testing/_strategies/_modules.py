"""`modules`: nested Equinox modules of every make."""

from typing import Any

import equinox as eqx
import hypothesis.strategies as st
import jax
from jaxtyping import PyTree

from ..._checks import whole_number
from ..._custom_types import Door
from .. import pool
from ..pool._stateful import is_index
from ._arrays import ArrayPlan
from ._draw import Draw
from ._dtypes import dtypes_of, require_floats
from ._limits import limits_of
from ._nodes import Place, Plan, as_module, draw_stateful, nodes
from ._printed import remember
from ._shapes import FEW
from ._sharing import draw_shared
from ._values import FEW_CHANGES
from ._written import as_written

# What layers are made of: mostly the formats that models are trained in.
_TRAINED = ["float32", "float32", "float32", "bfloat16", "float16", "float"]


def plan_of(dtype: Any, floats_only: bool, special: bool, stateful: bool, **options: Any) -> Plan:
    """The plan that the arguments of `modules` and `pytrees` stand for."""
    if floats_only:
        require_floats(dtype)
    limits = limits_of(special)
    anywhere = dtype if dtype is not None else "float" if floats_only else None
    changes = FEW_CHANGES if special else None
    arrays = ArrayPlan(dtypes_of(anywhere), FEW, limits, changes=changes)
    floats = arrays._replace(dtypes=dtypes_of(_TRAINED if dtype is None else dtype))
    return Plan(arrays, floats, floats_only=floats_only, stateful=stateful, **options)


def _with_state(module: eqx.Module) -> tuple[eqx.Module, eqx.nn.State]:
    return eqx.nn.make_with_state(lambda: module)()


def without_states(tree: PyTree) -> PyTree:
    """The tree, its layers as `eqx.nn.make_with_state` leaves them."""
    stateful = any(map(is_index, jax.tree.leaves(tree, is_leaf=is_index)))
    return pool.marked(tree, type(tree).__name__) if stateful else tree


@st.composite
def _modules(draw: Draw, place: Place, shared: bool) -> eqx.Module:
    plan, depth, leaves = place
    # What is no module is put into one, which is a level more.
    module = without_states(as_module(draw(nodes(plan, depth, leaves))))
    return remember(draw_shared(draw, module) if shared else module)


@st.composite
def _stateful_pairs(draw: Draw, place: Place, shared: bool) -> tuple[eqx.Module, eqx.nn.State]:
    _, depth, leaves = place
    module = draw_stateful(draw, place)
    if depth and leaves > 1 and draw(st.booleans()):
        (other,) = place.children(draw, 1, taken=leaves // 2)
        module = pool.build(pool.Branches, left=module, right=other)
    module, state = _with_state(module)
    return remember((draw_shared(draw, module) if shared else module, state))


def modules(
    *,
    dtype: Door[Any] = None,
    floats_only: bool = False,
    stateful: Door[bool | None] = None,
    shared: bool = True,
    special: bool = False,
    max_leaves: Door[int] = 16,
    max_depth: Door[int] = 3,
) -> st.SearchStrategy[Any]:
    """Equinox modules: layers of `eqx.nn` and the small classes of `treadle.testing.pool`, nested.

    By default there is everything in them that a module may hold: arrays of every dtype, 0-d and
    empty ones, typed keys, NumPy arrays, numbers, words, functions and `functools.partial`s as
    leaves, `None`, static fields, dictionaries, lists, tuples, named tuples and dataclasses, the
    same array at two places, `eqx.nn.Shared`, layers with a state. Not every one can be called.

    What fails shrinks towards few and plain modules with zeros. Nothing is compiled; the classes
    are always the same few.

    Args:
        dtype: Of the arrays, as for `arrays`. Layers of `eqx.nn` get it too, in the place of
            floats.
        floats_only: All leaves are JAX arrays of floats (of `dtype`, where it is given), as what
            is trained, and gradients and averages of it. Static fields and `None` stay.
        stateful: `None`: layers with a state may be among them (their states are elsewhere, as in
            what `eqx.nn.make_with_state` returns); `False`: none are; `True`: there is one at
            least, and what is drawn is `(module, state)`.
        shared: Whether the same array may stand at two places of its own accord. (`pool.Tied` and
            `eqx.nn.Shared` always do.)
        special: NaN, infinities, subnormal numbers and -0.0 among the numbers.
        max_leaves: At most so many leaves.
        max_depth: At most so many levels below the outermost.

    Raises:
        ArgumentTypeError, ArgumentValueError: An argument is none of that.

    Example:
        >>> @given(modules(floats_only=True))
        ... def test_my_average_of_a_model_with_itself_is_the_model(model):
        ...     check_idempotent(lambda m: my_average(m, m), model)
    """
    whole_number("max_leaves", max_leaves, minimum=1)
    whole_number("max_depth", max_depth, minimum=0)
    plan = plan_of(dtype, floats_only, special, stateful is not False)
    place = Place(plan, max_depth, max_leaves)
    found = _stateful_pairs(place, shared) if stateful else _modules(place, shared)
    return as_written(modules, locals(), found)
