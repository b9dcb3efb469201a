"""Linen modules: what they compute, how they train, what goes back, and what is refused."""

import functools

import equinox as eqx
import flax.core
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState as FlaxState
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers import assert_close, assert_same
from tests.interop.losses import BATCHES, X, Y, check_own_key, cross_entropy, one_loss

import treadle
from treadle import ArgumentTypeError, ArgumentValueError, MissingExtraError, TrainStep, TreeError
from treadle.interop.flax import LinenModule, LinenModuleWithState, from_linen, to_linen
from treadle.testing import check_roundtrip, check_serialisation


class MLP(nn.Module):
    rate: float = 0.0
    width: int = 8

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.relu(nn.Dense(self.width)(x))
        x = nn.Dropout(self.rate, deterministic=not train)(x)
        return nn.Dense(3)(x)


class Normed(nn.Module):
    """Flattens a batch of images by its first axis, as Flax's own examples do."""

    axis_name: str | None = None
    flatten: bool = True

    @nn.compact
    def __call__(self, x, *, train: bool = True):
        if self.flatten:
            x = x.reshape((x.shape[0], -1))
        # A bias here would have no gradient but rounding, which adamw makes steps of.
        x = nn.Dense(8, use_bias=False)(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, axis_name=self.axis_name)(x)
        return nn.Dense(3)(nn.tanh(x))


def whole_loss(model, batch, key):
    x, y = batch
    return cross_entropy(model(x, key=key), y).mean()


def whole_stateful(model, model_state, batch, key):
    x, y = batch
    logits, model_state = model(x, model_state, key=key)
    return cross_entropy(logits, y).mean(), model_state


def one_stateful(model, model_state, example, key):
    x, y = example
    logits, model_state = model(x, model_state, key=key)
    return cross_entropy(logits, y), model_state


@functools.cache
def initial(module):
    return module.init(jax.random.key(0), X[:2], train=False)


