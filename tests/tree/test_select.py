import re

import equinox as eqx
import jax
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers import exactly

from treadle._errors import ArgumentTypeError, ArgumentValueError, TreeError
from treadle.tree import Selector, paths, select

NAMES = [
    "",
    "/x",
    "bias",
    "layers/0/bias",
    "layers/0/norm/weight",
    "layers/0/weight",
    "layers/10/weight",
    "layers/1~1b/a\nb",
    "layers[0]/w.x",
    "weight",
]


def chosen(selector):
    hits = selector.matches(NAMES)
    return [name for name, hit in zip(NAMES, hits, strict=True) if hit]


@pytest.mark.parametrize(
    ("globs", "expected"),
    [
        (["**"], NAMES),
        (["**/**"], NAMES),
        (["*"], ["", "bias", "weight"]),
        ([""], [""]),
        (["bias"], ["bias"]),
        (["*bias*"], ["bias"]),
        (["b?as"], ["bias"]),
        (["**/bias"], ["bias", "layers/0/bias"]),
        (["**/**/bias"], ["bias", "layers/0/bias"]),
        (["**/x"], ["/x"]),
        (["*/x"], ["/x"]),
        (["/x"], ["/x"]),
        (["/**"], ["", "/x"]),
        (["layers/0/**"], NAMES[3:6]),
        (["layers/0/**/**"], NAMES[3:6]),
        (["layers/**"], NAMES[3:8]),
        (["layers/**/weight"], NAMES[4:7]),
        (["layers/*/weight"], NAMES[5:7]),
        (["layers/?/weight"], NAMES[5:6]),
        (["layers/1?/*"], NAMES[6:7]),
        (["**/1*/**"], NAMES[6:8]),
        (["layers/*/*"], [*NAMES[3:4], *NAMES[5:8]]),
        (["layers/1~1b/*"], NAMES[7:8]),
        (["layers[0]/*"], NAMES[8:9]),
        (["**/w.x"], NAMES[8:9]),
        (["weight/**"], ["weight"]),
        (
            ["**/weight/**"],
            ["layers/0/norm/weight", "layers/0/weight", "layers/10/weight", "weight"],
        ),
        (["**/norm/**/weight"], ["layers/0/norm/weight"]),
        (["weight", "bias"], ["bias", "weight"]),
        (["bias", "**/bias", "bias"], ["bias", "layers/0/bias"]),
    ],
)
def test_globs(globs, expected):
    assert chosen(select(*globs)) == expected


def test_selectors_combine():
    bias, layers = select("**/bias"), select("layers/**")
    assert chosen(bias & layers) == ["layers/0/bias"]
    assert chosen(bias | layers) == ["bias", *NAMES[3:8]]
    assert chosen(~layers) == [*NAMES[:3], *NAMES[8:]]
    assert chosen(layers & ~bias) == NAMES[4:8]
    assert chosen(~(bias | layers)) == ["", "/x", *NAMES[8:]]
    assert chosen(~~bias) == chosen(bias)


class Layer(eqx.Module):
    weight: object
    bias: object = None
    activation: object = np.tanh
    size: int = eqx.field(static=True, default=3)


def test_called_on_a_tree_it_gives_a_mask_of_its_structure():
    tree = {"layers": [Layer(np.zeros(2), np.zeros(1)), Layer(np.zeros(3))], "t": np.float32(1)}
    mask = select("layers/*/weight", "t")(tree)
    assert jax.tree.structure(mask) == jax.tree.structure(tree)
    assert jax.tree.leaves(mask) == [True, False, False, True, False, True]
    assert all(type(leaf) is bool for leaf in jax.tree.leaves(mask))
    head, rest = eqx.partition(tree, mask)
    assert paths(head) == ["layers/0/weight", "layers/1/weight", "t"]
    assert paths(eqx.combine(head, rest)) == paths(tree)


