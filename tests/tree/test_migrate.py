"""Optimizer states across changes of a model, each leaf against an expectation by hand."""

import collections
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import optax.contrib
import pytest
from tests.helpers import assert_same

from treadle import ArgumentTypeError, ConsumedStateError, TreeError
from treadle.tree import migrate, paths, select
from treadle.tree._owners import _by_marks, _by_structure, _kinds_if_grown, kind_of
from treadle.tree._paths import NamedLeaves
from treadle.tree._unchanged import Trained, unchanged


def array(*shape, start=0.0, dtype=np.float32):
    """Distinct values, on the device without a program of its own."""
    return jnp.asarray((np.arange(np.prod(shape, dtype=int)) + start).reshape(shape).astype(dtype))


def filled(tree):
    """The same tree, with a value in each array that stands nowhere else."""
    leaves, treedef = jax.tree.flatten(tree)
    rows = []
    for index, leaf in enumerate(leaves):
        if not eqx.is_array(leaf):
            rows.append(leaf)
        elif jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            rows.append(jax.random.key(100 + index))
        else:
            rows.append(array(*leaf.shape, start=10 * index + 1, dtype=leaf.dtype))
    return jax.tree.unflatten(treedef, rows)


def by_path(tree):
    return dict(zip(paths(tree), jax.tree.leaves(tree), strict=True))


def begun(optimizer, model, trainable=eqx.is_inexact_array):
    """A state in the middle of a training, and the one at its start."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        fresh = optimizer.init(eqx.filter(model, trainable))
    return filled(fresh), fresh


def assert_migrated(optimizer, old, new, homes, *, begins=(), **options):
    """Every leaf of the migrated state is the one of the old state, or as it begins.

    Args:
        homes: For the path of each new parameter the path of the old one that it was, or `None`.
        begins: Parts of paths where everything begins anew.
    """
    before, _ = begun(options.pop("old_optimizer", optimizer), old)
    _, fresh = begun(optimizer, new)
    after = migrate(before, old, new, optimizer, **options)
    assert jax.tree.structure(after) == jax.tree.structure(fresh)
    known, start, result = by_path(before), by_path(fresh), by_path(after)
    for path, leaf in result.items():
        source = path
        for parameter, home in homes.items():
            if f"/{parameter}/" in f"/{path}/":
                source = home and f"/{path}/".replace(f"/{parameter}/", f"/{home}/").strip("/")
        if source is None or any(part in path for part in begins):
            assert_same(leaf, start[path])
        else:
            assert leaf is known[source], (path, source)
    return before


# -- a matrix of optimizers ------------------------------------------------------------------------


class Layer(eqx.Module):
    weight: Any
    bias: Any
    act: Any = eqx.field(static=True, default="relu")


class Net(eqx.Module):
    """Layers in a list, a head, and what is no parameter."""

    layers: list[Layer]
    head: Layer
    scale: Any
    steps: Any
    rate: float
    nothing: None = None


def layer(start, rows=2, columns=3):
    return Layer(array(rows, columns, start=start), array(rows, start=start + 100))


OLD = Net([layer(1), layer(2), layer(3)], layer(4), array(start=5), array(3, dtype=np.int32), 0.5)
HEAD = Layer(array(4, 3, start=6), array(2, start=7))
# One layer is put between, the last is gone, the head grows (its bias is another of the same
# shape), and the scale is a copy.
NEW = Net([OLD.layers[0], layer(8), OLD.layers[1]], HEAD, array(start=5), OLD.steps, 0.5)
HOMES = {
    "layers/0/weight": "layers/0/weight",
    "layers/0/bias": "layers/0/bias",
    "layers/1/weight": None,
    "layers/1/bias": None,
    "layers/2/weight": "layers/1/weight",
    "layers/2/bias": "layers/1/bias",
    "head/weight": None,
    "head/bias": None,
    "scale": "scale",
}


def by_keystr(path, _):
    return "bias" if jax.tree_util.keystr(path).endswith(".bias") else "rest"


def by_name(path, _):
    """As the keys of parameters are mostly looked at."""
    return "bias" if path[-1].name == "bias" and path[0].name != "head" else "rest"


def by_length(path, _):
    return "bias" if len(path) == 3 and path[2].name == "bias" else "rest"


def by_rank(model):
    return jax.tree.map(lambda leaf: "bias" if leaf.ndim == 1 else "rest", model)


def by_looking(model):
    """Without `jax.tree.map` over leaves; a prefix of the parameters."""
    rest = jax.tree.map(lambda _: "rest", model)
    kind = "bias" if model.head.bias.shape == model.head.bias.shape[:1] else "rest"
    return eqx.tree_at(lambda m: (m.head.bias, m.scale), rest, (kind, "bias"))


def by_path_and_name(labels):
    return lambda model: jax.tree_util.tree_map_with_path(labels, model)


def grouped(labels):
    return optax.partition({"bias": optax.sgd(0.1, 0.9), "rest": optax.adam(0.1)}, labels)


def counting_and_string():
    """State that begins with Python's numbers, what is no array, and a node for each parameter."""

    def init(params):
        pairs = jax.tree.map(lambda leaf: {"m": jnp.zeros_like(leaf), "n": 0}, params)
        return {"name": "mine", "count": 3, "rate": 0.5, "flag": True, "pairs": pairs}

    return optax.GradientTransformation(init, lambda *args: args)


OPTIMIZERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": optax.adam(0.1),
    "lamb": optax.lamb(0.1),
    "adafactor": optax.adafactor(0.1, min_dim_size_to_factor=2, momentum=0.9),
    "adafactor placeholders": optax.adafactor(0.1),
    "noisy": optax.noisy_sgd(0.1, key=7),
    "schedule": optax.adamw(optax.cosine_decay_schedule(0.1, 10)),
    "multi steps": optax.MultiSteps(optax.adam(0.1), 2),
    "injected": optax.inject_hyperparams(optax.adamw)(learning_rate=optax.constant_schedule(0.1)),
    "injected array": optax.inject_hyperparams(lambda r: optax.scale(r[0]))(r=np.ones(3)),
    "chain": optax.chain(optax.clip(1.0), optax.ema(0.9), optax.scale_by_adam(), optax.trace(0.9)),
    "named chain": optax.named_chain(("weight", optax.adam(0.1)), ("head", optax.trace(0.9))),
    "apply if finite": optax.apply_if_finite(optax.adam(0.1), 3),
    "masked": optax.masked(optax.adam(0.1), select("**/weight")),
    "masked by function": optax.masked(optax.adam(0.1), lambda m: jax.tree.map(jnp.ndim, m)),
    "masked twice": optax.masked(optax.masked(optax.adam(0.1), select("**")), ~select("head/**")),
    "partition by rank": grouped(by_rank),
    "partition by text": grouped(by_path_and_name(by_keystr)),
    "partition by name": grouped(by_path_and_name(by_name)),
    "partition by length of path": grouped(by_path_and_name(by_length)),
    "partition by looking": grouped(by_looking),
    "schedule free": optax.contrib.schedule_free_adamw(0.1),
    "prodigy": optax.contrib.prodigy(0.1),
    "plateau": optax.chain(optax.adam(0.1), optax.contrib.reduce_on_plateau()),
    "sam": optax.contrib.sam(optax.adam(0.1), optax.sgd(0.1, momentum=0.9)),
    "mechanize": optax.contrib.mechanize(optax.adam(0.1)),
    "muon": optax.contrib.muon(0.1),
    "ademamix": optax.contrib.ademamix(0.1),
    "own": counting_and_string(),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_belongs_to_unchanged_leaves_is_kept_and_the_rest_begins_anew(name):
    optimizer = OPTIMIZERS[name]
    before = assert_migrated(optimizer, OLD, NEW, HOMES)
    # Where nothing changed, all is kept.
    after = migrate(before, OLD, jax.tree.map(lambda leaf: leaf, OLD), optimizer)
    assert jax.tree.structure(after) == jax.tree.structure(before)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert new is old


# -- what belongs to all parameters together ------------------------------------------------------


LBFGS = optax.chain(optax.trace(0.9), optax.lbfgs())
BACKTRACKING = optax.chain(optax.trace(0.9), optax.scale_by_backtracking_linesearch(3))


def test_what_remembers_all_together_begins_anew_where_one_changed():
    assert_migrated(LBFGS, OLD, NEW, HOMES, begins=["1/0/", "1/2/"])
    assert_migrated(BACKTRACKING, OLD, NEW, HOMES, begins=["1/"])