@functools.cache
def flax_run(module):
    """The loop that Flax's own pages have, with its `TrainState`; the losses, and what is left."""
    variables = initial(module)
    has_stats = "batch_stats" in variables
    state = FlaxState.create(
        apply_fn=module.apply, params=variables["params"], tx=optax.adamw(1e-3)
    )

    @jax.jit
    def step(state, stats, batch):
        x, y = batch

        def loss_fn(params):
            given = {"params": params, **stats}
            if not has_stats:
                return whole(state.apply_fn(given, x, train=True), y), stats
            logits, new = state.apply_fn(given, x, train=True, mutable=["batch_stats"])
            return whole(logits, y), new

        def whole(logits, y):
            return cross_entropy(logits, y).mean()

        (loss, stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        with jax.numpy_dtype_promotion("standard"):
            return state.apply_gradients(grads=grads), stats, loss

    stats = {"batch_stats": variables["batch_stats"]} if has_stats else {}
    losses = []
    for batch in BATCHES:
        state, stats, loss = step(state, stats, batch)
        losses.append(loss)
    return np.stack(losses), {"params": state.params, **stats}


def our_run(step, made):
    state = step.init(made, key=jax.random.key(1))
    losses = []
    for batch in BATCHES:
        state, metrics = step(state, batch)
        losses.append(metrics["loss"])
    return np.stack(losses), state


@functools.cache
def one_step():
    return TrainStep(one_loss, optax.adamw(1e-3))


@functools.cache
def normed_step():
    return TrainStep(whole_stateful, optax.adamw(1e-3), batched=True, stateful=True)


@functools.cache
def trained_mlp():
    return our_run(one_step(), from_linen(MLP(), initial(MLP())))


@functools.cache
def trained_normed():
    """A state, for tests that only look at it."""
    return our_run(normed_step(), from_linen(Normed(), initial(Normed())))


def test_parameters_are_leaves_under_flax_s_names():
    model = from_linen(MLP(), initial(MLP()))
    assert treadle.tree.paths(model) == [
        "params/Dense_0/bias",
        "params/Dense_0/kernel",
        "params/Dense_1/bias",
        "params/Dense_1/kernel",
        "inference",
    ]
    assert type(model) is LinenModule
    _, state = trained_normed()
    names = treadle.tree.paths(state)
    assert "model/params/BatchNorm_0/scale" in names
    assert [name for name in names if name.startswith("model_state")] == [
        "model_state/batch_stats/BatchNorm_0/mean",
        "model_state/batch_stats/BatchNorm_0/var",
    ]


@pytest.mark.optimised
@pytest.mark.parametrize("batched", [False, True], ids=["examples", "batched"])
def test_twenty_steps_are_flax_s_own_bit_for_bit(batched):
    expected, variables = flax_run(MLP())
    if batched:
        step = TrainStep(whole_loss, optax.adamw(1e-3), batched=True)
        losses, state = our_run(step, from_linen(MLP(), initial(MLP())))
    else:
        losses, state = trained_mlp()
    assert losses.tobytes() == expected.tobytes()
    assert_same(to_linen(state.model), variables)


def test_twenty_steps_of_a_batch_norm_are_flax_s_own():
    expected, variables = flax_run(Normed())
    losses, state = trained_normed()
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    back = to_linen(state.model, state.model_state)
    assert_close(back, variables, rtol=1e-6, atol=1e-6)
    assert np.any(back["batch_stats"]["BatchNorm_0"]["mean"] != 0)


def test_a_batch_norm_with_the_axis_of_the_examples_trains_on_examples():
    module = Normed(axis_name="batch", flatten=False)
    step = TrainStep(one_stateful, optax.adamw(1e-3), stateful=True)
    losses, state = our_run(step, from_linen(module, initial(Normed())))
    expected, variables = flax_run(Normed())
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    back = to_linen(state.model, state.model_state)
    assert_close(back, variables, rtol=1e-6, atol=1e-6)


def test_two_modules_have_a_state_each():
    (one, one_state), (two, two_state) = (from_linen(Normed(), initial(Normed())) for _ in "ab")

    def loss(models, states, batch, key):
        outs, states = zip(
            *(model(x, s) for model, x, s in zip(models, (batch, 2 * batch), states, strict=True)),
            strict=True,
        )
        return sum(jnp.mean(out**2) for out in outs), states

    step = TrainStep(loss, optax.sgd(1e-2), batched=True, stateful=True)
    state = step.init((one, two), key=jax.random.key(0), model_state=(one_state, two_state))
    state, _ = step(state, X)
    means = [
        to_linen(*pair)["batch_stats"]["BatchNorm_0"]["mean"]
        for pair in zip(state.model, state.model_state, strict=True)
    ]
    assert_close(means[1], 2 * means[0])
    assert np.any(np.asarray(means[0]) != 0)


def test_draws_are_those_of_apply_with_the_same_key():
    module = MLP(rate=0.5)
    model = from_linen(module, initial(MLP()))
    key = jax.random.key(3)
    expected = module.apply(initial(MLP()), X, train=True, rngs={"dropout": key})
    assert_same(model(X, key=key), expected)
    assert np.any(np.asarray(expected) != np.asarray(model(X, key=jax.random.key(4))))
    # In inference nothing is drawn, and no key is wanted.
    calm = eqx.nn.inference_mode(model)
    assert_same(calm(X), module.apply(initial(MLP()), X, train=False))
    assert_same(calm(X, key=key), calm(X))


def test_several_streams_draw_with_keys_of_their_own():
    class Noisy(nn.Module):
        @nn.compact
        def __call__(self, x):
            draw = functools.partial(jax.random.normal, shape=x.shape)
            return draw(self.make_rng("dropout")), draw(self.make_rng("noise"))

    model = from_linen(Noisy(), {"params": {}}, rngs=("dropout", "noise"))
    key = jax.random.key(3)
    keys = {"dropout": jax.random.fold_in(key, 0), "noise": jax.random.fold_in(key, 1)}
    one, two = model(X, key=key)
    assert_same((one, two), Noisy().apply({}, X, rngs=keys))
    assert np.all(np.asarray(one) != np.asarray(two))
    with pytest.raises(ArgumentValueError, match=r"`rngs` \(=\('dropout',\)\) does not name: it n"):
        from_linen(Noisy(), {"params": {}})(X, key=key)


def test_a_call_with_an_argument_key_gets_it():
    class Keyed(nn.Module):
        def __call__(self, x, key=None):
            return key, None if key is None else self.make_rng("dropout")

    model = from_linen(Keyed(), {"params": {}})
    check_own_key(model)
    # In its place it wins, and the stream has the other.
    one, two = jax.random.key(0), jax.random.key(1)
    assert_same(model(X, one, key=two), Keyed().apply({}, X, one, rngs={"dropout": two}))


def test_each_example_drops_by_its_own_key():
    step = TrainStep(one_loss, optax.adamw(1e-3))
    module = MLP(rate=0.5)
    losses, state = our_run(step, from_linen(module, initial(MLP())))
    again, same = our_run(step, from_linen(module, initial(MLP())))
    assert len(step.compilations) == 1
    assert_same(losses, again)
    assert_same(state.model, same.model)
    rows = np.broadcast_to(X[0], (4, 6))
    outputs = treadle.predict(state, rows, batch_size=4, key=jax.random.key(0), inference=False)
    assert len({row.tobytes() for row in outputs}) > 1


def test_only_what_a_glob_names_is_trained():
    step = TrainStep(one_loss, optax.adamw(1e-1), trainable="params/Dense_0/**")
    model = from_linen(MLP(), initial(MLP()))
    state, _ = step(step.init(model, key=jax.random.key(0)), (X, Y))
    params, before = state.model.params, initial(MLP())["params"]
    assert_same(params["Dense_1"], before["Dense_1"])
    assert np.all(np.asarray(params["Dense_0"]["bias"]) != np.asarray(before["Dense_0"]["bias"]))


def test_steps_are_ready_for_production():
    class Both(nn.Module):
        @nn.compact
        def __call__(self, x, train: bool):
            x = nn.Dense(4)(x)
            x = nn.BatchNorm(use_running_average=not train, axis_name="batch")(x)
            return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(x))

    variables = Both().init(jax.random.key(0), X, train=False)
    step = TrainStep(one_stateful, optax.adamw(1e-3), stateful=True)
    state = step.init(from_linen(Both(), variables), key=jax.random.key(1))
    report = treadle.audit(step, state, (X, Y))
    assert report.ok, report


