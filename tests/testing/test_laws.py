"""Each law passes what keeps it, and tells what breaks it: both sides, the path, and how."""

import collections
import functools
import itertools
import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from tests.helpers import exactly

import treadle
from treadle import LawError, TreeError
from treadle.testing import (
    check_commutes,
    check_grad,
    check_idempotent,
    check_jit,
    check_lens,
    check_linear,
    check_monoid,
    check_partition,
    check_resume,
    check_roundtrip,
    check_serialisation,
    check_sharding,
    check_structure,
    check_vmap,
    modules,
    pool,
)

ONES = np.ones(2, np.float32)
MODEL = pool.Branches(
    left=pool.Affine(np.arange(6.0, dtype=np.float32).reshape(2, 3), ONES),
    right={"scale": np.float32(2.0), "name": "b", "none": None, "key": jax.random.key(3)},
)


def on_floats(function):
    """A function of trees, from one of NumPy arrays of floats."""
    return lambda tree: jax.tree.map(
        lambda leaf: function(leaf) if isinstance(leaf, np.ndarray) else leaf, tree
    )


# -- what a law says ------------------------------------------------------------------------------


def test_a_broken_law_is_an_assertion_that_has_the_differences():
    halved = on_floats(lambda x: x / np.float32(2))
    with pytest.raises(AssertionError) as caught:
        check_idempotent(halved, MODEL)
    error = caught.value
    assert isinstance(error, LawError)
    assert error.diff.paths == ("left/weight", "left/bias")
    assert [each.kind for each in error.diff] == ["value", "value"]
    first, *table = str(error).splitlines()
    assert first == "`check_idempotent` does not hold: a, f(f(tree)), is not b, f(tree)."
    assert any(line.startswith("left/weight   value     0.25   0.5") for line in table)
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)


def test_without_differences_the_message_is_all():
    with pytest.raises(LawError, match=r"says 'x' is in 0 of the parts.\Z|'' is in 0") as caught:
        check_partition(lambda x: [None, None], ONES)
    assert caught.value.diff is None


IN_PLACE = {
    "check_roundtrip": lambda f: check_roundtrip(f, lambda x: x, {"x": ONES.copy()}),
    "check_idempotent": lambda f: check_idempotent(f, {"x": ONES.copy()}),
    "check_structure": lambda f: check_structure(f, {"x": ONES.copy()}),
    "check_partition": lambda f: check_partition(lambda t: [f(t), None], {"x": ONES.copy()}),
    "check_lens": lambda f: check_lens(
        lambda t: t["x"].copy(), lambda t, v: f(t), {"x": ONES.copy()}, ONES, ONES
    ),
    "check_linear": lambda f: check_linear(f, {"x": ONES.copy()}, {"x": ONES.copy()}),
    "check_monoid": lambda f: check_monoid(lambda a, b: f(a), [{"x": ONES.copy()}]),
    "check_commutes": lambda f: check_commutes(f, lambda x: x, {"x": ONES.copy()}),
    "check_resume": lambda f: check_resume(
        lambda s, b: (s, f(b)), np.float32(0), [{"x": ONES.copy()}] * 2
    ),
    "check_serialisation": lambda f: check_serialisation(
        {"x": ONES.copy()}, save=lambda path, tree: f(tree)
    ),
}


@pytest.mark.parametrize("law", IN_PLACE)
def test_arguments_that_change_in_place_are_told(law):
    def f(tree):
        tree["x"] *= 3
        return tree

    told = rf"(?s)`{law}` does not hold: `\w+` changed its arguments in place; a is after .*x .* 3"
    with pytest.raises(LawError, match=told) as caught:
        IN_PLACE[law](f)
    # What pytest shows is the line of the test, and nothing of the law's own.
    ours = [entry for entry in caught.traceback if "treadle/testing" in str(entry.path)]
    assert ours
    assert all(entry.ishidden(caught) for entry in ours)


def test_containers_that_change_are_told():
    with pytest.raises(LawError, match=r"(?s)changed its arguments in place.*only in b"):
        check_structure(lambda tree: {"y": tree.pop("y"), "x": tree["x"]}, {"x": ONES, "y": ONES})


@pytest.mark.parametrize(
    "check", [check_structure, check_jit, check_sharding], ids=lambda f: f.__name__
)
def test_donation_is_told(check):
    donating = jax.jit(lambda x: x + 1, donate_argnums=0)

    def f(x):
        donating(x)
        return x

    told = rf"`{check.__name__}` .* `f` deleted \(donated\) an array of its arguments"
    with pytest.raises(LawError, match=told):
        # Under `jit` nothing is donated, so there it is the common call that tells.
        check(f, jnp.ones(4))


def test_what_a_function_raises_itself_shows_where():
    def f(tree):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        check_structure(f, ONES)
    ours = [entry for entry in caught.traceback if "treadle/testing" in str(entry.path)]
    assert ours
    assert not any(entry.ishidden(caught) for entry in ours)


