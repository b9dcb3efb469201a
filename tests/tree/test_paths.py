import collections
import decimal
import enum
import fractions
import threading
from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers import exactly
from tests.tree.containers import Flat, Pair, Point

from treadle._state import Parts, TrainState
from treadle.tree import _remember as memory
from treadle.tree import paths
from treadle.tree._paths import (
    escape,
    flatten_with_paths,
    inside,
    join,
    opened,
    path_of,
    paths_of_structure,
)


class Layer(eqx.Module):
    weight: Any
    bias: Any = None
    name: str = eqx.field(static=True, default="layer")


class Colour(enum.Enum):
    RED = 1


class Word(enum.StrEnum):
    RED = "red"


class Number(enum.IntEnum):
    TWO = 2


@jtu.register_pytree_node_class
class Bag:
    """A node without names of its own for what is inside."""

    def __init__(self, *children):
        self.children = children

    def tree_flatten(self):
        return self.children, None

    @classmethod
    def tree_unflatten(cls, data, children):
        return cls(*children)


@jtu.register_pytree_with_keys_class
class Echo:
    """A node that gives all of its children one name, and one that has to be escaped."""

    def __init__(self, *children):
        self.children = children

    def tree_flatten_with_keys(self):
        return [("a/b", child) for child in self.children], None

    @classmethod
    def tree_unflatten(cls, data, children):
        return cls(*children)


def ordered(*items):
    return collections.OrderedDict(items)


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        (5, [""]),
        (None, []),
        ({}, []),
        ([[], (), None], []),
        ({"w": [1, 2], "b": 3}, ["b", "w/0", "w/1"]),
        (ordered(("w", 1), ("b", (2,))), ["w", "b/0"]),
        (collections.defaultdict(list, x=[1, [2]]), ["x/0", "x/1/0"]),
        (Pair(1, {"x": 2}), ["left", "right/x"]),
        ([None, 1, None, 2], ["1", "3"]),
        (Layer(1, 2), ["weight", "bias"]),
        ([Layer(1), Layer(Layer(2, 3))], ["0/weight", "1/weight/weight", "1/weight/bias"]),
        (Point({"a": 1}, 2), ["x/a", "y"]),
        (Bag(1, [2]), ["0", "1/0"]),
        (jtu.Partial(print, 1, end=2), ["0/0", "1/end"]),
        ({"": 1}, [""]),
        ({"": {"": 1, "x": 2}, "x": 3, "a": {"": 4}}, ["/", "/x", "a/", "x"]),
        ({"a/b": 1, "a~b": 2, "~1": 3, "/": 4}, ["~1", "a~1b", "a~0b", "~01"]),
        ({"a~2": 1, "a": 2}, ["a", "a~02"]),
        ({"å\n": 1, "[red]": 2}, ["[red]", "å\n"]),
    ],
)
def test_names_of_leaves(tree, expected):
    assert paths(tree) == expected
    assert len(expected) == len(jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("key", "name"),
    [
        (1, "1"),
        (-1, "-1"),
        (True, "1"),
        (np.True_, "1"),
        (np.int8(1), "1"),
        (1.0, "1"),
        (np.float32(1), "1"),
        (fractions.Fraction(2, 2), "1"),
        (decimal.Decimal("1.00"), "1"),
        (Number.TWO, "2"),
        (10**400, str(10**400)),
        (0.5, "0.5"),
        (np.float32(0.5), "0.5"),
        (np.float32(0.1), "0.10000000149011612"),
        (fractions.Fraction(1, 2), "0.5"),
        (fractions.Fraction(1, 3), "1~13"),
        (fractions.Fraction(2001, 2), "1000.5"),
        (decimal.Decimal("0.50"), "0.5"),
        (decimal.Decimal("0.1"), "0.1"),
        (2.0**53, "9007199254740992"),
        (fractions.Fraction(2**54 + 1, 2), "18014398509481985~12"),
        (fractions.Fraction(10**400, 3), f"{10**400}~13"),
        (float("inf"), "inf"),
        (-float("inf"), "-inf"),
        (float("nan"), "nan"),
        (Colour.RED, "Colour.RED"),
        (Word.RED, "red"),
        (b"x", "b'x'"),
        ((0, "a/b"), "(0, 'a~1b')"),
        ((True, (2.0, 0.5)), "(1, (2, 0.5))"),
        (Pair(1.0, Word.RED), "(1, 'red')"),
    ],
)
def test_names_of_keys(key, name):
    memory._answers.clear()  # Not all of these can be compared with each other.
    assert paths({key: 0}) == [name]
    assert paths(ordered((key, 0))) == [name]


@pytest.mark.parametrize(
    "keys",
    [
        (1, True, 1.0, np.int64(1), decimal.Decimal(1)),
        (0.5, fractions.Fraction(1, 2), np.float16(0.5), decimal.Decimal("0.5")),
        ("red", Word.RED),
        ((1, 0.5), (True, fractions.Fraction(1, 2)), Pair(1, 0.5)),
    ],
)
def test_equal_keys_have_one_name_whichever_was_asked_first(keys):
    for first in keys:
        memory._answers.clear()
        assert len({tuple(paths({key: 0})) for key in (first, *keys)}) == 1


