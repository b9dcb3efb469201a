"""Drawn trees print as code that can be pasted: the very same tree, bit for bit."""

import enum
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import strategies as st
from tests.testing.drawing import Uncompiled, assert_identical, drawn, paste, shrunk

import treadle
from treadle import ArgumentValueError
from treadle._compat import enable_x64
from treadle.testing import (
    arrays,
    batches_like,
    code,
    keys,
    modules,
    optimizers,
    pool,
    pytrees,
    same_structure,
    train_states,
)

few_shapes = st.sampled_from([(), (3,), (2, 2)])

ARRAYS = {
    "arrays": arrays(shape=few_shapes, special=True, allow_weak=True),
    "keys": keys(shape=st.sampled_from([(), (0,), (2,)])),
}
TREES = {
    "NumPy arrays": (arrays(special=True, allow_weak=True, kind="any"), 80),
    "modules": (modules(special=True), 120),
    "stateful": (modules(stateful=True), 20),
    "pytrees": (pytrees(special=True), 120),
    "batches": (batches_like({"x": np.zeros((2, 3), np.float32), "y": jnp.arange(2)}), 10),
    "states": (train_states(), 16),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_pasted_arrays_have_every_bit(name):
    for array in drawn(ARRAYS[name], 60):
        assert_identical(paste(code(array)), array)


@pytest.fixture
def layers_of_zeros(monkeypatch):
    """What layers begin with is replaced in pasted code; drawing it would compile a program."""

    def zeros(key, shape=(), dtype=np.float32, **bounds):
        return jax.device_put(np.zeros(shape, dtype))

    monkeypatch.setattr(jax.random, "uniform", zeros)
    monkeypatch.setattr(jax.random, "normal", zeros)


@pytest.mark.usefixtures("layers_of_zeros")
@pytest.mark.parametrize("name", TREES)
def test_pasted_trees_have_every_bit(name):
    for tree in drawn(*TREES[name]):
        assert_identical(paste(code(tree), jnp=Uncompiled()), tree)


@pytest.mark.usefixtures("layers_of_zeros")
def test_pasted_trees_have_64_bits():
    with enable_x64(True):
        for tree in drawn(pytrees(dtype=["float64", "int64", "complex128"], special=True), 25):
            assert_identical(paste(code(tree), jnp=Uncompiled()), tree)


# -- what a failing test prints -------------------------------------------------------------------


def has(kind):
    """Whether a tree holds a node of some class."""

    def check(tree):
        nodes = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, kind))
        return any(isinstance(node, kind) for node in nodes)

    return check


def is_nan(array):
    return bool(np.isnan(np.asarray(array).astype(float)).any())


LINEAR = (
    "treadle.tree.replace(eqx.nn.Linear(2, 3, key=jax.random.key(0)), "
    '{"weight": jnp.zeros((3, 2), "float32"), "bias": jnp.zeros((3,), "float32")})'
)
MEMORY = (
    '(pool.Memory(index=pool.state_index("Memory.index")), '
    'pool.state({"Memory.index": jnp.zeros((), "float32")}))'
)
SHRUNK = {
    "any module": (modules(), lambda m: True, "pool.Empty()"),
    "any tree": (pytrees(), lambda tree: True, "None"),
    "any array": (arrays(), lambda x: True, 'jnp.zeros((), "float32")'),
    "any key": (keys(), lambda key: True, "jax.random.key(0)"),
    "a layer": (
        modules(),
        has(eqx.nn.Linear),
        LINEAR,
    ),
    "not zero": (
        modules(floats_only=True),
        lambda m: any(np.asarray(leaf).astype(float).any() for leaf in jax.tree.leaves(m)),
        'pool.Scale(factor=jnp.array(1.0, "float32"))',
    ),
    "a NaN": (arrays("float", special=True), is_nan, 'jnp.array(jnp.nan, "float32")'),
    "a batch": (
        batches_like({"y": np.arange(3)}, size=st.integers(1, 5)),
        lambda batch: batch["y"].max() > 0,
        '{"y": np.array([1], "int64")}',
    ),
    "a state": (
        modules(stateful=True),
        lambda pair: True,
        MEMORY,
    ),
    "an optimizer": (optimizers(), lambda optimizer: True, "optax.sgd(learning_rate=0.1)"),
}