def with_state():
    """A layer with a state, and the state, which `set` uses up."""
    return eqx.nn.make_with_state(pool.Memory)(eqx.nn.StateIndex(jnp.zeros(2)))


def test_functions_may_use_up_a_state_as_layers_do():
    layer, state = with_state()

    def f(tree):
        return {**tree, "state": tree["state"].set(layer.index, jnp.ones(2))}

    tree = {"state": state, "x": ONES}
    check_idempotent(f, tree)
    check_structure(f, tree)
    check_jit(f, tree)
    check_commutes(f, on_floats(lambda x: -x), tree)
    jax.tree.leaves(tree)  # It was not used up.
    with pytest.raises(LawError, match=r"(?s)f\(f\(tree\)\), is not b.*0 +value +4\.0 +2\.0"):
        check_idempotent(lambda s: s.set(layer.index, 2 + s.get(layer.index)), state)


def test_arguments_beside_a_state_are_held_to_stay_too():
    def f(tree):
        tree["x"] = 1
        return {**tree, "state": tree["state"].set(with_state()[0].index, jnp.ones(2))}

    with pytest.raises(LawError, match=r"(?s)`f` changed its arguments in place.*0/x"):
        check_structure(f, {"state": with_state()[1], "x": 0})


def deleted():
    x = jnp.ones(2)
    x.delete()
    return x


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (lambda: {"x": modules()}, TypeError, r"`f` is called with has a strategy at '0/x', where"),
        (deleted, ValueError, "`f` is called with has an array that was deleted"),
    ],
)
@pytest.mark.parametrize("check", [check_structure, check_jit], ids=lambda f: f.__name__)
def test_what_tells_nothing_of_a_function_is_told(check, make, error, told):
    with pytest.raises(error, match=told):
        check(lambda x: x, make())


def test_laws_are_called_outside_of_what_is_traced():
    with pytest.raises(TypeError, match=r"`f` is called with is being traced: .*Call the law"):
        jax.jit(lambda x: check_structure(abs, x))(ONES)


TOLERANT = {
    "check_roundtrip": lambda f, **t: check_roundtrip(f, lambda x: x, ONES, **t),
    "check_idempotent": lambda f, **t: check_idempotent(f, ONES, **t),
    "check_lens": lambda f, **t: check_lens(lambda x: f(x), lambda x, v: v, ONES, ONES, ONES, **t),
    "check_monoid": lambda f, **t: check_monoid(
        lambda a, b: a if b is None else f(b), [ONES], identity=None, **t
    ),
    "check_commutes": lambda f, **t: check_commutes(f, lambda x: x * x, ONES, **t),
}


@pytest.mark.parametrize("law", TOLERANT)
def test_tolerances(law):
    def off(x):
        return x * np.float32(1.001)

    TOLERANT[law](off, rtol=0.01)
    TOLERANT[law](off, atol=0.01)
    with pytest.raises(LawError, match=law):
        TOLERANT[law](off, rtol=1e-4)
    with pytest.raises(LawError, match=law):
        TOLERANT[law](off)


def test_nan_is_compared_by_bits_unless_there_is_a_tolerance():
    negative = np.array([0xFFC00000], np.uint32).view(np.float32)
    positive = np.array([np.nan], np.float32)
    check_roundtrip(lambda x: x, lambda x: negative.copy(), negative)
    with pytest.raises(LawError, match=r"NaN \[0\]|NaN"):
        check_roundtrip(lambda x: x, lambda x: positive, negative)
    check_roundtrip(lambda x: x, lambda x: positive, negative, rtol=1e-6)
    with pytest.raises(LawError, match="NaN"):
        check_roundtrip(lambda x: x, lambda x: np.zeros(1, np.float32), negative, rtol=1e-6)


# -- trees ---------------------------------------------------------------------------------------


def test_roundtrip():
    def back(parts):
        return jax.tree.unflatten(parts[1], parts[0])

    check_roundtrip(jax.tree.flatten, back, MODEL)
    with pytest.raises(LawError, match=r"(?s)a, g\(f\(tree\)\), is not b, tree.*left/bias +value"):
        check_roundtrip(lambda tree: tree, on_floats(lambda x: x * (x > 1)), MODEL)


@pytest.mark.parametrize(
    ("tree", "back", "told"),
    [
        ((1, 2), list, "type +list +tuple"),
        ([None], lambda x: [0], "0 +type +0 +None"),
        ([True], lambda x: [1], "0 +leaf +1 +True"),
        ([jnp.ones(2)], lambda x: [np.ones(2, np.float32)], "0 +type +numpy.ndarray"),
        (np.zeros(1), lambda x: -x, "value.*sign of zero"),
        (np.ones(2), lambda x: x.astype(np.float32), "dtype +float32 +float64"),
        (pool.Labelled(1, "a"), lambda x: pool.Labelled(1, "b"), "label +static +'b' +'a'"),
        (jax.random.key(1), lambda x: jax.random.key(1, impl="rbg"), "dtype +key<rbg>"),
        (
            collections.OrderedDict(a=1, b=2),
            lambda x: collections.OrderedDict(b=2, a=1),
            "order +b, a +a, b",
        ),
    ],
)
def test_roundtrip_finds_what_is_no_number(tree, back, told):
    with pytest.raises(LawError, match=f"(?s)is not b, tree.*{told}"):
        check_roundtrip(lambda x: x, back, tree)