def test_a_step_s_precision_is_that_of_the_module():
    step = TrainStep(
        whole_stateful, optax.adamw(1e-3), batched=True, stateful=True, precision="bf16"
    )
    state = step.init(from_linen(Normed(), initial(Normed())), key=jax.random.key(0))
    # Linen's batch norm compares formats, which strict promotion refuses.
    with jax.numpy_dtype_promotion("standard"):
        traced, (after, _) = jax.make_jaxpr(step.pure, return_shape=True)(state, (X, Y))
    products = [line for line in str(traced).splitlines() if "dot_general" in line]
    assert products
    assert all("bf16[" in line for line in products)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(after.model_state)} == {"float32"}


def test_states_are_saved_and_loaded(tmp_path):
    _, state = trained_normed()
    treadle.save(tmp_path / "normed", state)
    like = normed_step().init(from_linen(Normed(), initial(Normed())), key=jax.random.key(5))
    loaded = treadle.load(tmp_path / "normed", like)
    assert_same(loaded, state)
    check_serialisation(state)
    with treadle.checkpoint.open(tmp_path / "normed") as checkpoint:
        assert "model_state/batch_stats/BatchNorm_0/var" in checkpoint


def test_predictions_evaluations_and_exports_are_those_of_inference():
    _, state = trained_normed()
    variables = to_linen(state.model, state.model_state)
    expected = Normed().apply(variables, X, train=False)

    def metric_fn(model, model_state, batch):
        logits, _ = model(batch, model_state)
        return {"mean": logits.mean()}

    measure = treadle.EvalStep(metric_fn, batched=True, stateful=True)
    mean = treadle.evaluate(measure, state, [X])["mean"]
    np.testing.assert_allclose(mean, expected.mean(), rtol=1e-5, atol=1e-6)
    # One example at a time, where the module flattens by the axis of a batch.
    pair = state.model.per_example(), state.model_state
    assert type(pair[0]) is LinenModuleWithState
    np.testing.assert_allclose(
        treadle.predict(pair, X, batch_size=8), expected, rtol=1e-5, atol=1e-6
    )
    data = treadle.export(pair, X[0], platforms=["cpu"])
    for size in (1, 5):
        np.testing.assert_allclose(
            treadle.load_exported(data)(X[:size]), expected[:size], rtol=1e-5, atol=1e-6
        )