def on_one_line(code):
    """Without the line breaks, indents and last commas of a long expression."""
    flat = " ".join(line.strip() for line in code.splitlines())
    for bracket in ")]}":
        flat = flat.replace(f", {bracket}", bracket)
    for bracket in "([{":
        flat = flat.replace(f"{bracket} ", bracket)
    return flat


@pytest.mark.parametrize("name", SHRUNK)
def test_what_fails_shrinks_and_prints(name):
    strategy, fails, expected = SHRUNK[name]
    printed, value = shrunk(strategy, fails)
    assert on_one_line(printed) == expected
    if name != "an optimizer":  # Of which one is not like another.
        assert_identical(paste(printed), value)
    assert fails(paste(printed))


def test_an_array_at_two_places_prints_once():
    def fails(module):
        return has(pool.Tied)(module)

    printed, value = shrunk(modules(), fails)
    assert printed.count("jnp.") == 1
    assert "decoder=shared" in printed
    assert_identical(paste(printed), value)


def test_a_state_of_training_prints():
    printed, value = shrunk(train_states(), lambda state: int(state.step) > 5)
    assert "step=6" in printed
    assert printed.startswith("pool.train_state(")
    assert_identical(paste(printed), value)


def test_what_is_drawn_inside_of_others_prints_too():
    both = st.tuples(arrays("int32", shape=()), st.lists(keys(), min_size=1))
    printed, _ = shrunk(both, lambda pair: True)
    assert printed == '(jnp.zeros((), "int32"), [jax.random.key(0)])'


# -- strategies themselves ----------------------------------------------------------------------


WRITTEN = {
    "arrays()": arrays(),
    "arrays(dtype='float64', shape=(2,), special=True)": arrays("float64", (2,), special=True),
    "keys(shape=just(()))": keys(shape=st.just(())),
    "modules(floats_only=True)": modules(floats_only=True),
    "modules(stateful=True)": modules(stateful=True),
    "pytrees(leaves=integers(), max_depth=2)": pytrees(st.integers(), max_depth=2),
    "same_structure(tree=[f32[2]])": same_structure([jnp.zeros(2)]),
    "batches_like(spec=f32[4,2](numpy), size=3)": batches_like(np.zeros((4, 2), "f4"), size=3),
    "optimizers()": optimizers(),
    "train_states(max_step=3)": train_states(max_step=3),
}


@pytest.mark.parametrize("call", WRITTEN)
def test_a_strategy_shows_as_the_call_that_made_it(call):
    assert repr(WRITTEN[call]) == call


def test_what_goes_wrong_while_drawing_names_the_call():
    call = "arrays(dtype='float64', shape=(2,), special=True)"
    with pytest.raises(ArgumentValueError, match="needs 64 bits") as caught:
        drawn(WRITTEN[call], 2)
    assert f"while generating 'value' from {call}" in caught.value.__notes__


# -- `code` itself --------------------------------------------------------------------------------


class Mine(eqx.Module):
    """A module whose `__init__` does not take its fields."""

    weight: jax.Array
    size: int = eqx.field(static=True)

    def __init__(self, key):
        self.weight = jax.random.normal(key, (2,))
        self.size = 2


class Converted(eqx.Module):
    weight: jax.Array = eqx.field(converter=jnp.asarray)


def key():
    return jax.random.key(0)


SINGLE = {
    "a mask of a layer": jax.tree.map(lambda leaf: True, eqx.nn.Linear(2, 1, key=key())),
    "options of a layer": eqx.nn.Conv2d(2, 2, 3, padding=1, groups=2, key=key()),
    "a changed leaf": eqx.tree_at(lambda d: d.p, eqx.nn.Dropout(0.5), 0.25),
    "a missing leaf": eqx.tree_at(lambda m: m.bias, eqx.nn.Linear(2, 1, key=key()), None),
    "a masked layer": optax.masked(
        optax.adam(0.1), lambda m: jax.tree.map(lambda x: x.ndim > 1, m)
    ).init(eqx.filter(eqx.nn.MLP(2, 1, 2, 1, key=key()), eqx.is_array)),
    "numbers": [1, -1.5, 1j, -1j, complex(-0.0, 2.0), float("inf"), -0.0, True, None, "a\"b'c"],
    "scalars of NumPy": [np.float32(0.1), np.int8(3), np.bool_(True), np.float32("nan")],
    "functions": [max, jnp.sum, jax.nn.gelu, functools.partial(jax.nn.gelu, approximate=False)],
    "dtypes": [jnp.float32, np.float16, np.dtype("bfloat16")],
    "keys of dictionaries": {("a", 1): 0, ("b", 2): 1},
    "another prefix": eqx.nn.make_with_state(lambda: [eqx.nn.BatchNorm(2, "b", mode="ema")])(),
    "a big-endian array": np.arange(3, dtype=">i4"),
    "a great integer": np.array([2**63 + 1], np.uint64),
}