@pytest.mark.parametrize("optimizer", [LBFGS, optax.flatten(optax.adam(0.1))])
def test_what_remembers_all_together_is_kept_where_all_are_unchanged_and_in_order(optimizer):
    moved = {"first": OLD.head, "other": OLD.layers}
    old = {"a": OLD.head, "layers": OLD.layers}
    homes = {f"first/{name}": f"a/{name}" for name in ("weight", "bias")}
    homes |= {f"other/{name}": f"layers/{name}" for name in ("0", "1", "2")}
    assert_migrated(optimizer, old, moved, homes)
    # The same parameters in another order, and fewer of them.
    turned = {"b": OLD.layers, "c": OLD.head}
    begins = ["0/mu", "0/nu"] if optimizer is not LBFGS else ["1/0/", "1/2/"]
    homes = {f"c/{name}": f"a/{name}" for name in ("weight", "bias")}
    homes |= {f"b/{name}": f"layers/{name}" for name in ("0", "1", "2")}
    assert_migrated(optimizer, old, turned, homes, begins=begins)
    fewer = {"layers": OLD.layers[:2]}
    old = {"layers": OLD.layers[:2], "z": layer(40)}
    assert_migrated(optimizer, old, fewer, {}, begins=begins)


def test_what_is_flattened_is_not_kept_because_its_size_is():
    old = {"a": array(3, start=1), "b": array(3, start=5)}
    new = {"a": old["a"], "b": array(3, start=9)}
    for inner in (optax.adam(0.1), optax.masked(optax.adam(0.1), True)):
        assert_migrated(optax.flatten(inner), old, new, {}, begins=["mu", "nu"])
    # Where nothing has an axis that could grow, nor a shape that may: what has floats is all's.
    old = {"a": array(start=1), "b": array(start=5)}
    new = {"a": old["a"], "b": array(start=9)}
    words = optax.GradientTransformation(lambda _: jnp.zeros(2, jnp.uint32), lambda *args: args)
    both = optax.chain(words, optax.flatten(optax.adam(0.1)))
    assert_migrated(both, old, new, {}, begins=["mu", "nu"])
    old = {"a": array(1, start=1), "b": array(1, start=5)}
    new = {"a": old["a"], "b": array(1, start=9)}

    def sizes(model):
        return jax.tree.map(lambda leaf: ("no", "yes")[leaf.size == 1], model)

    groups = {"yes": optax.flatten(optax.adam(0.1)), "no": optax.sgd(0.1)}
    assert_migrated(optax.partition(groups, sizes), old, new, {}, begins=["mu", "nu"])


# -- models of other kinds ------------------------------------------------------------------------


def test_a_model_that_is_one_array():
    old, new = array(2, 3, start=1), array(2, 3, start=2)
    injected = optax.inject_hyperparams(optax.adam)(learning_rate=0.1)
    before, fresh = begun(injected, old)
    kept = by_path(migrate(before, old, old, injected))
    anew = by_path(migrate(before, old, new, injected))
    grown = by_path(migrate(before, old, array(3, 3), injected))
    assert kept == by_path(before)
    assert list(anew) == list(by_path(before))
    for path, leaf in by_path(before).items():
        if path.endswith(("mu", "nu")):
            assert_same(anew[path], by_path(fresh)[path])
            assert_same(grown[path], jnp.zeros((3, 3)))
        else:
            assert anew[path] is grown[path] is leaf
    # A copy is known by its bits.
    assert by_path(migrate(before, old, array(2, 3, start=1), injected)) == by_path(before)


def test_a_model_that_is_one_number():
    old, new = array(start=1), array(start=2)
    optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=0.1)
    before, fresh = begun(optimizer, old)
    after, begins = by_path(migrate(before, old, new, optimizer)), by_path(fresh)
    for path, leaf in by_path(before).items():
        assert_same(after[path], begins[path] if path.endswith(("mu", "nu")) else leaf)


def test_names_that_an_optimizer_has_too():
    names = ["learning_rate", "b1", "b2", "eps", "eps_root", "mu", "nu", "count", "a/b", "~", ""]
    old = {name: array(2, start=7 * index) for index, name in enumerate(names)}
    new = {name: leaf if name < "e" else leaf + 1 for name, leaf in old.items()}
    homes = {
        path: path if new[name] is old[name] else None
        for path, name in zip(paths(old), sorted(names), strict=True)
    }
    changed = {f"mu/{path}" for path, home in homes.items() if home is None}
    changed |= {f"nu/{path}" for path, home in homes.items() if home is None}
    changed |= {f"inner_state/0/{path}" for path in changed}
    for optimizer in (
        optax.scale_by_adam(),
        optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
        optax.partition({n: optax.scale_by_adam() for n in names}, {n: n for n in names}),
    ):
        before, fresh = begun(optimizer, old)
        after = migrate(before, old, new, optimizer)
        start = by_path(fresh)
        for path, leaf in by_path(after).items():
            is_new = any(path.endswith(f"{end}") for end in changed)
            assert_same(leaf, start[path] if is_new else by_path(before)[path])
        assert any(any(path.endswith(end) for end in changed) for path in start)


