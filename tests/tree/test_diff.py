import collections
import dataclasses
import io
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from tests.helpers import exactly
from tests.tree.containers import Flat

from treadle._errors import ArgumentTypeError, ArgumentValueError, ConsumedStateError
from treadle._state import Parts, RawKey, TrainState
from treadle.tree import Diff, Difference, diff, paths
from treadle.tree._diff import _axes
from treadle.tree._values import Deviation

NAN = float("nan")


class Layer(eqx.Module):
    weight: Any
    bias: Any = None
    size: Any = eqx.field(static=True, default=3)
    name: Any = eqx.field(static=True, default="n")


@jtu.register_dataclass
@dataclasses.dataclass
class Point:
    x: Any
    y: Any = 0
    label: Any = dataclasses.field(default="p", metadata={"static": True})
    other: Any = dataclasses.field(default="o", metadata={"static": True})


class Pair(NamedTuple):
    left: Any
    right: Any


class Node:
    """A node with one thing beside its children, and no fields to tell it by."""

    def __init__(self, data, **children):
        self.data, self.children = data, children


jtu.register_pytree_with_keys(
    Node,
    lambda node: (
        [(jtu.DictKey(name), child) for name, child in node.children.items()],
        (node.data, tuple(node.children)),
    ),
    lambda data, children: Node(data[0], **dict(zip(data[1], children, strict=True))),
)


def rows(a, b, **options):
    """The differences as tuples, without their deviations."""
    return [(d.path, d.kind, d.a, d.b) for d in diff(a, b, **options)]


def both_ways(a, b, expected):
    """The same differences whichever tree comes first, with the sides exchanged."""
    assert rows(a, b) == expected
    swapped = {"only in a": "only in b", "only in b": "only in a"}
    turned = [(path, swapped.get(kind, kind), two, one) for path, kind, one, two in expected]
    assert sorted(rows(b, a)) == sorted(turned)


# -- no differences -------------------------------------------------------------------------------


def make_tree():
    return {
        "layers": [Layer(np.arange(6.0).reshape(2, 3), np.array([NAN, -0.0])), Layer(None)],
        "point": Point(Pair(1, "x"), NAN, (NAN, {"k": 0.5})),
        "words": np.array(["a", "b"]),
        "none": None,
        "empty": [(), {}],
        "": collections.OrderedDict([(1, 2), ("1", np.float32(NAN))]),
        "call": max,
    }


def test_the_same_trees_do_not_differ():
    tree = make_tree()
    for other in (tree, make_tree(), jax.tree.map(lambda leaf: leaf, tree)):
        found = diff(tree, other)
        assert not found
        assert len(found) == 0
        assert list(found) == []
        assert found.paths == ()
        assert found == Diff(())
        assert str(found) == repr(found) == "no differences"


def test_equal_leaves_need_not_be_identical():
    one, two = ([float(text), text * 2, (text,)[0], int("9" * 30)] for text in ("1.5", "1.5"))
    assert one[0] is not two[0]
    assert one[3] is not two[3]
    assert not diff(one, two)


def test_what_is_identical_is_not_looked_at():
    class Never:
        def __eq__(self, other):
            raise AssertionError("compared")

        __hash__ = object.__hash__

    never = Never()
    assert not diff({"x": never}, {"x": never})