def test_idempotent():
    check_idempotent(on_floats(lambda x: np.clip(x, 0, 1)), MODEL)
    with pytest.raises(LawError, match=r"a, f\(f\(tree\)\), is not b, f\(tree\)"):
        check_idempotent(lambda items: items[1:], [1, 2, 3])


def test_structure_lets_numbers_change():
    def f(tree):
        scale = np.float32(tree.right["scale"] * 2)
        right = {**tree.right, "scale": scale, "key": jax.random.key(5)}
        return pool.Branches(on_floats(lambda x: x + 1)(tree.left), right)

    check_structure(f, MODEL)
    # Numbers that are no arrays, too; and NumPy makes a scalar of an array without axes.
    check_structure(lambda x: [x[0] + 1, not x[1], x[2] * 2], [1, True, np.array(1.5)])
    # Where they lie is no matter of structure.
    device = jax.devices()[1]
    check_structure(lambda x: jax.device_put(x, device), jax.device_put(ONES))


@pytest.mark.parametrize(
    ("f", "told"),
    [
        (lambda t: pool.Branches(t.left, None), "right +type +None +dict"),
        (on_floats(lambda x: x.astype(np.float64)), "left/weight +dtype +float64 +float32"),
        (on_floats(lambda x: x[1:]), "left/bias +shape"),
        (lambda t: pool.Branches(t.left, {**t.right, "name": "c"}), "right/name +leaf +'c' +'b'"),
        (on_floats(jax.device_put), "left/weight +type"),
    ],
)
def test_structure_finds(f, told):
    with pytest.raises(LawError, match=rf"(?s)a is f\(tree\), b is tree.*({told})"):
        check_structure(f, MODEL)


def test_structure_finds_weak_types_and_numbers_of_another_kind():
    with pytest.raises(LawError, match=r"weak type +weak +not weak"):
        check_structure(lambda x: pool.weak(np.asarray(x)), jax.device_put(ONES[0]))
    with pytest.raises(LawError, match=r"leaf +2\.0 +2"):
        check_structure(float, 2)


def test_partition():
    check_partition(lambda tree: eqx.partition(tree, eqx.is_array), MODEL)
    # A generator of three parts, and one's own way to put them together.
    kinds = (eqx.is_inexact_array, lambda x: isinstance(x, str), lambda x: isinstance(x, jax.Array))
    check_partition(lambda tree: (eqx.filter(tree, kind) for kind in kinds), MODEL)
    check_partition(lambda tree: [tree], MODEL, combine=lambda part: part)


@pytest.mark.parametrize(
    ("split", "told"),
    [
        (lambda t: [{"a": 1, "b": None}] * 2, "'a' is in 2 of the parts; 'b' is in 0 of the parts"),
        (lambda t: [{**t, "c": 3}], "part 0 has a leaf at 'c', where the tree has none"),
        (lambda t: None, "split returned a NoneType: it must return a sequence of parts"),
        (lambda t: {"all": t}, "split returned a dict: it must return a sequence of parts"),
        (lambda t: [t, {"a": None, "b": [None]}], "(?s)part 1 is no tree of that structure.*b "),
        (
            lambda t: [{"a": 2, "b": 2}],
            r"(?s)a, combine\(\*split\(tree\)\), is not b, tree.*a +leaf",
        ),
    ],
)
def test_partition_finds(split, told):
    with pytest.raises(LawError, match=told):
        check_partition(split, {"a": 1, "b": 2})


def test_partition_finds_another_static_field():
    def split(tree):
        return pool.Labelled(tree.value, "other"), pool.Labelled(None, tree.label)

    with pytest.raises(LawError, match=r"(?s)part 0 is no tree.*label +static +'other' +'mine'"):
        check_partition(split, pool.Labelled(1, "mine"))


def get(tree):
    return tree["a"]


@pytest.mark.parametrize(
    ("read", "put", "told"),
    [
        (get, lambda t, v: t, r"a, get\(put\(tree, first\)\), is not b, first"),
        (get, lambda t, v: {"a": v, "b": 0}, r"(?s)a, put\(tree, get\(tree\)\), is not b.*b +type"),
        (
            get,
            lambda t, v: {"a": v, "b": t["b"] + [v][v == t["a"] :]},
            r"a, put\(put\(tree, first\), second\), is not b, put\(tree, second\)",
        ),
    ],
)
def test_lens(read, put, told):
    tree = {"a": 1, "b": [2]}
    check_lens(get, lambda t, v: {**t, "a": v}, tree, 5, 6)
    with pytest.raises(LawError, match=told):
        check_lens(read, put, tree, 5, 6)


# -- algebra -------------------------------------------------------------------------------------

