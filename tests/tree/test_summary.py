import io
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from treadle._errors import ArgumentTypeError, ArgumentValueError, TreeError
from treadle._flops import count_flops
from treadle.nn import MLP, ResNet
from treadle.tree._size import count, nbytes
from treadle.tree._summary import summary

KEY = jax.random.key(0)


def make_mlp():
    return MLP(6, 3, 8, 2, dropout=0.1, key=KEY)


def shape_of(make, *args, **options):
    """What `make` returns, in shape: no arrays are made, so nothing is compiled."""
    return eqx.filter_eval_shape(lambda: make(*args, **options))


ABSTRACT_MLP = shape_of(make_mlp)


def rows_of(told):
    return {row.path: row for row in told.rows}


def lines_of(text):
    """The lines of a table, without the spaces that align it."""
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def test_each_module_has_its_arrays_outputs_and_sizes():
    rows = rows_of(summary(ABSTRACT_MLP, jnp.zeros(6)))
    assert list(rows) == ["", "layers/0", "layers/1", "layers/2", "dropout"]
    first = rows["layers/0"]
    assert (first.type, first.arrays) == ("Linear", ("weight f32[8,6]", "bias f32[8]"))
    assert first.output == ("f32[8]",)
    assert (first.count, first.nbytes, first.trainable) == (56, 224, "yes")
    # Called after each of the two hidden layers; no arrays, so nothing that could be trained.
    assert rows["dropout"].output == ("f32[8]", "f32[8]")
    assert (rows["dropout"].arrays, rows["dropout"].trainable) == ((), "")


def test_totals_are_those_of_count_and_nbytes():
    model = ABSTRACT_MLP
    told = summary(model)
    assert (told.count, told.nbytes) == (count(model), nbytes(model)) == (155, 620)
    assert told.trainable_count == 155


def test_prints_a_table():
    lines = lines_of(str(summary(ABSTRACT_MLP, jnp.zeros(6))))
    assert lines[0] == "path type arrays output params bytes flops trained"
    assert ". MLP f32[3] 5%" in lines
    assert "layers/0 Linear weight f32[8,6] f32[8] 56 224 B 34% yes" in lines
    assert "dropout Dropout f32[8] x2 0%" in lines
    assert lines[-1] == "total f32[3] 155 620 B 307 155"
    assert repr(summary(ABSTRACT_MLP)) == str(summary(ABSTRACT_MLP))


def test_without_an_example_there_are_neither_outputs_nor_flops():
    told = summary(ABSTRACT_MLP)
    assert (told.flops, told.rows[0].flops) == (None, None)
    text = str(told)
    assert "output" not in text
    assert "flops" not in text
    assert lines_of(text)[-1] == "total 155 620 B 155"


@pytest.mark.parametrize(
    ("trainable", "expected"),
    [
        ("layers/2/**", {"layers/0": "no", "layers/1": "no", "layers/2": "yes"}),
        ("**/bias", dict.fromkeys(["layers/0", "layers/1", "layers/2"], "partly")),
        (False, dict.fromkeys(["layers/0", "layers/1", "layers/2"], "no")),
    ],
)
def test_what_is_trained(trainable, expected):
    rows = rows_of(summary(ABSTRACT_MLP, trainable=trainable))
    assert {path: rows[path].trainable for path in expected} == expected


def test_trainable_elements_are_counted():
    told = summary(ABSTRACT_MLP, trainable="**/bias")
    assert (told.trainable_count, told.trainable_nbytes) == (19, 76)


def test_only_floats_are_trained():
    tree = {"float": jnp.zeros(2), "int": jnp.zeros(3, "int32"), "key": KEY}
    told = summary(tree, trainable=True)
    assert told.rows[0].arrays == ("float f32[2]", "int i32[3]", "key key<fry>[]")
    assert (told.trainable_count, told.count) == (2, 6)


def test_a_tied_array_is_counted_where_it_stands_first():
    embedding = eqx.nn.Embedding(7, 4, key=KEY)
    readout = eqx.tree_at(lambda linear: linear.weight, linear(4, 7), embedding.weight)
    rows = rows_of(summary({"embedding": embedding, "readout": readout}))
    assert rows["embedding"].count == 28
    assert rows["readout"].arrays == ("weight = embedding/weight", "bias f32[7]")
    assert rows["readout"].count == 7


def test_abstract_models_and_examples_will_do():
    told = summary(ABSTRACT_MLP, jax.ShapeDtypeStruct((6,), jnp.float32))
    assert str(told) == str(summary(make_mlp(), np.zeros(6, np.float32)))


