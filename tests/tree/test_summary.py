import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from treadle._errors import ArgumentTypeError, ArgumentValueError, TreeError
from treadle.nn import MLP
from treadle.tree._size import count, nbytes
from treadle.tree._summary import summary

KEY = jax.random.key(0)


def make_mlp(**options):
    return MLP(6, 3, 8, 2, dropout=0.1, key=KEY, **options)


def rows_of(told):
    return {row.path: row for row in told.rows}


def lines_of(text):
    """The lines of a table, without the spaces that align it."""
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def test_each_module_has_its_arrays_outputs_and_sizes():
    rows = rows_of(summary(make_mlp(), jnp.zeros(6)))
    assert list(rows) == ["layers/0", "layers/1", "layers/2", "dropout"]
    first = rows["layers/0"]
    assert (first.type, first.arrays) == ("Linear", ("weight f32[8,6]", "bias f32[8]"))
    assert first.output == ("f32[8]",)
    assert (first.count, first.nbytes, first.trainable) == (56, 224, "yes")
    # Called after each of the two hidden layers; no arrays, so nothing that could be trained.
    assert rows["dropout"].output == ("f32[8]", "f32[8]")
    assert (rows["dropout"].arrays, rows["dropout"].trainable) == ((), "")


def test_totals_are_those_of_count_and_nbytes():
    model = make_mlp()
    told = summary(model)
    assert (told.count, told.nbytes) == (count(model), nbytes(model)) == (155, 620)
    assert told.trainable_count == 155


def test_prints_a_table():
    lines = lines_of(str(summary(make_mlp(), jnp.zeros(6))))
    assert lines[0] == "path type arrays output params bytes trained"
    assert "layers/0 Linear weight f32[8,6] f32[8] 56 224 B yes" in lines
    assert "dropout Dropout f32[8] x2" in lines
    assert lines[-1] == "total f32[3] 155 620 B 155"
    assert repr(summary(make_mlp())) == str(summary(make_mlp()))


def test_without_an_example_there_is_no_output_column():
    text = str(summary(make_mlp()))
    assert "output" not in text
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
    rows = rows_of(summary(make_mlp(), trainable=trainable))
    assert {path: rows[path].trainable for path in expected} == expected


def test_trainable_elements_are_counted():
    told = summary(make_mlp(), trainable="**/bias")
    assert (told.trainable_count, told.trainable_nbytes) == (19, 76)


def test_only_floats_are_trained():
    tree = {"float": jnp.zeros(2), "int": jnp.zeros(3, "int32"), "key": KEY}
    told = summary(tree, trainable=True)
    assert told.rows[0].arrays == ("float f32[2]", "int i32[3]", "key key<fry>[]")
    assert (told.trainable_count, told.count) == (2, 6)


def test_a_tied_array_is_counted_where_it_stands_first():
    embedding = eqx.nn.Embedding(7, 4, key=KEY)
    readout = eqx.nn.Linear(4, 7, key=KEY)
    readout = eqx.tree_at(lambda linear: linear.weight, readout, embedding.weight)
    rows = rows_of(summary({"embedding": embedding, "readout": readout}))
    assert rows["embedding"].count == 28
    assert rows["readout"].arrays == ("weight = embedding/weight", "bias f32[7]")
    assert rows["readout"].count == 7


def test_abstract_models_and_examples_will_do():
    model = eqx.filter_eval_shape(make_mlp)
    told = summary(model, jax.ShapeDtypeStruct((6,), jnp.float32))
    assert str(told) == str(summary(make_mlp(), np.zeros(6, np.float32)))


def test_nothing_is_computed():
    class Model(eqx.Module):
        weight: jax.Array

        def __call__(self, x):
            assert isinstance(x, jax.core.Tracer)
            return self.weight * x

    assert summary(Model(jnp.zeros(2)), jnp.zeros(2)).output == "f32[2]"


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
        summary(make_mlp(), jnp.zeros(5))


def test_what_cannot_be_called_takes_no_example():
    with pytest.raises(ArgumentTypeError, match="`model` is of type dict, which cannot be called"):
        summary({"weight": jnp.zeros(2)}, jnp.zeros(2))


def test_a_glob_that_matches_nothing_is_told():
    with pytest.raises(TreeError, match="The glob 'layer/0' matches none"):
        summary(make_mlp(), trainable="layer/0")


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