def test_one_example_of_a_module_that_wants_a_batch():
    class Summed(nn.Module):
        @nn.compact
        def __call__(self, x, mask=None):
            return {"sum": jnp.sum(x, axis=1), "mask": mask}, (x if mask is None else mask)

    model = from_linen(Summed(), {"params": {}}).per_example()
    out, _ = model(X[0], mask=X[1])
    assert_same(out, {"sum": jnp.sum(X[:1], axis=1)[0], "mask": jnp.asarray(X[1])})

    class Scalar(nn.Module):
        def __call__(self, x):
            return jnp.sum(x)

    with pytest.raises(ArgumentValueError, match=r"Scalar returned has shape \(\) at ''"):
        from_linen(Scalar(), {"params": {}}).per_example()(X[0])


def test_a_module_with_unhashable_attributes_shares_a_program():
    class Listed(nn.Module):
        widths: list

        @nn.compact
        def __call__(self, x):
            return nn.Dense(self.widths[0])(x)

    variables = Listed([3]).init(jax.random.key(0), X)
    model = from_linen(Listed([3]), variables)
    traced = []

    @eqx.filter_jit
    def call(model):
        traced.append(model)
        return model(X)

    assert_same(call(model), Listed([3]).apply(variables, X))
    call(from_linen(Listed([3]), variables))
    assert len(traced) == 1
    # What is equal and is another program is not the same; nor is what cannot be compared.
    widened = from_linen(Listed([3.0]), variables)
    assert jax.tree.structure(model) != jax.tree.structure(widened)
    arrays = [from_linen(Listed([np.arange(2)]), variables) for _ in range(2)]
    assert jax.tree.structure(arrays[0]) != jax.tree.structure(arrays[1])
    assert "widths = [3]" in repr(model)


def test_other_methods_and_arguments():
    class Coder(nn.Module):
        def setup(self):
            self.inner = nn.Dense(2)
            self.outer = nn.Dense(6)

        def encode(self, x):
            return self.inner(x)

        def __call__(self, x, mask, *, deterministic):
            return self.outer(self.encode(x)) * mask, deterministic

    variables = Coder().init(jax.random.key(0), X, X, deterministic=True)
    model = from_linen(Coder(), variables)
    assert_same(model(X, method="encode"), Coder().apply(variables, X, method="encode"))
    assert_same(model(X, method=Coder.encode), Coder().apply(variables, X, method="encode"))
    out, flag = model(X, mask=X)
    assert_same(out, Coder().apply(variables, X, X, deterministic=True)[0])
    assert flag is False
    assert eqx.nn.inference_mode(model)(X, X)[1] is True
    assert model(X, X, deterministic=True)[1] is True
    with pytest.raises(ArgumentTypeError, match=r"(?s)Coder is called as \(x, mask, .*'mask'"):
        model(X)
    with pytest.raises(ArgumentValueError, match=r"`method` \(='decode'\) is no method of C"):
        model(X, method="decode")
    with pytest.raises(ArgumentValueError, match=r"`method` \(=3\) is no method of Coder"):
        model(X, method=3)


def test_flags_of_other_names_are_told():
    class Flagged(nn.Module):
        @nn.compact
        def __call__(self, x, mode):
            return mode

    model = from_linen(
        Flagged(), {"params": {}}, training={"mode": "train"}, inference={"mode": "eval"}
    )
    assert (model(X), eqx.nn.inference_mode(model)(X)) == ("train", "eval")
    # An argument that the caller gives in its place wins.
    assert model(X, "other") == "other"
    make = functools.partial(from_linen, Flagged(), {"params": {}})
    with pytest.raises(ArgumentTypeError, match=r"called as \(x, mode\), and got .*'mode'"):
        make()(X)
    with pytest.raises(ArgumentValueError, match="`training` names 'mode' and `inference` names n"):
        make(training={"mode": "train"})
    with pytest.raises(ArgumentValueError, match="'train', which the call of Flagged does not tak"):
        make(training={"train": True}, inference={"train": False})
    with pytest.raises(ArgumentTypeError, match=r"`training` \(=True\) is a bool"):
        make(training=True)


class Own(nn.Module):
    """Its flag is an attribute."""

    train: bool = True

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=not self.train, momentum=0.9)(x)
        return nn.Dropout(0.5, deterministic=not self.train)(x)