def test_parameters_that_have_several_arrays_and_parts_that_have_states_of_their_own():
    """The state is not of the structure of the parameters anywhere."""

    def init(params):
        return {name: optax.adam(0.1).init(part) for name, part in params.items()}

    optimizer = optax.GradientTransformation(init, lambda *args: args)
    old = {"gen": {"a": array(2), "b": array(2, start=1)}, "dis": {"a": array(2, start=3)}}
    new = {
        "gen": {"b": old["gen"]["b"], "c": {"a": old["gen"]["a"]}},
        # What moves from one part to the other has another optimizer there.
        "dis": {"a": old["dis"]["a"], "b": old["gen"]["b"]},
    }
    before, fresh = begun(optimizer, old)
    after = by_path(migrate(before, old, new, optimizer))
    known = by_path(before)
    for moment in ("mu", "nu"):
        assert after[f"gen/0/{moment}/b"] is known[f"gen/0/{moment}/b"]
        assert after[f"gen/0/{moment}/c/a"] is known[f"gen/0/{moment}/a"]
        assert after[f"dis/0/{moment}/a"] is known[f"dis/0/{moment}/a"]
        assert_same(after[f"dis/0/{moment}/b"], jnp.zeros(2))
    assert after["gen/0/count"] is known["gen/0/count"]


class Pair(NamedTuple):
    one: Any
    two: Any


def test_containers_of_all_kinds():
    ordered = collections.OrderedDict(z=array(2, start=1), a=(array(2, start=2),))
    old = {"list": [None, array(2, start=3)], "pair": Pair(array(2, start=4), ordered)}
    new = {"list": [None, old["list"][1], array(2)], "pair": Pair(ordered, array(2, start=4))}
    homes = {
        "list/1": "list/1",
        "list/2": None,
        "pair/one/z": "pair/two/z",
        "pair/one/a/0": "pair/two/a/0",
        "pair/two": None,
    }
    assert_migrated(optax.adam(0.1), old, new, homes)
    # At the same path, its copy would be known.
    new["pair"] = Pair(array(2, start=4), ordered)
    homes = {"list/1": "list/1", "list/2": None}
    assert_migrated(optax.adam(0.1), old, new, homes)


class Packed(NamedLeaves):
    """Names its leaves itself, one of which is not trained."""

    def __init__(self, names, leaves):
        self.names = names
        self.leaves = leaves

    def leaf_paths(self):
        return self.names

    def way_out(self):
        raise AssertionError


jax.tree_util.register_pytree_node(
    Packed, lambda node: (node.leaves, node.names), lambda names, leaves: Packed(names, leaves)
)


def test_nodes_that_name_their_leaves():
    old = {"x": Packed(("a", "n", "b"), (array(2), array(2, dtype=np.int32), array(2, start=1)))}
    new = {"x": Packed(("b", "c", "n"), (array(2, start=1), array(2, start=2), array(2)))}
    before, _ = begun(optax.trace(0.9), old)
    after = migrate(before, old, new, optax.trace(0.9)).trace["x"].leaves
    # The copy of the third is the first now, under its name.
    assert after[0] is before.trace["x"].leaves[2]
    assert_same(after[1:], (jnp.zeros(2), jnp.zeros(2)))
    with pytest.raises(TreeError, match=r"lacks 'trace/x/1' of shape \[2\]"):
        migrate(before, new, new, optax.trace(0.9))


# -- what is unchanged ----------------------------------------------------------------------------


def found(old, new, *, old_mask=None, new_mask=None):
    """For each trained leaf of the new model, the path of the old leaf that it is."""
    trees = ((old, old_mask), (new, new_mask))
    before, after = (
        Trained(tree, [True] * len(jax.tree.leaves(tree)) if mask is None else mask)
        for tree, mask in trees
    )
    names = [path for path, _ in before.leaves()]
    places = [path for path, _ in after.leaves()]
    indices = unchanged(before, after)
    return {
        path: None if index is None else names[index]
        for path, index in zip(places, indices, strict=True)
    }


A, B, C, D = (array(2, start=start) for start in range(4))


def test_the_same_array_is_found_wherever_it_is():
    old = {"a": A, "b": B, "c": C}
    assert found(old, {"a": B, "b": A, "d": C}) == {"a": "b", "b": "a", "d": "c"}
    assert found(old, {"a": A, "b": D, "c": D}) == {"a": "a", "b": None, "c": None}