def test_nothing_is_computed_and_the_model_is_traced_once():
    calls = []

    class Model(eqx.Module):
        weight: jax.Array
        inner: eqx.Module | None = None

        def __call__(self, x):
            calls.append(x)
            assert isinstance(x, jax.core.Tracer)
            return self.weight * (x if self.inner is None else self.inner(x))

    model = None
    for _ in range(4):
        model = Model(jnp.zeros(2), model)
    assert summary(model, jnp.zeros(2)).output == "f32[2]"
    assert len(calls) == 4


class Nested(eqx.Module):
    """Modules under a jit, a vmap and a scan, one returning its state as well."""

    first: eqx.nn.Linear
    second: eqx.nn.Sequential
    unused: eqx.nn.Linear

    def __init__(self):
        self.first = eqx.nn.Linear(4, 4, key=KEY)
        self.second = eqx.nn.Sequential(
            [eqx.nn.Linear(1, 2, key=KEY), eqx.nn.BatchNorm(2, "batch", mode="ema")]
        )
        self.unused = eqx.nn.Linear(4, 4, key=KEY)

    @eqx.filter_jit
    def __call__(self, x, state):
        x, _ = jax.lax.scan(lambda x, _: (self.first(x), None), x, None, length=3)
        return jax.vmap(self.second, in_axes=(0, None))(x[:, None], state)


@pytest.mark.parametrize("repeat", [1, 2])
def test_modules_are_found_inside_transformations(repeat):
    # The second time, JAX has the jitted call's trace in its cache.
    for _ in range(repeat):
        model, state = eqx.nn.make_with_state(Nested)()
        told = summary(model, jnp.zeros(4), state)
    rows = rows_of(told)
    # Neither the containers nor the markers of Equinox's state get a row.
    assert list(rows) == ["first", "second/layers/0", "second/layers/1", "unused"]
    assert rows["first"].flops == 3 * linear_flops(4, 4)
    assert rows["second/layers/0"].flops == 4 * linear_flops(1, 2)
    assert (rows["unused"].flops, str(told).count("%")) == (0, 3)
    assert rows["first"].output == ("f32[4]",)
    assert rows["second/layers/0"].output == ("f32[2]",)
    assert rows["second/layers/1"].output == ("f32[2]",)
    assert rows["unused"].output == ()
    assert told.output == "f32[4,2]"


def test_the_model_is_left_as_it_was():
    model = make_mlp()
    before = jax.tree.structure(model)
    summary(model, jnp.zeros(6))
    assert jax.tree.structure(model) == before
    assert not model.dropout.inference


def test_an_example_that_does_not_fit_is_told_by_the_model():
    with pytest.raises(ArgumentValueError, match=r"`x` has shape \(5,\), but this MLP takes"):
        summary(ABSTRACT_MLP, jnp.zeros(5))


def linear_flops(inputs, outputs, bias=True):
    return 2 * inputs * outputs + bias * outputs


def flops_of(told):
    return {row.path: row.flops for row in told.rows}


def linear(inputs, outputs, **options):
    return shape_of(eqx.nn.Linear, inputs, outputs, key=KEY, **options)


def stacked(inputs, outputs, size):
    make = lambda key: eqx.nn.Linear(inputs, outputs, key=key)
    return shape_of(lambda: eqx.filter_vmap(make)(jax.random.split(KEY, size)))


def test_a_module_has_the_flops_of_its_own_code():
    flops = flops_of(summary(ABSTRACT_MLP, jnp.zeros(6)))
    layers = {"layers/0": (6, 8), "layers/1": (8, 8), "layers/2": (8, 3)}
    expected = {path: linear_flops(*sizes) for path, sizes in layers.items()}
    # Two activations are the model's own; dropout does nothing in inference mode.
    assert flops == {"": 2 * 8, **expected, "dropout": 0}