# -- leaves ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "kind", "texts"),
    [
        (1, 2, "leaf", ("1", "2")),
        (1, True, "leaf", ("1", "True")),
        (1, 1.0, "leaf", ("1", "1.0")),
        (0.0, -0.0, "leaf", ("0.0", "-0.0")),
        (max, min, "leaf", ("<max>", "<min>")),
        (np.ma.zeros(2), np.zeros(2), "type", ("numpy.MaskedArray", "numpy.ndarray")),
        ("x" * 70, "x" * 69 + "y", "leaf", (repr("x" * 70), repr("x" * 69 + "y"))),
        (np.zeros(2), 1, "type", ("float64[2]", "1")),
        (1.0, np.float64(1), "type", ("1.0", "np.float64(1.0)")),
        (np.zeros(2), None, "type", ("float64[2]", "None")),
        (1, [2], "type", ("1", "list")),
        ("x", Layer(1), "type", ("'x'", "Layer")),
        (None, (), "type", ("None", "tuple")),
        (None, 0, "type", ("None", "0")),
        (np.float32(1), np.ones((), np.float32), "type", ("numpy.float32", "numpy.ndarray")),
        (np.float32(1), np.float32(2), "value", ("1.0", "2.0")),
        (np.zeros(2), np.zeros((2, 1)), "shape", ("float64[2]", "float64[2,1]")),
        (np.zeros(2), np.zeros(2, np.float32), "dtype", ("float64", "float32")),
        (np.zeros(2), np.array([0, 1.0]), "value", ("0.0", "1.0")),
        (np.array(["a"]), np.array(["b"]), "value", ("a", "b")),
    ],
)
def test_one_difference(a, b, kind, texts):
    both_ways(a, b, [("", kind, *texts)])
    both_ways({"x": [a]}, {"x": [b]}, [("x/0", kind, *texts)])
    both_ways([a, 1], [b, 1], [("0", kind, *texts)])


def test_arrays_of_several_kinds():
    host, device = np.zeros(2, np.float32), jnp.zeros(2)
    both_ways(device, host, [("", "type", "jax.Array", "numpy.ndarray")])
    struct = jax.ShapeDtypeStruct((2,), "float32")
    both_ways(device, struct, [("", "type", "jax.Array", "jax.ShapeDtypeStruct")])
    both_ways(host, struct, [("", "type", "numpy.ndarray", "jax.ShapeDtypeStruct")])
    wider = jax.ShapeDtypeStruct((3,), "int8")
    assert not diff(struct, jax.ShapeDtypeStruct((2,), "float32"))
    both_ways(
        struct,
        wider,
        [("", "shape", "float32[2]", "int8[3]"), ("", "dtype", "float32", "int8")],
    )


def test_all_that_differs_about_an_array_is_told():
    host = np.ones((2, 3), np.float32)
    device = jnp.zeros((2, 3))
    both_ways(
        {"x": host},
        {"x": device},
        [("x", "type", "numpy.ndarray", "jax.Array"), ("x", "value", "1.0", "0.0")],
    )
    both_ways(
        host,
        np.zeros(2, int),
        [("", "shape", "float32[2,3]", "int64[2]"), ("", "dtype", "float32", "int64")],
    )


def test_weak_types():
    weak, common = jnp.asarray(1.0), jnp.asarray(np.float32(1))
    both_ways(weak, common, [("", "weak type", "weak", "not weak")])
    assert not diff(weak, jnp.asarray(1.0))
    struct = jax.ShapeDtypeStruct((), "float32", weak_type=True)
    both_ways(struct, jax.ShapeDtypeStruct((), "float32"), [("", "weak type", "weak", "not weak")])
    both_ways(
        weak,
        jnp.asarray(np.int32(2)),
        [("", "dtype", "float32", "int32"), ("", "weak type", "weak", "not weak")],
    )


def sharded(array, devices, axes=("x",), spec=("x",), shape=None):
    mesh = jax.sharding.Mesh(np.array(devices).reshape(shape or -1), axes)
    return jax.device_put(
        array, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
    )


