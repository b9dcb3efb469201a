"""`treadle.tree.lora`, `lora_filter`, `merge_lora`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tests.helpers import Net, assert_close, assert_same, loss_fn, make_batch

import treadle
from treadle import ArgumentTypeError, ArgumentValueError, TreeError
from treadle._compat import enable_x64
from treadle.tree import from_dict, lora, lora_filter, merge_lora, paths, select, to_dict

KEY = jax.random.key(0)


class Zoo(eqx.Module):
    """One of each layer that can be adapted, and one that cannot; called on seven floats."""

    layers: dict

    def __init__(self, key, dtype):
        def made(cls, *args, **kwargs):
            return cls(*args, dtype=dtype, key=key, **kwargs)

        self.layers = {
            "linear": made(eqx.nn.Linear, 5, 3),
            "from_scalar": made(eqx.nn.Linear, "scalar", 3, use_bias=False),
            "to_scalar": made(eqx.nn.Linear, 5, "scalar"),
            "embedding": made(eqx.nn.Embedding, 6, 4),
            "conv2d": made(eqx.nn.Conv2d, 4, 6, 3, 2, padding=1, groups=2, padding_mode="CIRCULAR"),
            "depthwise": made(eqx.nn.Conv, 1, 4, 8, 3, groups=4, use_bias=False, dilation=2),
            "norm": eqx.nn.LayerNorm(5, dtype=dtype),
        }

    def __call__(self, x):
        dtype = self.layers["norm"].weight.dtype
        inputs = {
            "from_scalar": (),
            "conv2d": (4, 5, 4),
            "depthwise": (4, 6),
        }
        returned = {}
        for name, layer in self.layers.items():
            if name == "embedding":
                returned[name] = layer(jnp.where(x[0] > 1, 1, 0)), layer(5), layer(-2)
                continue
            shape = inputs.get(name, (5,))
            size = int(np.prod(shape))
            returned[name] = layer(jnp.resize(x, (size,)).reshape(shape).astype(dtype))
        return returned


def draw(leaf, rng):
    is_array = isinstance(leaf, jax.ShapeDtypeStruct)
    return jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype) if is_array else leaf


def drawn(make, *args, seed=0):
    """What `make` makes, with arrays drawn by NumPy, for which nothing is compiled."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: draw(leaf, rng), eqx.filter_eval_shape(make, *args))


def zoo(seed, dtype):
    return drawn(Zoo, jax.random.key(0), dtype, seed=seed)


def adapt(model, rank, **options):
    """`lora` on all layers, with numbers drawn by NumPy, which compiles nothing."""
    put_on = lambda model: lora(model, rank, where="**", key=jax.random.key(0), **options)
    made = eqx.filter_eval_shape(put_on, model)
    given, rng = to_dict(model), np.random.default_rng(0)

    def value(path, leaf):
        if path.endswith("lora_b"):
            return jnp.asarray(np.zeros(leaf.shape, leaf.dtype))
        return draw(leaf, rng) if path.endswith("lora_a") else given[path.replace("base/", "")]

    return from_dict({path: value(path, leaf) for path, leaf in to_dict(made).items()}, made)


ODD = np.array(
    [
        [0.3, -1.2, 0.7, 2.0, -0.1, 1.1, 0.4],
        [-0.0, 0.0, -0.0, -0.0, -0.0, 0.0, -0.0],
        [np.inf, 1.0, -np.inf, 2.0, 0.5, -1.0, 0.0],
        [np.nan, 1.0, 2.0, 0.0, -1.0, 3.0, 1.0],
        [3e38, 3e38, -3e38, 3e38, 3e38, 3e38, 3e38],
    ],
    np.float32,
)


def with_odd_weights(model):
    """Some weights -0.0, infinite or NaN."""

    def odd(leaf):
        if not eqx.is_inexact_array(leaf) or leaf.size < 4:
            return leaf
        flat = np.array(leaf).reshape(-1)
        flat[[0, 1, -2, -1]] = -0.0, np.inf, -0.0, np.nan
        return jnp.asarray(flat.reshape(leaf.shape))

    return jax.tree.map(odd, model)