def test_shared_arrays_are_leaves_of_their_own():
    # At its own path first, then where no other is, then the first.
    assert found({"a": A, "b": A}, {"a": A, "b": A}) == {"a": "a", "b": "b"}
    assert found({"a": A, "b": A}, {"b": A, "c": A}) == {"b": "b", "c": "a"}
    assert found({"a": A, "b": A}, {"0": A, "b": A}) == {"0": "a", "b": "b"}
    assert found({"a": A, "b": A}, {"0": A, "1": A}) == {"0": "a", "1": "b"}
    assert found({"a": A, "b": A}, {"0": A, "1": A, "2": A}) == {"0": "a", "1": "b", "2": "a"}
    assert found({"a": A}, {"0": A, "1": A, "a": A}) == {"0": "a", "1": "a", "a": "a"}
    assert found({"a": A, "b": B}, {"0": B, "1": B}) == {"0": "b", "1": "b"}
    # Tied before, of the same values still, and no longer the same array.
    assert found({"a": A, "b": A}, {"a": A, "b": array(2)}) == {"a": "a", "b": "b"}


def test_the_same_bits_are_the_same_leaf_only_where_they_were():
    copy = array(2)
    assert found({"a": A, "b": B}, {"a": copy, "b": B}) == {"a": "a", "b": "b"}
    assert found({"a": A, "b": B}, {"c": copy, "b": B}) == {"c": None, "b": "b"}
    # What is the same array needs no looking at bits.
    assert found({"a": A, "b": copy}, {"b": A}) == {"b": "a"}
    # A layer that was put before it has the same zeros for a bias, and is another.
    zeros = {"layers": [jnp.zeros(2), B]}
    moved = {"layers": [jnp.zeros(2), zeros["layers"][0], B]}
    expected = {"layers/0": None, "layers/1": "layers/0", "layers/2": "layers/1"}
    assert found(zeros, moved) == expected
    # Even where what was moved is not trained any more.
    assert found(zeros, moved, new_mask=[True, False, True]) == {
        "layers/0": None,
        "layers/2": "layers/1",
    }


def test_what_is_trained_before_and_after_counts():
    tree = {"a": A, "b": B, "c": array(2, start=9)}
    for old_mask, new_mask, expected in (
        ([True, True, False], [True, True, True], {"a": "a", "b": "b", "c": None}),
        ([True, True, True], [False, True, True], {"b": "b", "c": "c"}),
        ([False, True, True], [True, False, True], {"a": None, "c": "c"}),
    ):
        copied = {**tree, "c": array(2, start=9)}
        assert found(tree, copied, old_mask=old_mask, new_mask=new_mask) == expected


BITS = {
    "float32": (np.float32([1.5, np.nan]), np.float32([1.5, 2.0])),
    "nan": (
        np.uint32([0x7FC00000]).view(np.float32),
        np.uint32([0x7FC00001]).view(np.float32),
    ),
    "minus zero": (np.float32([0.0]), np.float32([-0.0])),
    "bfloat16": (np.ones(3, ml_dtypes.bfloat16), np.full(3, 1.0078125, ml_dtypes.bfloat16)),
    "float8": (np.ones(3, ml_dtypes.float8_e4m3fn), np.zeros(3, ml_dtypes.float8_e4m3fn)),
    "complex": (np.complex64([1 + 2j]), np.complex64([1 - 2j])),
    "scalar": (np.float32(0.5), np.float32(0.25)),
    "shape": (np.ones((2, 3), np.float32), np.ones((3, 2), np.float32)),
    "rank": (np.ones((2, 3), np.float32), np.ones(6, np.float32)),
    "dtype": (np.zeros(2, np.float16), np.zeros(2, ml_dtypes.bfloat16)),
    "empty": (np.zeros((0, 2), np.float32), np.zeros((0, 3), np.float32)),
}


@pytest.mark.parametrize("name", BITS)
def test_bits_are_compared(name):
    one, other = (jnp.asarray(value) for value in BITS[name])
    again = jnp.array(one, copy=True)
    assert found({"a": one}, {"a": again}) == {"a": "a"}
    assert found({"a": one}, {"a": other}) == {"a": None} == found({"a": other}, {"a": one})
    assert found({"a": np.asarray(one)}, {"a": again}) == {"a": "a"}


def test_arrays_that_lie_elsewhere_are_compared_too():
    here, there = jax.devices()[:2]
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), "x")
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    leaf = array(4, start=1)
    for place in (here, there, split):
        old, new = {"a": jax.device_put(leaf, place)}, {"a": jax.device_put(leaf, there)}
        before, _ = begun(optax.trace(0.9), old)
        assert found(old, new) == {"a": "a"}
        assert migrate(before, old, new, optax.trace(0.9)).trace["a"] is before.trace["a"]


