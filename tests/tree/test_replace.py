import collections
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers import exactly
from tests.tree.containers import Pair, Point

from treadle._errors import ArgumentTypeError, TreeError
from treadle._state import Parts, TrainState
from treadle.tree import paths, replace, tie, to_dict, untie


class Layer(eqx.Module):
    weight: Any
    bias: Any = None
    size: int = eqx.field(static=True, default=3)

    def __init__(self, weight, bias=None):
        self.weight, self.bias = weight, bias


def model():
    return {"layers": [Layer(1, 2), Layer(3)], "point": Point(4, Pair(5, None)), "empty": ()}


def make_state():
    net = {"first": Layer(np.zeros((2, 3)), np.zeros(2)), "last": Layer(np.zeros((2, 2)))}
    return TrainState.from_parts(Parts(net, *[None] * 10, np.zeros(2, int)))


def test_leaves_are_replaced_and_the_rest_is_the_very_same():
    first, second = np.zeros(2), np.ones(3)
    tree = {"a": [first, second], "b": Layer(first, second)}
    new = object()
    out = replace(tree, {"a/1": new, "b/weight": 7})
    assert out["a"][1] is new
    assert out["b"].weight == 7
    assert out["a"][0] is first
    assert out["b"].bias is second
    assert out["b"].size == 3
    assert tree["a"][1] is second


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("layers/0/weight", 9),
        ("layers/0/weight", {"any": "thing"}),
        ("layers/0/weight", None),
        ("layers/0", "module"),
        ("layers/1/bias", 9),
        ("layers", []),
        ("point/x", (1, 2)),
        ("point/y", 9),
        ("point/y/right", [9]),
        ("empty", 9),
        ("empty", [1, 2]),
    ],
)
def test_a_leaf_a_part_and_a_none_may_be_replaced_by_anything(path, value):
    out = replace(model(), {path: value})
    keys = path.split("/")
    place = out
    for key in keys:
        if isinstance(place, (dict, list)):
            place = place[int(key) if key.isdigit() else key]
        else:
            place = getattr(place, key)
    assert place is value
    below = [f"{path}/{inner}" if inner else path for inner in paths(value)]
    others = {
        p: x for p, x in to_dict(model()).items() if p != path and not p.startswith(f"{path}/")
    }
    assert to_dict(out) == others | dict(zip(below, jax.tree.leaves(value), strict=True))
    assert type(out["point"]) is Point


def test_the_whole_tree_and_a_bare_leaf():
    assert replace([1, 2], {"": 3}) == 3
    assert replace(1, {"": [2]}) == [2]
    assert replace(None, {"": 2}) == 2
    assert replace({"": [1]}, {"": 2}) == 2
    assert replace({"": 1}, {"": 2}) == {"": 2}


def test_nothing_to_replace():
    tree = model()
    assert replace(tree, {}) is tree


def test_leaves_and_parts_together():
    out = replace(model(), {"layers/0": 7, "point/x": 8, "layers/1/bias": [9], "point/y/left": 0})
    assert to_dict(out) == {
        "layers/0": 7,
        "layers/1/weight": 3,
        "layers/1/bias/0": 9,
        "point/x": 8,
        "point/y/left": 0,
    }


def test_odd_keys():
    tree = {"a/b": 1, "~": {"": None, "x": [2]}, "": [3, None]}
    assert replace(tree, {"a~1b": 5})["a/b"] == 5
    assert replace(tree, {"~0/": 5})["~"] == {"": 5, "x": [2]}
    assert replace(tree, {"~0/x/0": 5})["~"] == {"": None, "x": [5]}
    assert replace(tree, {"/1": 5})[""] == [3, 5]
    assert replace(tree, {"/0": 5})[""] == [5, None]
    twice = collections.OrderedDict([(1, [None]), ("1", [None, 2])])
    assert replace(twice, {"1~2/0": 5}) == {1: [None], "1": [5, 2]}
    assert replace(twice, {"1/0": 5}) == {1: [5], "1": [None, 2]}
    assert replace(twice, {"1~2": 5}) == {1: [None], "1": 5}
    assert replace({True: 3}, {"1": 4}) == {True: 4}
    assert replace({"a": None, "ab": None}, {"ab": 1}) == {"a": None, "ab": 1}


