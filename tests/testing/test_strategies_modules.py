"""Modules and trees that are drawn: everything that there may be in one, and what is asked for."""

import collections
import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from tests.testing.drawing import aliases, drawn

from treadle import ArgumentTypeError, ArgumentValueError
from treadle._compat import enable_x64
from treadle._diagnose import compilation_counter
from treadle._model_state import require_state_of
from treadle.testing import arrays, keys, modules, pool, pytrees
from treadle.testing._strategies._layers import LAYERS, is_struct, skeleton
from treadle.testing.pool._stateful import is_index


def is_key(leaf):
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def is_static(field):
    return field.metadata.get("static", False)


def children(node):
    """What stands right below a node, and is not static."""
    if isinstance(node, dict):
        return list(node.values())
    if isinstance(node, list | tuple):
        return list(node)
    if isinstance(node, jax.tree_util.Partial):
        return list(node.args)
    if isinstance(node, pool.Record):
        return [node.data]
    if isinstance(node, eqx.Module):
        fields = [f for f in dataclasses.fields(node) if not is_static(f)]
        return [getattr(node, f.name) for f in fields]
    return []


def depth(node):
    """How many levels there are below a node."""
    below = children(node)
    return 1 + max(map(depth, below)) if below else 0


FAMILIES = {
    "float": jnp.floating,
    "int": jnp.signedinteger,
    "uint": jnp.unsignedinteger,
    "bool": jnp.bool_,
    "complex": jnp.complexfloating,
}


def kinds_of_array(array):
    yield "numpy" if isinstance(array, np.ndarray) else "array"
    if is_key(array):
        yield "key"
        return
    for name, family in FAMILIES.items():
        if jnp.issubdtype(array.dtype, family):
            yield name
    if jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize == 1:
        yield "narrow float"
    yield "empty" if array.size == 0 else "0-d" if array.ndim == 0 else "n-d"


def kinds_of_leaf(leaf):
    if eqx.is_array(leaf) or isinstance(leaf, np.ndarray):
        yield from kinds_of_array(leaf)
    elif isinstance(leaf, functools.partial):
        yield "partial"
    elif callable(leaf):
        yield "function"
    elif isinstance(leaf, str):
        yield "word"
    elif isinstance(leaf, int | float | complex):
        yield "number"


def kinds_of_node(node):
    """Everything that there is to count of one node."""
    if node is None:
        yield "None"
    if isinstance(node, dict | list | tuple) and not node:
        yield "empty container"
    if type(node) in (dict, list, tuple, collections.OrderedDict, pool.Point, pool.Record):
        yield type(node).__name__
    if isinstance(node, jax.tree_util.Partial):
        yield "Partial"
    elif isinstance(node, eqx.Module):
        yield from kinds_of_module(node)
    else:
        yield from kinds_of_leaf(node)


def kinds_of_module(node):
    yield "pool" if type(node).__module__.startswith("treadle.testing") else "eqx.nn"
    if is_index(node):
        yield "state"
    if isinstance(node, pool.Frozen):
        yield "frozen"
    if isinstance(node, eqx.nn.Shared):
        yield "eqx.nn.Shared"
    static = [getattr(node, f.name) for f in dataclasses.fields(node) if is_static(f)]
    if static:
        yield "static field"
    if any(map(callable, static)):
        yield "static function"


def kinds_of(tree):
    """Everything that there is to count of a tree."""
    found = set()
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        found.update(kinds_of_node(node))
        waiting += children(node)
    places = aliases(jax.tree.leaves(tree))
    if len(set(places)) < len(places):
        found.add("shared leaf")
    if depth(tree) >= 2:
        found.add("nested")
    if depth(tree) >= 4:
        found.add("deeply nested")
    return found


WANTED = {
    *("dict", "list", "tuple", "OrderedDict", "Point", "Record", "Partial", "empty container"),
    *("pool", "eqx.nn", "static field", "static function", "frozen", "state", "eqx.nn.Shared"),
    *("None", "number", "word", "function", "partial", "numpy", "array", "key", "shared leaf"),
    *("float", "narrow float", "int", "uint", "bool", "complex", "0-d", "empty", "n-d"),
    *("nested", "deeply nested"),
}


