import collections
import types
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers import exactly

from treadle._errors import ArgumentTypeError, TreeError
from treadle.tree import from_dict, to_dict


class Layer(eqx.Module):
    weight: Any
    bias: Any = None
    size: int = eqx.field(static=True, default=3)


def test_leaves_by_their_paths_in_order():
    array = np.zeros(2)
    tree = {"b": [Layer(array, 1), None], "a/c": (2,), "a": {"": 3}}
    flat = to_dict(tree)
    assert list(flat) == ["a/", "a~1c/0", "b/0/weight", "b/0/bias"]
    assert list(flat.values()) == jax.tree.leaves(tree)
    assert flat["b/0/weight"] is array
    assert to_dict(5) == {"": 5}
    assert to_dict(None) == to_dict([{}]) == {}


def test_comes_back_in_any_order_and_from_any_mapping():
    tree = {"b": [Layer(np.zeros(2), 1), None], "a": 2}
    flat = to_dict(tree)
    for values in (
        flat,
        dict(reversed(flat.items())),
        collections.ChainMap(flat),
        types.MappingProxyType(flat),
    ):
        back = from_dict(values, tree)
        assert jax.tree.structure(back) == jax.tree.structure(tree)
        assert all(
            a is b for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(tree), strict=True)
        )


trees = st.recursive(
    st.none() | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text("a/~", max_size=2), inner, max_size=3)
        | st.builds(Layer, inner, inner)
    ),
    max_leaves=6,
)


@given(trees)
def test_a_round_trip(tree):
    flat = to_dict(tree)
    assert len(flat) == len(jax.tree.leaves(tree))
    back = from_dict(flat, tree)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    assert to_dict(back) == flat


def test_like_may_hold_what_stands_for_arrays_and_dtypes_may_differ():
    like = {"w": jax.ShapeDtypeStruct((2, 3), "float32"), "k": 1, "s": np.zeros(())}
    values = {"w": np.ones((2, 3), np.float16), "k": "other", "s": 0.5}
    assert from_dict(values, like) == values
    assert from_dict(values, {**like, "w": 1.0, "s": print}) == values


def test_names_that_do_not_fit_are_told_all_at_once():
    like = {"layers": [Layer(1, 2)], "scale": 3}
    message = (
        "`values` does not have the names of `like`: missing 'layers/0/weight' (there is "
        "'layers/0/wieght'), 'scale'; unexpected 'layers/0/wieght' (there is 'layers/0/weight'), 7."
    )
    with pytest.raises(TreeError, match=exactly(message)):
        from_dict({"layers/0/wieght": 1, "layers/0/bias": 2, 7: 3}, like)
    message = "`values` does not have the names of `like`: missing 'scale'."
    with pytest.raises(TreeError, match=exactly(message)):
        from_dict({"layers/0/weight": 1, "layers/0/bias": 2}, like)
    message = "`values` does not have the names of `like`: unexpected 'x'."
    with pytest.raises(TreeError, match=exactly(message)):
        from_dict({**to_dict(like), "x": 2}, like)
    with pytest.raises(TreeError, match=exactly(message)):
        from_dict({"x": 1}, {})


def test_of_many_names_the_first_are_told_and_the_rest_is_counted():
    like = {f"lay{number:04}": 0 for number in range(2000)}
    values = {f"layer{number:04}": 0 for number in range(2000)}
    with pytest.raises(TreeError, match=r"does not have the names") as caught:
        from_dict(values, like)
    missing, unexpected = str(caught.value).split("; ")
    assert missing.endswith("'lay0007' (there is 'layer0007'), and 1992 more")
    assert unexpected.endswith("'layer0007' (there is 'lay0007'), and 1992 more.")


def test_shapes_that_do_not_fit_are_told_all_at_once():
    like = {"a": np.zeros((2, 3), np.float32), "b": np.zeros(2, np.int8), "c": 1}
    values = {"a": np.zeros((3, 2), np.float32), "b": np.zeros((2, 1), np.int8), "c": np.zeros(5)}
    message = (
        "`values` does not fit `like`: 'a' is float32[3,2], and float32[2,3] in `like`, 'b' is "
        "int8[2,1], and int8[2] in `like`."
    )
    with pytest.raises(TreeError, match=exactly(message)):
        from_dict(values, like)


def test_what_is_no_dictionary_is_refused():
    message = (
        "`values` is a list: give a dictionary from path to leaf, as `treadle.tree.to_dict(tree)` "
        "makes it."
    )
    with pytest.raises(ArgumentTypeError, match=exactly(message)):
        from_dict([1, 2], [3, 4])