def test_shardings():
    devices = jax.devices()
    array = np.arange(4, dtype=np.float32)
    first, second = (jax.device_put(array, device) for device in devices[:2])
    texts = [next(map(str, leaf.sharding.device_set)) for leaf in (first, second)]
    both_ways([first], [second], [("0", "sharding", *texts)])
    assert not diff(first, jnp.asarray(array))
    over = sharded(array, devices)
    split = f"{over.sharding.spec} over x=4"
    both_ways(first, over, [("", "sharding", texts[0], split)])
    assert not diff(over, sharded(array, devices))
    assert not diff(over, sharded(array, devices, axes=("other",), spec=("other",)))
    square = sharded(array.reshape(2, 2), devices, ("x", "y"), ("x", "y"), (2, 2))
    by_rows = sharded(array.reshape(2, 2), devices, ("x", "y"), ("x",), (2, 2))
    specs = [f"{leaf.sharding.spec} over x=2, y=2" for leaf in (square, by_rows)]
    both_ways(square, by_rows, [("", "sharding", *specs)])
    turned = sharded(array, devices[::-1])
    order = ", ".join(map(str, devices))
    back = ", ".join(map(str, devices[::-1]))
    both_ways(
        over,
        turned,
        [("", "sharding", f"{split}, devices {order}", f"{split}, devices {back}")],
    )
    # Whole copies on all devices are not the same as one.
    copies = sharded(array, devices, spec=())
    assert [kind for _, kind, *_ in rows(first, copies)] == ["sharding"]
    # Shapes that differ have no shardings to compare.
    assert [kind for _, kind, *_ in rows(first[:2], second)] == ["shape"]
    changed = sharded(array + 1, devices)
    assert [kind for _, kind, *_ in rows(first, changed)] == ["sharding", "value"]
    struct, placed = (
        jax.ShapeDtypeStruct((4,), "float32", sharding=sharding)
        for sharding in (None, over.sharding)
    )
    both_ways(struct, placed, [("", "sharding", "None", split)])
    both_ways(placed, over, [("", "type", "jax.ShapeDtypeStruct", "jax.Array")])
    assert not diff(placed, jax.ShapeDtypeStruct((4,), "float32", sharding=over.sharding))
    # The oldest version has one kind of memory on the CPU.
    kinds = [memory.kind for memory in devices[0].addressable_memories()]
    one, other = (
        jax.ShapeDtypeStruct((4,), "float32", sharding=over.sharding.with_memory_kind(kind))
        for kind in (kinds[0], kinds[-1])
    )
    expected = [("", "sharding", str(one.sharding), str(other.sharding))]
    both_ways(one, other, expected if len(kinds) > 1 else [])
    # Of what is not known how to tell it briefly all is told.
    assert _axes(1.5) == "1.5"


def test_keys():
    key = jax.random.key(0)
    assert not diff(key, jax.random.key(0))
    both_ways({"k": key}, {"k": jax.random.key(1)}, [("k", "value", "[0 0]", "[0 1]")])
    other = jax.random.key(0, impl="rbg")
    both_ways(key, other, [("", "dtype", str(key.dtype), str(other.dtype))])


def test_how_far_values_are_apart():
    a = {"w": np.zeros((2, 2), np.float32), "n": np.arange(3)}
    b = {"w": np.array([[0, 0.5], [NAN, 0]], np.float32), "n": np.array([0, 1, 7])}
    one, two = diff(a, b)
    assert one.deviation == Deviation(1, 3, (2,), "2", "7", 5.0, 5 / 7)
    assert two.deviation == Deviation(
        2, 4, (0, 1), "0.0", "0.5", 0.5, 1.0, 0x3F000000, ((1, 0),), 1
    )
    assert [(d.path, d.kind, d.a, d.b) for d in (one, two)] == [
        ("n", "value", "2", "7"),
        ("w", "value", "0.0", "0.5"),
    ]
    assert diff(1, 2).differences[0].deviation is None


def test_tolerances():
    a, b = {"x": np.array([1.0, 2.0]), "n": 1}, {"x": np.array([1.01, 2.0]), "n": 1}
    assert diff(a, b)
    assert diff(a, b, rtol=0.001, atol=0.001)
    assert not diff(a, b, rtol=0.02)
    assert not diff(a, b, atol=0.02)
    assert not diff(a, b, rtol=1)
    assert not diff(a, b, atol=np.float32(1))
    assert diff({"n": 1.0}, {"n": 1.01}, rtol=1)
    assert not diff(np.array([0.0, NAN]), np.array([-0.0, -NAN]), atol=1e-9)


# -- structure ------------------------------------------------------------------------------------