X = {"x": np.array([0.0, 1.0, -2.0], np.float32), "n": np.array([3]), "f": abs}
Y = {"x": np.array([0.0, 4.0, 8.0], np.float32), "n": np.array([5]), "f": abs}


def test_linear():
    check_linear(lambda t: {**t, "x": -t["x"][::-1]}, X, Y)
    check_linear(lambda t: t["x"] * t["n"], X, Y, scalars=(3.0, 4.0))
    # What is no float is that of the first.
    check_linear(lambda t: t, X, Y)
    half = np.array([1.0, 2.0], ml_dtypes.bfloat16)
    check_linear(lambda x: x[::-1], half, half)
    check_linear(lambda x: x, np.array([1 + 2j]), np.array([-2j]))


@pytest.mark.parametrize(
    ("f", "told"),
    [
        (lambda t: t["x"] + 1, r"a, f\(a x \+ b y\), is not b, a f\(x\) \+ b f\(y\)"),
        (lambda t: np.abs(t["x"]), r"a, f\(a x \+ b y\), is not b"),
        (lambda t: t["x"] * t["x"], r"a, f\(a x \+ b y\), is not b"),
        (lambda t: [t["x"]] * int(t["x"][1]), r"a, f\(x\), is not b, f\(y\), all floats"),
        (lambda t: (t["x"], t["x"].argmax()), r"a, f\(x\), is not b, f\(y\), all floats"),
        (lambda t: t["x"][t["x"] > 0], r"a, f\(x\), is not b, f\(y\), all floats"),
    ],
)
def test_linear_finds(f, told):
    with pytest.raises(LawError, match=told):
        check_linear(f, X, Y)


def test_linear_within_a_tolerance():
    def mean(t):
        return t["x"].mean(dtype=np.float16)

    with pytest.raises(LawError, match="check_linear"):
        check_linear(lambda t: np.float32(mean(t)) * np.float32(1 / 3), X, Y, scalars=(0.1, 0.7))
    check_linear(
        lambda t: np.float32(mean(t)) * np.float32(1 / 3), X, Y, scalars=(0.1, 0.7), rtol=0.01
    )


def test_linear_needs_trees_that_fit():
    with pytest.raises(TreeError, match=r"`x` and `y` do not fit .* 'x' is float32\[3\] in `x`"):
        check_linear(lambda t: t, X, {**Y, "x": ONES})


def test_bfloat16_of_numpy_is_of_floats():
    half = np.array([1.0, 2.0], ml_dtypes.bfloat16)
    with pytest.raises(LawError, match=r"a, f\(a x \+ b y\), is not b"):
        check_linear(lambda x: x * x, half, half)


def add(a, b):
    return {name: a.get(name, 0) + b.get(name, 0) for name in {**a, **b}}


COUNTS = [{"a": 1}, {"a": 2, "b": 0}, {"c": -1}]


def test_monoid():
    check_monoid(add, COUNTS, identity={}, commutative=True)
    check_monoid(lambda a, b: a + b, ["x", "y"], identity="")
    # An array without axes stays one for NumPy's scalars.
    check_monoid(np.add, [np.array(1.0), np.array(2.0)], identity=np.array(0.0))


@pytest.mark.parametrize(
    ("merge", "options", "told"),
    [
        (
            lambda a, b: {**b, "a": a.get("a", 0) - b.get("a", 0)},
            {},
            r"\(a·b\)·c, is not b, a·\(b·c\)",
        ),
        (add, {"identity": {"a": 1}}, r"a, e·a, is not b, a for element 0"),
        (lambda a, b: a, {"identity": {}}, r"a, e·a, is not b, a for element 0"),
        (lambda a, b: b, {"identity": {}}, r"a, a·e, is not b, a for element 0"),
        (
            lambda a, b: {**a, **b},
            {"commutative": True},
            r"a, a·b, is not b, b·a for elements 1, 0",
        ),
    ],
)
def test_monoid_finds(merge, options, told):
    with pytest.raises(LawError, match=told):
        check_monoid(merge, COUNTS, **options)


def test_monoid_needs_elements():
    with pytest.raises(ValueError, match=r"\A`elements` is empty: give a few trees"):
        check_monoid(add, [])


def test_commutes():
    check_commutes(lambda x: x * 2, lambda x: -x, ONES)
    with pytest.raises(LawError, match=r"a, f\(g\(tree\)\), is not b, g\(f\(tree\)\)"):
        check_commutes(lambda x: x * 2, lambda x: x + 1, ONES)


# -- transformations of JAX ------------------------------------------------------------------------


def test_jit():
    def f(state, x):
        return {**state, "x": state["x"] + x}, {"told": np.ones(2), "kept": state["name"]}

    state = {"x": jnp.zeros(2), "key": jax.random.key(0), "weak": pool.weak(ONES), "name": "a"}
    check_jit(f, state, ONES)
    check_jit(functools.partial(jnp.sum, axis=0), np.ones((2, 2), np.float32))


def cut(x):
    return x[: jnp.sum(x > 0)]