def test_attention_has_its_own_products():
    tokens, width, heads = 10, 12, 3
    attention = shape_of(eqx.nn.MultiheadAttention, heads, width, key=KEY)
    flops = flops_of(summary(attention, *[jnp.zeros((tokens, width))] * 3))
    projection = tokens * linear_flops(width, width, bias=False)
    assert all(flops[f"{name}_proj"] == projection for name in ("query", "key", "value", "output"))
    scores = heads * tokens * tokens
    products = 2 * 2 * scores * (width // heads)
    # The queries are scaled; the largest, the difference, the exponential, the sum, the quotient.
    expected = products + tokens * width + 5 * scores
    # Some versions of the softmax have one more for each row.
    assert flops[""] - expected in (0, heads * tokens)


class Recurrent(eqx.Module):
    cell: eqx.nn.LSTMCell

    def __call__(self, xs):
        start = jnp.zeros(5), jnp.zeros(5)
        (hidden, _), _ = jax.lax.scan(lambda carry, x: (self.cell(x, carry), None), start, xs)
        return hidden


def test_a_recurrence_costs_each_round():
    flops = flops_of(
        summary(Recurrent(shape_of(eqx.nn.LSTMCell, 3, 5, key=KEY)), jnp.zeros((7, 3)))
    )
    gates = linear_flops(3, 20, bias=False) + linear_flops(5, 20) + 20
    # Three sigmoids, two tangents, three products, one sum.
    assert flops == {"cell": 7 * (gates + 9 * 5)}


class Stacked(eqx.Module):
    """Layers that are scanned over, then an ensemble of readouts."""

    layers: eqx.nn.Linear
    members: eqx.nn.Linear

    def __call__(self, x):
        arrays, rest = eqx.partition(self.layers, eqx.is_array)
        apply = lambda x, layer: (jax.nn.relu(eqx.combine(layer, rest)(x)), None)
        x, _ = jax.lax.scan(apply, x, arrays)
        return eqx.filter_vmap(lambda member, x: member(x), in_axes=(0, None))(self.members, x)


def test_layers_in_a_scan_and_members_of_an_ensemble():
    model = Stacked(stacked(4, 4, size=5), stacked(4, 2, size=3))
    assert flops_of(summary(model, jnp.zeros(4))) == {
        "": 5 * 4,
        "layers": 5 * linear_flops(4, 4),
        "members": 3 * linear_flops(4, 2),
    }


class Through(eqx.Module):
    """A layer under a transformation, and one more operation for each element."""

    layer: eqx.nn.Linear
    transform: Callable = eqx.field(static=True)

    def __call__(self, x):
        return self.transform(self.layer)(x) * 2.0


def custom(layer):
    apply = jax.custom_jvp(lambda x: layer(x))
    apply.defjvp(lambda primals, tangents: (layer(*primals), layer(*tangents)))
    return apply


@pytest.mark.parametrize(
    ("transform", "times"),
    [
        (lambda layer: layer, 1),
        (lambda layer: lambda x: layer(layer(x)), 2),
        (eqx.filter_jit, 1),
        (lambda layer: jax.checkpoint(lambda x: layer(x)), 1),
        (custom, 1),
        (lambda layer: lambda x: jax.lax.cond(x[0] > 0, lambda x: layer(x), lambda x: x, x), 1),
        (lambda layer: lambda x: jax.vmap(eqx.filter_jit(layer))(x[None])[0], 1),
        (lambda layer: lambda x: jax.jvp(layer, (x,), (x,))[1], 1),
        (lambda layer: lambda x: (layer(x), x)[1], 0),
    ],
    ids=["none", "twice", "jit", "checkpoint", "custom", "cond", "vmap", "jvp", "dead"],
)
def test_flops_are_found_through_transformations(transform, times):
    told = summary(Through(linear(3, 3, use_bias=False), transform), jnp.zeros(3))
    assert flops_of(told) == {"": 3, "layer": times * 2 * 9}


def test_a_tied_array_costs_wherever_it_is_used():
    class Model(eqx.Module):
        embedding: eqx.nn.Embedding
        norm: eqx.nn.LayerNorm
        readout: eqx.nn.Linear

        def __call__(self, tokens):
            return jax.vmap(lambda token: self.readout(self.norm(self.embedding(token))))(tokens)

    embedding = eqx.nn.Embedding(7, 4, key=KEY)
    readout = eqx.tree_at(lambda linear: linear.weight, linear(4, 7), embedding.weight)
    model = Model(embedding, eqx.nn.LayerNorm(4), readout)
    told = summary(model, jax.ShapeDtypeStruct((5,), jnp.int32))
    flops = flops_of(told)
    assert (flops["embedding"], flops["readout"]) == (0, 5 * linear_flops(4, 7))
    assert told.count == 28 + 8 + 7
    # A norm has no products, and yet its share.
    assert flops["norm"] == told.flops - flops["readout"] > 0


def test_a_stateful_network_has_all_of_its_flops():
    make = eqx.nn.make_with_state(ResNet)
    model, state = shape_of(make, 18, 3, in_channels=1, width=2, stem="small", key=KEY)
    image = jnp.zeros((1, 6, 6))
    told = summary(model, image, state)
    rows = rows_of(told)
    # Of the places of a 3x3 kernel, those over the border are none.
    assert rows["stem_conv/conv"].flops == 2 * 2 * (3 * 6 - 2) ** 2
    # Its own are two activations, and the sum of two branches.
    assert (rows["stages/0/0"].type, rows["stages/0/0"].flops) == ("Block", 3 * 2 * 36)
    call = lambda model, x, state: eqx.nn.inference_mode(model)(x, state)
    program, _, _ = eqx.filter_make_jaxpr(call)(model, image, state)
    whole = count_flops(program)
    assert told.flops == whole.total + whole.elementwise


def test_layers_without_arrays_have_their_flops():
    layers = [eqx.nn.Lambda(jnp.tanh), eqx.nn.MaxPool1d(2, 2), eqx.nn.Lambda(jnp.ravel)]
    told = summary(eqx.nn.Sequential(layers), jnp.zeros((3, 8)))
    assert flops_of(told) == {"layers/0": 24, "layers/1": 24, "layers/2": 0}
    assert [line.split()[-1] for line in lines_of(str(told))[2:5]] == ["50%", "50%", "0%"]


def test_small_shares_are_neither_nothing_nor_all():
    layers = [linear(100, 100, use_bias=False), eqx.nn.Lambda(lambda x: 2 * x)]
    lines = lines_of(str(summary(eqx.nn.Sequential(layers), jnp.zeros(100))))
    assert ">99%" in lines[2]
    assert lines[3].endswith("<1%")


def test_what_is_not_counted_is_noted():
    layers = [eqx.nn.Lambda(lambda x: jnp.fft.fft(x).real), eqx.nn.Lambda(until_large)]
    told = summary(eqx.nn.Sequential(layers), jnp.zeros(3))
    assert told.notes == (
        "`fft` is not counted",
        "the body of a `while` loop is counted once",
    )
    assert lines_of(str(told))[-2:] == [f"note: {note}" for note in told.notes]


def until_large(x):
    return jax.lax.while_loop(lambda x: jnp.sum(x) < 9, lambda x: x + 1, x)


def printed(told, width):
    file = io.StringIO()
    Console(file=file, width=width, color_system=None).print(told)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_a_narrow_table_leaves_out_arrays_but_not_ties():
    embedding = eqx.nn.Embedding(7, 4, key=KEY)
    readout = eqx.tree_at(lambda linear: linear.weight, linear(4, 7), embedding.weight)
    told = summary({"embedding": embedding, "readout": readout})
    assert "weight = embedding/weight" in "\n".join(printed(told, 80))
    narrow = printed(told, 60)
    assert lines_of("\n".join(narrow))[0] == "path type params bytes trained"
    assert narrow[-1] == "note: readout/weight = embedding/weight"
    assert max(map(len, narrow)) <= 60


def test_long_paths_are_broken_after_slashes():
    tree = {"encoder": {"transformer_blocks": [linear(2, 2)]}}
    lines = printed(summary(tree), 55)
    assert [line.split()[0] for line in lines[2:4]] == ["encoder/", "transformer_blocks/0"]
    assert max(map(len, lines)) <= 55


@pytest.mark.parametrize("scale", [3.0, np.float32(3), np.array(3.0, np.float32)])
def test_an_example_may_hold_numbers(scale):
    class Scale(eqx.Module):
        def __call__(self, x, scale):
            return x * scale

    assert summary(Scale(), jnp.zeros(2), scale).flops == 2


def test_what_is_called_may_be_no_module():
    told = summary(lambda x: jnp.tanh(x), jnp.zeros(4))
    assert (told.output, flops_of(told)) == ("f32[4]", {"": 4})


class Picky(eqx.Module):
    layer: eqx.nn.Linear

    def __call__(self, x, *, key):
        return self.layer(x)


def test_an_argument_that_is_missing_is_told_with_the_way_to_give_it():
    model = Picky(linear(2, 2))
    match = r"does not fit Picky, which is called as `model\(x, \*, key\)`: missing.* 'key'"
    with pytest.raises(ArgumentTypeError, match=match):
        summary(model, jnp.zeros(2))
    told = summary(eqx.Partial(model, key=KEY), jnp.zeros(2))
    assert told.flops == linear_flops(2, 2)


def test_what_cannot_be_called_takes_no_example():
    with pytest.raises(ArgumentTypeError, match="`model` is of type dict, which cannot be called"):
        summary({"weight": jnp.zeros(2)}, jnp.zeros(2))


def test_a_glob_that_matches_nothing_is_told():
    with pytest.raises(TreeError, match="The glob 'layer/0' matches none"):
        summary(ABSTRACT_MLP, trainable="layer/0")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (1, "4 B"),
        (255, "1020 B"),
        (256, "1.00 KiB"),
        (25 * 256, "25.0 KiB"),
        (262_000, "1023 KiB"),
        (1 << 30, "4.00 GiB"),
    ],
)
def test_bytes_are_told_in_readable_units(size, text):
    assert text in str(summary(jax.ShapeDtypeStruct((size,), jnp.float32)))