def test_what_only_one_has():
    both_ways(
        {"a": 1, "b": [2, max]},
        {"a": 1},
        [("b/0", "only in a", "2", ""), ("b/1", "only in a", "<max>", "")],
    )
    both_ways([1], [1, np.zeros(2)], [("1", "only in b", "", "float64[2]")])
    both_ways({"a": None}, {}, [("a", "only in a", "None", "")])
    both_ways({"a": {}, "b": 1}, {"b": 1}, [("a", "only in a", "dict", "")])
    both_ways({"a": [None, ()]}, {}, [("a", "only in a", "list", "")])
    both_ways({"a": [None, 3]}, {}, [("a/1", "only in a", "3", "")])
    both_ways({"a": 1}, {"b": 1}, [("a", "only in a", "1", ""), ("b", "only in b", "", "1")])
    both_ways({"a": 1, "b": 2}, {"b": 3}, [("a", "only in a", "1", ""), ("b", "leaf", "2", "3")])
    both_ways([{"": 1}], [{}], [("0/", "only in a", "1", "")])
    both_ways([], [{"": 1}], [("0/", "only in b", "", "1")])
    both_ways({}, {"": {"": 1}}, [("/", "only in b", "", "1")])


def test_containers_of_other_kinds():
    both_ways([1, 2], (1, 2), [("", "type", "list", "tuple")])
    both_ways(
        {"x": [1, 2]}, {"x": (1, 3)}, [("x", "type", "list", "tuple"), ("x/1", "leaf", "2", "3")]
    )
    both_ways(
        {"0": 1},
        [1, 2],
        [("", "type", "dict", "list"), ("1", "only in b", "", "2")],
    )
    both_ways(
        Layer(1, 2),
        {"weight": 1, "bias": 3},
        [("", "type", "Layer", "dict"), ("bias", "leaf", "2", "3")],
    )
    both_ways(
        Pair(1, 2),
        (1, 2),
        [
            ("", "type", "Pair", "tuple"),
            ("left", "only in a", "1", ""),
            ("right", "only in a", "2", ""),
            ("0", "only in b", "", "1"),
            ("1", "only in b", "", "2"),
        ],
    )


def make_class(module, qualname="Net"):
    kind = type("Net", (eqx.Module,), {"__annotations__": {"w": Any}, "__module__": module})
    kind.__qualname__ = qualname
    return kind


def test_types_of_one_name_are_told_apart():
    one, two = make_class("here"), make_class("there")
    both_ways(one(1), two(1), [("", "type", "here.Net", "there.Net")])
    again = make_class("here")
    texts = [f"here.Net at {id(kind):#x}" for kind in (one, again)]
    both_ways(one(1), again(1), [("", "type", *texts)])
    inner = make_class("here", "outer.<locals>.Net")
    both_ways(one(1), inner(1), [("", "type", "here.Net", "here.outer.<locals>.Net")])