@pytest.mark.parametrize("name", SINGLE)
def test_code_of_any_tree(name):
    tree = SINGLE[name]
    assert_identical(paste(code(tree)), tree)


def test_a_class_of_ones_own_goes_by_its_bare_name():
    model = Mine(key())
    text = code([model, Converted(jnp.zeros(2))])
    assert "pool.build(Mine, weight=" in on_one_line(text)
    again = eval(text, {"Mine": Mine, "Converted": Converted, "pool": pool, "jnp": jnp})
    assert_identical(again, [model, Converted(jnp.zeros(2))])


class Mode(enum.Enum):
    FAST = 1


class Parts(enum.Flag):
    LEFT = 1
    RIGHT = 2


class Chosen(eqx.Module):
    mode: Mode = eqx.field(static=True)

    def run(self, x):
        return x


def doubled(x):
    return 2 * x


compiled = jax.jit(doubled)


def test_members_methods_and_structs_are_written_by_name():
    tree = [Mode.FAST, Parts.RIGHT, Parts.LEFT | Parts.RIGHT, {Mode.FAST: Chosen(Mode.FAST)}]
    assert code(tree) == "[Mode.FAST, Parts.RIGHT, Parts(3), {Mode.FAST: Chosen(mode=Mode.FAST)}]"
    assert code(Chosen(Mode.FAST).run) == "Chosen(mode=Mode.FAST).run"
    struct = jax.ShapeDtypeStruct((2, 3), jnp.bfloat16)
    assert code(struct) == 'jax.ShapeDtypeStruct((2, 3), "bfloat16")'
    assert paste(code(struct)) == struct


def test_what_has_no_name_is_written_as_its_repr():
    assert "<function test_what_has_no_name" in code([lambda: 0])
    # It calls itself `doubled`, which is another one.
    assert code([doubled, compiled]) == f"[doubled, {compiled!r}]"
    for leaf in (np.datetime64("2020-01-01"), np.ma.array([1, 2], mask=[0, 1])):
        assert code(leaf) == repr(leaf)


def test_a_layer_is_written_as_its_shortest_call():
    layer = eqx.nn.LayerNorm(3, use_bias=False)
    assert code(layer) == (
        "treadle.tree.replace(\n"
        "    eqx.nn.LayerNorm((3,), use_bias=False),\n"
        '    {"weight": jnp.ones((3,), "float32")},\n'
        ")"
    )


def test_a_layer_that_warns_is_not_called_so():
    # Without `mode` a batch norm of Equinox warns.
    norm, _ = eqx.nn.make_with_state(eqx.nn.BatchNorm)(2, "batch", mode="ema")
    assert 'eqx.nn.BatchNorm(2, "batch", mode="ema")' in code(norm)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (jnp.zeros((2, 3), jnp.bfloat16), 'jnp.zeros((2, 3), "bfloat16")'),
        (jnp.full((2, 2), 0.1, jnp.float16), 'jnp.full((2, 2), 0.1, "float16")'),
        (jnp.array([0.1, jnp.inf, -0.0]), 'jnp.array([0.1, jnp.inf, -0.0], "float32")'),
        (jnp.asarray(1.5), "jnp.asarray(1.5)"),
        (np.ones(2, np.int8), 'np.ones((2,), "int8")'),
        (
            np.array([0x7FC00001], np.uint32).view(np.float32),
            'np.array([0x7fc00001], "uint32").view("float32")',
        ),
        (jax.random.key(3, impl="rbg"), 'jax.random.key(3, impl="rbg")'),
    ],
)
def test_an_array_is_written_short(array, expected):
    assert code(array) == expected


def test_the_state_of_an_ensemble_has_no_code_but_its_repr():
    step = treadle.TrainStep(lambda model, example, key: 0.0, optax.sgd(0.1))
    states = eqx.filter_eval_shape(treadle.ensemble(step, 2).init, lambda: jnp.ones(2), key=key())
    assert code(states).startswith("TrainState(step=")