def test_a_flag_that_is_an_attribute_is_switched():
    variables = Own(train=False).init(jax.random.key(0), X)
    trains, infers = Own(train=True), Own(train=False)
    key = jax.random.key(1)
    for handed in (trains, infers):  # As a flag of the call: whatever it was.
        model, model_state = from_linen(handed, variables)
        pair = eqx.nn.inference_mode(model), model_state
        assert_same(treadle.predict(pair, X, batch_size=16), infers.apply(variables, X))
        out, _ = model(X, model_state, key=key)
        expected = trains.apply(variables, X, rngs={"dropout": key}, mutable=["batch_stats"])
        assert_same(out, expected[0])
    # None is set where it was said that there is none.
    model, model_state = from_linen(trains, variables, training={}, inference={})
    out, _ = eqx.nn.inference_mode(model)(X, model_state, key=key)
    assert_same(out, expected[0])


def test_flags_of_lifted_modules_are_given_by_their_places():
    variables = initial(MLP())
    key = jax.random.key(3)
    for lifted in (nn.remat, nn.jit):
        module = lifted(MLP, static_argnums=2)(rate=0.5)
        model = from_linen(module, variables)
        expected = module.apply(variables, X, True, rngs={"dropout": key})
        assert_close(model(X, key=key), expected)
        assert_close(eqx.nn.inference_mode(model)(X), MLP().apply(variables, X, False))


def test_inference_that_nothing_tells_of_is_refused():
    layers = [nn.BatchNorm(use_running_average=False), nn.Dropout(0.5, deterministic=False)]
    module = nn.Sequential(layers[:1])
    variables = module.init(jax.random.key(0), X)
    model, model_state = eqx.nn.inference_mode(from_linen(module, variables))
    with pytest.raises(
        ArgumentValueError, match="layers_0 normalises by the batch in inference to"
    ):
        model(X, model_state)
    meant, model_state = from_linen(module, variables, training={}, inference={})
    assert_same(
        eqx.nn.inference_mode(meant)(X, model_state)[0],
        module.apply(variables, X, mutable=["batch_stats"])[0],
    )
    dropping = eqx.nn.inference_mode(from_linen(nn.Sequential(layers[1:]), {"params": {}}))
    with pytest.raises(
        ArgumentValueError, match="in inference, and got no key: layers_0 needs PRN"
    ):
        dropping(X)
    with pytest.raises(ArgumentValueError, match="Dropout was given twice, to its constructor and"):
        from_linen(layers[1], {"params": {}})(X, key=jax.random.key(0))
    kept = from_linen(layers[1], {"params": {}}, training={}, inference={})
    assert np.any(np.asarray(kept(X, key=jax.random.key(0))) == 0)


def test_several_inputs_as_one_are_told():
    class Two(nn.Module):
        def __call__(self, one, two):
            return one + two

    model = from_linen(Two(), {"params": {}})
    assert_same(model(X, X), jnp.asarray(X + X))
    with pytest.raises(ArgumentTypeError, match=r"given one by one, `model\(\*inputs\)`; to `pre"):
        treadle.predict(model, (X, X), batch_size=16)


