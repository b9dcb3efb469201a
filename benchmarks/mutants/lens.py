"""`check_lens`: one array of a tree, read and replaced."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from treadle.testing import arrays, check_lens, modules, pool, same_structure
from treadle.tree import paths, replace, to_dict

from ._subject import Subject
from ._trees import is_array, nodes

Get = Callable[[Any], Any]
Put = Callable[[Any, Any], Any]


class _Example(NamedTuple):
    """A tree, which of its leaves is meant, and two arrays to put there."""

    tree: Any
    at: int
    first: Any
    second: Any


def _places(tree: Any) -> list[int]:
    return [at for at, leaf in enumerate(jax.tree.leaves(tree)) if is_array(leaf)]


@st.composite
def _examples(draw: Any, trees: Any = None) -> _Example:
    tree = draw(modules(special=True).filter(_places) if trees is None else trees)
    at = draw(st.sampled_from(_places(tree)))
    others = same_structure(jax.tree.leaves(tree)[at], special=True)
    return _Example(tree, at, draw(others), draw(others))


def _get(at: int) -> Get:
    return lambda tree: jax.tree.leaves(tree)[at]


def _put(at: int, edit: Callable[[Any, Any], Any] = lambda old, new: new) -> Put:
    """Puts what `edit` makes of the old and the new value."""

    def put(tree: Any, value: Any) -> Any:
        leaves, structure = jax.tree.flatten(tree)
        leaves[at] = edit(leaves[at], value)
        return jax.tree.unflatten(structure, leaves)

    return put


def _put_at_next(at: int) -> Put:
    return lambda tree, value: _put((at + 1) % len(jax.tree.leaves(tree)))(tree, value)


def _put_and_mark(at: int) -> Put:
    """Leaves a note in a static field."""
    mark = nodes(pool.Labelled, lambda n: pool.Labelled(n.value, "changed", n.sizes, n.function))
    return lambda tree, value: mark(_put(at)(tree, value))


def _put_once(at: int) -> Put:
    """Only where there are zeros yet."""
    return _put(at, lambda old, new: old if np.asarray(old).any() else new)


def _put_everywhere(at: int) -> Put:
    """Wherever the tree has that shape and dtype."""

    def put(tree: Any, value: Any) -> Any:
        def leaf(old: Any) -> Any:
            same = is_array(old) and (old.shape, old.dtype) == (value.shape, value.dtype)
            return value if same else old

        return jax.tree.map(leaf, tree)

    return put


def _rows(draw: Any) -> Any:
    raise NotImplementedError


def _broken(
    name: str, put: Callable[[int], Put], get: Callable[[int], Get] = _get, strategy: Any = None
) -> Subject:
    def check(example: _Example) -> None:
        tree, at, first, second = example
        check_lens(get(at), put(at), tree, first, second)

    return Subject("check_lens", name, _examples() if strategy is None else strategy, check)


def _edit(name: str, edit: Callable[[Any, Any], Any]) -> Subject:
    return _broken(name, lambda at: _put(at, edit))


def _by_path(example: _Example) -> None:
    path = paths(example.tree)[example.at]
    check_lens(
        lambda tree: to_dict(tree)[path],
        lambda tree, value: replace(tree, {path: value}),
        example.tree,
        example.first,
        example.second,
    )


def _tree_at(example: _Example) -> None:
    where = _get(example.at)
    check_lens(
        where,
        lambda tree, value: eqx.tree_at(where, tree, value),
        example.tree,
        example.first,
        example.second,
    )


def _in_place(rows: tuple[Any, Any, Any]) -> None:
    """A row of a NumPy array."""

    def put(tree: Any, value: Any) -> Any:
        tree["table"][0] = value
        return tree

    table, first, second = rows
    check_lens(lambda tree: tree["table"][0].copy(), put, {"table": table}, first, second)


_ROWS = st.tuples(
    arrays("float32", shape=(2, 3), kind="numpy"),
    arrays("float32", shape=(3,), kind="numpy"),
    arrays("float32", shape=(3,), kind="numpy"),
)

SUBJECTS = (
    _broken("a leaf by its number", _put)._replace(right=True),
    Subject("check_lens", "to_dict and replace", _examples(), _by_path, right=True),
    _broken("puts it at the next leaf", _put_at_next),
    _broken("puts it wherever the shape is the same", _put_everywhere),
    _broken("puts it only where zeros are", _put_once),
    _edit("puts the mean of old and new", lambda old, new: (old / 2 + new / 2).astype(old.dtype)),
    _edit("adds to what is there", lambda old, new: (old + new).astype(old.dtype)),
    _edit("puts it as float32", lambda old, new: new.astype("float32")),
    _edit("replaces NaN by 0", lambda old, new: jnp.where(new != new, 0, new).astype(new.dtype)),
    _edit("puts it without axes of size 1", lambda old, new: jnp.squeeze(new)),
    _edit("puts it weakly typed", lambda old, new: pool.weak(new)),
    _broken("leaves a note in a static field", _put_and_mark),
    _broken("reads it in float32", _put, lambda at: lambda tree: _get(at)(tree).astype("float32")),
    Subject("check_lens", "writes into the NumPy array", _ROWS, _in_place),
)