def test_orders_of_keys():
    one = collections.OrderedDict(a=1, b=2)
    two = collections.OrderedDict(b=2, a=1)
    both_ways({"x": one}, {"x": two}, [("x", "order", "a, b", "b, a")])
    two["b"] = 3
    both_ways(one, two, [("b", "leaf", "2", "3"), ("", "order", "a, b", "b, a")])
    both_ways(one, collections.OrderedDict(b=2), [("a", "only in a", "1", "")])
    assert not diff({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert not diff({1: 1}, {True: 1})


def test_keys_that_are_written_alike():
    x = np.ones(2)
    both_ways({1: x}, {"1": x}, [("1", "key", "1", "'1'")])
    both_ways({"a": {(1, 2): x}}, {"a": {"(1, 2)": x}}, [("a/(1, 2)", "key", "(1, 2)", "'(1, 2)'")])
    one, two = ({"f": collections.defaultdict(list, {key: x, 2: x})} for key in (1, "1"))
    two["f"]["2"] = two["f"].pop(2)
    both_ways(one, two, [("f/1", "key", "1", "'1'"), ("f/2", "key", "2", "'2'")])
    one, two = collections.OrderedDict({1: x, "1": x}), collections.OrderedDict({"1": x, 1: x})
    both_ways(one, two, [("1", "key", "1", "'1'"), ("1~2", "key", "'1'", "1")])
    both_ways({1: x, 2: 0}, {"1": x}, [("2", "only in a", "0", ""), ("1", "key", "1", "'1'")])


def test_odd_keys_have_the_paths_of_leaves():
    for tree, other in (
        ({"": {"x": 1}, "x": 2}, {"": {"x": 3}, "x": 4}),
        ({"a/b": 1, "~": {"": 2}}, {"a/b": 3, "~": {"": 4}}),
        (
            collections.OrderedDict([(1, [1]), ("1", [2])]),
            collections.OrderedDict([(1, [3]), ("1", [4])]),
        ),
        ({(0, "x"): 1, (1, "x"): 2}, {(0, "x"): 3, (1, "x"): 4}),
    ):
        assert diff(tree, other).paths == tuple(paths(tree))


# -- what containers keep beside their children ---------------------------------------------------


@pytest.mark.parametrize(
    ("one", "two", "texts"),
    [
        (3, 4, ("3", "4")),
        (1, True, ("1", "True")),
        (0.0, -0.0, ("0.0", "-0.0")),
        ((1, 2), (1, True), ("(1, 2)", "(1, True)")),
        ([1], [2], ("[1]", "[2]")),
        ({"a": 1}, {"a": 2}, ("{'a': 1}", "{'a': 2}")),
        (max, min, ("<max>", "<min>")),
        (None, 0, ("None", "0")),
    ],
)
def test_static_fields(one, two, texts):
    both_ways(Layer(1, None, one), Layer(1, None, two), [("size", "static", *texts)])
    both_ways([Point(1, 2, one)], [Point(1, 2, two)], [("0/label", "static", *texts)])
    whole = [f"({value!r}, ('x',))" for value in (one, two)]
    both_ways(Node(one, x=1), Node(two, x=1), [("", "static", *whole)])


@pytest.mark.parametrize(
    "make", [lambda: NAN, lambda: -NAN, lambda: (NAN, [NAN]), lambda: np.ones(2)]
)
def test_static_fields_that_are_the_same(make):
    assert not diff(Point(1, 2, make()), Point(1, 2, make()))
    assert not diff(Node(make(), x=1), Node(make(), x=1))


def test_static_fields_that_are_arrays():
    one, two, three = (Point(1, 2, np.array(x)) for x in ([1, 2], [1, 2, 3], [1, 3]))
    both_ways(one, two, [("label", "static", "int64[2]", "int64[3]")])
    both_ways(one, three, [("label", "static", "array([1, 2])", "array([1, 3])")])


def test_static_fields_that_print_the_same_are_told_by_their_address():
    class Same:
        def __repr__(self):
            return "same"

    one, two = Same(), Same()
    texts = [f"same at {id(thing):#x}" for thing in (one, two)]
    both_ways(Layer(1, 2, one), Layer(1, 2, two), [("size", "static", *texts)])


def test_every_static_field_is_told_after_what_is_inside():
    both_ways(
        {"x": Layer(1, 2, 3, "n")},
        {"x": Layer(1, 5, 4, "m")},
        [
            ("x/bias", "leaf", "2", "5"),
            ("x/size", "static", "3", "4"),
            ("x/name", "static", "'n'", "'m'"),
        ],
    )
    both_ways(
        Point(1, 2, "a", "b"),
        Point(1, 2, "c", "d"),
        [("label", "static", "'a'", "'c'"), ("other", "static", "'b'", "'d'")],
    )


@dataclasses.dataclass
class Growing:
    """A node that may lack a field."""

    x: Any
    found: Any = dataclasses.field(init=False)


jtu.register_pytree_node(
    Growing,
    lambda node: ((node.x,), vars(node).get("found")),
    lambda found, children: Growing(*children),
)


def test_static_fields_that_were_never_set():
    one, two = Growing(1), Growing(1)
    one.found = 2
    both_ways(one, two, [("found", "static", "2", "None")])


def test_static_things_of_other_nodes():
    both_ways(
        collections.defaultdict(list, a=1),
        collections.defaultdict(dict, a=1),
        [("", "static", "<list>", "<dict>")],
    )
    assert not diff(collections.defaultdict(list, a=1), collections.defaultdict(list, a=1))
    both_ways(
        collections.defaultdict(list, a=1),
        collections.defaultdict(list, b=1),
        [("a", "only in a", "1", ""), ("b", "only in b", "", "1")],
    )
    both_ways(
        jtu.Partial(max, 1),
        jtu.Partial(min, 2),
        [("0/0", "leaf", "1", "2"), ("", "static", "<max>", "<min>")],
    )
    assert not diff(Node("s", x=1), Node("s", x=1))


def test_a_wrapped_function_of_equinox():
    one, two = (eqx.filter_jit(function) for function in (make_class, test_keys))
    assert diff(one, two)
    assert not diff(one, eqx.filter_jit(make_class))


def test_bound_methods_and_states_of_layers():
    model, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "batch", mode="batch")
    again, other = eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "batch", mode="batch")
    assert not diff((model, state), (again, other))


