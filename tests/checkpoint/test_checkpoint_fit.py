"""Loading what does not fit as it is: what is told, and the ways out that are named."""

import logging
import re
from unittest import mock

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.helpers import Net, assert_same, loss_fn, make_batch

import treadle
from treadle import CheckpointError, TreadleError
from treadle.checkpoint import Checkpointer, load, save
from treadle.checkpoint._reader import LeafReader
from treadle.checkpoint._rename import renamed

PLAIN = {"a": np.arange(3.0), "b": {"c": np.arange(4), "d": 5}}


class Sized(eqx.Module):
    """A model with static fields."""

    weight: np.ndarray
    size: int = eqx.field(static=True, default=1)
    mode: str = eqx.field(static=True, default="same")


def filled(tree, value=0):
    """The same tree with other numbers."""
    return jax.tree.map(lambda leaf: type(leaf)(value) if isinstance(leaf, int) else leaf * 0, tree)


def structs(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def refusal(path, like, **options):
    with pytest.raises(CheckpointError, match="does not fit `like`") as raised:
        load(path, like, **options)
    return str(raised.value)


def way_out(path, like, **options):
    """The call that the message names, and what it loads."""
    call = re.search(r"`(treadle\.load\(.*\))`", refusal(path, like, **options))[1]
    return call.removeprefix(f"treadle.load({str(path)!r}, "), eval(
        call, {"treadle": treadle, "like": like}
    )


@pytest.fixture
def plain(tmp_path):
    save(tmp_path / "t", PLAIN)
    return tmp_path / "t"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A state with an average and moments, which have the names of the model inside of them."""
    step = treadle.TrainStep(loss_fn, optax.adamw(1e-3), ema=0.9)
    state = step.init(Net(jax.random.key(0)), key=jax.random.key(1))
    state, _ = step(state, make_batch())
    path = tmp_path_factory.mktemp("trained") / "state"
    save(path, state)
    return path, step, state


@pytest.mark.parametrize(
    ("like", "line"),
    [
        (
            PLAIN | {"aa": np.zeros(3)},
            "missing     `aa` float64[3] is not in the checkpoint",
        ),
        (
            {"a": PLAIN["a"], "b": {"c": np.zeros(4, int)}},
            "unexpected  `b/d` python int is not in `like`",
        ),
        (
            PLAIN | {"a": np.zeros((3, 1))},
            "shape       `a` is float64[3] in the checkpoint and float64[3,1] in `like`",
        ),
        (
            PLAIN | {"a": np.zeros(3, "f4")},
            "dtype       `a` is float64[3] in the checkpoint and float32[3] in `like`",
        ),
    ],
)
def test_each_leaf_that_does_not_fit_has_a_line(plain, like, line):
    lines = refusal(plain, like).splitlines()
    assert [text.strip() for text in lines[1:-1]] == [line]
    assert lines[0] == (
        f"The checkpoint {str(plain)!r} does not fit `like`: it has 3 leaves, `like` has "
        f"{len(jax.tree.leaves(like))}, and these differ:"
    )


def test_static_fields_that_differ_have_a_line(tmp_path):
    tree = {"m": Sized(np.ones(2), 3, "same"), "n": Sized(np.ones(2))}
    save(tmp_path / "t", tree)
    like = {"m": Sized(np.zeros(2), 4, "valid"), "n": Sized(np.zeros(2))}
    lines = refusal(tmp_path / "t", like).splitlines()
    assert [text.strip() for text in lines[1:-1]] == [
        "static      `m/size` is 3 in the checkpoint and 4 in `like`",
        "static      `m/mode` is 'same' in the checkpoint and 'valid' in `like`",
    ]
    call, loaded = way_out(tmp_path / "t", like)
    assert call == "like, strict=False)"
    assert loaded["m"].weight.tolist() == [1, 1]
    assert loaded["m"].size == 4


# What was saved, what it is loaded into, the way out, and what that loads.
X, Y = np.arange(3.0), np.arange(4)
OTHER_X = X.astype("f4")
WAYS = {
    "a part": (
        {"a": X, "b": Y},
        {"a": X * 0, "b": Y[:2]},
        "like, strict=False)",
        {"a": X, "b": Y[:2]},
    ),
    "more than asked for": ({"a": X, "b": Y}, {"b": Y * 0}, "like, strict=False)", {"b": Y}),
    "precision": ({"a": X, "b": Y}, {"a": OTHER_X * 0, "b": Y * 0}, "like, cast=True)", None),
    "precision of a part": (
        {"a": X, "b": Y},
        {"a": OTHER_X * 0, "c": [X]},
        "like, cast=True, strict=False)",
        {"a": OTHER_X, "c": [X]},
    ),
    "names": (
        {"layer": {"weight": X, "bias": Y}},
        {"layer": {"weights": X * 0, "biases": Y * 0}},
        "like, rename={'layer/bias': 'layer/biases', 'layer/weight': 'layer/weights'})",
        {"layer": {"weights": X, "biases": Y}},
    ),
    "names and precision": (
        {"layer": {"weight": X, "bias": Y}},
        {"layer": {"weights": X * 0, "bias": Y.astype("i2") * 0}},
        "like, cast=True, strict=False)",
        {"layer": {"weights": X * 0, "bias": Y.astype("i2")}},
    ),
    "one inside": ({"m": {"a": X}}, {"a": X * 0}, "like, rename={'m/**': '**'})", {"a": X}),
    "one inside, beside others": (
        {"m": {"a": X, "b": Y}, "step": 3},
        {"a": X * 0, "b": Y * 0},
        "like, rename={'m/**': '**'}, strict=False)",
        {"a": X, "b": Y},
    ),
    "one inside, of other precision": (
        {"m": {"a": X, "b": Y}, "step": 3},
        {"a": OTHER_X * 0, "b": Y * 0},
        "like, rename={'m/**': '**'}, cast=True, strict=False)",
        {"a": OTHER_X, "b": Y},
    ),
    "one inside, with the name of another": (
        {"m": {"a": X, "key": Y}, "key": X},
        {"a": X * 0, "key": Y * 0},
        "like, rename={'m/**': '**', '**': 'aside/**'}, strict=False)",
        {"a": X, "key": Y},
    ),
    "most of one inside": (
        {"m": {"a": X, "b": Y, "c": Y}, "step": 3},
        {"a": X * 0, "b": Y * 0, "c": Y[:1]},
        "like, rename={'m/**': '**'}, strict=False)",
        {"a": X, "b": Y, "c": Y[:1]},
    ),
    "the deeper of two": (
        {"m": {"n": {"a": X, "b": Y}}},
        {"a": X * 0, "b": Y * 0},
        "like, rename={'m/n/**': '**'})",
        {"a": X, "b": Y},
    ),
    "into one inside": (
        {"a": X, "b": Y},
        {"m": {"a": X * 0, "b": Y * 0}},
        "like, rename={'**': 'm/**'})",
        {"m": {"a": X, "b": Y}},
    ),
    "into one inside, beside others": (
        {"a": X, "b": Y},
        {"m": {"a": X * 0, "b": Y * 0}, "step": 7},
        "like, rename={'**': 'm/**'}, strict=False)",
        {"m": {"a": X, "b": Y}, "step": 7},
    ),
    "the nearer of two": (
        {"avg": {"n": {"a": Y[:3], "b": X}}, "m": {"a": Y[:3] + 1, "b": X + 1}},
        {"a": Y[:3] * 0, "b": X * 0},
        "like, rename={'m/**': '**'}, strict=False)",
        {"a": Y[:3] + 1, "b": X + 1},
    ),
    "all of it, though one inside would do": (
        {"a": X, "m": {"a": X + 1}},
        {"a": X * 0},
        "like, strict=False)",
        {"a": X},
    ),
    "names, but not all of them": (
        {"weight": X, "b": Y},
        {"weights": X * 0, "b": Y * 0, "zzz": Y},
        "like, strict=False)",
        {"weights": X * 0, "b": Y, "zzz": Y},
    ),
    "quotes in names": (
        {"it's": {"a": X}},
        {"a": X * 0},
        "like, rename={\"it's/**\": '**'})",
        {"a": X},
    ),
}


@pytest.mark.parametrize("what", WAYS)
def test_the_way_out_that_is_named_is_one(tmp_path, what):
    saved, like, call, loads = WAYS[what]
    save(tmp_path / "t", saved)
    named, loaded = way_out(tmp_path / "t", like)
    assert named == call
    if loads is None:
        loads = jax.tree.map(lambda leaf, other: leaf.astype(other.dtype), saved, like)
    assert_same(loaded, loads)


def test_what_loads_all_of_it_is_told_apart_from_what_loads_a_part(tmp_path):
    save(tmp_path / "t", {"m": {"a": X, "b": Y}, "step": 3})
    under = "nothing is cast or reshaped. `like` is what the checkpoint has under 'm': `"
    assert under in refusal(tmp_path / "t", {"a": X, "b": Y})
    assert under in refusal(tmp_path / "t", {"a": OTHER_X, "b": Y})
    assert "To load 1 of 2 leaves and keep" in refusal(tmp_path / "t", {"a": X, "b": Y[:1]})


def test_a_leaf_that_was_renamed_already_is_renamed_anew(tmp_path):
    save(tmp_path / "t", {"w": X})
    call, loaded = way_out(tmp_path / "t", {"bias_2": X * 0}, rename={"w": "bias"})
    assert call == "like, rename={'w': 'bias_2'})"
    assert_same(loaded, {"bias_2": X})


def test_of_a_part_static_fields_do_not_matter(tmp_path):
    save(tmp_path / "t", {"m": Sized(np.ones(2), 3)})
    like = {"m": Sized(np.zeros(2), 4)}
    for options in ({"only": ["m/weight"]}, {"rename": {"**": "**"}}):
        loaded = load(tmp_path / "t", like, **options)
        assert loaded["m"].weight.tolist() == [1, 1]
        assert loaded["m"].size == 4


def test_what_was_asked_for_is_part_of_the_way_out(tmp_path):
    save(tmp_path / "t", {"old": {"a": X, "weight": Y}, "z": X})
    like = {"new": {"a": X * 0, "weights": Y * 0}, "z": OTHER_X * 0}
    rename = {"old/**": "new/**"}
    call, loaded = way_out(tmp_path / "t", like, rename=rename)
    assert call == f"like, rename={rename!r}, cast=True, strict=False)"
    assert_same(loaded, {"new": {"a": X, "weights": Y * 0}, "z": OTHER_X})
    call, loaded = way_out(tmp_path / "t", like, rename=rename, only=["new/**"])
    both = {"old/weight": "new/weights", "old/**": "new/**"}
    assert call == f"like, rename={both!r}, only=['new/**'])"
    assert_same(loaded, {"new": {"a": X, "weights": Y}, "z": OTHER_X * 0})
    message = refusal(tmp_path / "t", like, rename=rename, cast=True)
    assert "nothing is cast" not in message
    assert message.endswith(f"rename={both!r}, cast=True)`.")
    loaded = load(tmp_path / "t", like, rename=both, cast=True)
    assert_same(loaded, {"new": {"a": X, "weights": Y}, "z": OTHER_X})


@pytest.mark.parametrize("sign", ["*", "?"])
def test_names_that_no_glob_can_tell_are_named_in_no_way_out(tmp_path, sign):
    save(tmp_path / "t", {f"layer{sign}": {"weight": X}, "b": Y})
    like = {f"layer{sign}": {"weights": X * 0}, "b": Y * 0}
    assert way_out(tmp_path / "t", like)[0] == "like, strict=False)"
    like = {"weight": X * 0, "c": Y}
    assert refusal(tmp_path / "t", like).endswith("No leaf of it fits.")


def test_a_model_is_loaded_out_of_a_state_and_into_one(trained):
    path, step, state = trained
    model = jax.tree.map(lambda leaf: 0 * leaf, eqx.filter(state.model, eqx.is_array))
    call, loaded = way_out(path, model)
    assert call == "like, rename={'model/**': '**'}, strict=False)"
    assert_same(loaded, eqx.filter(state.model, eqx.is_array))
    call, loaded = way_out(path, structs(model))
    assert call == "like, rename={'model/**': '**'}, strict=False)"
    assert_same(loaded, eqx.filter(state.model, eqx.is_array))
    save(path.with_name("model"), state.model, overwrite=True)
    other = step.init(Net(jax.random.key(5)), key=jax.random.key(6))
    call, loaded = way_out(path.with_name("model"), other)
    assert call == "like, rename={'**': 'model/**'}, strict=False)"
    assert_same(loaded.model, state.model)
    assert_same(loaded.opt_state, other.opt_state)


def test_a_checkpointer_names_ways_out_too(tmp_path):
    checkpointer = Checkpointer(tmp_path / "c", asynchronous=False)
    checkpointer.save(3, {"m": {"a": X}, "n": 1})
    with pytest.raises(CheckpointError, match=r"rename=\{'m/\*\*': '\*\*'\}, strict=False\)`"):
        checkpointer.restore({"a": X * 0})
    loaded = checkpointer.restore(
        {"a": OTHER_X * 0, "n": 0},
        rename={"m/**": "**"},
        strict=False,
        only=["a"],
        cast=True,
    )
    assert_same(loaded, {"a": OTHER_X, "n": 0})


def test_where_nothing_fits_no_way_out_is_named(plain):
    assert refusal(plain, {"x": np.zeros(2)}).endswith("No leaf of it fits.")
    assert refusal(plain, np.zeros(2)).endswith("No leaf of it fits.")
    assert "treadle.load" not in refusal(plain, {"x": np.zeros(2)})


def test_structs_where_nothing_fits_are_told_before_strict_is(plain):
    like = {"a": jax.ShapeDtypeStruct((3,), "f8"), "x": jax.ShapeDtypeStruct((2,), "f4")}
    assert refusal(plain, like).endswith(
        "`like` has no values for what does not fit, only `jax.ShapeDtypeStruct`s: with a `like` "
        f"of arrays, `treadle.load({str(plain)!r}, like, strict=False)` loads 1 of 2 leaves and "
        "keeps the rest."
    )
    with pytest.raises(CheckpointError, match=r"nothing that fits `x`, and `like` has no values"):
        load(plain, like, strict=False)
    more = like | {"y": jax.ShapeDtypeStruct((), "i4")}
    with pytest.raises(CheckpointError, match=r"nothing that fits `x` and 1 more, and `like`"):
        load(plain, more, strict=False)
    loaded = load(plain, like | {"x": np.full(2, 7.0)}, strict=False)
    assert (loaded["a"].tolist(), loaded["x"].tolist()) == ([0, 1, 2], [7, 7])
    # Nobody asked for it here, so it may stay what it is.
    loaded = load(plain, like, only=["a"])
    assert loaded["x"] is like["x"]


def test_what_is_not_loaded_stays_as_it_is_and_is_logged(plain, caplog):
    like = {"a": np.full(2, 7.0), "b": {"c": np.zeros(4, int), "e": 9}}
    with caplog.at_level(logging.WARNING, logger="treadle"):
        loaded = load(plain, like, strict=False)
    assert loaded["a"] is like["a"]
    assert loaded["b"]["c"].tolist() == [0, 1, 2, 3]
    assert loaded["b"]["e"] == 9
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{plain}: 1 of 3 leaves are loaded; of the others `like` keeps its own:\n"
        "  missing     `b/e` python int is not in the checkpoint, which has `b/d`\n"
        "  unexpected  `b/d` python int is not in `like`, which has `b/e`\n"
        "  shape       `a` is float64[3] in the checkpoint and float64[2] in `like`"
    )


def test_where_everything_fits_nothing_is_logged(plain, caplog):
    assert_same(load(plain, filled(PLAIN), strict=False), PLAIN)
    assert caplog.records == []


def test_only_some_leaves_are_loaded(plain):
    like = filled(PLAIN) | {"new": np.zeros(1)}
    loaded = load(plain, like, only=["b/*"])
    assert_same(loaded, like | {"b": PLAIN["b"]})
    assert loaded["a"] is like["a"]
    loaded = load(plain, like, only=("a", "b/c"))
    assert_same(loaded, like | {"a": PLAIN["a"], "b": {"c": PLAIN["b"]["c"], "d": 0}})
    with mock.patch.object(LeafReader, "read", autospec=True, side_effect=LeafReader.read) as read:
        load(plain, like, only=["b/c"])
    assert [call.args[1].path for call in read.call_args_list] == ["b/c"]


def test_what_only_asks_for_must_be_there(plain):
    like = PLAIN | {"b": {"c": PLAIN["b"]["c"], "dd": 5}}
    message = refusal(plain, like, only=["b/**"])
    assert "it has 1 leaves, `like` has 2, and these differ" in message
    assert "missing     `b/dd` python int is not in the checkpoint, which has `b/d`" in message
    assert way_out(plain, like, only=["b/**"])[0] == (
        "like, rename={'b/d': 'b/dd'}, only=['b/**'])"
    )


@pytest.mark.parametrize("only", ["b/**", 3, {"b/**"}, {"b/**": 1}, b"b"])
def test_only_wants_a_list(plain, only):
    with pytest.raises(TypeError, match=r"`only` \(=.* must be a list of globs, such as") as raised:
        load(plain, PLAIN, only=only)
    assert isinstance(raised.value, TreadleError)


def test_only_wants_globs(plain):
    with pytest.raises(TypeError, match=r"`only` \(=\['a', 3\]\) holds 3"):
        load(plain, PLAIN, only=["a", 3])
    with pytest.raises(ValueError, match=r"`only` \(=\[\]\) .*at least one glob"):
        load(plain, PLAIN, only=[])
    with pytest.raises(
        treadle.TreeError, match=r"`only` goes by the names in `like`\. .*'c' matches none of the 3"
    ):
        load(plain, PLAIN, only=["a", "c"])


@pytest.mark.parametrize(
    ("rename", "old", "new"),
    [
        ({"a": "b"}, "a", "b"),
        ({"": "w"}, "", "w"),
        ({"w": ""}, "w", ""),
        ({"*": "x*"}, "", "x"),
        ({"**": "x/**"}, "", "x"),
        ({"x/**": "**"}, "x", ""),
        ({"**": "x/**"}, "a/b", "x/a/b"),
        ({"x/**": "**"}, "x/a/b", "a/b"),
        ({"layers/*/w": "blocks/*/weight"}, "layers/12/w", "blocks/12/weight"),
        ({"layer?": "block?"}, "layer3", "block3"),
        ({"*_*": "*-*"}, "a_b_c", "a_b-c"),
        ({"**/w/**": "**/v/**"}, "a/w/b/w", "a/v/b/w"),
        ({"a/**/z": "**"}, "a/b/c/z", "b/c"),
        ({"a/**/z": "b/**/y"}, "a/z", "b/y"),
        ({"a.b": "c"}, "axb", None),
        ({"a/*": "b/*"}, "a/b/c", None),
        ({"a/*": "b/*"}, "a", None),
        ({"a/**": "b/**"}, "a/", "b/"),
        ({"a?": "b?"}, "a", None),
        ({"a": "x", "*": "y*"}, "a", "x"),
        ({"*": "y*", "a": "x"}, "a", "ya"),
        ({"a\nb*": "c*"}, "a\nb\n", "c\n"),
    ],
)
def test_globs_rename(rename, old, new):
    # The others are there for the globs that shall not match `old` to match something.
    others = ["axb.b", "a.b", "zz/a/b/c", "a/q", "az", "a", "q"]
    paths = [old, *(path for path in others if new is None and path != old)]
    assert renamed(paths, rename)[old] == (old if new is None else new)


@pytest.mark.parametrize("rename", [None, {}])
def test_without_globs_names_stay(plain, rename):
    assert_same(load(plain, filled(PLAIN), rename=rename), PLAIN)


def test_names_are_swapped(tmp_path):
    save(tmp_path / "t", {"a": 1, "b": 2, "e": [3], "f": [4]})
    rename = {"a": "b", "b": "a", "e/*": "f/*", "f/*": "e/*"}
    loaded = load(tmp_path / "t", {"a": 0, "b": 0, "e": [0], "f": [0]}, rename=rename)
    assert loaded == {"a": 2, "b": 1, "e": [4], "f": [3]}


def test_what_is_renamed_is_told_by_its_new_name(tmp_path):
    save(tmp_path / "t", {"old": {"a": X, "b": Y}})
    message = refusal(tmp_path / "t", {"new": {"a": OTHER_X, "c": Y}}, rename={"old/**": "new/**"})
    assert "dtype       `new/a` is float64[3] in the checkpoint and float32[3] in" in message
    assert "missing     `new/c` int64[4] is not in the checkpoint, which has `new/b`" in message


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        ({"a": "b/d"}, r"`rename` gives 'b/d' to two leaves, 'a' and 'b/d'"),
        ({"b/*": "b/x*", "b/d": "b/xc"}, None),
        ({"b/c": "x", "b/d": "x"}, r"`rename` gives 'x' to two leaves, 'b/c' and 'b/d'"),
    ],
)
def test_two_leaves_of_one_name_are_told(plain, rename, message):
    if message is None:  # Of two globs that match, the first counts.
        assert renamed(["b/c", "b/d"], rename) == {"b/c": "b/xc", "b/d": "b/xd"}
        return
    with pytest.raises(ValueError, match=message) as raised:
        load(plain, PLAIN, rename=rename, strict=False)
    assert isinstance(raised.value, TreadleError)


@pytest.mark.parametrize(
    "rename", [{"encoder/**": "x/**"}, {"a": "x", "c": "y"}, {"a/**/b": "c/**/d"}]
)
def test_a_glob_that_renames_nothing_is_told(plain, rename):
    with pytest.raises(
        treadle.TreeError,
        match=r"`rename` goes by the names in the checkpoint '.*'\. The glob '.*' matches none",
    ):
        load(plain, PLAIN, rename=rename)


@pytest.mark.parametrize("rename", ["a", [], ["a"], 0, {("a", "b")}, ""])
def test_rename_wants_a_dictionary(plain, rename):
    with pytest.raises(TypeError, match=r"`rename` \(=.*\) must be a dictionary, ") as raised:
        load(plain, PLAIN, rename=rename)
    assert isinstance(raised.value, TreadleError)


@pytest.mark.parametrize(
    ("rename", "kind", "message"),
    [
        ({"a": 1}, TypeError, r"`rename` has 'a': 1, and both must be strings"),
        ({1: "a"}, TypeError, r"`rename` has 1: 'a', and both must be strings"),
        ({"a/**": "b"}, ValueError, r"the same signs \(\*\*\) in the same order"),
        ({"a/**": "b/*"}, ValueError, r"the same signs \(\*\*\)"),
        ({"a/*/?": "b/?/*"}, ValueError, r"the same signs \(\*, \?\)"),
        ({"a": "b/*"}, ValueError, r"the same signs \(none\)"),
    ],
)
def test_rename_wants_names_of_the_same_signs(plain, rename, kind, message):
    with pytest.raises(kind, match=message) as raised:
        load(plain, PLAIN, rename=rename)
    assert isinstance(raised.value, TreadleError)


segments = st.sampled_from(["a", "b", "ab", "abc", "w", "", "a.b"])
paths = st.lists(segments, min_size=1, max_size=4).map("/".join)


@st.composite
def rules(draw):
    """A glob, one of the same signs, and names of which the first matches at least one."""
    parts = draw(
        st.lists(
            st.sampled_from(["a", "b", "ab", "*", "?", "**", "a*", "*b?"]), min_size=1, max_size=4
        )
    )
    signs = ("*", "?")
    texts = st.sampled_from(["x", "y", "xy"])
    old, new, example = [], [], []
    for part in parts:
        old.append(part)
        if part == "**":
            new.append("**")
            example += draw(st.lists(segments, max_size=2))
            continue
        kept = [sign for sign in part if sign in signs]
        new.append(draw(texts) + "".join(sign + draw(texts) for sign in kept))
        example.append(
            "".join(
                draw(st.sampled_from(["", "a", "ab"]))
                if sign == "*"
                else "c"
                if sign == "?"
                else sign
                for sign in part
            )
        )
    others = draw(st.lists(paths, max_size=4))
    return "/".join(old), "/".join(new), list(dict.fromkeys(["/".join(example), *others]))


@given(rules())
def test_to_rename_and_back_changes_nothing(rule):
    old, new, names = rule
    there = renamed(names, {old: new})
    matched = {path for path in names if there[path] != path}
    assume(matched and len(set(there.values())) == len(names))
    back = renamed(list(there.values()), {new: old})
    # Where two `**` stand beside each other, or a `*` beside another, what they stand for may be
    # shared out in another way, and is the same together.
    assert {back[there[path]] for path in names} == set(names)
    assert all(back[there[path]] == path for path in names)


FLOATS = ["float16", "float32", "float64", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
INTEGERS = ["int8", "uint8", "int32", "uint32", "int64", "uint64", "int4", "uint4", "int2"]


def dtype_of(name):
    return np.dtype(getattr(ml_dtypes, name, name))


@pytest.mark.parametrize(
    "names", [FLOATS, INTEGERS, ["complex64", "complex128"]], ids=lambda n: n[0]
)
def test_numbers_are_cast_to_every_precision(tmp_path, names):
    tree = {name: np.array([0, 1, 1]).astype(dtype_of(name)) for name in names}
    save(tmp_path / "t", tree)
    for name in names:
        like = {other: np.zeros(3, dtype_of(name)) for other in names}
        loaded = load(tmp_path / "t", like, cast=True)
        for leaf in loaded.values():
            assert leaf.dtype == dtype_of(name)
            assert leaf.astype(complex).tolist() == [0, 1, 1]


def test_what_is_cast_is_what_like_has(tmp_path):
    save(tmp_path / "t", {"a": np.array([1.5, -0.0, np.inf, np.nan]), "b": np.float64(0.1), "c": 1})
    like = {"a": jnp.zeros(4, jnp.bfloat16), "b": np.float32(0), "c": 0}
    loaded = load(tmp_path / "t", like, cast=True)
    assert isinstance(loaded["a"], jax.Array)
    assert loaded["a"].dtype == jnp.bfloat16
    assert str(loaded["a"].tolist()) == "[1.5, -0.0, inf, nan]"
    assert type(loaded["b"]) is np.float32
    assert loaded["b"] == np.float32(0.1)
    assert loaded["c"] == 1
    loaded = load(
        tmp_path / "t",
        {"a": jax.ShapeDtypeStruct((4,), "f4"), "b": 0, "c": 0},
        cast=True,
        only=["a"],
    )
    assert loaded["a"].dtype == np.float32
    # What is small may become 0: that is rounding.
    save(tmp_path / "small", np.array([1e-300]))
    assert load(tmp_path / "small", np.ones(1, np.float16), cast=True).tolist() == [0]


@pytest.mark.parametrize(
    ("value", "dtype", "told"),
    [
        (np.array([[1.0, 2.0], [3.0, 1e5]]), "float16", "100000.0 at [1, 1] is no float16"),
        (np.array(1e39), "float32", "1e+39 at [] is no float32"),
        (np.array([500.0]), "float8_e4m3fn", "500.0 at [0] is no float8_e4m3fn"),
        (np.array([1.0, np.inf]), "float8_e4m3fn", "inf at [1] is no float8_e4m3fn"),
        (np.array([7.0]), "float4_e2m1fn", "7.0 at [0] is no float4_e2m1fn"),
        (np.array([np.nan]), "float4_e2m1fn", "nan at [0] is no float4_e2m1fn"),
        (np.array([1e300 + 1j]), "complex64", "(1e+300+1j) at [0] is no complex64"),
        (np.array([1, 300]), "uint8", "300 at [1] is no uint8"),
        (np.array([-1]), "uint64", "-1 at [0] is no uint64"),
        (np.array([2**64 - 1], np.uint64), "int64", "18446744073709551615 at [0] is no int64"),
        (np.array([8]), "int4", "8 at [0] is no int4"),
        (np.array([-1]).astype(ml_dtypes.int4), "uint4", "-1 at [0] is no uint4"),
        (np.array([2**32 + 1]), "int32", "4294967297 at [0] is no int32"),
    ],
)
def test_numbers_that_do_not_fit_are_told(tmp_path, value, dtype, told):
    save(tmp_path / "t", {"w": value})
    like = {"w": np.zeros(value.shape, dtype_of(dtype))}
    message = rf"The leaf `w` cannot be cast: {re.escape(told)}\. Load it as it is"
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "t", like, cast=True)


def test_the_largest_numbers_fit(tmp_path):
    values = {"float16": 65504.0, "float32": float(np.finfo("f4").max), "float4_e2m1fn": 6.0}
    save(tmp_path / "t", {name: np.array([value, -value]) for name, value in values.items()})
    like = {name: np.zeros(2, dtype_of(name)) for name in values}
    loaded = load(tmp_path / "t", like, cast=True)
    for name, value in values.items():
        assert loaded[name].astype(float).tolist() == [value, -value]
    limits = {"uint64": [0, 2**32 - 1], "int32": [0, 2**31 - 1], "int4": [-8, 7]}
    save(tmp_path / "i", {name: np.array(limit) for name, limit in limits.items()})
    loaded = load(tmp_path / "i", {name: np.zeros(2, dtype_of(name)) for name in limits}, cast=True)
    assert {name: leaf.astype(int).tolist() for name, leaf in loaded.items()} == limits


@pytest.mark.parametrize(
    ("value", "like"),
    [
        (np.ones(2), np.ones(2, int)),
        (np.ones(2, int), np.ones(2)),
        (np.ones(2), np.ones(2, complex)),
        (np.ones(2, bool), np.ones(2, int)),
        (np.ones(2, "uint32"), jax.random.key(0)),
        (jax.random.key(0), jax.random.key(0, impl="rbg")),
        (1, 1.0),
        (1, np.ones((), int)),
        (np.ones((2, 1)), np.ones(2, "f4")),
    ],
)
def test_what_is_no_other_precision_is_not_cast(tmp_path, value, like):
    save(tmp_path / "t", {"w": value})
    assert refusal(tmp_path / "t", {"w": like}, cast=True).endswith("No leaf of it fits.")
    assert "cast=True" not in refusal(tmp_path / "t", {"w": like})


def test_the_options_go_together(trained):
    path, _, state = trained
    model = eqx.filter(state.model, eqx.is_array)
    like = structs(jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model))
    loaded = load(
        path,
        {"net": like, "head": np.zeros(2)},
        rename={"model/**": "net/**"},
        only=["net/last/*"],
        cast=True,
    )
    expected = jax.tree.map(lambda leaf: np.asarray(leaf).astype(ml_dtypes.bfloat16), model)
    assert_same(jax.tree.leaves(loaded["net"].last), jax.tree.leaves(expected.last))
    assert loaded["net"].first.weight is like.first.weight
