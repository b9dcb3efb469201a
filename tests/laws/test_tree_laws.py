"""Every function of `treadle.tree` under laws, on all kinds of trees that the strategies make."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.helpers import assert_same

import treadle
from treadle import tree as trees
from treadle.testing import (
    check_commutes,
    check_idempotent,
    check_jit,
    check_lens,
    check_linear,
    check_partition,
    check_roundtrip,
    check_structure,
    check_vmap,
    modules,
    pytrees,
    same_structure,
    train_states,
)

everything = st.one_of(modules(special=True), pytrees(special=True), train_states())


def to_bfloat16(tree):
    return trees.cast(tree, jnp.bfloat16)


@given(everything)
def test_every_leaf_has_a_path_of_its_own(tree):
    names = trees.paths(tree)
    assert len(set(names)) == len(names) == len(jax.tree.leaves(tree))
    # They follow from the structure: other leaves, the same names.
    assert trees.paths(jax.tree.map(lambda _: 0, tree)) == names


@given(everything, st.data())
def test_a_path_without_wildcards_selects_its_leaf(tree, data):
    names = [name for name in trees.paths(tree) if not set("*?") & set(name)]
    assume(names)
    name = data.draw(st.sampled_from(names))
    chosen = trees.to_dict(trees.select(name)(tree))
    assert [path for path, yes in chosen.items() if yes] == [name]


@given(everything, st.data())
def test_selectors_are_sets(tree, data):
    names = trees.paths(tree)
    assume(names and not any(set("*?") & set(name) for name in names))
    some = st.lists(st.sampled_from(names), min_size=1, unique=True)
    one, two = data.draw(some), data.draw(some)
    a, b = trees.select(*one), trees.select(*two)

    def chosen(selector):
        return {path for path, yes in trees.to_dict(selector(tree)).items() if yes}

    assert chosen(a & b) == set(one) & set(two)
    assert chosen(a | b) == set(one) | set(two)
    assert chosen(~a) == set(names) - set(one)
    check_partition(lambda tree: eqx.partition(tree, a(tree)), tree)


@given(everything)
def test_a_dictionary_of_the_leaves_gives_the_tree_back(tree):
    check_roundtrip(trees.to_dict, lambda flat: trees.from_dict(flat, tree), tree)
    check_roundtrip(
        trees.to_dict, lambda flat: trees.from_dict(flat, jax.tree.map(lambda _: 0, tree)), tree
    )


@given(everything, st.data())
def test_replacing_and_reading_a_leaf_is_a_lens(tree, data):
    names = trees.paths(tree)
    assume(names)
    path = data.draw(st.sampled_from(names))
    # Of what a leaf may be replaced by: anything that is a leaf.
    values = st.one_of(st.integers(), st.floats(), st.just(np.ones((2, 3))), st.just(jax.nn.relu))

    def put(tree, value):
        return trees.replace(tree, {path: value})

    check_lens(
        lambda tree: trees.to_dict(tree)[path], put, tree, *data.draw(st.tuples(values, values))
    )
    # Nothing else is touched.
    rest = {p: leaf for p, leaf in trees.to_dict(put(tree, 1)).items() if p != path}
    assert all(rest[p] is leaf for p, leaf in trees.to_dict(tree).items() if p != path)


@given(everything, everything)
def test_a_part_is_replaced_as_a_whole(tree, other):
    box = {"left": tree, "right": [None]}
    check_lens(
        lambda box: box["left"],
        lambda box, part: trees.replace(box, {"left": part}),
        box,
        other,
        None,
    )
    assert_same(trees.replace(box, {"right/0": other})["right"][0], other)
    assert trees.replace(box, {"": 3}) == 3


@given(everything)
def test_a_cast_is_idempotent_and_touches_floats_alone(tree):
    check_idempotent(to_bfloat16, tree)
    for old, new in zip(jax.tree.leaves(tree), jax.tree.leaves(to_bfloat16(tree)), strict=True):
        if eqx.is_array(old) and jnp.issubdtype(old.dtype, jnp.floating):
            assert new.dtype == jnp.bfloat16
            assert isinstance(new, np.ndarray) == isinstance(old, np.ndarray)
        else:
            assert new is old
    check_structure(lambda tree: trees.shapes(to_bfloat16(tree)), trees.shapes(to_bfloat16(tree)))


@given(everything)
def test_what_is_shared_stays_shared(tree):
    size, both = trees.count(tree), [tree, {"again": tree}]
    assert trees.count(both) == size
    assert trees.count(to_bfloat16(both)) == size
    assert trees.count(trees.ema(both, both, 0.5)) == size
    stacked = trees.stack([both, both])
    assert trees.count(stacked) == 2 * size
    if any(map(eqx.is_array, jax.tree.leaves(stacked))):
        assert [trees.count(part) for part in trees.unstack(stacked)] == [size, size]


@given(modules(special=True), st.data())
def test_a_cast_of_some_leaves_leaves_the_others(tree, data):
    mask = trees.from_dict(
        {path: data.draw(st.booleans()) for path in trees.paths(tree)},
        jax.tree.map(lambda _: 0, tree),
    )
    cast = trees.cast(tree, "float16", where=mask)
    for old, new, whole, yes in zip(
        *map(jax.tree.leaves, (tree, cast, trees.cast(tree, "float16"), mask)), strict=True
    ):
        if yes:
            assert_same(new, whole)
        else:
            assert new is old


@given(modules(floats_only=True, special=True), st.floats(0, 1))
def test_the_average_of_a_tree_with_itself_is_the_tree(model, decay):
    check_idempotent(lambda tree: trees.ema(tree, tree, decay), model)
    check_structure(lambda tree: trees.ema(tree, tree, decay), trees.cast(model, "float32"))


@given(st.data(), st.floats(0, 1))
def test_the_average_is_that_of_numpy_in_float64(data, decay):
    old = data.draw(modules(dtype="float32", floats_only=True))
    new = data.draw(same_structure(old))
    mean = trees.ema(old, new, decay)
    for a, b, c in zip(*map(jax.tree.leaves, (old, new, mean)), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        expected = decay * a + (1 - decay) * b
        scale = np.maximum(np.abs(a), np.abs(b)).max(initial=1e-30)
        np.testing.assert_allclose(c, expected, rtol=1e-6, atol=1e-6 * scale)
    assert not treadle.tree.diff(trees.ema(old, new, 0.0), new)
    assert not treadle.tree.diff(trees.ema(old, new, 1.0), old)


@given(st.data())
def test_shapes_tell_all_but_the_numbers(data):
    tree = data.draw(modules(special=True))
    other = data.draw(same_structure(tree))
    check_idempotent(trees.shapes, tree)
    assert not trees.diff(trees.shapes(tree), trees.shapes(other))
    check_commutes(trees.shapes, to_bfloat16, tree)
    assert trees.count(trees.shapes(tree)) == sum(
        leaf.size for leaf in jax.tree.leaves(tree) if eqx.is_array(leaf)
    )


@given(everything, st.data())
def test_sizes_of_parts_add_up(tree, data):
    flat = trees.to_dict(tree)
    left = {path: leaf for path, leaf in flat.items() if data.draw(st.booleans())}
    right = {path: leaf for path, leaf in flat.items() if path not in left}
    shared = {id(leaf): leaf for leaf in left.values() if eqx.is_array(leaf)}
    both = [leaf for key, leaf in shared.items() if key in {id(other) for other in right.values()}]
    for size in (trees.count, trees.nbytes):
        assert size(left) + size(right) - size(both) == size(tree)


@given(st.data(), st.integers(1, 3))
def test_what_is_stacked_comes_apart_again(data, size):
    first = data.draw(modules(special=True))
    assume(any(map(eqx.is_array, jax.tree.leaves(first))))
    elements = [first, *(data.draw(same_structure(first)) for _ in range(size - 1))]
    check_roundtrip(trees.stack, trees.unstack, elements)
    stacked = trees.stack(elements)
    check_roundtrip(trees.unstack, trees.stack, stacked)
    for leaf, whole in zip(jax.tree.leaves(first), jax.tree.leaves(stacked), strict=True):
        if eqx.is_array(leaf):
            assert whole.shape == (size, *leaf.shape)


@given(st.data())
def test_what_differs_is_found_where_it_differs(data):
    tree = data.draw(everything)
    assert not trees.diff(tree, tree)
    assert not trees.diff(tree, jax.tree.unflatten(jax.tree.structure(tree), jax.tree.leaves(tree)))
    names = trees.paths(tree)
    assume(names)
    path = data.draw(st.sampled_from(names))
    strange = trees.replace(tree, {path: "strange"})
    assert trees.diff(tree, strange).paths == (path,)
    # Both ways alike.
    (there,), (back,) = trees.diff(tree, strange), trees.diff(strange, tree)
    assert (there.a, there.b) == (back.b, back.a)


@given(st.data())
def test_differences_are_those_of_the_bits(data):
    tree = data.draw(modules(special=True))
    other = data.draw(same_structure(tree))
    differing = [
        path
        for path, a, b in zip(
            trees.paths(tree), jax.tree.leaves(tree), jax.tree.leaves(other), strict=True
        )
        if eqx.is_array(a) and _bytes(a) != _bytes(b)
    ]
    found = trees.diff(tree, other)
    assert list(found.paths) == differing
    assert {difference.kind for difference in found} <= {"value"}


def _bytes(array):
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    return np.asarray(array).tobytes()


@given(modules(floats_only=True, dtype="float32"), st.data())
def test_what_moves_no_number_is_linear(x, data):
    y = data.draw(same_structure(x))
    check_linear(lambda tree: trees.from_dict(trees.to_dict(tree), tree), x, y)
    check_linear(lambda tree: trees.stack([tree, tree]), x, y)


@pytest.fixture(scope="module")
def model():
    return treadle.nn.MLP(3, 2, width=4, depth=1, key=jax.random.key(0))


def test_the_functions_go_through_jit_and_vmap(model):
    path = "layers/0/bias"
    for function in (
        lambda tree: trees.from_dict(trees.to_dict(tree), tree),
        lambda tree: trees.replace(tree, {path: trees.to_dict(tree)[path]}),
        lambda tree: trees.stack([tree, tree]),
        to_bfloat16,
    ):
        check_jit(function, model)
        check_vmap(function, trees.stack([model, model]))
    check_jit(lambda tree: trees.unstack(tree)[1], trees.stack([model, model]))
    check_jit(lambda tree, decay: trees.ema(tree, to_bfloat16(tree), decay), model, 0.5, rtol=1e-6)
    check_jit(lambda decay: trees.ema(model, model, decay), jnp.float32(0.5))
    sizes = jax.jit(lambda tree: (trees.count(tree), trees.nbytes(tree)))(
        eqx.filter(model, eqx.is_array)
    )
    assert sizes == (trees.count(model), trees.nbytes(model))


def test_a_summary_adds_up_to_the_sizes_of_the_tree():
    @given(modules(special=True))
    def check(tree):
        told = trees.summary(tree)
        assert (told.count, told.nbytes) == (trees.count(tree), trees.nbytes(tree))

    check()
