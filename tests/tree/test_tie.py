"""`treadle.tree.tie`, `Tied`, `untie`."""

import operator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tests.helpers import assert_close, assert_same, exactly

import treadle
from treadle import ArgumentTypeError, ArgumentValueError, TreeError
from treadle._casting import computing
from treadle._precision import Precision
from treadle.tree import (
    Tied,
    count,
    diff,
    lora,
    lora_filter,
    merge_lora,
    paths,
    summary,
    tie,
    untie,
)

HEAD = {"head/weight": "embedding/weight"}


class Language(eqx.Module):
    """A token in, logits out."""

    embedding: eqx.nn.Embedding
    layers: list
    dropout: eqx.nn.Dropout
    head: eqx.nn.Linear

    def __init__(self, key, *, dtype=jnp.float32):
        self.embedding = eqx.nn.Embedding(5, 3, dtype=dtype, key=key)
        self.layers = [eqx.nn.Linear(3, 3, dtype=dtype, key=key) for _ in range(2)]
        self.dropout = eqx.nn.Dropout(0.5)
        self.head = eqx.nn.Linear(3, 5, use_bias=False, dtype=dtype, key=key)

    def features(self, token):
        x = self.embedding(token)
        for layer in self.layers:
            x = jax.nn.tanh(layer(x))
        return x

    def __call__(self, token, *, key=None):
        return self.head(self.dropout(self.features(token), key=key))