@pytest.mark.parametrize(
    ("f", "told"),
    [
        (lambda x: x if x[0] > 0 else -x, "f cannot be compiled: TracerBoolConversionError: "),
        (lambda x: np.asarray(x), "f cannot be compiled: TracerArrayConversionError: "),
        (cut, "f cannot be compiled: IndexError: "),
        (lambda x: jnp.zeros((x[0].astype(int),)), "f cannot be compiled: TypeError: Shapes must"),
        (lambda x: x.unsafe_buffer_pointer(), "f cannot be compiled: .*"),
    ],
)
def test_what_cannot_be_compiled(f, told):
    with pytest.raises(LawError, match=told):
        check_jit(f, jnp.ones(2))


def test_an_error_of_the_function_itself_is_its_own():
    def f(x):
        raise KeyError("mine")

    for check, x in ((check_jit, jnp.ones(2)), (check_vmap, jnp.ones((1, 2)))):
        with pytest.raises(KeyError, match="mine"):
            check(f, x)


def counting():
    calls = itertools.count(1)
    return lambda x: x * next(calls)


def remembering():
    seen = []

    def f(x):
        seen.append(x.max())
        return x / seen[0]

    return f


def memoised():
    known = {}
    return lambda x: known.setdefault(x.shape, 2 * x)


def test_jit_finds_what_is_kept_between_calls():
    with pytest.raises(LawError, match=r"a, jit\(f\)\(\*args\), is not b, f\(\*args\)"):
        check_jit(counting(), jnp.ones(2))
    with pytest.raises(LawError, match="f keeps something of an earlier call, which it was traced"):
        check_jit(remembering(), jnp.ones(2))
    with pytest.raises(LawError, match=r"f keeps something of an earlier call.* and returned"):
        check_jit(memoised(), jnp.ones(2))


def test_jit_finds_what_compiles_again():
    def weakened(state, x):
        return {"mean": jnp.where(x > 0, 1.0, 0.0)}, x

    state = {"mean": jnp.float32(0)}
    told = r"(?s)traced again when its result is handed back in; a is the result.*mean +weak type"
    with pytest.raises(LawError, match=told):
        check_jit(lambda s, x: weakened(s, x)[0], state, jnp.float32(1))
    with pytest.raises(LawError, match=told):
        check_jit(weakened, state, jnp.float32(1))
    with pytest.raises(LawError, match=r"(?s)handed back in.*n +leaf +1 +0"):
        check_jit(lambda s: {**s, "n": s["n"] + 1}, {"n": 0, "x": jnp.ones(1)})


def test_jit_within_a_tolerance():
    def f(x):
        return x * (1 + 1e-3 * isinstance(x, jax.core.Tracer))

    check_jit(f, jnp.ones(2), rtol=0.01)
    with pytest.raises(LawError, match=r"by|abs 0.001"):
        check_jit(f, jnp.ones(2), rtol=1e-4)


BATCH = np.arange(6.0, dtype=np.float32).reshape(2, 3)


def test_vmap():
    keys = jax.random.split(jax.random.key(0), 2)
    check_vmap(lambda x, key, name: (x[::-1], {"k": key, "n": name}), BATCH, keys, "same")
    weak = pool.weak(BATCH)
    check_vmap(lambda x: x, weak)


@pytest.mark.parametrize(
    ("f", "told"),
    [
        (lambda x: x if x[0] > 1 else -x, "f cannot be mapped: TracerBoolConversionError: "),
        (
            lambda x: (x, int(x[0])),
            "(?s)f cannot be mapped: |f gives results of several structures",
        ),
        (counting(), r"(?s)a, vmap\(f\)\(\*args\), is not b, stack\("),
    ],
)
def test_vmap_finds(f, told):
    with pytest.raises(LawError, match=told):
        check_vmap(f, BATCH)


def test_vmap_finds_what_is_remembered_and_results_that_do_not_stack():
    with pytest.raises(LawError, match="f keeps something of an earlier call"):
        check_vmap(remembering(), BATCH)
    names = itertools.count()
    with pytest.raises(LawError, match="f gives results of several structures: The tree at index"):
        check_vmap(lambda x: (x, next(names)), BATCH)


def test_vmap_within_a_tolerance():
    def f(x):
        return x * (1 + 1e-3 * isinstance(x, jax.core.Tracer))

    check_vmap(f, BATCH, atol=0.1)
    with pytest.raises(LawError, match="check_vmap"):
        check_vmap(f, BATCH)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ((BATCH, jnp.float32(1)), "the leading axes are '0': 2, '1': None"),
        ((BATCH, BATCH[:1]), "the leading axes are '0': 2, '1': 1"),
        ((BATCH[:0],), "the leading axes are '0': 0"),
        (("a",), "the leading axes are none, as there are no arrays"),
    ],
)
def test_vmap_needs_a_leading_axis(args, told):
    with pytest.raises(TreeError, match=rf"`args` must have arrays that share .*{told}"):
        check_vmap(lambda *args: args, *args)


# -- derivatives -----------------------------------------------------------------------------------