def test_a_shared_leaf_is_replaced_where_it_is_named():
    shared = np.zeros(2)
    out = replace({"a": shared, "b": shared, "c": None}, {"a": 1, "c": 2})
    assert out == {"a": 1, "b": shared, "c": 2}
    part = [None]
    assert replace({"a": part, "b": part}, {"b/0": 1}) == {"a": [None], "b": [1]}


def test_leaves_of_a_state():
    state = make_state()
    new = np.ones(2)
    out = replace(state, {"model/first/bias": new})
    assert type(out) is TrainState
    assert out.model["first"].bias is new
    assert out.model["first"].weight is state.model["first"].weight
    assert replace({"state": state, "n": None}, {"state": 1, "n": 2}) == {"state": 1, "n": 2}
    assert replace({"s": state, "n": None}, {"s/faults": new, "n": 2})["s"].leaves[-1] is new


def test_static_fields_keep():
    tree = Point(1, None, "label")
    assert replace(tree, {"x": 2}) == Point(2, None, "label")
    assert replace(tree, {"y": 2}) == Point(1, 2, "label")


def test_works_while_tracing():
    def change(x):
        assert replace({"x": x, "n": None}, {"n": x})["n"] is x
        return replace({"x": x}, {"x": x + 1})["x"]

    assert jax.eval_shape(change, np.zeros(2, np.float32)).shape == (2,)


# -- the laws of a lens ---------------------------------------------------------------------------

trees = st.recursive(
    st.integers(),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3)
        | st.dictionaries(st.text("a/~", max_size=2), inner, min_size=1, max_size=3)
        | st.builds(Pair, inner, inner)
        | st.builds(Layer, inner, inner)
    ),
    max_leaves=6,
)


@given(trees, st.data())
def test_a_lens(tree, data):
    path = data.draw(st.sampled_from(paths(tree)))
    before = to_dict(tree)
    one, two = object(), object()
    assert to_dict(replace(tree, {path: one})) == before | {path: one}
    assert to_dict(replace(tree, {path: before[path]})) == before
    assert to_dict(replace(replace(tree, {path: one}), {path: two})) == before | {path: two}
    everything = {path: object() for path in before}
    assert to_dict(replace(tree, everything)) == everything


# -- what cannot be replaced ----------------------------------------------------------------------

NEAREST_LAYERS = "The nearest are 'layers/0/bias', 'layers/1/weight', 'layers/0/weight'."


@pytest.mark.parametrize(
    ("tree", "path", "hint"),
    [
        (model(), "layers/0/wieght", "The nearest are 'layers/0/weight', 'layers/0/bias'."),
        (
            model(),
            "layers/2",
            "The nearest are 'layers/0/bias', 'layers/1/weight', 'layers/0/weight'.",
        ),
        (model(), "point/z", "The nearest are 'point/x', 'point/y/left'."),
        (model(), "zzz", "The nearest are 'layers/0/weight', 'layers/0/bias', 'layers/1/weight'."),
        (model(), "layers/0/", "The nearest are 'layers/0/bias', 'layers/0/weight'."),
        (
            model(),
            "layers/",
            "The nearest are 'layers/0/bias', 'layers/1/weight', 'layers/0/weight'.",
        ),
        ([1, 2, 3, 4], "9", "The nearest are '0', '1', '2'."),
        (
            model(),
            "layers/0/size",
            "'size' is a static field, which is no leaf: make the Layer anew.",
        ),
        (Point(1, 2), "label", "'label' is a static field, which is no leaf: make the Point anew."),
        (Point(1, 2), "label/x", "The nearest are 'x', 'y'."),
        (
            model(),
            "layers/0/weight/x",
            "There is nothing inside of 'layers/0/weight' (of type int).",
        ),
        (model(), "point/y/left/", "There is nothing inside of 'point/y/left' (of type int)."),
        (
            model(),
            "layers/1/bias/x",
            "There is nothing inside of 'layers/1/bias' (of type NoneType).",
        ),
        (model(), "empty/0", "There is nothing inside of 'empty' (of type tuple)."),
        ({}, "x", "There is nothing inside of the tree (of type dict)."),
        ({"": 1}, "x", "The nearest are ''."),
        (1, "x", "There is nothing inside of the tree (of type int)."),
        ([{"a": None}], "0/b", "The nearest are '0/a'."),
        (dict.fromkeys(["wa", "wb", "wc", "wd"], 0), "wx", "The nearest are 'wd', 'wc', 'wb'."),
        ({"beta": 1, "zzz": 2}, "bias", "The nearest are 'beta'."),
        (None, "x", "There is nothing inside of the tree (of type NoneType)."),
    ],
)
def test_an_unknown_path_is_told_with_the_nearest(tree, path, hint):
    with pytest.raises(TreeError, match=exactly(f"`tree` has no path {path!r}. {hint}")):
        replace(tree, {path: 0})