def test_nodes_that_name_their_own_leaves():
    one, two = Flat(("", "x/y"), (1, 2)), Flat(("", "x/y"), (3, 4))
    both_ways({"f": one}, {"f": two}, [("f", "leaf", "1", "3"), ("f/x/y", "leaf", "2", "4")])
    both_ways(one, two, [("", "leaf", "1", "3"), ("x/y", "leaf", "2", "4")])
    expected = [("f", "only in a", "1", ""), ("f/x/y", "only in a", "2", "")]
    both_ways({"f": one}, {}, expected)
    both_ways({"f": one, "g": 0}, {"g": 0}, expected)
    # Against other containers leaf by leaf.
    named = Flat(("x/y", "z"), (1, 2))
    expected = [("f", "type", "Flat", "dict"), ("f/z", "leaf", "2", "3")]
    both_ways({"f": named}, {"f": {"x": {"y": 1}, "z": 3}}, expected)
    both_ways(
        named,
        Point(1, 2),
        [
            ("", "type", "Flat", "Point"),
            *[
                (path, f"only in {side}", *texts)
                for path, side, texts in (
                    ("x/y", "a", ("1", "")),
                    ("z", "a", ("2", "")),
                    ("x", "b", ("", "1")),
                    ("y", "b", ("", "2")),
                )
            ],
        ],
    )
    ((path, kind, *texts),) = rows(one, Flat(("x/y", ""), (2, 1)))
    assert (path, kind, texts) == ("", "order", [", x/y", "x/y, "])


# -- states of training ---------------------------------------------------------------------------


def make_state(seed=0, size=3, call=max, bias=True):
    numbers = np.full(2, seed, np.float32)
    net = {"layer": Layer(numbers, numbers if bias else None, size), "call": call}
    key = RawKey(np.array([0, seed], np.uint32), "threefry2x32")
    nothing = dict.fromkeys(Parts._fields)
    parts = {"model": net, "opt_state": (numbers, Layer(numbers, None, size)), "key": key}
    return TrainState.from_parts(Parts(**nothing | parts | {"faults": np.zeros(2, np.int32)}))


def test_arrays_of_states():
    assert not diff(make_state(), make_state())
    found = diff({"s": make_state()}, {"s": make_state(seed=1)})
    assert found.paths == (
        *("s/model/layer/weight", "s/model/layer/bias"),
        *("s/opt_state/0", "s/opt_state/1/weight", "s/key"),
    )
    assert {difference.kind for difference in found} == {"value"}


def test_static_fields_of_states():
    both_ways(
        make_state(),
        make_state(size=4),
        [("model/layer/size", "static", "3", "4"), ("opt_state/1/size", "static", "3", "4")],
    )
    both_ways([make_state()], [make_state(call=min)], [("0/model/call", "leaf", "<max>", "<min>")])
    both_ways(
        make_state(),
        make_state(bias=False, call=None),
        [
            ("model/layer/bias", "only in a", "float32[2]", ""),
            ("model/call", "type", "<max>", "None"),
        ],
    )