def with_forward(function, tangent):
    ruled = jax.custom_jvp(function)
    ruled.defjvp(lambda xs, ts: (function(*xs), tangent(*xs, *ts)))
    return ruled


def with_reverse(function, cotangent, forward=None):
    ruled = jax.custom_vjp(function)
    ruled.defvjp(lambda x: ((forward or function)(x), x), lambda x, g: (cotangent(x, g),))
    return ruled


POINT = jnp.array([0.5, -1.0], jnp.float32)


def test_grad():
    parts = {"x": POINT, "half": POINT.astype(jnp.bfloat16), "n": jnp.arange(2), "name": "a"}
    check_grad(lambda t: {"y": t["x"] * t["half"], "n": t["n"]}, parts)
    check_grad(with_reverse(jnp.sin, lambda x, g: g * jnp.cos(x)), POINT)
    # However large the other numbers are.
    check_grad(lambda x, y: x * jnp.sin(y), jnp.full(2, 1e12), jnp.full(2, 1e5))


def test_grad_at_a_kink():
    zeros = jnp.zeros(2)
    check_grad(jax.nn.relu, zeros)
    check_grad(
        with_reverse(lambda x: jnp.maximum(x, 0), lambda x, g: jnp.where(x > 0, g, 0.0)), zeros
    )
    with pytest.raises(LawError, match=r"forward mode gives .* on the left and"):
        check_grad(with_forward(jnp.abs, lambda x, t: 2 * t), zeros)
    with pytest.raises(LawError, match="reverse mode does not agree: <u, Jv> is"):
        check_grad(with_reverse(jnp.abs, lambda x, g: 2 * g), zeros)


SORTS = (jnp.sort, jnp.median, lambda x: jax.lax.top_k(x, 3)[0], lambda x: jnp.quantile(x, 0.3))


@pytest.mark.parametrize("f", SORTS)
@pytest.mark.parametrize("x", [jnp.zeros(4), jnp.ones(5), jnp.array([1.0, 2.0, 1.0])])
def test_grad_where_many_derivatives_meet(f, x):
    check_grad(f, x)


def test_a_derivative_there_is_one_of_them():
    told = "forward mode gives .* on the left and"
    with pytest.raises(LawError, match=told):
        check_grad(with_forward(lambda x: jnp.sort(x), lambda x, t: 9 * t), jnp.zeros(3))
    # Beside what jumps, and with a second derivative that is no jump.
    ruled = with_forward(lambda x: jnp.sin(3 * x), lambda x, t: 2.999 * jnp.cos(3 * x) * t)
    with pytest.raises(LawError, match=told):
        check_grad(lambda x: (jnp.sort(x), ruled(x)), jnp.zeros(3))


def test_what_is_not_finite_hides_nothing_else():
    x = jnp.array([-1.0, 4.0])
    check_grad(jnp.sqrt, x)
    check_grad(with_reverse(jnp.sqrt, lambda x, g: g / (2 * jnp.sqrt(x))), x)
    with pytest.raises(LawError, match=r"reverse mode does not agree: <u, Jv> is .* [0-9.-]+, for"):
        check_grad(with_reverse(jnp.sqrt, lambda x, g: g / (3 * jnp.sqrt(x))), x)


@pytest.mark.parametrize(
    ("f", "told"),
    [
        (lambda x: x * float(x.sum()), "f has no reverse mode: ConcretizationTypeError: "),
        (lambda x: 2 * np.asarray(x), "f has no reverse mode: TracerArrayConversionError: "),
        (with_reverse(jnp.sin, lambda x, g: (g, g)), "f has no reverse mode: TypeError: "),
    ],
)
def test_what_cannot_be_differentiated(f, told):
    with pytest.raises(LawError, match=told):
        check_grad(f, POINT)


def test_what_is_not_finite_is_left_out():
    x = jnp.array([jnp.nan, 1.0, -jnp.inf])
    check_grad(lambda x: x * x, x)
    with pytest.raises(LawError, match=r"of output '' at \[1\] \(1 of 3 are wrong\)"):
        check_grad(lambda x: jax.lax.stop_gradient(x), x)


@pytest.mark.parametrize(
    ("f", "told"),
    [
        (
            lambda big, small: {"sum": jnp.sum(big) * 1e6 + jnp.sum(jax.lax.stop_gradient(small))},
            "forward mode gives 0 where .* of output 'sum' at .* arguments at '1' move",
        ),
        (
            lambda big, small: big * with_forward(jnp.sin, lambda x, t: t)(small),
            "forward mode gives .* arguments at '1' move",
        ),
        (
            lambda big, small: big * 1e6 + with_reverse(jnp.sin, lambda x, g: g)(small),
            "reverse mode does not agree: .* arguments at '1'",
        ),
        (
            lambda big, small: with_reverse(jnp.sin, lambda x, g: g * jnp.cos(x), jnp.cos)(small),
            r"a, f\(x\) while differentiated in reverse mode, is not b, f\(x\)",
        ),
        (
            lambda big, small: jax.lax.while_loop(lambda x: x[0] < 3, lambda x: x * 2, big),
            "f has no reverse mode: ValueError: Reverse-mode differentiation does not work",
        ),
        (
            lambda big, small: jnp.sqrt(small * small) * 0 + big,
            "nan",
        ),
        (
            lambda big, small: jnp.sin(small.astype(jnp.float32)),
            "f made float32 of float64 on the way",
        ),
    ],
)
def test_grad_finds(f, told):
    small = jnp.zeros(1) if told == "nan" else jnp.array([0.7], jnp.float32)
    with pytest.raises(LawError, match=told):
        check_grad(f, jnp.ones(1), small)