def test_no_two_leaves_share_a_path():
    assert paths(ordered((1, 0), ("1", 1), ("1~2", 2))) == ["1", "1~2", "1~02"]
    assert paths(ordered((1, [0]), ("1", [1, 2]))) == ["1/0", "1~2/0", "1~2/1"]
    # Also where the names of leaves alone would not collide.
    assert paths(ordered((1, {"x": 0}), ("1", {"y": 1}))) == ["1/x", "1~2/y"]
    assert paths(Echo(1, 2, [3], 4)) == ["a~1b", "a~1b~2", "a~1b~3/0", "a~1b~4"]
    assert paths(Flat(("x", "x", "y"), (1, 2, 3))) == ["x", "x~2", "y"]


def test_nodes_that_name_their_own_leaves():
    flat = Flat(("model/w", "", "model/b"), (1, 2, 3))
    assert paths(flat) == ["model/w", "", "model/b"]
    assert paths({"s": flat, "t": 0}) == ["s/model/w", "s", "s/model/b", "t"]
    assert paths({"": flat}) == ["/model/w", "", "/model/b"]
    with pytest.raises(ValueError, match="argument 2 is longer"):
        paths(Flat(("x",), (1, 2)))
    net = {"first": Layer(np.zeros((2, 3)), np.zeros(2)), "last": Layer(np.zeros((2, 2)))}
    state = TrainState.from_parts(Parts(net, *[None] * 10, np.zeros(2, int)))
    names = ["model/first/weight", "model/first/bias", "model/last/weight", "faults"]
    assert paths(state) == names
    without = jax.tree.map(lambda leaf: None if leaf.ndim == 1 else leaf, state)
    assert paths(without) == ["model/first/weight", "model/last/weight"]
    nested = jax.tree.map(lambda leaf: {"x": [leaf]} if leaf.ndim == 1 else leaf, state)
    assert paths(nested) == [names[0], f"{names[1]}/x/0", names[2], "faults/x/0"]


def test_states_of_layers_have_paths():
    model, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "batch", mode="batch")
    assert len(paths(state)) == len(set(paths(state))) == len(jax.tree.leaves(state))
    assert paths(model)[:2] == ["weight", "bias"]


def test_works_while_tracing_and_with_what_stands_for_arrays():
    tree = {"w": np.zeros(2), "b": (np.zeros(1),)}
    found = []
    jax.eval_shape(jax.vmap(lambda t: found.append(paths(t))), {"w": tree["w"]})
    assert found == [["w"]]
    assert paths(jax.eval_shape(lambda: tree)) == paths(tree) == ["b/0", "w"]


texts = st.text("ab/~01é", max_size=3)
trees = st.recursive(
    st.none() | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(texts, inner, max_size=3)
        | st.lists(st.tuples(st.integers(0, 2) | texts, inner), max_size=3).map(
            collections.OrderedDict
        )
        | st.builds(Layer, inner, inner)
        | st.builds(Echo, inner, inner)
    ),
    max_leaves=8,
)


@given(trees)
def test_unique_stable_and_in_the_order_of_the_leaves(tree):
    leaves, treedef = jax.tree.flatten(tree)
    found = paths(tree)
    assert len(set(found)) == len(found) == len(leaves)
    assert paths(jax.tree.unflatten(treedef, range(len(leaves)))) == found
    memory._answers.clear()
    assert paths(tree) == found
    named, structure = flatten_with_paths(tree)
    assert structure == treedef
    assert [path for path, _ in named] == found
    assert [leaf for _, leaf in named] == leaves


# -- what others build paths with -----------------------------------------------------------------


def test_segments_are_escaped_and_joined():
    assert escape("a/b~c~1") == "a~1b~0c~01"
    assert join("a", "b", "c") == "a/b/c"
    assert join("", "b", "") == "b"
    assert join("", "") == ""
    entries = (
        jtu.GetAttrKey("a/b"),
        jtu.SequenceKey(2),
        jtu.DictKey(True),
        jtu.FlattenedIndexKey(0),
    )
    assert path_of(entries) == "a~1b/2/1/0"
    assert path_of(("x~", None)) == "x~0/None"
    assert path_of(()) == ""


def test_paths_of_children():
    flat = Flat(("", "x"), (1, 2))
    assert inside(None, "x") == "x"
    assert inside(None, "") == ""
    assert inside("", "x") == "/x"
    assert inside("a", "") == "a/"
    assert inside("a", "", flat) == "a"
    assert inside(None, "", flat) == ""
    assert inside("a", "x", flat) == "a/x"