def trained(model, seed=0, scale=0.3):
    """The model with adapters that are no longer zero."""
    rng = np.random.default_rng(seed)

    def draw(leaf, yes):
        change = rng.normal(size=np.shape(leaf)) * scale
        return jnp.asarray(np.asarray(leaf) + change, leaf.dtype) if yes else leaf

    return jax.tree.map(draw, model, lora_filter(model))


merge = eqx.filter_jit(merge_lora)


@eqx.filter_jit
def batched(model, x):
    return jax.vmap(model)(x)


def with_one_nan(tree):
    """NaNs of one kind: which bits a NaN has depends on the order of the operands that made it."""
    return jax.tree.map(lambda x: np.where(x == x, x, np.full_like(x, np.nan)), tree)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda d: d.__name__)
def test_at_first_every_bit_is_that_of_the_model(dtype):
    for model in (zoo(0, dtype), with_odd_weights(zoo(1, dtype))):
        adapted = adapt(model, 2, alpha=3.0)
        assert_same(with_one_nan(batched(adapted, ODD)), with_one_nan(batched(model, ODD)))
        assert_same(merge(adapted), model)


def test_at_first_one_call_outside_of_jit_is_that_of_the_model_too():
    for layer, x in (
        (drawn(lambda: eqx.nn.Linear(5, 3, key=jax.random.key(0))), ODD[2, :5]),
        (eqx.nn.Embedding(weight=-0.0 * jnp.ones((2, 3))), 1),
    ):
        adapted = adapt(layer, 2)
        assert_same(adapted(x), layer(x))
        assert_same(merge_lora(adapted), layer)


def by_hand(layer):
    """The layer that an adapted one stands for, in plain arithmetic."""
    if not hasattr(layer, "lora_a"):
        return layer
    b = layer.lora_b
    change = layer.scale * jnp.einsum("or,r...->o...", b, layer.lora_a)
    return eqx.tree_at(lambda plain: plain.weight, layer.base, layer.base.weight + change)


@eqx.filter_jit
def two_gradients(model, x):
    """Outputs and gradients of the adapted model, and of the one made by hand."""

    def total(model, x):
        outputs = model(x)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(outputs)), outputs

    def rebuilt(model, x):
        layers = {name: by_hand(layer) for name, layer in model.layers.items()}
        return total(eqx.tree_at(lambda zoo: zoo.layers, model, layers), x)

    return [eqx.filter_value_and_grad(f, has_aux=True)(model, x) for f in (total, rebuilt)]


def test_values_and_gradients_are_those_of_the_changed_weights():
    with enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(size=7))
        model = zoo(0, jnp.float64)
        fresh = adapt(model, 2, alpha=3.0)
        assert fresh.layers["linear"].scale == 3.0 / 2
        later = trained(fresh)
        for adapted in (fresh, later):
            own, rebuilt = two_gradients(adapted, x)
            assert_close(own, rebuilt, rtol=1e-12, atol=1e-12)
        _, at_first = two_gradients(fresh, x)[0]
        for name in fresh.layers:
            if name != "norm":
                assert not at_first.layers[name].lora_a.any()
                assert at_first.layers[name].lora_b.any(), name
        merged = merge(later)
        assert jax.tree.structure(merged) == jax.tree.structure(model)
        for name, layer in later.layers.items():
            assert_close(merged.layers[name], by_hand(layer), rtol=1e-15, atol=1e-15)


def test_what_reads_the_weight_gets_the_changed_one():
    layer = drawn(lambda: eqx.nn.Linear(2, 3, key=jax.random.key(0)))
    fresh = adapt(layer, 1, alpha=2.0)
    assert_same(fresh.weight, layer.weight)

    def penalty(layer):
        return jnp.sum(layer.weight**2)

    for adapted in (fresh, trained(fresh)):
        assert_close(adapted.weight, by_hand(adapted).weight)
        own = eqx.filter_grad(penalty)(adapted)
        assert_close(own, eqx.filter_grad(lambda layer: penalty(by_hand(layer)))(adapted))
    assert_same(adapted.bias, layer.bias)
    assert adapted.in_features == 2