def test_grad_within_a_tolerance():
    off = with_reverse(jnp.sin, lambda x, g: 1.001 * g * jnp.cos(x))
    check_grad(off, POINT, rtol=0.01)
    check_grad(off, POINT, atol=0.1)
    with pytest.raises(LawError, match="reverse mode does not agree"):
        check_grad(off, POINT)


@pytest.mark.parametrize(
    ("f", "args", "told"),
    [
        (lambda n: n, (jnp.arange(2), "a"), "`args` has no arrays of real floats"),
        (lambda x: x > 0, (POINT,), "`f` returned no arrays of real floats"),
        (lambda x: x / 0, (POINT,), "`f` returned nothing finite"),
    ],
)
def test_grad_needs_floats(f, args, told):
    with pytest.raises(TreeError, match=told):
        check_grad(f, *args)


# -- files, devices, interruptions ------------------------------------------------------------


def save(path, tree):
    path.write_bytes(pickle.dumps([np.asarray(leaf) for leaf in jax.tree.leaves(tree)]))


def load(path, like):
    return jax.tree.unflatten(jax.tree.structure(like), pickle.loads(path.read_bytes()))


KINDS = {
    name: np.ones(shape, name)
    for name, shape in (("bool", (2,)), ("int8", ()), ("float32", (2, 0)), ("complex64", (1,)))
} | {name: np.ones(2, getattr(ml_dtypes, name)) for name in ("int4", "uint4", "float8_e4m3fn")}


def test_serialisation():
    check_serialisation(MODEL)
    check_serialisation(KINDS, save=save, load=load)
    state = {"key": jax.random.key(0), "weak": pool.weak(ONES), "f": abs, "s": np.float32(2)}
    check_serialisation(state)


@pytest.mark.parametrize("name", KINDS)
def test_what_load_is_given_to_look_at_has_other_numbers(name):
    if not KINDS[name].size:
        check_serialisation(KINDS[name], save=save, load=lambda path, like: like)
        return
    with pytest.raises(LawError, match=r"(?s)a, load\(save\(tree\), like\), is not b, tree.*value"):
        check_serialisation(KINDS[name], save=save, load=lambda path, like: like)


@pytest.mark.parametrize("leaf", [jax.random.key(0), np.float32(1), jnp.ones(2)])
def test_so_have_keys_and_scalars(leaf):
    with pytest.raises(LawError, match="value"):
        check_serialisation(leaf, save=lambda path, tree: None, load=lambda path, like: like)


def test_serialisation_finds():
    def in_half(path, tree):
        save(path, tree.astype(np.float16).astype(np.float32))

    with pytest.raises(LawError, match=r"(?s)load\(save\(tree\), like\), is not b, tree.*value"):
        check_serialisation(np.array([0.1], np.float32), save=in_half, load=load)

    def into(path, like):
        like[...] = load(path, like)
        return like

    with pytest.raises(LawError, match="`load` changed its arguments in place"):
        check_serialisation(ONES.copy(), save=save, load=into)


ROWS = np.arange(8.0, dtype=np.float32)


def first_piece(x):
    return np.asarray(x.addressable_shards[0].data)


def test_sharding():
    check_sharding(lambda x, y, name: {"x": x, "y": y, "n": name}, ROWS, ROWS[:3], "same")
    # Where it lies may be asked; only what comes of it counts.
    check_sharding(lambda x: jax.device_put(x, jax.devices()[2]), ROWS)
    with pytest.raises(LawError, match=r"(?s)a, f on 4 devices, is not b, f on one.*shape"):
        check_sharding(first_piece, ROWS)
    with pytest.raises(LawError, match="a, f on 2 devices"):
        check_sharding(first_piece, ROWS, devices=jax.devices()[:2])


def test_where_chooses_what_is_spread():
    def pieces(x, y):
        return len(x.sharding.device_set) if x.sharding.is_fully_replicated else first_piece(x)

    with pytest.raises(LawError, match="f on 4 devices"):
        check_sharding(lambda x, y: first_piece(x), ROWS, ROWS, where="0")
    check_sharding(lambda x, y: first_piece(x), ROWS, ROWS, where="1")


def test_sharding_within_a_tolerance():
    def f(x):
        return np.float32(x.sum()) + np.float32(1e-3 * len(x.sharding.device_set))

    check_sharding(f, ROWS, atol=0.1)
    with pytest.raises(LawError, match="check_sharding"):
        check_sharding(f, ROWS)