def test_states_whose_models_have_other_parts():
    one, two = make_state(), make_state()
    model = {
        "layer": [Layer(np.zeros(2, np.float32), np.zeros(2, np.float32))],
        "more": {"f": abs, "w": np.ones(1)},
    }
    two = TrainState.from_parts(two.parts()._replace(model=model))
    both_ways(
        one,
        two,
        [
            ("model/layer/weight", "only in a", "float32[2]", ""),
            ("model/layer/bias", "only in a", "float32[2]", ""),
            ("model/layer/0/weight", "only in b", "", "float32[2]"),
            ("model/layer/0/bias", "only in b", "", "float32[2]"),
            ("model/more/w", "only in b", "", "float64[1]"),
            ("model/call", "only in a", "<max>", ""),
            ("model/layer", "type", "Layer", "list"),
            ("model/more/f", "only in b", "", "<abs>"),
        ],
    )


# -- refusals -------------------------------------------------------------------------------------


def test_numbers_that_are_gone_are_refused():
    array, gone = jnp.ones(2), jnp.ones(2)
    gone.delete()
    message = (
        "The array at 'w' is gone: it was donated, as the state is that a step takes. Keep what is "
        "to be compared: `before = state.copy()`, ahead of the step."
    )
    for one, two in ((array, gone), (gone, array)):
        with pytest.raises(ConsumedStateError, match=exactly(message)):
            diff({"w": one}, {"w": two})
    assert not diff({"w": gone}, {"w": gone})
    # What is known all the same is told.
    both_ways(gone, jnp.ones(3), [("", "shape", "float32[2]", "float32[3]")])


def test_numbers_that_are_being_traced_are_refused():
    message = exactly(
        "'x' is being traced: `diff` compares numbers, and inside of `jax.jit` there are none. "
        "Call it on what comes out."
    )[:-2]
    host = np.zeros(2, np.float32)
    for make in (lambda x: ({"x": x}, {"x": host}), lambda x: ({"x": host}, {"x": x})):
        with pytest.raises(ArgumentTypeError, match=message):
            jax.eval_shape(lambda x, make=make: diff(*make(x)), host)
    with pytest.raises(ArgumentTypeError, match=message):
        jax.eval_shape(lambda x: diff({"x": x}, {"x": x + x}), host)
    found = []
    jax.eval_shape(lambda x: found.append(rows([x, 1, x], [x, 2, x[:1]])), host)
    assert found == [[("1", "leaf", "1", "2"), ("2", "shape", "float32[2]", "float32[1]")]]


@pytest.mark.parametrize("name", ["rtol", "atol"])
def test_what_is_no_tolerance_is_refused(name):
    for value in ("1", None, True, 1j, np.ones(1)):
        message = f"`{name}` (={value!r}) must be a number, such as 1e-6."
        with pytest.raises(ArgumentTypeError, match=exactly(message)):
            diff(1, 2, **{name: value})
    for value in (-1e-9, NAN, float("inf")):
        message = f"`{name}` (={value!r}) must be finite and at least 0."
        with pytest.raises(ArgumentValueError, match=exactly(message)):
            diff(1, 2, **{name: value})


# -- a law ----------------------------------------------------------------------------------------

leaves = st.none() | st.integers(0, 3) | st.builds(np.arange, st.integers(0, 2))
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["", "a", "/"]), inner, max_size=2)
        | st.builds(Pair, inner, inner)
        | st.builds(Layer, inner, inner, st.integers(0, 1))
        | st.builds(Point, inner, inner, st.integers(0, 1))
    ),
    max_leaves=6,
)


@given(trees, trees)
def test_trees_differ_where_something_does(a, b):
    same = jax.tree.structure(a) == jax.tree.structure(b) and all(
        type(x) is type(y) and np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )
    assert bool(diff(a, b)) != same
    assert len(diff(a, b)) == len(diff(b, a)) == len(set(rows(a, b)))


# -- as a table -----------------------------------------------------------------------------------


def lines(*text):
    return "\n".join(text)


