"""`check_partition`: a model into what is trained and the rest."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from treadle.testing import check_partition, modules, pool, pytrees
from treadle.tree import select

from ._subject import Subject
from ._trees import is_array, is_float, is_integer, is_none, nodes, on

_TREES = pytrees(special=True)
Split = Callable[[Any], Sequence[Any]]


def _by(*kinds: Callable[[Any], bool]) -> Split:
    """A part for each kind."""
    return lambda tree: [eqx.filter(tree, kind) for kind in kinds]


def _is_other(leaf: Any) -> bool:
    return not is_float(leaf)


def _at_most_once(tree: Any) -> Sequence[Any]:
    """Floats apart; what was seen before is left out."""
    seen: set[int] = set()

    def first(leaf: Any) -> bool:
        new = not is_array(leaf) or id(leaf) not in seen
        seen.add(id(leaf))
        return new

    return eqx.partition(eqx.filter(tree, first), is_float)


def _mean(leaf: Any) -> Any:
    return jnp.mean(leaf.astype("float32"))


def _then(split: Split, part: Callable[[Any], Any]) -> Split:
    """Broken in what becomes of the first part."""

    def both(tree: Any) -> Sequence[Any]:
        first, *rest = split(tree)
        return [part(first), *rest]

    return both


def _first_that_counts(*leaves: Any) -> Any:
    found = [leaf for leaf in leaves if eqx.is_array(leaf) or leaf]
    return found[0] if found else None


def _merged(*parts: Any) -> Any:
    """Like `eqx.combine`, but takes 0 and False for what is missing."""
    return jax.tree.map(_first_that_counts, *parts, is_leaf=is_none)


def _reversed_arrays(tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(structure, leaves[::-1])


_FLOATS = _by(is_float, _is_other)


def _broken(name: str, split: Split, strategy: Any = _TREES, **options: Any) -> Subject:
    return Subject(
        "check_partition", name, strategy, lambda tree: check_partition(split, tree, **options)
    )


SUBJECTS = (
    _broken("floats and the rest", lambda t: eqx.partition(t, is_float))._replace(right=True),
    _broken(
        "selected by path",
        lambda t: eqx.partition(t, select("**")(t)),
        modules().filter(jax.tree.leaves),
    )._replace(right=True),
    _broken(
        "in three",
        _by(is_float, lambda x: is_array(x) and not is_float(x), lambda x: not is_array(x)),
    )._replace(right=True),
    _broken(
        "bools, keys and NumPy arrays are in no part",
        _by(is_float, is_integer, lambda x: not is_array(x) and not eqx.is_array(x)),
    ),
    _broken(
        "means below 0 and above 0, and nowhere with NaN",
        _by(
            lambda x: not is_float(x) or bool(_mean(x) > 0),
            lambda x: is_float(x) and bool(_mean(x) <= 0),
        ),
    ),
    _broken(
        "vectors are in both parts",
        _by(lambda x: not is_array(x) or x.ndim <= 1, lambda x: is_array(x) and x.ndim >= 1),
    ),
    _broken("a shared array is left out the second time", _at_most_once, modules()),
    _broken(
        "empty arrays are left out",
        _by(lambda x: is_float(x) and x.size > 0, _is_other),
        pytrees(dtype="float"),
    ),
    _broken(
        "what is trained is cast to float32",
        _then(_FLOATS, on(is_float, lambda x: x.astype("float32"))),
    ),
    _broken("what is trained comes in the other order", _then(_FLOATS, _reversed_arrays)),
    _broken("0 is taken for what is missing", _FLOATS, combine=_merged),
    _broken(
        "None is put in a part as 0",
        _then(_FLOATS, lambda part: part),
        combine=lambda *parts: on(is_none, lambda _: 0)(eqx.combine(*parts)),
    ),
    _broken(
        "a static field differs in one part",
        _then(_FLOATS, nodes(pool.Labelled, lambda n: pool.Labelled(n.value))),
    ),
    _broken("lists are tuples in one part", _then(_FLOATS, nodes(list, tuple))),
)
