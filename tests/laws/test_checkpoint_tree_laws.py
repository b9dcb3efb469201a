"""Laws of checkpoints over the trees of `treadle.testing`: modules, states, all kinds of leaves."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import treadle
from treadle.checkpoint import load, save, storage_like
from treadle.testing import modules, pytrees, train_states

trees = st.one_of(
    modules(special=True),
    modules(stateful=True, max_leaves=8),
    pytrees(special=True),
    train_states(),
)


def is_key(leaf):
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def is_number(leaf):
    return type(leaf) in (bool, int, float, complex)


def blank(leaf):
    """A leaf of the same kind without its value."""
    if isinstance(leaf, jax.Array):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    if isinstance(leaf, np.ndarray):
        return np.zeros_like(leaf)
    if isinstance(leaf, np.generic):
        return np.zeros((), leaf.dtype)[()]
    return type(leaf)(0) if is_number(leaf) else leaf


def differences(a, b):
    """Everything but weak types, which no file knows."""
    return [found for found in treadle.tree.diff(a, b) if found.kind != "weak type"]


def bits(leaf):
    """The bytes of an array, of keys those of their data; of a number its type too."""
    if is_number(leaf):
        return type(leaf), np.asarray(leaf).tobytes() if abs(leaf) < 2**63 else leaf
    return np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf).tobytes()


@given(trees)
def test_what_is_loaded_is_what_was_saved(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp("law") / "tree"
    save(path, tree)
    loaded = load(path, jax.tree.map(blank, tree))
    assert differences(loaded, tree) == []
    assert jax.tree.structure(loaded) == jax.tree.structure(tree)
    save(path.with_name("again"), loaded)
    for file in path.iterdir():
        assert file.read_bytes() == (path.with_name("again") / file.name).read_bytes()


@given(trees)
def test_plain_equinox_reads_the_same_file(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp("law") / "tree"
    save(path, tree)
    like = storage_like(jax.tree.map(blank, tree))
    read = jax.tree.leaves(eqx.tree_deserialise_leaves(path / "leaves-00000.eqx", like))
    saved = jax.tree.leaves(tree)
    assert len(read) == len(saved)
    for raw, leaf in zip(read, saved, strict=True):
        if eqx.is_array(raw) or isinstance(raw, np.generic) or is_number(raw):
            assert bits(raw) == bits(leaf)
        else:  # Not in the file.
            assert not eqx.is_array_like(leaf) or abs(leaf) >= 2**63


@given(trees)
def test_what_is_opened_is_what_was_saved(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp("law") / "tree"
    save(path, tree)
    leaves = dict(zip(treadle.tree.paths(tree), jax.tree.leaves(tree), strict=True))
    kept = {name: leaf for name, leaf in leaves.items() if is_number(leaf) or eqx.is_array(leaf)}
    kept |= {n: leaf for n, leaf in leaves.items() if isinstance(leaf, (np.ndarray, np.generic))}
    with treadle.checkpoint.open(path) as opened:
        assert opened.keys() == kept.keys()
        for name, leaf in kept.items():
            assert opened.specs[name].shape == np.shape(leaf)
            assert bits(opened[name]) == bits(leaf)
        opened.verify()