def test_a_step_trains_the_adapters_and_nothing_else(tmp_path):
    model = drawn(lambda: Net(jax.random.key(0), dropout=0.0))
    adapted = adapt(model, 2)
    optimizer = optax.adamw(1e-2, weight_decay=0.1)
    step = treadle.TrainStep(loss_fn, optimizer, trainable=lora_filter, precision="bf16")
    state = step.init(adapted, key=jax.random.key(2))
    moments = [path for path in paths(state.opt_state) if "/mu/" in path]
    assert [path.split("/mu/")[1] for path in moments] == [
        "first/lora_a",
        "first/lora_b",
        "last/lora_a",
        "last/lora_b",
    ]
    losses = []
    for _ in range(6):
        state, metrics = step(state, make_batch())
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]
    assert metrics["loss"].dtype == jnp.float32
    assert_same(state.model.first.base, model.first)
    assert_same(state.model.last.base, model.last)
    assert state.model.first.lora_b.any()
    assert (state.model.first.lora_a != adapted.first.lora_a).any()
    merged = merge_lora(state.model)
    assert_close(merged.last.weight, by_hand(state.model.last).weight)
    assert (merged.last.weight != model.last.weight).all()
    treadle.save(tmp_path / "model", state.model)
    assert_same(treadle.load(tmp_path / "model", adapted), state.model)


def test_counts_and_a_summary():
    model = adapt(drawn(lambda: Net(jax.random.key(0))), 2)
    told = str(treadle.tree.summary(model, jnp.zeros(6), trainable=lora_filter))
    assert "lora_a f32[2,6]" in told
    assert treadle.tree.count(model, lora_filter) == 2 * (6 + 8) + 2 * (8 + 3)


class OwnAdapter(eqx.Module):
    """Somebody else's layer, with fields of the same names."""

    lora_a: jax.Array
    lora_b: jax.Array
    inner: eqx.nn.Linear


def chosen_paths(tree, selector):
    flags = zip(paths(tree), jax.tree.leaves(selector(tree)), strict=True)
    return [path for path, yes in flags if yes]


def test_the_filter_chooses_by_type_and_combines():
    inner = eqx.nn.Linear(3, 2, key=jax.random.key(0))
    own = OwnAdapter(jnp.zeros(2), jnp.zeros(2), inner)
    with pytest.raises(TreeError, match="finds no adapters in this OwnAdapter"):
        lora_filter(own)
    adapted = lora(own, 2, where="inner/**", key=jax.random.key(1))
    assert chosen_paths(adapted, lora_filter) == ["inner/lora_a", "inner/lora_b"]
    both = lora_filter | select("inner/base/bias")
    assert chosen_paths(adapted, both) == ["inner/base/bias", "inner/lora_a", "inner/lora_b"]
    assert jax.tree.leaves((~lora_filter)(adapted)) == [True, True, True, True, False, False]
    assert jax.tree.leaves((lora_filter & select("**/lora_a"))(adapted))[4:] == [True, False]
    with pytest.raises(TreeError, match="finds no adapters in paths alone"):
        lora_filter.matches(["inner/lora_a"])
    trained_part, frozen = eqx.partition(adapted, lora_filter(adapted))
    assert treadle.tree.count(trained_part) == 2 * 3 + 2 * 2
    assert_same(eqx.combine(trained_part, frozen), adapted)
    # It finds the places of adapters in what is left of a model, too.
    assert jax.tree.leaves(lora_filter(trained_part)) == [True, True]
    tx = optax.masked(optax.sgd(1.0), lora_filter)
    params = eqx.filter(adapted, eqx.is_inexact_array)
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = tx.update(grads, tx.init(params), params)
    assert updates.inner.lora_a[0, 0] == -1
    assert updates.inner.base.weight[0, 0] == 1
    assert repr(lora_filter) == "treadle.tree.lora_filter"