# -- what is trained, and by which optimizer -------------------------------------------------------


def test_frozen_leaves_have_no_state_and_thawed_ones_a_fresh_one():
    old = {"a": A, "b": B, "c": C}
    optimizer = optax.adam(0.1)
    before, _ = begun(optimizer, old, {"a": True, "b": True, "c": False})
    after = migrate(
        before, old, old, optimizer, trainable=("b", "c"), old_trainable=select("a", "b")
    )
    _, fresh = begun(optimizer, old, {"a": False, "b": True, "c": True})
    assert jax.tree.structure(after) == jax.tree.structure(fresh)
    known = by_path(before)
    for path, leaf in by_path(after).items():
        assert_same(leaf, jnp.zeros(2)) if path.endswith("c") else None
        assert path.endswith("c") or leaf is known[path]
    # One choice for both.
    before, _ = begun(optimizer, old, {"a": True, "b": False, "c": False})
    after = migrate(before, old, {"a": A, "b": D, "c": C}, optimizer, trainable="a")
    assert by_path(after) == by_path(before)


def test_only_arrays_of_floats_are_trained():
    model = {"a": A, "key": jax.random.key(0), "n": array(2, dtype=np.int32), "f": jax.nn.relu}
    model |= {"rate": 0.5, "host": np.ones(2, np.float32), "none": None}
    trained = {name: leaf if name in ("a", "host") else None for name, leaf in model.items()}
    optimizer = optax.trace(0.9)
    before, _ = begun(optimizer, trained, eqx.is_array_like)
    after = migrate(before, model, dict(model), optimizer, trainable=lambda leaf: True)
    assert jax.tree.structure(after) == jax.tree.structure(before)
    assert by_path(after) == by_path(before)


def test_labels_for_one_model_come_with_an_optimizer_of_their_own():
    old, new = {"a": A, "b": B}, {"b": B, "a": A, "c": C}
    groups = {"x": optax.adam(0.1), "y": optax.trace(0.9)}
    before, _ = begun(optax.partition(groups, {"a": "x", "b": "y"}), old)
    optimizer = optax.partition(groups, {"a": "x", "b": "x", "c": "y"})
    after = migrate(
        before,
        old,
        new,
        optimizer,
        old_optimizer=optax.partition(groups, {"a": "x", "b": "y"}),
    )
    _, fresh = begun(optimizer, new)
    known, start = by_path(before), by_path(fresh)
    for path, leaf in by_path(after).items():
        # What is in another group now has nothing to take along.
        assert_same(leaf, start[path] if path.endswith(("/b", "/c")) else known[path])
    assert jax.tree.structure(after) == jax.tree.structure(fresh)


def test_what_got_wider_in_use_is_kept_as_it_is():
    old = {"a": array(2, dtype=ml_dtypes.bfloat16), "b": B}
    new = {"a": old["a"], "b": D}
    before = {"a": array(2, start=3), "b": array(2, start=5)}
    after = migrate(optax.TraceState(before), old, new, optax.trace(0.9)).trace
    assert after["a"] is before["a"]
    assert_same(after["b"], jnp.zeros(2))


def test_what_begins_with_another_dtype_begins_anew():
    before = optax.TraceState({"a": array(2, start=3)})
    after = migrate(
        before,
        {"a": A},
        {"a": A},
        optax.trace(0.9, accumulator_dtype=jnp.bfloat16),
        old_optimizer=optax.trace(0.9),
    )
    assert_same(after.trace["a"], jnp.zeros(2, jnp.bfloat16))


# -- one step further ------------------------------------------------------------------------------


def adam_by_hand(gradients, params, begin, rate=0.1):
    """Adam for one parameter whose moments begin at a step, in float64."""
    mu = nu = np.zeros_like(params, dtype=np.float64)
    for step, gradient in enumerate(gradients, start=1):
        if step > begin:
            mu, nu = 0.9 * mu + 0.1 * gradient, 0.999 * nu + 0.001 * gradient**2
            corrected = mu / (1 - 0.9**step), nu / (1 - 0.999**step)
            params = params - rate * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
    return params