def test_a_node_opened_by_one_level():
    layer = Layer([1, 2], None, "n")
    node = opened(layer)
    assert node.kind is Layer
    assert node.children == {"weight": [1, 2], "bias": None}
    assert node.children["weight"] is layer.weight
    again = jax.tree.unflatten(node.treedef, [5, {"x": 6}])
    assert (again.weight, again.bias, again.name) == (5, {"x": 6}, "n")
    assert opened(None)[:3] == (type(None), None, {})
    assert opened(3)[:3] == (None, None, {})
    assert jax.tree.unflatten(opened(3).treedef, [4]) == 4
    assert opened(())[:3] == (tuple, None, {})
    assert opened({"b": 1, "a": ()})[:3] == (dict, ["a", "b"], {"a": (), "b": 1})
    assert opened(ordered((1, "x"), ("1", "y"))).children == {"1": "x", "1~2": "y"}
    flat = Flat(("x/y", "x/y"), (1, (2, 3)[0]))
    node = opened(flat)
    assert node.kind is Flat
    assert node.children == {"x/y": 1, "x/y~2": 2}
    assert node.data == ("x/y", "x/y")
    assert node.treedef == jax.tree.structure(flat)


# -- what is found once for each structure --------------------------------------------------------


class Counting:
    """Gives answers, and counts how many."""

    def __init__(self):
        self.count = 0

    def __call__(self, tree):
        self.count += 1
        return self.count, tree


@pytest.fixture
def _forgotten():
    memory._answers.clear()
    yield
    memory._answers.clear()


@pytest.mark.usefixtures("_forgotten")
def test_an_answer_is_remembered_for_each_question_and_structure():
    find, other = Counting(), Counting()
    one, two = jax.tree.structure([1, 2]), jax.tree.structure((1, 2))
    assert memory.remembered(find, one, "a") == (1, "a")
    assert memory.remembered(find, jax.tree.structure([3, 4]), "b") == (1, "a")
    assert memory.remembered(find, two, "c") == (2, "c")
    assert memory.remembered(other, one, "d") == (1, "d")
    assert memory.remembered(find, one, "e") == (1, "a")
    assert memory.remembered(other, one, "f") == (1, "d")
    assert (find.count, other.count) == (2, 1)


@pytest.mark.usefixtures("_forgotten")
def test_the_oldest_answers_are_forgotten_first_and_asking_keeps_one():
    find = Counting()

    def number(treedef):
        return memory.remembered(find, treedef, None)[0]

    for treedef in range(memory._KEPT):
        assert number(treedef) == treedef + 1
    assert number(0) == 1
    assert number("more") == memory._KEPT + 1
    assert len(memory._answers) == memory._KEPT == 32
    assert number(0) == 1
    assert number(2) == 3
    assert number(1) == memory._KEPT + 2


class Unhashable:
    __hash__ = None


@pytest.mark.usefixtures("_forgotten")
def test_what_cannot_be_hashed_or_compared_is_asked_anew():
    find = Counting()
    assert [memory.remembered(find, ["list"], tree) for tree in "ab"] == [(1, "a"), (2, "b")]
    assert not memory._answers
    for static in (["a"], np.zeros(2), np.ones(2), np.zeros(3), ["b"], Unhashable(), {"c": 1}):
        assert paths(Point(1, 2, static)) == ["x", "y"]


@pytest.mark.usefixtures("_forgotten")
def test_errors_are_those_of_who_answers():
    def find(tree):
        raise ValueError(f"no answer for {tree}")

    with pytest.raises(ValueError, match=exactly("no answer for 1")):
        memory.remembered(find, 0, 1)
    assert not memory._answers


@pytest.mark.usefixtures("_forgotten")
def test_finding_an_answer_may_ask_for_another():
    def inner(tree):
        return tree + 1

    def outer(tree):
        return memory.remembered(inner, 0, tree), "outer"

    assert memory.remembered(outer, 0, 1) == (2, "outer")
    assert set(memory._answers) == {(inner, 0), (outer, 0)}


class Asking:
    """Its comparison asks for paths, and in another thread there is someone who does too."""

    def __hash__(self):
        return 0

    def __eq__(self, other):
        return paths({"asked": 1}) == ["asked"]


@pytest.mark.usefixtures("_forgotten")
def test_comparing_structures_may_ask_for_paths():
    tree = Layer(1, 2, Asking())
    worker = threading.Thread(
        target=lambda: [paths(Layer(1, 2, Asking())) for _ in range(3)], daemon=True
    )
    worker.start()
    worker.join(timeout=30)
    assert not worker.is_alive()
    assert paths(tree) == ["weight", "bias"]


def test_paths_are_found_once_for_a_structure():
    tree = {"a": [1, 2]}
    treedef = jax.tree.structure(tree)
    assert paths_of_structure(treedef, tree) is paths_of_structure(treedef, {"a": [3, 4]})
    mine = paths(tree)
    mine.append("changed")
    assert paths(tree) == ["a/0", "a/1"]