def test_no_two_adapters_draw_alike_and_keys_follow_from_the_place():
    key = jax.random.key(7)
    layers = [eqx.nn.Linear(4, 4, key=key) for _ in range(3)]
    adapted = lora(layers, 3, where="**", key=key)
    drawn = [np.asarray(layer.lora_a) for layer in adapted]
    assert not any((a == b).any() for a in drawn for b in drawn if a is not b)
    assert not any(layer.lora_b.any() for layer in adapted)
    alone = lora(layers, 3, where="2/weight", key=key)
    assert_same(alone[2], adapted[2])
    later = lora(alone, 3, where=["0/**", "1/**"], key=key)
    assert_same(later, adapted)
    assert_same(lora(layers, 3, where="**", key=jax.random.PRNGKey(7)), adapted)
    # Not the keys that `split` gives, with which other things may have been made.
    own = jax.random.fold_in(jax.random.fold_in(key, 0x6C6F7261), 1)
    assert_close(adapted[1].lora_a, jax.random.normal(own, (3, 4)) / 2)
    spread = lora(eqx.nn.Linear(400, 2, key=key), 8, where="**", key=key).lora_a.std()
    assert abs(spread - 1 / 20) < 5e-3


def stacked(make):
    return drawn(eqx.filter_vmap(make), jax.random.split(jax.random.key(0), 3))


def test_layers_stacked_by_vmap():
    @eqx.filter_jit
    def run(layers, x):
        arrays, static = eqx.partition(layers, eqx.is_array)
        return jax.lax.scan(lambda x, part: (eqx.combine(part, static)(x), None), x, arrays)[0]

    layers = stacked(lambda key: eqx.nn.Linear(4, 4, key=key))
    adapted = adapt(layers, 2)
    assert (adapted.lora_a.shape, adapted.lora_b.shape) == ((3, 2, 4), (3, 4, 2))
    assert not (adapted.lora_a[0] == adapted.lora_a[1]).any()
    x = jnp.asarray([0.1, -0.2, 0.3, 0.4])
    assert_same(run(adapted, x), run(layers, x))
    assert_same(merge(adapted), layers)
    later = trained(adapted)
    assert_close(run(merge(later), x), run(later, x))


def test_convolutions_stacked_by_vmap():
    layers = stacked(lambda key: eqx.nn.Conv2d(2, 4, 3, groups=2, key=key))
    later = trained(adapt(layers, 5))
    assert (later.lora_a.shape, later.lora_b.shape) == ((3, 5, 1, 3, 3), (3, 4, 5))
    change = np.einsum("lor,lrihw->loihw", later.lora_b, later.lora_a)
    np.testing.assert_allclose(merge(later).weight, layers.weight + change, rtol=1e-5, atol=1e-6)


class Squared(eqx.nn.Linear):
    def __call__(self, x, *, key=None):
        return super().__call__(x) ** 2


class Named(eqx.nn.Linear):
    """Another constructor, and the same call."""

    name: str = eqx.field(static=True)

    def __init__(self, name, *, key):
        super().__init__(2, 2, key=key)
        self.name = name


def other_models():
    key = jax.random.key(0)
    linear = eqx.nn.Linear(2, 2, key=key)
    return {
        "attention": eqx.nn.MultiheadAttention(2, 4, key=key),
        "normed": eqx.nn.WeightNorm(linear),
        "squared": Squared(2, 2, key=key),
        "named": Named("one", key=key),
        "cell": eqx.nn.GRUCell(2, 2, key=key),
        "complex": eqx.nn.Linear(2, 2, dtype=jnp.complex64, key=key),
        "whole": eqx.tree_at(lambda layer: layer.weight, linear, jnp.ones((2, 2), jnp.int8)),
        "numpy": linear,
    }