@pytest.fixture(scope="module")
def many():
    return [module for start in range(5) for module in drawn(modules(), 100, start)]


def test_500_modules_hold_everything(many):
    counts = collections.Counter(kind for module in many for kind in kinds_of(module))
    assert all(isinstance(module, eqx.Module) for module in many)
    # Not by luck: a hundredth of the modules have each of them.
    rare = {kind: counts[kind] for kind in WANTED if counts[kind] < 5}
    assert not rare


def test_modules_are_plain_numbers_by_default(many):
    for module in many:
        for leaf in jax.tree.leaves(module):
            if eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating):
                values = np.asarray(leaf).astype(np.float64)
                assert np.isfinite(values).all()
                assert not ((values == 0) & np.signbit(values)).any()


def modules_of(tree):
    """Every module in a tree."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        waiting += children(node)
        if isinstance(node, eqx.Module):
            yield node


def test_many_layers_of_equinox_are_drawn(many):
    names = {type(node).__name__ for module in many for node in modules_of(module)}
    assert len([name for name in names if hasattr(eqx.nn, name)]) >= 15


@pytest.mark.parametrize("at", range(len(LAYERS)))
def test_what_is_said_of_a_layer_is_so(at):
    layer = LAYERS[at]
    leaves, treedef = skeleton(layer, wide=False)
    tree = jax.tree.unflatten(treedef, leaves)
    stateful = any(map(is_index, jax.tree.leaves(tree, is_leaf=is_index)))
    floats = [is_struct(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]
    assert (layer.leaves, layer.of_floats, layer.stateful) == (len(leaves), all(floats), stateful)


def test_drawing_modules_compiles_nothing():
    before = compilation_counter().count
    drawn(modules(special=True), 100)
    drawn(modules(stateful=True), 30)
    drawn(pytrees(), 30)
    assert compilation_counter().count == before


def test_special_numbers_on_request():
    found = set()
    for module in drawn(modules(dtype="float32", special=True), 100):
        for leaf in jax.tree.leaves(module):
            if eqx.is_array(leaf) and leaf.dtype == np.float32:
                values = np.asarray(leaf)
                zeros = values == 0
                found |= {"nan"} if np.isnan(values).any() else set()
                found |= {"infinity"} if np.isinf(values).any() else set()
                found |= {"-0.0"} if (zeros & np.signbit(values)).any() else set()
    assert found == {"nan", "infinity", "-0.0"}


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_floats_only(dtype):
    for module in drawn(modules(dtype=dtype, floats_only=True), 60):
        for leaf in jax.tree.leaves(module):
            assert isinstance(leaf, jax.Array)
            assert jnp.issubdtype(leaf.dtype, jnp.floating)
            assert dtype is None or leaf.dtype == dtype


def test_a_dtype_is_that_of_all_arrays_that_may_have_it():
    for module in drawn(modules(dtype="int8"), 60):
        for leaf in jax.tree.leaves(module):
            if isinstance(leaf, jax.Array) and not is_key(leaf):
                assert leaf.dtype == np.int8


def test_64_bits_where_they_are_on():
    with enable_x64(True):
        leaves = [leaf for module in drawn(modules(), 60) for leaf in jax.tree.leaves(module)]
    dtypes = {str(leaf.dtype) for leaf in leaves if eqx.is_array(leaf)}
    assert {"float64", "float32"} <= dtypes


# -- state ----------------------------------------------------------------------------------------


def test_a_module_and_its_state():
    layers = set()
    for module, state in drawn(modules(stateful=True), 40):
        assert isinstance(module, eqx.Module)
        require_state_of(module, state)
        indices = [n for n in jax.tree.leaves(module, is_leaf=is_index) if is_index(n)]
        assert indices
        # Used as Equinox's own layers do.
        for index in indices:
            state = state.set(index, state.get(index))
        layers |= {type(node).__name__ for node in modules_of(module)}
    assert {"Memory", "BatchNorm", "SpectralNorm", "Branches"} <= layers


def test_a_state_is_elsewhere_or_nowhere():
    for module in drawn(modules(stateful=None), 60):
        for node in jax.tree.leaves(module, is_leaf=is_index):
            assert not is_index(node) or not jax.tree.leaves(node)
    for module in drawn(modules(stateful=False), 60):
        assert not any(map(is_index, jax.tree.leaves(module, is_leaf=is_index)))


# -- room -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", [modules, pytrees])
@pytest.mark.parametrize("most", [1, 3, 8])
def test_no_more_leaves_than_asked_for(strategy, most):
    counts = [len(jax.tree.leaves(tree)) for tree in drawn(strategy(max_leaves=most), 60)]
    assert max(counts) <= most
    assert max(counts) > most // 2


@pytest.mark.parametrize("most", [0, 1, 3])
def test_no_more_levels_than_asked_for(most):
    depths = [depth(tree) for tree in drawn(pytrees(modules=False, max_depth=most), 60)]
    assert max(depths) == most


def test_modules_without_levels_have_leaves_alone():
    for module in drawn(modules(max_depth=0), 60):
        inner = [node for node in children(module) if isinstance(node, dict | list)]
        assert not inner


# -- trees ----------------------------------------------------------------------------------------


def test_trees_hold_everything_too():
    counts = collections.Counter(kind for tree in drawn(pytrees(), 200) for kind in kinds_of(tree))
    # Of a rare kind there may be none among so few.
    assert len([kind for kind in WANTED if not counts[kind]]) <= 2


def test_trees_of_ones_own_leaves():
    for tree in drawn(pytrees(arrays("float32", shape=(3,))), 60):
        for leaf in jax.tree.leaves(tree):
            assert (leaf.dtype, leaf.shape) == (np.float32, (3,))
    trees = drawn(pytrees(st.one_of(keys(), st.sampled_from("ab")), modules=False), 100)
    assert all(is_key(leaf) or type(leaf) is str for leaf in jax.tree.leaves(trees))
    assert not any(isinstance(node, eqx.Module) for tree in trees for node in modules_of(tree))
    assert len({type(tree) for tree in trees} & {dict, list, tuple, pool.Point, pool.Record}) >= 3


@pytest.mark.parametrize("options", [{"floats_only": True}, {"max_leaves": 1}])
def test_where_no_layer_of_equinox_fits_the_state_is_of_another(options):
    for module, state in drawn(modules(stateful=True, **options), 20):
        assert any(isinstance(node, pool.Memory) for node in modules_of(module))
        assert jax.tree.leaves(state)
        assert all(eqx.is_inexact_array(leaf) for leaf in jax.tree.leaves(module))


def test_nothing_is_shared_where_that_is_not_wanted():
    for tree in drawn(pytrees(modules=False, shared=False), 40):
        places = aliases(jax.tree.leaves(tree))
        assert len(set(places)) == len(places)
    for module in drawn(modules(shared=False), 40):
        places = aliases(jax.tree.leaves(module))
        tied = any(isinstance(node, pool.Tied) for node in modules_of(module))
        assert tied or len(set(places)) == len(places)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: modules(max_leaves=0), ArgumentValueError, r"`max_leaves` \(=0\) must be"),
        (lambda: modules(max_depth=1.5), ArgumentTypeError, r"`max_depth` \(=1.5\) must be"),
        (lambda: modules(dtype="many"), ArgumentTypeError, r"`dtype` \(='many'\) is no dtype"),
        (
            lambda: modules(dtype=["float32", "integer"], floats_only=True),
            ArgumentValueError,
            r"`dtype` \(=.*'integer'\]\) must be of floats",
        ),
        (
            lambda: pytrees(keys(), special=True),
            ArgumentValueError,
            "`special` is of the leaves .* tell it to that strategy",
        ),
        (lambda: pytrees(keys(), dtype="int32"), ArgumentValueError, "`dtype` is of the leaves"),
        (lambda: pytrees(jnp.ones(2)), ArgumentTypeError, r"`leaves` .* must be a strategy"),
        (lambda: pytrees(max_depth=-1), ArgumentValueError, r"`max_depth` \(=-1\) must be"),
    ],
)
def test_wrong_arguments_are_told_at_once(make, error, message):
    with pytest.raises(error, match=message):
        make()