def test_a_step_after_it_is_that_of_each_parameter_by_itself():
    rng = np.random.default_rng(0)
    optimizer = optax.adam(0.1)
    names = ["a", "b", "new"]
    gradients = {name: rng.normal(size=(3, 2)).astype(np.float32) for name in names}
    model, start = {"a": A, "b": B}, {"a": A, "b": B, "new": C}

    def step(model, opt_state, at):
        rows = {name: jnp.asarray(gradients[name][at]) for name in model}
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(rows, opt_state, model)
        return optax.apply_updates(model, updates), opt_state

    opt_state = optimizer.init(model)
    for at in range(2):
        model, opt_state = step(model, opt_state, at)
    # The first goes on under another name, beside one that is new; the count is for all.
    moved = {"c": model["a"], "b": model["b"], "new": C}
    gradients["c"] = gradients["a"]
    opt_state = migrate(opt_state, model, moved, optimizer)
    moved, opt_state = step(moved, opt_state, 2)
    for name, begin in (("a", 0), ("b", 0), ("new", 2)):
        expected = adam_by_hand(gradients[name], start[name], begin)
        result = moved["c" if name == "a" else name]
        np.testing.assert_allclose(result, expected, rtol=1e-4)


# -- under transformations, and errors -------------------------------------------------------------


def test_while_tracing_leaves_are_known_by_identity():
    optimizer = optax.adam(0.1)
    old = {"a": A, "b": B}
    before, _ = begun(optimizer, old)

    @jax.jit
    def grown(opt_state, old):
        return migrate(opt_state, old, {"c": old["a"], "b": jnp.ones(3)}, optimizer)

    after, known = by_path(grown(before, old)), by_path(before)
    assert_same(after["0/mu/c"], known["0/mu/a"])
    assert_same(after["0/mu/b"], jnp.zeros(3))
    assert_same(after["0/count"], known["0/count"])
    new = {"a": A, "b": D}
    for trees in ((old, new), (new, old)):
        for traced in (0, 1):

            def compared(tree, trees=trees, traced=traced):
                models = list(trees)
                models[traced] = tree
                return migrate(before, *models, optimizer)

            with pytest.raises(TreeError, match=r"While tracing .* values of 'a' are not known"):
                jax.eval_shape(compared, trees[traced])


def test_the_state_of_another_optimizer_or_model_is_refused():
    old = dict.fromkeys("abcdef", A)
    adam, trace = optax.adam(0.1), optax.chain(optax.trace(0.9), optax.identity())
    of_trace, _ = begun(trace, old)
    with pytest.raises(
        TreeError,
        match=r"another optimizer or of another model: it has '0/trace/a' of shape \[2\], "
        r"'0/trace/b' of shape \[2\], '0/trace/c' of shape \[2\] and 3 more that .* and lacks "
        r"'0/count' of shape \[\], '0/mu/a' of shape \[2\], '0/mu/b' of shape \[2\] and 10 more\. "
        r"Give what it was made with: `old_model`, and `old_optimizer` and `old_trainable` where "
        r"those of the new model are others\.$",
    ):
        migrate(of_trace, old, old, adam)
    with pytest.raises(
        TreeError, match=r"it has nothing that .* lacks '0/trace/g' of shape \[2\]\."
    ):
        migrate(of_trace, {**old, "g": A}, old, trace)
    # The first three, and how many more.
    one, of_nothing = {"a": A}, ()
    message = (
        r"lacks '0/count' of shape \[\], '0/mu/a' of shape \[2\], '0/nu/a' of shape \[2\]\. Give"
    )
    with pytest.raises(TreeError, match=message):
        migrate(of_nothing, one, one, adam)
    with pytest.raises(TreeError, match=r"'0/nu/a' of shape \[2\] and 1 more\. Give"):
        migrate(of_nothing, one, one, optax.chain(optax.scale_by_adam(), optax.trace(0.9)))
    wider = {**old, "c": array(3)}
    message = r"has '0/trace/c' of shape \[2\] that .* lacks '0/trace/c' of shape \[3\]\."
    with pytest.raises(TreeError, match=message):
        migrate(of_trace, wider, old, trace)


def test_a_state_with_other_containers_is_taken():
    """As one that was read from a file."""
    old, optimizer = {"a": A}, optax.adam(0.1)
    before, fresh = begun(optimizer, old)
    plain = [before[0]._asdict(), None]
    after = migrate(plain, old, {"b": A}, optimizer)
    _, expected = begun(optimizer, {"b": A})
    assert jax.tree.structure(after) == jax.tree.structure(expected)
    assert after[0].mu["b"] is before[0].mu["a"]