def test_what_is_adapted_of_other_models():
    model = drawn(other_models)
    model["numpy"] = jax.tree.map(np.asarray, model["numpy"])
    adapted = adapt(model, 1)
    found = [path.removesuffix("/lora_a") for path in paths(adapted) if path.endswith("/lora_a")]
    projections = ["query_proj", "key_proj", "value_proj", "output_proj"]
    assert found == [*(f"attention/{p}" for p in projections), "complex", "named", "numpy"]
    merged = merge_lora(adapted)
    assert type(merged["named"]) is Named
    assert adapted["named"].name == "one"
    assert jax.tree.structure(merged) == jax.tree.structure(model)
    for where, count in (
        ("*/query_proj/**", 1),
        (select("named/**") | select("normed/**"), 1),
        (eqx.is_array, 7),
        (True, 7),
    ):
        some = eqx.filter_eval_shape(lambda model, w=where: lora(model, 1, where=w, key=KEY), model)
        assert sum(path.endswith("lora_a") for path in paths(some)) == count
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = adapted["named"].other


def test_adapters_of_another_format_are_cast_when_called():
    model = drawn(lambda: eqx.nn.Linear(4, 3, dtype=jnp.bfloat16, key=KEY))
    adapted = adapt(model, 2)
    assert adapted.lora_a.dtype == adapted.lora_b.dtype == jnp.bfloat16
    wide = treadle.tree.cast(adapted, "float32", where=lora_filter)
    assert (wide.base.weight.dtype, wide.lora_b.dtype) == (jnp.bfloat16, jnp.float32)
    x = jnp.ones(4, jnp.bfloat16)
    assert_same(wide(x), model(x))
    later = trained(wide)
    assert later(x).dtype == jnp.bfloat16
    assert merge_lora(later).weight.dtype == jnp.bfloat16
    # Rounded once, from float32.
    change = later.lora_b @ later.lora_a
    exact = (model.weight.astype(jnp.float32) + change).astype(jnp.bfloat16)
    assert_same(merge_lora(later).weight, exact)
    gradient = eqx.filter_grad(lambda model: model(x).astype(jnp.float32).sum())(later)
    assert gradient.lora_b.dtype == jnp.float32


def test_errors():
    key = jax.random.key(0)
    model = drawn(lambda: Net(key))
    put_on = lambda model: lora(model, 2, where="first/**", key=key)
    with_one = eqx.filter_eval_shape(put_on, model)
    with pytest.raises(
        TreeError, match=r"'\*\*/bias'\) chooses no weight .* 'first/bias'.*'first/weight'"
    ):
        lora(model, 2, where=["**", "**/bias"], key=key)
    with pytest.raises(TreeError, match=r"of this model \(LayerNorm\) that is none"):
        lora(drawn(lambda: eqx.nn.LayerNorm(3)), 2, where="**", key=key)
    with pytest.raises(TreeError, match=r"it chooses nothing.*"):
        lora(model, 2, where=False, key=key)
    with pytest.raises(TreeError, match="'layers/0' matches none"):
        lora(model, 2, where="layers/0", key=key)
    with pytest.raises(TreeError, match="have an adapter already: 'first/base/weight'"):
        lora(with_one, 2, where="**", key=key)
    with pytest.raises(TreeError, match=r"\(Net\) has no adapters to merge"):
        merge_lora(model)
    with pytest.raises(ArgumentValueError, match=r"`rank` \(=0\)"):
        lora(model, 0, where="**", key=key)
    with pytest.raises(ArgumentTypeError, match=r"`rank` \(=2.0\)"):
        lora(model, 2.0, where="**", key=key)
    with pytest.raises(ArgumentValueError, match=r"`alpha` \(=0\)"):
        lora(model, 2, where="**", alpha=0, key=key)
    with pytest.raises(ArgumentValueError, match=r"`alpha` \(=nan\)"):
        lora(model, 2, where="**", alpha=float("nan"), key=key)
    with pytest.raises(ArgumentTypeError, match=r"`alpha` .* must be a number"):
        lora(model, 2, where="**", alpha=jnp.ones(()), key=key)
    with pytest.raises(ArgumentTypeError, match=r"`key` \(=3\) is not a key"):
        lora(model, 2, where="**", key=3)
    with pytest.raises(ArgumentTypeError, match="`where` holds 3"):
        lora(model, 2, where=3, key=key)
    adapted = adapt(model, 2)
    # What was filtered away is no weight to read.
    with pytest.raises(AttributeError, match="no attribute 'weight'"):
        _ = eqx.filter(adapted, lora_filter(adapted)).first.weight