def test_a_selector_is_no_pytree_and_serves_as_a_mask_for_optax():
    selector = select("a/*")
    assert isinstance(selector, Selector)
    assert jax.tree.leaves(selector) == [selector]
    masked = optax.masked(optax.set_to_zero(), selector)
    params = {"a": [np.ones(2), np.ones(1)], "b": np.ones(2)}
    updates, _ = masked.update(params, masked.init(params), params)
    assert [float(leaf.sum()) for leaf in jax.tree.leaves(updates)] == [0, 0, 2]


def test_equal_selectors_are_equal_and_hash_alike():
    assert select("a", "b") == select("a", "b") != select("b", "a")
    assert len({select("a") & ~select("b"), select("a") & ~select("b"), select("a")}) == 2


def test_works_while_tracing():
    seen = []
    jax.eval_shape(lambda x: seen.append(select("b")(x)), {"a": np.zeros(2), "b": np.zeros(1)})
    assert seen == [{"a": False, "b": True}]


segments = st.sampled_from(["a", "b", "ab", "*", "?", "**", "a*", ""])
names = st.lists(st.sampled_from(["a", "b", "ab", "aab", ""]), min_size=1, max_size=4)


def reference(glob, path):
    """Matches segment by segment, by trying all that `**` can stand for."""
    if not glob:
        return not path
    if glob[0] == "**":
        return any(reference(glob[1:], path[skip:]) for skip in range(len(path) + 1))
    pattern = re.escape(glob[0]).replace(r"\*", ".*").replace(r"\?", ".")
    return bool(path) and bool(re.fullmatch(pattern, path[0])) and reference(glob[1:], path[1:])


@given(st.lists(segments, min_size=1, max_size=4), st.lists(names, min_size=1, max_size=4))
def test_agrees_with_matching_segment_by_segment(glob, found):
    expected = [reference(glob, path) for path in found]
    selector = select("/".join(glob))
    if any(expected):
        assert selector.matches(["/".join(path) for path in found]) == expected
    else:
        with pytest.raises(TreeError, match="matches none"):
            selector.matches(["/".join(path) for path in found])


@pytest.mark.parametrize(
    ("glob", "hint"),
    [
        ("layers/0", "It is a subtree: write 'layers/0/**' for all of its leaves."),
        ("layers/0/", "It is a subtree: write 'layers/0/**' for all of its leaves."),
        ("layers/*", "It is a subtree: write 'layers/*/**' for all of its leaves."),
        ("**/layers", "It is a subtree: write '**/layers/**' for all of its leaves."),
        ("layers/0/wieght", "The nearest paths are 'layers/0/weight', 'layers/1/weight'."),
        ("QQQ", "The nearest paths are 'bias', 'layers/0/weight', 'layers/1/weight'."),
        ("layers/[01]/weight", "The nearest paths are 'layers/1/weight', 'layers/0/weight'."),
    ],
)
def test_a_glob_that_matches_nothing_is_told(glob, hint):
    tree = {"layers": [{"weight": 1}, {"weight": 2}], "bias": 3}
    message = f"The glob {glob!r} matches none of the 3 leaves of the tree. {hint}"
    for selector in (
        select(glob),
        select("bias", glob),
        ~select(glob),
        select("**") | select(glob),
    ):
        with pytest.raises(TreeError, match=exactly(message)):
            selector(tree)


def test_an_empty_tree_has_nothing_to_choose():
    message = "The glob '**' matches none of the 0 leaves of the tree. It is empty."
    with pytest.raises(TreeError, match=exactly(message)):
        select("**")({})


def test_what_are_no_globs_or_selectors_is_refused():
    with pytest.raises(
        ArgumentValueError,
        match=exactly("`select` wants at least one glob, such as `select('**')`."),
    ):
        select()
    with pytest.raises(
        ArgumentTypeError,
        match=exactly("`globs` holds ['a']: write globs as strings, 'layers/**'."),
    ):
        select("a", ["a"])
    message = (
        "A selector was combined with 'b': both sides of `{0}` must be selectors, "
        "`select('layers/**') {0} select('**/bias')`."
    )
    with pytest.raises(ArgumentTypeError, match=exactly(message.format("&"))):
        select("a") & "b"
    with pytest.raises(ArgumentTypeError, match=exactly(message.format("|"))):
        select("a") | "b"