def test_what_is_sown_is_no_variable():
    class Sows(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(2)(x)
            self.sow("losses", "size", jnp.mean(x**2))
            return x

    module = Sows()
    variables = module.init(jax.random.key(0), X)
    with pytest.raises(TreeError, match=r"have 'losses', which `module.init` sowed: results of"):
        from_linen(module, variables)

    def loss(model, batch, key):
        _, sown = module.apply(to_linen(model), batch, mutable=["losses"])
        return sown["losses"]["size"][0]

    step = TrainStep(loss, optax.sgd(1e-2), batched=True)
    model = from_linen(module, {"params": variables["params"]})
    _, metrics = step(step.init(model, key=jax.random.key(0)), X)
    assert_close(metrics["loss"], variables["losses"]["size"][0], rtol=1e-6, atol=0)


def test_a_batch_norm_that_sees_one_example_is_refused():
    module = Normed(flatten=False)
    step = TrainStep(one_stateful, optax.adamw(1e-3), stateful=True)
    state = step.init(from_linen(module, initial(Normed())), key=jax.random.key(0))
    with pytest.raises(ArgumentValueError, match=r"BatchNorm_0 has no `axis_name`.*batched=True"):
        step(state, (X, Y))
    # In inference it normalises by what it has kept: no example needs another.
    pair = from_linen(module, initial(Normed()))
    assert treadle.predict(pair, X, batch_size=8).shape == (16, 3)
    calm = eqx.nn.inference_mode(pair[0])
    jax.vmap(lambda x: calm(x, pair[1])[0], axis_name="batch")(X)

    class Given(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return nn.BatchNorm()(x, not train)

    model, model_state = from_linen(
        Given(), Given().init(jax.random.key(0), X, False), axis_name="rows"
    )
    mapped = functools.partial(jax.vmap, in_axes=(0, None), axis_name="rows")
    with pytest.raises(ArgumentValueError, match="the axis 'rows' is mapped"):
        mapped(lambda x, s: model(x, s)[0])(X, model_state)
    mapped(lambda x, s: eqx.nn.inference_mode(model)(x, s)[0])(X, model_state)


def test_draws_without_a_key_are_refused():
    with pytest.raises(ArgumentValueError, match=r"MLP draws random numbers and got no key: Dropo"):
        from_linen(MLP(rate=0.5), initial(MLP()))(X)


def without(variables, *path):
    copy = jax.tree.map(lambda leaf: leaf, variables)
    *outer, last = path
    functools.reduce(lambda node, name: node[name], outer, copy).pop(last)
    return copy


def test_variables_that_do_not_fit_are_told():
    variables = initial(Normed())
    with pytest.raises(
        TreeError, match=r"lack what Normed reads: .*batch_stats.* the collections 'params':"
    ):
        from_linen(Normed(), without(variables, "batch_stats"))(X)
    others = {"params": variables["params"], "cache": {}}
    model, state = from_linen(Normed(), others, mutable=("batch_stats", "cache"))
    with pytest.raises(TreeError, match="There are the collections 'params', 'cache': hand over"):
        model(X, state)
    model, state = from_linen(Normed(), without(variables, "params", "Dense_1"))
    with pytest.raises(TreeError, match=r"does not fit Normed: .*Dense_1"):
        model(X, state)
    with pytest.raises(TreeError, match=r"does not fit MLP: .*shape \(5, 8\)"):
        from_linen(MLP(), initial(MLP()))(X[:, :5])
    with pytest.raises(TreeError, match="lack the collection 'params': they have 'Dense_0', 'Dens"):
        from_linen(MLP(), initial(MLP())["params"])
    with pytest.raises(TreeError, match=r"have 'params' inside of them, .* `module\.init` retur"):
        from_linen(MLP(), {"params": initial(MLP())})
    with pytest.raises(TreeError, match=r"'batch_stats', which `mutable` \(=\(\)\) does not name"):
        from_linen(Normed(), variables, mutable=())
    with pytest.raises(
        ArgumentTypeError, match=r"a str at 'params/a', which is no array: `module\.init` and"
    ):
        from_linen(MLP(), {"params": {"a": "b"}})
    with pytest.raises(ArgumentTypeError, match="`variables` is a list"):
        from_linen(MLP(), [])


def test_a_module_that_was_not_brought_in_is_told():
    step = TrainStep(one_loss, optax.adamw(1e-3))
    for made in (MLP(), lambda key: MLP()):
        with pytest.raises(ArgumentTypeError, match=r"a `flax\.linen\.Module`, .*linen\("):
            step.init(made, key=jax.random.key(0))


def test_arguments_of_the_wrong_type_are_told():
    with pytest.raises(ArgumentTypeError, match="`module` is the class MLP: give an instance"):
        from_linen(MLP, initial(MLP()))
    with pytest.raises(ArgumentTypeError, match=r"`module` is a function, no `flax\.linen\.M"):
        from_linen(whole_loss, initial(MLP()))
    for name, such in (("rngs", "dropout"), ("mutable", "batch_stats")):
        told = rf"`{name}` \(='a'\) must be a tuple of names, such as \('{such}',\)"
        with pytest.raises(ArgumentTypeError, match=told):
            from_linen(MLP(), initial(MLP()), **{name: "a"})
    with pytest.raises(
        ArgumentTypeError, match="and got a key for `train`: hand a key over by its"
    ):
        from_linen(MLP(), initial(MLP()))(X, jax.random.key(0))
    with pytest.raises(ArgumentTypeError, match=r"`inference` of .* Write `eqx\.filter_jit`, wh"):
        jax.jit(lambda model: model(X))(from_linen(MLP(), initial(MLP())))
    model, state = from_linen(Normed(), initial(Normed()))
    with pytest.raises(ArgumentTypeError, match="`model_state` is missing: a model whose call w"):
        treadle.predict(model, X, batch_size=8)
    _, other = from_linen(Normed(), {"params": {}, "cache": {}}, mutable=("cache",))
    for use in (model, lambda _, state: to_linen(model, state)):
        with pytest.raises(TreeError, match="`model_state` has no 'batch_stats': it is the stat"):
            use(X, other)
    with pytest.raises(ArgumentTypeError, match="`model_state` is a ndarray: a model whose call"):
        model(X, X)
    with pytest.raises(ArgumentTypeError, match="NoneType, and this model keeps variables"):
        to_linen(model)
    with pytest.raises(ArgumentTypeError, match="`model_state` was given, and this model keeps no"):
        to_linen(from_linen(MLP(), initial(MLP())), state)
    with pytest.raises(ArgumentTypeError, match="`model` is a Linear, which `from_linen` did not"):
        to_linen(eqx.nn.Linear(2, 2, key=jax.random.key(0)))


def test_a_call_that_makes_other_variables_is_told():
    class Counts(nn.Module):
        @nn.compact
        def __call__(self, x):
            seen = self.variable("seen", "last", lambda: jnp.zeros(6))
            seen.value = x
            return x

    model, state = from_linen(
        Counts(), {"params": {}, "seen": {"last": np.zeros(6)}}, mutable=("seen",)
    )
    _, state = model(jnp.ones(6), state)
    assert_same(to_linen(model, state)["seen"]["last"], jnp.ones(6))
    with pytest.raises(TreeError, match=r"changed the make of its collection 'seen': 'last' is fl"):
        model(jnp.ones((2, 6)), state)


shapes = st.lists(st.integers(0, 3), max_size=2)
arrays = st.builds(
    lambda shape, dtype, seed: np.random.default_rng(seed).integers(-5, 5, shape).astype(dtype),
    shapes,
    st.sampled_from(["float32", "float16", "bfloat16", "int32", "bool"]),
    st.integers(0, 9),
)
trees = st.recursive(
    st.dictionaries(st.sampled_from(["a", "b", "c/d", "~"]), arrays, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from(["e", "f"]), inner, max_size=2),
    max_leaves=4,
)


@given(st.fixed_dictionaries({"params": trees}, optional={"batch_stats": trees, "cache": trees}))
def test_variables_come_back_bit_for_bit(variables):
    variables = jax.tree.map(jnp.asarray, variables)

    def there(variables):
        made = from_linen(MLP(), variables, mutable=("batch_stats", "cache"))
        return made if isinstance(made, tuple) else (made,)

    check_roundtrip(there, lambda made: to_linen(*made), variables)
    # The other way too: the model is the same, and so is its state.
    check_roundtrip(lambda made: to_linen(*made), there, there(variables))


def test_frozen_and_boxed_variables():
    class Boxed(nn.Module):
        @nn.compact
        def __call__(self, x):
            init = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
            return nn.Dense(3, kernel_init=init)(x)

    variables = Boxed().init(jax.random.key(0), X)
    model = from_linen(Boxed(), flax.core.freeze(variables))
    assert "params/Dense_0/kernel/value" in treadle.tree.paths(model)
    assert_same(to_linen(model), variables)
    assert_same(model(X), Boxed().apply(variables, X))


def test_raw_keys_and_numpy_parameters_are_taken():
    variables = jax.tree.map(np.asarray, initial(MLP()))
    model = from_linen(MLP(rate=0.5), variables)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(model.params))
    assert_same(model(X, key=jax.random.PRNGKey(3)), model(X, key=jax.random.key(3)))


def test_a_missing_flax_is_told(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "flax.linen", None)
    with pytest.raises(MissingExtraError, match=r"flax, which is not installed: `pip install 'tre"):
        from_linen(MLP(), initial(MLP()))