def test_sharding_needs_devices_and_something_to_spread():
    with pytest.raises(ValueError, match=r"`devices` .* must be at least two"):
        check_sharding(lambda x: x, ROWS, devices=jax.devices()[:1])
    for x in (ROWS[:3], ROWS[:0], ROWS.reshape(8, 1)[:, :0], "none"):
        with pytest.raises(TreeError, match=r"`args` has no array whose leading axis .* 4 devices"):
            check_sharding(lambda x: x, x)


def step(state, batch):
    """In NumPy, so that nothing is compiled."""
    total = state["total"] * np.float32(0.5) + batch.sum()
    new = {"total": np.float32(total), "n": np.int32(state["n"] + 1)}
    return new, {"loss": np.float32(total * new["n"])}


START = {"total": np.float32(1), "n": np.int32(0)}
FEED = [np.full(2, value, np.float32) for value in (1, 2, 3, 4)]


def test_resume():
    check_resume(step, START, FEED)
    check_resume(step, START, FEED, at=2, save=save, load=load)
    weak = jax.tree.map(pool.weak, START)
    donating = jax.jit(lambda s, b: (s + b, s * 2), donate_argnums=0)
    check_resume(donating, weak["total"], [np.float32(1), np.float32(2)])
    assert not weak["total"].is_deleted()


def alternating():
    """An even number of batches brings it back to where it began."""
    calls = itertools.count()
    return lambda s, b: step(s, b * np.float32(next(calls) % 2))


def averaging():
    seen = []

    def averaged(state, batch):
        state, metrics = step(state, batch)
        seen.append(metrics["loss"])
        return state, {"loss": np.mean(seen[-2:])}

    return averaged


def test_resume_finds_what_is_kept_outside_of_the_state():
    with pytest.raises(LawError, match=r"(?s)a, metrics .*, is not b, those straight through"):
        check_resume(alternating(), START, FEED)
    with pytest.raises(LawError, match="a, metrics a second time from the same state, is not b"):
        check_resume(averaging(), START, FEED)


@pytest.mark.parametrize("at", [None, 3])
def test_resume_finds_what_the_file_lacks(at):
    def forgetful(path, like):
        return {**load(path, like), "n": like["n"]}

    told = f"a, metrics interrupted before step {at or 1}, is not b, those straight through"
    with pytest.raises(LawError, match=told):
        check_resume(step, START, FEED, at=at, save=save, load=forgetful)

    def rounding(path, like):
        return {**load(path, like), "n": np.int32(0)}

    # What no metric shows is in the last state.
    with pytest.raises(LawError, match=r"(?s)a, the end of the run interrupted .*n +value"):
        check_resume(
            lambda s, b: (step(s, b)[0], None), START, FEED, at=at, save=save, load=rounding
        )


class Source:
    """Batches, and where one is among them."""

    def __init__(self, told=lambda at: at):
        self.at, self.told = 0, told

    def __iter__(self):
        return self

    def __next__(self):
        if self.at == len(FEED):
            raise StopIteration
        self.at += 1
        return FEED[self.at - 1]

    def get_state(self):
        return {"at": self.told(self.at)}

    def set_state(self, state):
        self.at = state["at"]


class Alias(Source):
    def get_state(self):
        return self

    def set_state(self, state):
        self.at = state.at


def test_resume_with_a_source():
    check_resume(step, START, Source)
    arrays = functools.partial(treadle.data.arrays, (ROWS,), batch_size=4, epochs=2)
    check_resume(lambda s, b: step(s, b[0]), START, lambda: arrays(key=jax.random.key(0)))
    with pytest.raises(
        LawError, match="put back behind batch 1, gives 4 more, and gave 3 straight"
    ):
        check_resume(step, START, lambda: Source(lambda at: at - 1))
    with pytest.raises(LawError, match="gives 0 more, and gave 3 straight through"):
        check_resume(step, START, Alias)
    orders = itertools.count()

    def other_order():
        source = Source()
        source.__class__ = type("Other", (Source,), {"__next__": turned(next(orders))})
        return source

    with pytest.raises(LawError, match="a, metrics interrupted before step 1"):
        check_resume(step, START, other_order)


def turned(order):
    return lambda self: Source.__next__(self) * np.float32(1 + order)


def test_resume_at_the_door():
    with pytest.raises(
        ValueError,
        match=exactly("`batches` has 1 batches: a run that can be interrupted has two at least."),
    ):
        check_resume(step, START, FEED[:1])
    for at in (0, 4):
        with pytest.raises(ValueError, match=rf"`at` \(={at}\) must be from 1 to 3"):
            check_resume(step, START, FEED, at=at)
    with pytest.raises(TypeError, match=r"`at` \(='1'\) must be a whole number, or None"):
        check_resume(step, START, FEED, at="1")
    with pytest.raises(TypeError, match=r"`step` returned \[\{.*: it must return a pair"):
        check_resume(lambda state, batch: [state], START, FEED)
    with pytest.raises(TypeError, match="`batches` makes a list_iterator, without `get_state`"):
        check_resume(step, START, lambda: FEED)