def test_parts_of_a_state_are_told():
    way_out = "To replace more than leaves, replace a view: `state.replace(model=...)`."
    hint = f"Of a TrainState only single leaves can be replaced: {{}}. {way_out}"
    cases = {
        "model/first": hint.format("'model/first/weight', 'model/first/bias'"),
        "model": hint.format("'model/first/weight', 'model/first/bias', 'model/last/weight'"),
        "model/fist/bias": (
            "The nearest are 'model/first/bias', 'model/first/weight', 'model/last/weight'. "
            + way_out
        ),
    }
    for path, told in cases.items():
        with pytest.raises(TreeError, match=exactly(f"`tree` has no path {path!r}. {told}")):
            replace(make_state(), {path: 0})
    with pytest.raises(
        TreeError, match=r"has no path 's/model/last'\. Of a TrainState .* 's/model/last/weight'\."
    ):
        replace({"s": make_state()}, {"s/model/last": 0})


def test_parts_of_what_is_tied_are_told():
    plain = {"a": np.zeros(2), "b": np.ones(2), "c": [None, np.zeros(3)]}
    tied = tie(plain, {"b": "a"})
    assert list(to_dict(replace(tied, {"c/1": 5}))) == ["a", "c/1"]
    way_out = (
        "To replace more than leaves, take it apart first: `treadle.tree.tie(treadle.tree.replace("
        "treadle.tree.untie(tied), ...), tied.ties)`."
    )
    for path, told in {
        "c": "Of a Tied only single leaves can be replaced: 'c/1'.",
        "b": "The nearest are 'a', 'c/1'.",
        "c/0": "The nearest are 'c/1'.",
    }.items():
        message = exactly(f"`tree` has no path {path!r}. {told} {way_out}")
        with pytest.raises(TreeError, match=message):
            replace(tied, {path: 0})
    # As it is told.
    again = tie(replace(untie(tied), {"c": 5}), tied.ties)
    assert to_dict(again).keys() == {"a", "c"}


@pytest.mark.parametrize(
    ("chosen", "outer", "inner"),
    [
        (["layers/0", "layers/0/weight"], "layers/0", "layers/0/weight"),
        (["layers/0/weight", "point/x", "layers"], "layers", "layers/0/weight"),
        (["point/x", ""], "", "point/x"),
        (["layers/1/bias", "layers/1/bias/x"], "layers/1/bias", "layers/1/bias/x"),
        (["point/x", "point/x/y", "point"], "point", "point/x"),
    ],
)
def test_paths_inside_of_each_other_are_refused(chosen, outer, inner):
    message = (
        f"`values` has both {outer!r} and {inner!r}, which lies inside: replace one of them, or "
        "put the inner value into the outer one first."
    )
    for order in (chosen, chosen[::-1]):
        with pytest.raises(TreeError, match=exactly(message)):
            replace(model(), dict.fromkeys(order, 0))


def test_names_that_only_begin_alike_are_not_inside():
    tree = {"a": [1], "a-": [2], "ab": [3]}
    assert replace(tree, {"a": 1, "a-": 2, "ab/0": 3}) == {"a": 1, "a-": 2, "ab": [3]}
    # Nor does one that stands between the two in the alphabet hide that they are.
    with pytest.raises(TreeError, match=r"`values` has both 'a' and 'a/0', which lies inside"):
        replace(tree, {"a": 1, "a-": 2, "a/0": 3})


def test_values_of_the_wrong_type_are_refused():
    message = (
        "`values` is a list: give a dictionary from path to value, such as {'layers/0/bias': "
        "jnp.zeros(8)}."
    )
    with pytest.raises(ArgumentTypeError, match=exactly(message)):
        replace(model(), [("point/x", 1)])
    message = "`values` has the key 3: give paths as strings, as `treadle.tree.paths` writes them."
    with pytest.raises(ArgumentTypeError, match=exactly(message)):
        replace(model(), {"point/x": 1, 3: 2})
    proxy = collections.ChainMap({"point/x": 6}, {"layers/0/bias": 7})
    assert to_dict(replace(model(), proxy))["layers/0/bias"] == 7
