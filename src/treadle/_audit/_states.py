"""Which arguments come out again, updated: the state of a step."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from ._leaf import Argument, Leaf, Static, leaves_of
from ._private import is_array_of_keys
from ._program import Program

_DEPTH = 3
"""How deep inside of what comes out a state may lie."""

_LIKE = 0.6
"""How much two trees must be alike, to be one state before and after a step."""

_LIKE_OF_ONE_CLASS = 0.3
"""The same, of two objects of a class that is not just a container."""


class State(NamedTuple):
    """An argument, or a part of one, and what comes out of it.

    Attributes:
        name: What the user calls it.
        given: As it came in.
        new: As it goes out; of the same structure, if `exact`.
        exact: Whether structure, shapes and dtypes are the same.
    """

    name: str
    given: Any
    new: Any
    exact: bool

    @property
    def pairs(self) -> list[tuple[Any, Any]]:
        """Leaves before and after, where both have the same path."""
        before, after = _by_path(self.given), _by_path(self.new)
        return [(before[path], after[path]) for path in before if path in after]


def _by_path(tree: Any) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _nodes(tree: Any, depth: int) -> Iterator[Any]:
    """A tree and what lies in it, down to a depth."""
    yield tree
    if depth and not isinstance(tree, (Leaf, Static)):
        for each in jax.tree.leaves(tree, is_leaf=lambda node: node is not tree):
            yield from _nodes(each, depth - 1)


def _parts(argument: Argument) -> Iterator[tuple[str, Any]]:
    """The argument, and the elements of one that only holds several things together."""
    yield argument.name, argument.tree
    if type(argument.tree) in (tuple, list):
        for at, each in enumerate(argument.tree):
            yield f"{argument.name}[{at}]", each
    elif type(argument.tree) is dict:
        for key, each in argument.tree.items():
            yield f"{argument.name}[{key!r}]", each


def states(program: Program) -> list[State]:
    """The arguments that the program updates, each with what it becomes.

    What comes out must be computed from what came in by arithmetic on its elements, and depend on
    something else that came in: a gradient, or an activation, is no update.
    """
    found: list[State] = []
    taken: set[int] = set()
    for argument in program.inputs:
        for name, given in _parts(argument):
            state = _match(program, name, given, taken)
            if state is not None:
                found.append(state)
                taken |= {id(leaf) for leaf in leaves_of(state.new)}
                break
        else:
            continue
        # The rest of a tuple of several states.
        if found[-1].given is not argument.tree:
            for name, given in _parts(argument):
                if given is argument.tree or given is found[-1].given:
                    continue
                state = _match(program, name, given, taken)
                if state is not None:
                    found.append(state)
                    taken |= {id(leaf) for leaf in leaves_of(state.new)}
    return [state for state in found if _learns(program, state, found)]


def _match(program: Program, name: str, given: Any, taken: set[int]) -> State | None:
    if not leaves_of(given):
        return None
    best: tuple[float, State] | None = None
    for node in _nodes(program.output, _DEPTH):
        leaves = leaves_of(node)
        if not leaves or any(id(leaf) in taken for leaf in leaves):
            continue
        score, exact = _likeness(given, node)
        plain = _is_plain(node) and not _is_part(given, node)
        if score < (_LIKE if plain else _LIKE_OF_ONE_CLASS):
            continue
        if node is program.output and _is_shorter(given, node):
            continue
        state = State(name, given, node, exact)
        if not _carried(program, state) or not (exact or program.trains):
            continue
        if best is None or score > best[0]:
            best = (score, state)
    return None if best is None else best[1]


def _likeness(given: Any, node: Any) -> tuple[float, bool]:
    """How much two trees are alike, from 0 to 1, and whether they are the same but for values."""
    if isinstance(given, Leaf) != isinstance(node, Leaf):
        return 0.0, False
    if not isinstance(given, Leaf) and not _same_kind(given, node):
        return 0.0, False
    before, after = _by_path(given), _by_path(node)
    shared = [path for path in before if path in after]
    same = [path for path in shared if _same_type(before[path], after[path])]
    total = len(before.keys() | after.keys())
    score = 0.9 * len(shared) / total + 0.1 * len(same) / total
    exact = jax.tree.structure(given) == jax.tree.structure(node) and len(same) == total
    return score, exact


def _same_kind(given: Any, node: Any) -> bool:
    if type(given) is type(node):
        return True
    # A tuple that comes back as a list is a state that drifts.
    plain = (tuple, list)
    return type(given) in plain and type(node) in plain


def _same_type(before: Any, after: Any) -> bool:
    if isinstance(before, Leaf) and isinstance(after, Leaf):
        return before.aval.shape == after.aval.shape and before.aval.dtype == after.aval.dtype
    return isinstance(before, Static) and isinstance(after, Static)


def _is_part(given: Any, node: Any) -> bool:
    """Whether all that came in comes out in its place, and more beside it."""
    before, after = _by_path(given), _by_path(node)
    return all(path in after and _same_type(before[path], after[path]) for path in before)


def _is_shorter(given: Any, node: Any) -> bool:
    """Whether a tuple is longer than what came in: a function that returns several things."""
    plain = (tuple, list)
    return type(given) in plain and type(node) in plain and len(given) != len(node)


def _is_plain(node: Any) -> bool:
    """Whether a tree says nothing of what it holds."""
    return type(node) in (tuple, list, dict, Leaf)


def _carried(program: Program, state: State) -> bool:
    """Whether an array of it is an update of the one in the same place."""
    masks = program.flow.outputs
    if isinstance(state.given, Leaf):
        # A function of an array to an array is an activation, unless it writes into it, or
        # learns.
        new = masks[state.new.index]
        learnt = new.carries if program.trains and new.learnt else 0
        return bool((new.written | learnt) >> state.given.index & 1)
    arrays = [
        (old, new) for old, new in state.pairs if isinstance(old, Leaf) and isinstance(new, Leaf)
    ]
    return any(masks[new.index].carries >> old.index & 1 for old, new in arrays)


def _learns(program: Program, state: State, found: list[State]) -> bool:
    """Whether something of it depends on what is in no state: on data, or on another state."""
    own = sum(1 << leaf.index for leaf in leaves_of(state.given))
    if not program.trains:  # A batch that is changed at random is no state.
        own |= sum(1 << leaf.index for leaf in program.leaves if _is_key(leaf.aval))
    return any(program.flow.outputs[leaf.index].depends & ~own for leaf in leaves_of(state.new))


def _is_key(aval: Any) -> bool:
    """Whether a type is that of keys, typed or raw."""
    raw = aval.dtype == np.uint32 and bool(aval.shape) and aval.shape[-1] in (2, 4)
    return raw or is_array_of_keys(aval)