def at_width(width, found):
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(found)
    return [line.rstrip() for line in file.getvalue().rstrip().splitlines()]


def test_a_table():
    a = {"layer": Layer(np.zeros((2, 2), np.float32)), "[b]": 1, "n": True}
    b = {"layer": Layer(np.ones((2, 2), np.float32), size=4), "[b]": 2}
    assert repr(diff(a, b)) == str(diff(a, b))
    assert str(diff(a, b)) == lines(
        "path           differs     a      b     by",
        "─" * 90,
        "[b]            leaf        1      2",
        "layer/weight   value       0.0    1.0   4 of 4, first [0,0]; abs 1, rel 1, 1.07e+09 ulps",
        "layer/size     static      3      4",
        "n              only in a   True",
    )


def test_a_table_without_values_and_of_the_whole_tree():
    assert str(diff([1], (1,))) == lines(
        "path   differs   a      b",
        "─" * 31,
        ".      type      list   tuple",
    )


def test_many_rows_are_cut_and_counted():
    found = diff(dict.fromkeys(map(str, range(40)), 0), dict.fromkeys(map(str, range(40)), 1))
    assert len(str(found).splitlines()) == 42
    assert "more" not in str(found)
    assert str(diff([0] * 41, [1] * 41)).splitlines()[-1] == "and 1 more"
    many = diff([0] * 1042, ["word" * 10] * 1042)
    assert len(many) == 1042
    text = str(many).splitlines()
    assert len(text) == 43
    assert text[-2].startswith("39 ")
    assert text[-1] == "and 1,002 more"


def test_a_table_has_no_colours_where_these_are_forced(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" not in str(diff(1, 2))


def test_a_path_of_several_differences_is_listed_once():
    found = diff({"x": np.zeros(2), "y": 1}, {"x": np.zeros(3, int), "y": 2})
    assert found.paths == ("x", "y")
    assert len(found) == 3
    assert isinstance(next(iter(found)), Difference)
    assert list(found) == list(found.differences)


def test_in_a_narrow_terminal_paths_stay_whole():
    a = {"encoder": {"layers": [{"attention": np.zeros(3)}]}, "w": 1}
    b = {"encoder": {"layers": [{"attention": np.array([1, NAN, 0])}]}, "w": 2}
    assert at_width(80, diff(a, b)) == [
        "path                         differs   a     b     by",
        "─" * 80,
        "encoder/layers/0/attention   value     0.0   1.0   2 of 3, first [0]; abs 1,",
        "                                                   rel 1, 4.61e+18 ulps; NaN",
        "                                                   at [1]",
        "w                            leaf      1     2",
    ]
    assert at_width(110, diff(a, b))[2].endswith("abs 1, rel 1, 4.61e+18 ulps; NaN at")
    assert at_width(80, diff(1, 1)) == ["no differences"]


def test_long_paths_and_values_are_folded_not_cut():
    path, value = "p" * 60, "v" * 100
    table = at_width(80, diff({path: f"{value}1"}, {path: f"{value}2"}))
    assert all(len(line) <= 80 for line in table)
    assert "".join(table).count("p") == 60 + 1
    assert "".join(table).count("v") == 200


def test_what_is_short_is_not_broken():
    path, value = "p" * 40, "v" * 12
    a = {path: np.zeros(300), "q": value, "r": 1, "only": 0}
    b = {path: np.full(300, NAN), "q": "", "r": 2}
    table = at_width(86, diff(a, b))
    assert table[0].split() == ["path", "differs", "a", "b", "by"]
    assert any(line.startswith(f"{path}   value ") for line in table)
    assert any(line.startswith("only ") and "   only in a   0" in line for line in table)
    assert any(f"   {value!r}   ''" in line for line in table)
    longer = at_width(86, diff({f"{path}p": a[path], "q": value}, {f"{path}p": b[path], "q": ""}))
    assert not any(f"{path}p" in line for line in longer)
    much = at_width(86, diff({path: a[path], "q": f"{value}vvv"}, {path: b[path], "q": ""}))
    assert not any(f"{value}vvv" in line for line in much)
