"""Which numbers are cast, where and to what; and what is refused at the door."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import treadle
from tests.helpers import Net, assert_close, assert_same, leaves_of, loss_fn, make_batch
from treadle._casting import computing
from treadle._compat import enable_x64
from treadle._precision import as_precision

PRESETS = {
    # name: parameters, inside of modules, what a call gives
    "f32": (jnp.float32, jnp.float32, jnp.float32),
    "bf16": (jnp.float32, jnp.bfloat16, jnp.float32),
    "fp16": (jnp.float32, jnp.float16, jnp.float32),
    "bf16-true": (jnp.bfloat16, jnp.bfloat16, jnp.float32),
}
BF16 = as_precision("bf16")


class Notes:
    """Dtypes that were seen while tracing, by name."""

    def __init__(self):
        self.seen = {}

    def add(self, name, *values):
        self.seen.setdefault(name, []).append(tuple(jnp.asarray(v).dtype.name for v in values))


class Layer(eqx.Module):
    """A layer that notes what it computes in."""

    weight: jax.Array
    notes: Notes = eqx.field(static=True)
    name: str = eqx.field(static=True, default="layer")

    def __call__(self, x):
        self.notes.add(self.name, self.weight, x)
        return self.weight * x


class Outer(eqx.Module):
    """Calls a layer on float32, whatever it gets."""

    inner: Layer
    weight: jax.Array
    notes: Notes = eqx.field(static=True)

    def __call__(self, x):
        self.notes.add("outer", self.weight, x)
        wide = x.astype(jnp.float32)
        self.notes.add("wide", wide)
        # The call inside casts nothing: under strict promotion it would fail if it did not.
        inner = Layer(self.inner.weight.astype(jnp.float32), self.notes, "inner")
        result = inner(wide)
        again = self.inner(x)
        self.notes.add("again", again)
        return result.astype(x.dtype) + self.weight * again


def noting_optimizer(notes):
    inner = optax.adam(0.125)

    def update(grads, state, params=None):
        notes.add("gradients", *jax.tree.leaves(grads))
        notes.add("optimized", *jax.tree.leaves(params))
        return inner.update(grads, state, params)

    return optax.GradientTransformation(inner.init, update)


@pytest.mark.parametrize("name", PRESETS)
def test_what_computes_in_what(name):
    params, compute, output = (jnp.dtype(d).name for d in PRESETS[name])
    notes = Notes()

    def loss(model, example, key):
        x, y = example
        out = model(x)
        notes.add("loss", model.weight, x, y, out)
        # A regression's target is 1 + 2**-10, which bfloat16 does not hold.
        return jnp.sum((out - y) ** 2), {"target": y, "output": out}

    model = Outer(Layer(jnp.float32(0.5), notes), jnp.float32(0.25), notes)
    step = treadle.TrainStep(loss, noting_optimizer(notes), precision=name, ema=0.9, accumulate=2)
    state = step.init(model, key=jax.random.key(0))
    batch = (np.ones(4, np.float32), np.full(4, 1 + 2**-10, np.float32))
    state, metrics = step(state, batch)
    state, metrics = step(state, batch)
    seen = {key: set(found) for key, found in notes.seen.items()}
    f32 = "float32"
    assert seen == {
        "outer": {(compute, compute)},
        "wide": {(f32,)},
        "inner": {(f32, f32)},
        "layer": {(compute, compute)},
        "again": {(compute,)},
        "loss": {(compute, f32, f32, output)},
        "gradients": {(f32, f32)},
        "optimized": {(f32, f32)},
    }
    assert metrics["target"] == np.float32(1 + 2**-10)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.model)} == {params}
    moments = [leaf.dtype.name for leaf in jax.tree.leaves(state.opt_state)]
    assert sorted(set(moments)) == ["float32", "int32"]
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.ema_model)} == {f32}
    assert all(v.dtype == np.float32 for k, v in metrics.items() if k != "skipped")
    # One program: nothing came back in another format than it went in.
    assert len(step.compilations) == 1


class Mixed(eqx.Module):
    """Leaves of every kind beside one that is trained."""

    weight: jax.Array
    index: jax.Array
    mask: jax.Array
    phase: jax.Array
    key: jax.Array
    frozen: jax.Array
    count: int
    activation: object

    def __call__(self, x):
        return self.activation(self.weight * x[self.index]) + self.frozen


@pytest.mark.parametrize("name", PRESETS)
def test_integers_bools_keys_and_complex_numbers_are_never_cast(name):
    params, compute, _ = PRESETS[name]
    model = Mixed(
        jnp.float32(1.5),
        jnp.int32(1),
        jnp.array([True, False]),
        jnp.complex64(1 + 2j),
        jax.random.key(7),
        jnp.float32(1 + 2**-10),
        3,
        jax.nn.tanh,
    )

    def loss(model, example, key):
        assert model.index.dtype == jnp.int32
        assert model.mask.dtype == jnp.bool_
        assert model.phase.dtype == jnp.complex64
        assert jnp.issubdtype(model.key.dtype, jax.dtypes.prng_key)
        assert model.frozen.dtype == compute
        assert model.count == 3
        x, n, flag, z, k = example
        assert (x.dtype, n.dtype, flag.dtype) == (jnp.float32, jnp.int32, jnp.bool_)
        assert z.dtype == jnp.complex64
        assert jnp.issubdtype(k.dtype, jax.dtypes.prng_key)
        return model(x)

    step = treadle.TrainStep(loss, optax.sgd(0.1), precision=name, trainable="weight")
    state = step.init(model, key=jax.random.key(0))
    batch = (
        np.ones((2, 3), np.float32),
        np.ones(2, np.int32),
        np.ones(2, bool),
        np.ones(2, np.complex64),
        jax.random.split(jax.random.key(1), 2),
    )
    state, _ = step(state, batch)
    after = state.model
    for leaf in ("index", "mask", "phase", "key"):
        assert_same(getattr(after, leaf), getattr(model, leaf))
    # Frozen: in the format of the parameters, and otherwise the same for good.
    assert_same(after.frozen, model.frozen.astype(params))
    assert after.weight.dtype == params
    assert after.weight != model.weight.astype(params)


def test_complex_parameters_are_trained_as_they_are():
    def loss(model, example, key):
        return jnp.abs(model["z"] * example.astype(jnp.complex64) - 1j) ** 2

    step = treadle.TrainStep(loss, optax.sgd(0.25), precision="bf16", ema=0.5)
    state = step.init({"z": jnp.complex64(1 + 2**-12)}, key=jax.random.key(0))
    state, _ = step(state, np.ones(2, np.float32))
    assert state.model["z"].dtype == jnp.complex64
    # z - lr * 2 * (z - i), with every bit of z there.
    np.testing.assert_allclose(state.model["z"], (1 + 2**-12) * 0.5 + 0.5j, rtol=1e-6)
    assert_same(state.ema_model["z"], state.model["z"])


def test_modules_in_containers_and_modules_called_on_their_own():
    notes = Notes()
    layers = {
        "list": [Layer(jnp.float32(0.5), notes, "a"), (Layer(jnp.float32(0.5), notes, "b"),)],
        "whole": Outer(Layer(jnp.float32(0.5), notes, "c"), jnp.float32(1.0), notes),
    }

    def loss(model, example, key):
        first, (second,) = model["list"]
        h = first(example)
        assert h.dtype == jnp.float32
        h = second(h)
        # A submodule that the loss calls itself is outermost there.
        h = model["whole"].inner(h)
        assert h.dtype == jnp.float32
        assert isinstance(first, Layer)
        assert isinstance(model["whole"], Outer)
        assert isinstance(model["whole"], eqx.Module)
        assert type(first).__name__ == "Layer"
        return h

    step = treadle.TrainStep(loss, optax.sgd(0.1), precision="bf16")
    step(step.init(layers, key=jax.random.key(0)), np.ones(2, np.float32))
    for name in "abc":
        assert set(notes.seen[name]) == {("bfloat16", "bfloat16")}


def test_a_model_that_is_a_dictionary_of_arrays_has_its_arrays_cast_and_nothing_else():
    def loss(model, example, key):
        assert model["w"].dtype == jnp.bfloat16
        assert example.dtype == jnp.float32
        return jnp.sum(model["w"].astype(jnp.float32) * example)

    step = treadle.TrainStep(loss, optax.sgd(0.5), precision="bf16")
    state = step.init({"w": jnp.array([1 + 2**-10, 1.0])}, key=jax.random.key(0))
    state, metrics = step(state, np.ones((2, 2), np.float32))
    assert metrics["loss"] == 2  # 1 + 2**-10 is 1 in bfloat16.
    assert_same(state.model["w"], jnp.array([0.5 + 2**-10, 0.5]))

    def mixing(model, example, key):
        return jnp.sum(model["w"] * example)

    strict = treadle.TrainStep(mixing, optax.sgd(0.5), precision="bf16")
    with pytest.raises(ValueError, match=r"'float32', 'bfloat16'|'bfloat16', 'float32'"):
        strict(strict.init({"w": jnp.ones(2)}, key=jax.random.key(0)), np.ones((2, 2), np.float32))


def test_batched_losses_may_map_the_model_and_transform_it():
    net = eqx.nn.MLP(6, 3, 8, 2, key=jax.random.key(1))

    def loss(model, batch, key):
        x, y = batch
        mapped = jax.vmap(model)(x)
        filtered = eqx.filter_vmap(eqx.filter_checkpoint(model))(x)
        jitted = jax.vmap(eqx.filter_jit(model))(x)
        assert mapped.dtype == filtered.dtype == jitted.dtype == jnp.float32
        losses = optax.softmax_cross_entropy_with_integer_labels(mapped, y)
        return jnp.mean(losses), {"apart": jnp.max(jnp.abs(filtered - mapped))}

    def one(model, example, key):
        return optax.softmax_cross_entropy_with_integer_labels(model(example[0]), example[1])

    batch = make_batch(8)
    ends = []
    for fn, batched in ((loss, True), (one, False)):
        step = treadle.TrainStep(fn, optax.sgd(0.1), batched=batched, precision="bf16")
        state, metrics = step(step.init(net, key=jax.random.key(0)), batch)
        ends.append((state.model, metrics))
    assert ends[0][1]["apart"] == 0
    assert_close(ends[0][1]["loss"], ends[1][1]["loss"], rtol=2**-7)
    # Both gradients are sums of products rounded to bfloat16, in another order.
    assert_close(ends[0][0], ends[1][0], rtol=0, atol=0.1 * 2**-6)


def test_layers_that_are_stacked_and_scanned_over():
    class Deep(eqx.Module):
        layers: eqx.nn.Linear
        out: eqx.nn.Linear

        def __init__(self, key):
            keys = jax.random.split(key, 4)
            self.layers = eqx.filter_vmap(lambda k: eqx.nn.Linear(6, 6, key=k))(keys[1:])
            self.out = eqx.nn.Linear(6, 3, key=keys[0])

        def __call__(self, x, *, key=None):
            dynamic, static = eqx.partition(self.layers, eqx.is_array)

            def body(h, leaves):
                return jnp.tanh(eqx.combine(leaves, static)(h)), None

            h, _ = jax.lax.scan(body, x, dynamic)
            assert h.dtype == jnp.float16
            return self.out(h)

    step = treadle.TrainStep(loss_fn, optax.sgd(0.1), precision="fp16")
    state = step.init(Deep, key=jax.random.key(0))
    state, metrics = step(state, make_batch())
    assert metrics["skipped"] == 0
    assert np.isfinite(metrics["loss"])


def test_modules_in_args_compute_like_the_model_and_other_arrays_keep_their_bits():
    teacher = eqx.nn.Linear(6, 3, key=jax.random.key(2))

    def loss(model, example, key, *, args):
        x, _ = example
        assert isinstance(args["teacher"], eqx.nn.Linear)
        assert args["teacher"].weight.dtype == jnp.bfloat16
        assert args["weight"].dtype == jnp.float32
        target = args["teacher"](x)
        assert target.dtype == jnp.float32
        mean = jnp.mean((model(x, key=key) - target) ** 2)
        return args["weight"] * mean, {"weight": args["weight"], "target": jnp.sum(target)}

    step = treadle.TrainStep(loss, optax.sgd(0.1), precision="bf16")
    state = step.init(Net(jax.random.key(1)), key=jax.random.key(0))
    args = {"teacher": teacher, "weight": jnp.float32(1 + 2**-10)}
    batch = make_batch(1)
    _, metrics = step(state, batch, args=args)
    assert metrics["weight"] == np.float32(1 + 2**-10)
    bf16 = jnp.bfloat16
    narrow = jax.tree.map(lambda leaf: leaf.astype(bf16), teacher)
    by_hand = jax.vmap(narrow)(jnp.asarray(batch[0], bf16)).astype(jnp.float32)
    np.testing.assert_allclose(metrics["target"], jnp.sum(by_hand), atol=2**-8)
    assert abs(metrics["target"] - jnp.sum(jax.vmap(teacher)(batch[0]))) > 0


class Normed(eqx.Module):
    """A network with a batch norm of Equinox's, and a state index of a user's."""

    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    last: eqx.nn.Linear

    def __init__(self, mode, key):
        one, two = jax.random.split(key)
        self.first = eqx.nn.Linear(6, 8, key=one)
        self.norm = eqx.nn.BatchNorm(8, "batch", mode=mode)
        self.last = eqx.nn.Linear(8, 3, key=two)

    def __call__(self, x, state):
        h = self.first(x)
        assert h.dtype == x.dtype == self.last.weight.dtype
        assert self.norm.weight.dtype == jnp.float32
        h, state = self.norm(h, state)
        assert h.dtype == x.dtype
        return self.last(jnp.tanh(h)), state


def normed_loss(model, model_state, example, key):
    logits, model_state = model(example[0], model_state)
    assert logits.dtype == jnp.float32
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, example[1])
    return loss, model_state


@pytest.mark.parametrize("mode", ["ema", "batch"])
def test_layers_with_a_state_compute_in_float32(mode):
    ends = {}
    for name in ("f32", "bf16-true"):
        step = treadle.TrainStep(
            normed_loss, optax.sgd(0.1), stateful=True, precision=name, accumulate=2
        )
        model, model_state = eqx.nn.make_with_state(Normed)(mode, key=jax.random.key(1))
        state = step.init(model, key=jax.random.key(0), model_state=model_state)
        before = [leaf.dtype for leaf in jax.tree.leaves(state.model_state)]
        state, metrics = step(state, make_batch(16))
        assert [leaf.dtype for leaf in jax.tree.leaves(state.model_state)] == before
        assert state.model.norm.weight.dtype == PRESETS[name][0]
        ends[name] = (leaves_of(state.model_state), float(metrics["loss"]))
    for wide, narrow in zip(ends["f32"][0], ends["bf16-true"][0], strict=True):
        # Means and variances of activations that were computed with a few roundings of 2**-8.
        np.testing.assert_allclose(narrow, wide, rtol=2**-5, atol=2**-5)
    assert abs(ends["f32"][1] - ends["bf16-true"][1]) < 2**-5


def test_a_batch_norm_that_the_loss_calls_itself():
    class Apart(eqx.Module):
        body: eqx.nn.Linear
        norm: eqx.nn.BatchNorm

        def __init__(self, key):
            self.body = eqx.nn.Linear(6, 3, key=key)
            self.norm = eqx.nn.BatchNorm(3, "batch", mode="batch")

    def loss(model, model_state, example, key):
        h = model.body(example[0])
        assert h.dtype == jnp.float32
        h, model_state = model.norm(h, model_state)
        assert h.dtype == jnp.float32
        return optax.softmax_cross_entropy_with_integer_labels(h, example[1]), model_state

    step = treadle.TrainStep(loss, optax.sgd(0.1), stateful=True, precision="bf16")
    state = step.init(eqx.nn.make_with_state(Apart), key=jax.random.key(0))
    _, metrics = step(state, make_batch())
    assert np.isfinite(metrics["loss"])


def test_ensembles_compute_in_their_format_too():
    notes = Notes()

    def loss(model, example, key):
        out = model(example)
        notes.add("out", out)
        return jnp.sum((out - 1) ** 2)

    single = treadle.TrainStep(loss, optax.sgd(0.1), precision="fp16")
    step = treadle.ensemble(single, 3)
    state = step.init(Layer(jnp.float32(0.5), notes), key=jax.random.key(0))
    state, metrics = step(state, np.ones(2, np.float32))
    assert set(notes.seen["layer"]) == {("float16", "float16")}
    assert set(notes.seen["out"]) == {("float32",)}
    assert metrics["loss_scale"].shape == metrics["skipped"].shape == (3,)
    alone, _ = single(
        single.init(Layer(jnp.float32(0.5), notes), key=jax.random.key(0)), np.ones(2, np.float32)
    )
    for member in treadle.tree.unstack(state):
        assert_close(member.model, alone.model)
        assert member.loss_scale == alone.loss_scale


def test_evaluation_and_prediction_in_the_same_format():
    notes = Notes()
    model = Layer(jnp.float32(1 + 2**-10), notes)

    def metric_fn(model, example):
        out = model(example)
        assert out.dtype == jnp.float32
        return {"out": out}

    inputs = np.ones(4, np.float32)
    wide = treadle.evaluate(treadle.EvalStep(metric_fn), model, [inputs])
    narrow = treadle.evaluate(treadle.EvalStep(metric_fn, precision="bf16"), model, [inputs])
    assert (wide["out"], narrow["out"]) == (np.float32(1 + 2**-10), 1.0)
    assert_same(treadle.predict(model, inputs, batch_size=3), inputs * model.weight)
    assert_same(treadle.predict(model, inputs, batch_size=3, precision="bf16"), inputs)


def test_float64_throughout():
    with enable_x64():
        precision = treadle.Precision("float64", "float64", "float64")
        model = Net(jax.random.key(1), dropout=0.0)

        def loss(model, example, key):
            logits = model(example[0], key=key)
            assert logits.dtype == jnp.float64
            return optax.softmax_cross_entropy_with_integer_labels(logits, example[1])

        step = treadle.TrainStep(loss, optax.sgd(0.1), precision=precision, ema=0.5)
        state = step.init(model, key=jax.random.key(0))
        state, metrics = step(state, make_batch())
        assert metrics["loss"].dtype == jnp.float64
        assert state.model.first.weight.dtype == jnp.float64
        assert state.ema_model.first.weight.dtype == jnp.float64
        assert_close(state.ema_model, state.model, rtol=1e-14, atol=1e-15)


def test_a_scaled_loss_in_float64():
    with enable_x64():
        precision = treadle.Precision("float64", "float16", "float64")

        def loss(model, example, key):
            return treadle.Weighted(model(example)[0] ** 2, example[0])

        step = treadle.TrainStep(loss, optax.sgd(0.1), precision=precision, accumulate=2)
        model = eqx.nn.Linear(1, 1, key=jax.random.key(1))
        state = step.init(model, key=jax.random.key(0))
        state, metrics = step(state, np.ones((4, 1)))
        assert metrics["skipped"] == 0
        assert state.model.weight.dtype == jnp.float64


def test_nothing_is_touched_without_a_precision():
    model = Net(jax.random.key(1))
    assert computing(model, None) is model
    kept = computing(model, treadle.Precision())
    assert_same(kept, model)
    assert type(kept) is Net


def test_casting_twice_is_casting_once():
    model = {"net": Net(jax.random.key(1)), "w": jnp.ones(2)}
    once = computing(model, BF16)
    twice = computing(model, BF16)
    # One class for each module's class: trees from two calls go together.
    assert jax.tree.structure(once) == jax.tree.structure(twice)
    assert type(once["net"]) is type(twice["net"])
    jax.tree.map(lambda a, b: None, once, twice)


# -- at the door ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"precision": "bf17"}, r"`precision` \(='bf17'\) is not known. 'bf16': float32"),
        ({"ema": 1.5}, r"`ema` \(=1.5\) must lie in \(0, 1\)"),
        ({"ema": 0}, r"`ema` \(=0\) must lie in \(0, 1\)"),
        ({"ema": 1}, r"`ema` \(=1\) must lie in \(0, 1\)"),
        ({"ema": float("nan")}, r"`ema` \(=nan\) must lie in \(0, 1\)"),
        ({"nonfinite": "drop"}, r"`nonfinite` \(='drop'\)"),
    ],
)
def test_words_and_numbers_that_a_step_refuses(arguments, match):
    with pytest.raises(treadle.ArgumentValueError, match=match):
        treadle.TrainStep(loss_fn, optax.sgd(0.1), **arguments)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"precision": jnp.bfloat16}, r"`precision` .* is a .*: give a name such as 'bf16'"),
        ({"precision": 16}, r"`precision` \(=16\) is a int: give a name such as 'bf16'"),
        ({"ema": True}, r"`ema` \(=True\) is a bool: give the decay"),
        ({"ema": "0.9"}, r"`ema` \(='0.9'\) is a str: give the decay"),
    ],
)
def test_types_that_a_step_refuses(arguments, match):
    with pytest.raises(treadle.ArgumentTypeError, match=match):
        treadle.TrainStep(loss_fn, optax.sgd(0.1), **arguments)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"params": "int8"}, r"`params` \(='int8'\) must be one of 'float16', 'bfloat16'"),
        ({"compute": "brain"}, r"`compute` \(='brain'\) must be one of"),
        ({"output": 3}, r"`output` \(=3\) must be one of"),
        ({"compute": "float64"}, r"`compute` \(='float64'\) needs float64, .*jax_enable_x64"),
        (
            {"compute": "bfloat16", "loss_scale": treadle.LossScale()},
            r"`loss_scale` .* goes with `compute='float16'`, not with `compute` \(='bfloat16'\)",
        ),
        (
            {"compute": "float32", "loss_scale": treadle.LossScale()},
            r"not with `compute` \(='float32'\).*Leave it out",
        ),
        (
            {"params": "float32", "stochastic_rounding": True},
            r"`stochastic_rounding` goes with `params='bfloat16'`, not with `params` \(='float32'",
        ),
        ({"stochastic_rounding": True}, r"not with `params` \(=None\)"),
    ],
)
def test_precisions_that_are_refused(arguments, match):
    with pytest.raises(treadle.ArgumentValueError, match=match):
        treadle.Precision(**arguments)


def test_a_loss_scale_that_is_none():
    with pytest.raises(treadle.ArgumentTypeError, match=r"`loss_scale` \(=1024.0\) must be a"):
        treadle.Precision(compute="float16", loss_scale=1024.0)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"initial": 0.0}, r"`initial` \(=0.0\) must lie between `minimum` \(=1.0\)"),
        ({"initial": 2.0**30}, r"`initial` .* and `maximum`"),
        ({"initial": float("nan")}, r"`initial` \(=nan\) must lie between"),
        ({"minimum": 0.0}, r"`minimum` \(=0.0\) must be positive"),
        ({"maximum": float("inf")}, r"`maximum` \(=inf\) .* finite in float32"),
        ({"maximum": 0.5}, r"`maximum` \(=0.5\) must be at least `minimum`"),
        ({"growth_factor": 1.0}, r"`growth_factor` \(=1.0\) must be more than 1"),
        ({"growth_factor": float("inf")}, r"`growth_factor` \(=inf\)"),
        ({"backoff_factor": 1.0}, r"`backoff_factor` \(=1.0\) must lie between 0 and 1"),
        ({"growth_interval": 0}, r"`growth_interval` \(=0\) must be a whole number"),
        ({"growth_interval": 1.5}, r"`growth_interval` \(=1.5\) must be a whole number"),
        ({"growth_interval": float("inf")}, r"`growth_interval` \(=inf\) must be a whole number"),
    ],
)
def test_loss_scales_that_are_refused(arguments, match):
    with pytest.raises(treadle.ArgumentValueError, match=match):
        treadle.LossScale(**arguments)


@pytest.mark.parametrize("value", ["2**15", None, True, jnp.float32(8)])
def test_loss_scales_of_what_is_no_number(value):
    with pytest.raises(treadle.ArgumentTypeError, match=r"`initial` .* is a .*, not a number"):
        treadle.LossScale(initial=value)


def test_the_ema_of_a_state_that_has_none():
    step = treadle.TrainStep(loss_fn, optax.sgd(0.1))
    state = step.init(Net(jax.random.key(1)), key=jax.random.key(0))
    assert state.ema_model is None
    assert state.loss_scale is None
    assert state.skipped is None
    evaluation = treadle.EvalStep(lambda model, example: {"x": jnp.sum(model(example[0]))})
    with pytest.raises(treadle.ArgumentValueError, match=r"`weights` \(='ema'\).*ema=0.999"):
        treadle.evaluate(evaluation, state, [make_batch()], weights="ema")
    with pytest.raises(treadle.ArgumentValueError, match=r"hand over the `TrainState`"):
        treadle.evaluate(evaluation, state.model, [make_batch()], weights="ema")
    with pytest.raises(treadle.ArgumentTypeError, match=r"`replace` got 'ema_model'; .* model, "):
        state.replace(ema_model=state.model)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("skipped", {"nonfinite": "skip"}),
        ("skipped", {"precision": "fp16"}),
        ("loss_scale", {"precision": "fp16"}),
    ],
)
def test_figures_whose_names_are_taken(name, options):
    def loss(model, example, key):
        return loss_fn(model, example, key)[0], {name: jnp.float32(0)}

    step = treadle.TrainStep(loss, optax.sgd(0.1), **options)
    state = step.init(Net(jax.random.key(1)), key=jax.random.key(0))
    with pytest.raises(treadle.LossError, match=rf"entry '{name}'.*Call yours something else"):
        step(state, make_batch())
    # Where no step is dropped the name is free.
    free = treadle.TrainStep(loss, optax.sgd(0.1))
    _, metrics = free(free.init(Net(jax.random.key(1)), key=jax.random.key(0)), make_batch())
    assert metrics[name] == 0


def test_names_and_policies_that_are_the_same():
    full = treadle.Precision(params="float32", compute="bfloat16", output="float32")
    for name in ("bf16", "bfloat16", "bf16-mixed"):
        assert as_precision(name) == full
    assert hash(as_precision("bf16")) == hash(full)
    assert as_precision("fp16").loss_scale == treadle.LossScale()
    assert treadle.Precision(compute="f16", loss_scale=None).loss_scale is None
    assert repr(full) == "Precision(params='float32', compute='bfloat16', output='float32')"
    assert as_precision(None) is None