def language(seed=0, dtype=jnp.float32):
    """A model with weights drawn by NumPy, for which nothing is compiled."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        is_array = isinstance(leaf, jax.ShapeDtypeStruct)
        return jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype) if is_array else leaf

    make = lambda key: Language(key, dtype=dtype)
    return jax.tree.map(draw, eqx.filter_eval_shape(make, jax.random.key(0)))


class Layer(eqx.Module):
    weight: jax.Array
    act: Any
    size: int = eqx.field(static=True)


def loss_fn(model, example, key):
    token, target = example
    logits = model(token, key=key)
    return optax.softmax_cross_entropy_with_integer_labels(logits, target)


BATCH = np.arange(8, dtype=np.int32) % 5, np.arange(8, dtype=np.int32)[::-1] % 5


def test_there_is_one_array_under_the_names_of_the_model(tmp_path):
    model = language()
    tied = tie(model, HEAD)
    assert paths(tied) == [path for path in paths(model) if path != "head/weight"]
    assert count(tied) == count(model) - 15
    assert tied.ties == HEAD
    assert_same(jax.tree.leaves(tied), jax.tree.leaves(eqx.tree_at(head_weight, model, None)))
    state = treadle.TrainStep(loss_fn, optax.adam(1e-3)).init(tied, key=jax.random.key(0))
    assert count(state.opt_state) == 2 * count(tied) + 1
    assert sum("embedding/weight" in path for path in paths(state)) == 3
    assert not any("shared" in path for path in paths(state))
    treadle.save(tmp_path / "model", tied)
    assert_same(treadle.load(tmp_path / "model", tie(language(1), HEAD)), tied)
    # In a tree, it has its place.
    assert paths({"student": tied})[0] == "student/embedding/weight"


def head_weight(model):
    return model.head.weight


def test_it_is_called_as_the_model_is():
    tied, token = tie(language(), HEAD), jnp.asarray(2)
    plain = untie(tied)
    key = jax.random.key(0)
    assert_same(tied(token, key=key), plain(token, key=key))
    assert (tied(token, key=key) != tied(token, key=jax.random.key(1))).any()
    quiet = eqx.nn.inference_mode(tied)
    assert_same(quiet(token), eqx.nn.inference_mode(plain)(token))
    assert_same(tied.model.features(token), plain.features(token))
    assert_same(tied.shared(), tied.model)


def test_the_gradient_is_the_sum_over_both_uses():
    plain = eqx.nn.inference_mode(untie(tie(language(), HEAD)))
    token, target = BATCH[0][1], BATCH[1][1]

    @eqx.filter_jit
    def gradient(model):
        return eqx.filter_grad(lambda model: loss_fn(model, (token, target), None))(model)

    apart = gradient(plain)
    together = gradient(tie(plain, HEAD))
    expected = apart.embedding.weight + apart.head.weight
    assert apart.embedding.weight.any()
    assert apart.head.weight.any()
    assert_close(jax.tree.leaves(together)[0], expected)
    assert_close(together.shared.pytree.layers, apart.layers)


def test_a_step_trains_it_as_one_would_by_hand():
    tied = eqx.nn.inference_mode(tie(language(), HEAD))
    step = treadle.TrainStep(loss_fn, optax.sgd(0.1, momentum=0.9))
    state = step.init(tied, key=jax.random.key(0))

    @eqx.filter_jit
    def reference(model, trace):
        def loss(model):
            model = eqx.tree_at(head_weight, model, model.embedding.weight)
            losses = jax.vmap(lambda *example: loss_fn(model, example, None))(*BATCH)
            return losses.mean()

        grads = eqx.filter_grad(loss)(model)
        trace = jax.tree.map(lambda t, g: 0.9 * t + g, trace, grads)
        return eqx.apply_updates(model, jax.tree.map(lambda t: -0.1 * t, trace)), trace

    model = untie(tied)
    trace = jax.tree.map(jnp.zeros_like, eqx.filter(model, eqx.is_inexact_array))
    for _ in range(3):
        state, _ = step(state, BATCH)
        model, trace = reference(model, trace)
    model = eqx.tree_at(head_weight, model, model.embedding.weight)
    assert_close(untie(state.model), model)
    assert_same(state.model.model.head.weight, state.model.model.embedding.weight)
    # Another model tied alike has the same structure, so it goes through the same program.
    other = step.init(eqx.nn.inference_mode(tie(language(1), HEAD)), key=jax.random.key(1))
    step(other, BATCH)
    assert len(step.compilations) == 1


def test_only_the_embedding_can_be_trained_by_its_own_name():
    tied = tie(language(), HEAD)
    step = treadle.TrainStep(loss_fn, optax.sgd(0.1), trainable="embedding/**")
    state = step.init(tied, key=jax.random.key(0))
    mask = treadle.tree.select("embedding/**")(tied)
    assert jax.tree.leaves(mask) == [path == "embedding/weight" for path in paths(tied)]
    assert count(state.model, "embedding/**") == 15


def test_structures_of_equal_ties_are_equal():
    one, two = tie(language(0), HEAD), tie(language(1), HEAD)
    assert jax.tree.structure(one) == jax.tree.structure(two)
    assert hash(jax.tree.structure(one)) == hash(jax.tree.structure(two))
    other = tie(language(), {"layers/0/weight": "layers/1/weight"})
    assert jax.tree.structure(one) != jax.tree.structure(other)
    double = {"head/weight": ("embedding/weight", lambda weight: 2 * weight)}
    transformed = [tie(language(seed), double) for seed in (0, 1)]
    assert jax.tree.structure(transformed[0]) == jax.tree.structure(transformed[1])
    assert jax.tree.structure(transformed[0]) != jax.tree.structure(one)
    traced = []

    @eqx.filter_jit
    def head(tied):
        traced.append(tied)
        return tied.model.head.weight

    assert_same(head(one), one.model.embedding.weight)
    assert_same(head(two), two.model.embedding.weight)
    assert len(traced) == 1


def test_untie_gives_the_model_back_with_the_value_of_the_source():
    model = language()
    plain = untie(tie(model, HEAD))
    assert type(plain) is Language
    expected = eqx.tree_at(head_weight, model, model.embedding.weight)
    assert_same(plain, expected)
    assert plain.head.weight is plain.embedding.weight
    # Back and forth.
    again = tie(plain, tie(model, HEAD).ties)
    assert_same(again, tie(model, HEAD))
    assert_same(untie(again), plain)
    assert_same(untie([tie(model, HEAD), 1]), [plain, 1])
    with pytest.raises(TreeError, match=r"`model` \(Language\) has nothing tied in it"):
        untie(model)


def test_whole_layers_several_targets_and_functions():
    model = language()
    tied = tie(model, {"layers/0": "layers/1"})
    assert [path for path in paths(tied) if path.startswith("layers")] == [
        "layers/1/weight",
        "layers/1/bias",
    ]
    assert_same(tied.model.layers[0], model.layers[1])
    assert tied.model.layers[0].weight is tied.model.layers[1].weight
    three = {"a": jnp.ones((2, 3)), "b/c": jnp.zeros((2, 3)), "d": (jnp.zeros((3, 2)), 1)}
    tied = tie(three, {"a": "b~1c", "d/0": ("b~1c", jnp.transpose)})
    assert paths(tied) == ["b~1c", "d/1"]
    assert_same(tied.model, {"a": three["b/c"], "b/c": three["b/c"], "d": (jnp.zeros((3, 2)), 1)})
    gradient = jax.grad(lambda leaf: (eqx.tree_at(first, tied, leaf).model["d"][0] ** 2).sum())
    assert_same(gradient(jnp.ones((2, 3))), 2 * jnp.ones((2, 3)))


def test_what_is_not_an_obstacle():
    # A path that begins with another's letters, and a weak type.
    values = {"a": jnp.ones(2), "ab": jnp.zeros(2), "c": jnp.asarray(1.0), "d": jnp.ones(())}
    assert values["c"].weak_type
    assert_same(tie(values, {"ab": "a"}).model["ab"], values["a"])
    assert_same(tie(values, {"c": "d"}).model["c"], values["d"])


def first(tied):
    return tied.shared.pytree["b/c"]


def test_ties_on_ties():
    model = language()
    tied = tie(tie(model, HEAD), {"layers/0/weight": "layers/1/weight"})
    assert [path for path in paths(tied) if "weight" in path] == [
        "embedding/weight",
        "layers/1/weight",
    ]
    plain = untie(tied)
    assert jax.tree.structure(plain) == jax.tree.structure(model)
    assert_same(plain.layers[0].weight, model.layers[1].weight)
    assert_same(plain.head.weight, model.embedding.weight)
    inside = tie({"model": tie(model, HEAD)}, {"model/layers/0": "model/layers/1"})
    assert_same(untie(inside)["model"].layers[0], model.layers[1])


class Counting(eqx.Module):
    norm: eqx.nn.BatchNorm
    first: eqx.nn.Linear
    last: eqx.nn.Linear

    def __init__(self, key):
        self.norm = eqx.nn.BatchNorm(2, "batch", mode="batch")
        self.first = eqx.nn.Linear(2, 2, key=key)
        self.last = eqx.nn.Linear(2, 2, key=key)

    def __call__(self, x, state):
        x, state = self.norm(self.first(x), state)
        return self.last(x), state


def test_a_model_with_state():
    make = eqx.nn.make_with_state(lambda key: tie(Counting(key), {"last/weight": "first/weight"}))
    tied, state = make(jax.random.key(0))

    @eqx.filter_jit
    def run(model, x, state):
        run = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        return run(x, state)

    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 2)), jnp.float32)
    output, state = run(tied, x, state)
    plain, fresh = eqx.nn.make_with_state(Counting)(jax.random.key(0))
    plain = eqx.tree_at(lambda model: model.last.weight, plain, plain.first.weight)
    assert_same(output, run(plain, x, fresh)[0])


def test_under_vmap():
    functions = {"head/weight": ("embedding/weight", lambda weight: -weight)}
    many = treadle.tree.stack([eqx.nn.inference_mode(tie(language(s), functions)) for s in (0, 1)])
    run = eqx.filter_jit(eqx.filter_vmap(lambda model: model(jnp.asarray(3))))
    plain = [eqx.nn.inference_mode(untie(tie(language(s), functions))) for s in (0, 1)]
    assert_close(run(many), run(treadle.tree.stack(plain)))
    assert_same(treadle.tree.unstack(many)[1].model.head.weight, -plain[1].embedding.weight)


def test_the_weights_have_the_format_that_a_precision_computes_in():
    tied = computing(tie(language(), HEAD), Precision("float32", "bfloat16", "float32"))
    assert tied.model.head.weight.dtype == jnp.bfloat16
    assert tied.model.features(jnp.asarray(1)).dtype == jnp.float32
    assert tied(jnp.asarray(1), key=jax.random.key(0)).dtype == jnp.float32


def test_a_summary_tells_what_is_tied_to_what():
    tied = {"student": tie(language(), HEAD)}
    told = summary(tied)
    rows = {row.path: row for row in told.rows}
    assert rows["student/head"].arrays == ("weight = student/embedding/weight",)
    assert rows["student/head"].type == "Linear"
    assert rows["student/head"].count == 0
    assert told.count == count(tied)
    layers = summary(tie(language(), {"layers/0": "layers/1"})).rows[0]
    assert (layers.path, layers.arrays) == ("", ("layers/0 = layers/1",))
    outputs = {row.path: row.output for row in summary(tied["student"], jnp.asarray(1)).rows}
    assert outputs["embedding"] == ("f32[3]",)
    assert outputs["head"] == ("f32[5]",)
    assert set(outputs) == {"", "embedding", "layers/0", "layers/1", "dropout", "head"}


def test_adapters_on_a_tied_model_and_ties_on_an_adapted_one():
    tied = eqx.nn.inference_mode(tie(language(), HEAD))
    adapted = lora(tied, 1, where="**", key=jax.random.key(0))
    names = [path for path in paths(adapted) if path.endswith("lora_b")]
    assert names == ["embedding/lora_b", "layers/0/lora_b", "layers/1/lora_b"]
    token = jnp.asarray(2)
    assert_same(adapted(token), tied(token))
    assert_same(merge_lora(adapted), tied)
    changed = jax.tree.map(
        lambda leaf, yes: leaf + 1 if yes else leaf, adapted, lora_filter(adapted)
    )
    merged = merge_lora(changed)
    assert_same(changed.model.head.weight, merged.model.embedding.weight)
    assert_close(changed(token), merged(token))
    adapted = lora(untie(tied), 1, where="layers/**", key=jax.random.key(0))
    assert_same(merge_lora(tie(adapted, HEAD)), tied)
    # A bias that is tied, beside a weight that is adapted.
    biases = {"layers/0/bias": "layers/1/bias"}
    adapted = lora(tie(language(), biases), 1, where="layers/**", key=jax.random.key(0))
    assert_same(adapted.model.layers[0].bias, language().layers[1].bias)


@pytest.mark.parametrize(
    ("links", "error", "message"),
    [
        (
            {"head/wieght": "embedding/weight"},
            TreeError,
            r"nothing at 'head/wieght'.*'head/weight'",
        ),
        ({"head/weight": "head/out_features"}, TreeError, "nothing at 'head/out_features'"),
        ({"head/weight": "layers/0"}, TreeError, "only the source has 'weight', 'bias'"),
        ({"layers/0": "layers"}, TreeError, "'layers/0' to 'layers', and one is inside"),
        ({"": "layers"}, TreeError, "'' to 'layers', and one is inside"),
        ({"head/weight": "head/weight"}, TreeError, "'head/weight' to itself"),
        (
            {"layers/0/bias": "head/weight"},
            TreeError,
            r"float32\[5,3\] in the place of float32\[3\]",
        ),
        (
            {"head/weight": ("embedding/weight", jnp.transpose)},
            TreeError,
            r"transpose of 'embedding/weight', which does not fit: float32\[3,5\]",
        ),
        (
            {"head/weight": ("embedding/weight", lambda w: w.astype(jnp.bfloat16))},
            TreeError,
            r"bfloat16\[5,3\] in the place of float32\[5,3\]",
        ),
        (
            {"layers/0/weight": "layers/1/weight", "layers/1/weight": "layers/0/weight"},
            TreeError,
            "what is tied is no source for others",
        ),
        (
            {"layers/0/weight": "layers/1/weight", "layers/1": "layers/0"},
            TreeError,
            "what is tied is no source for others",
        ),
        ({"layers/0": "layers/1", "layers/0/bias": "layers/1/bias"}, TreeError, "the outer one"),
        ({}, ArgumentValueError, "`links` is empty"),
        ([("head/weight", "embedding/weight")], ArgumentTypeError, "`links` is a list"),
        ({"head/weight": 3}, ArgumentTypeError, "holds 'head/weight': 3"),
        ({"head/weight": ("embedding/weight", 3)}, ArgumentTypeError, "a path and a function"),
        ({3: "embedding/weight"}, ArgumentTypeError, "holds 3: 'embedding/weight'"),
    ],
)
def test_errors(links, error, message):
    with pytest.raises(error, match=message):
        tie(language(), links)


def test_errors_of_ties_on_ties():
    tied = tie(language(), HEAD)
    for links in (
        {"head/weight": "embedding/weight"},
        {"layers/0/bias": "head/weight/x"},
        {"layers/0": "head"},
    ):
        with pytest.raises(TreeError, match="tied to another place already"):
            tie(tied, links)

    class Unhashable:
        __hash__ = None

        def __call__(self, weight):
            return weight

    with pytest.raises(ArgumentTypeError, match="has a function that cannot be hashed"):
        tie(language(), {"head/weight": ("embedding/weight", Unhashable())})
    assert isinstance(tied, Tied)


def test_what_differs_between_two_that_are_tied():
    def tied(ties, a=1.0, act=abs, size=3):
        layer = Layer(jnp.full(2, a), act, size)
        return tie({"one": layer, "two": Layer(jnp.zeros(2), act, size), "none": None}, ties)

    def rows(a, b):
        return [(row.path, row.kind, row.a, row.b) for row in diff(a, b)]

    forth = {"two/weight": "one/weight"}
    one = tied(forth)
    assert not diff(one, tied(forth))
    assert rows(one, tied(forth, a=2.0)) == [("one/weight", "value", "1.0", "2.0")]
    assert rows({"m": one}, {"m": tied(forth, size=4)}) == [
        ("m/one/size", "static", "3", "4"),
        ("m/two/size", "static", "3", "4"),
    ]
    twice = tied({"two/weight": ("one/weight", operator.neg)})
    assert rows(one, twice) == [("two/weight/function", "static", "None", "<neg>")]
    back = tied({"one/weight": "two/weight"})
    assert [row[:2] for row in rows(one, back)] == [
        ("one/weight", "only in a"),
        ("two/weight", "only in b"),
        ("one/weight", "type"),
        ("two/weight", "type"),
    ]
    plain = untie(one)
    assert rows(one, plain) == [
        ("", "type", "Tied", "dict"),
        ("two/weight", "only in b", "", "float32[2]"),
    ]


def test_attributes_are_those_of_the_model():
    tied = tie({"a": jnp.zeros(2), "b": jnp.zeros(2)}, {"b": "a"})
    message = "'Tied' object has no attribute 'head': ask the model, which is `tied.model.head`."
    with pytest.raises(AttributeError, match=exactly(message)):
        _ = tied.head
    assert not hasattr(tied, "head")
    assert not hasattr(tied, "__array__")

    def fails(array):
        if not isinstance(array, jax.core.Tracer):
            raise AttributeError("of the function")
        return array

    # What fails in a function of the user's is told as it is.
    with pytest.raises(AttributeError, match="of the function"):
        _ = Tied(eqx.nn.Shared(tied.shared.pytree, lambda t: t["a"], lambda t: fails(t["a"]))).model