def test_nothing_to_train_is_refused():
    optimizer = optax.adam(0.1)
    before, _ = begun(optimizer, {"a": A})
    ints = {"a": array(2, dtype=np.int32), "b": 0.5}
    with pytest.raises(TreeError, match=r"`new_model` \(a dict\) has nothing .* of its 0 arrays"):
        migrate(before, {"a": A}, ints, optimizer)
    with pytest.raises(TreeError, match=r"`old_model` \(a dict\) has nothing .* of its 1 arrays"):
        migrate(before, {"a": A}, {"a": A}, optimizer, old_trainable=False)
    with pytest.raises(TreeError, match=r"`trainable` \(=<function .*\) chooses none"):
        migrate(before, {"a": A}, {"a": A}, optimizer, trainable=lambda leaf: False)
    with pytest.raises(ArgumentTypeError, match=r"`trainable` holds 3"):
        migrate(before, {"a": A}, {"a": A}, optimizer, trainable={"a": 3})


def test_what_is_no_optimizer_is_refused():
    optimizer = optax.adam(0.1)
    before, _ = begun(optimizer, {"a": A})
    with pytest.raises(ArgumentTypeError, match=r"`optimizer` \(='adam'\) is a str, not an optax"):
        migrate(before, {"a": A}, {"a": A}, "adam")
    with pytest.raises(ArgumentTypeError, match=r"`old_optimizer` \(=3\) is a int, not an optax"):
        migrate(before, {"a": A}, {"a": A}, optimizer, old_optimizer=3)


@pytest.mark.parametrize("which", ["opt_state", "old_model", "new_model"])
def test_what_was_donated_is_refused(which):
    optimizer = optax.trace(0.9)
    trees = {
        "opt_state": begun(optimizer, {"a": A})[0],
        "old_model": {"a": A},
        "new_model": {"a": A},
    }
    trees[which] = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), trees[which])
    path = "trace/a" if which == "opt_state" else "a"
    jax.tree.leaves(trees[which])[0].delete()
    with pytest.raises(ConsumedStateError, match=rf"array at '{path}' of `{which}` is gone"):
        migrate(*trees.values(), optimizer)


# -- which parameter a leaf belongs to -------------------------------------------------------------


def routes(optimizer, params):
    """The places of a state, found by marks and by structure."""
    state = eqx.filter_eval_shape(optimizer.init, params)
    treedef = jax.tree.structure(params)
    indices = jax.tree.unflatten(treedef, list(range(treedef.num_leaves)))
    return _by_marks(optimizer.init, params, state), _by_structure(state, indices)


def test_both_ways_to_find_owners_agree():
    params = eqx.filter(OLD, eqx.is_inexact_array)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for name, optimizer in OPTIMIZERS.items():
            by_marks, by_structure = routes(optimizer, params)
            if name == "partition by length of path":
                assert by_marks is None
            else:
                assert by_marks == by_structure, name
            owners = {place.owner for place in by_structure if place.owner is not None}
            assert owners == set() or name == "masked twice" or len(owners) >= 4


def test_by_structure_the_innermost_that_fits_is_of_the_parameters():
    params = {"a": A, "b": {"c": B}}
    groups = {"a": optax.scale_by_adam(), "b": optax.partition({"c": optax.trace(0.9)}, "c")}
    optimizer = optax.partition(groups, {"a": "a", "b": "b"})
    by_marks, by_structure = routes(optimizer, params)
    assert by_marks == by_structure
    assert [place.owner for place in by_marks] == [None, 0, 0, 1]


def test_kinds():
    assert kind_of(np.ones((2, 3), np.int8)) == ((2, 3), np.int8)
    assert kind_of(jax.ShapeDtypeStruct((2,), np.float16)) == ((2,), np.float16)
    assert kind_of(jax.random.key(0)) == ((), jax.random.key(0).dtype)
    assert kind_of(np.float32(1)) == ((), np.float32)
    assert [kind_of(x) for x in (True, 1, 0.5)] == [((), bool), ((), np.int32), ((), np.float32)]
    assert kind_of(1j) == ((), np.complex64)
    assert kind_of("adam") is kind_of(None) is kind_of(jax.nn.relu) is None


def test_every_axis_grows_by_one_and_a_state_of_other_leaves_tells_nothing():
    params = {"w": np.zeros((2, 3), np.float32), "b": np.zeros(1, np.float16), "s": np.zeros(())}
    kinds = _kinds_if_grown(lambda grown: grown, params, 3)
    assert [(kind.shape, str(kind.dtype)) for kind in kinds] == [
        ((2,), "float16"),
        ((), "float32"),
        ((3, 4), "float32"),
    ]

    def small_ones(grown):
        return [leaf for leaf in jax.tree.leaves(grown) if leaf.size < 12]

    assert _kinds_if_grown(small_ones, params, 3) is None
    assert len(_kinds_if_grown(small_ones, params, 2)) == 2
    assert _kinds_if_grown(small_ones, {"s": np.zeros(())}, 1) is None
