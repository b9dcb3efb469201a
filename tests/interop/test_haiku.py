"""Haiku functions: what they compute, how they train, what goes back, and what is refused."""

import functools

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers import assert_close, assert_same
from tests.interop.losses import (
    BATCHES,
    X,
    Y,
    check_own_key,
    cross_entropy,
    one_loss,
    one_stateful,
    whole_stateful,
)

import treadle
from treadle import ArgumentTypeError, ArgumentValueError, MissingExtraError, TrainStep, TreeError
from treadle.interop.haiku import HaikuModule, from_haiku, to_haiku
from treadle.testing import check_roundtrip

# Haiku's own layers are not written for strict promotion.
standard = functools.partial(jax.numpy_dtype_promotion, "standard")


@hk.transform
def mlp(x):
    return hk.nets.MLP([8, 3])(x)


@hk.transform
def dropping(x, is_training):
    x = jax.nn.relu(hk.Linear(8)(x))
    with standard():
        x = hk.dropout(hk.next_rng_key(), 0.5, x) if is_training else x
    return hk.Linear(3)(x)


def normed_by(axis_name):
    def normed(x, is_training):
        # A bias here would have no gradient but rounding, which adamw makes steps of.
        x = hk.Linear(8, with_bias=False)(x)
        shaped = functools.partial(hk.get_parameter, shape=(8,), dtype=jnp.float32)
        scale, offset = shaped("scale", init=jnp.ones), shaped("offset", init=jnp.zeros)
        # With parameters of its own it has those of a batch, `(1, 8)`.
        norm = hk.BatchNorm(False, False, 0.9, cross_replica_axis=axis_name)
        with standard():
            x = norm(x, is_training) if x.ndim > 1 else norm(x[None], is_training)[0]
        if x.ndim > 1:
            scale, offset = scale[None], offset[None]
        return hk.Linear(3)(jnp.tanh(scale * x + offset))

    return hk.transform_with_state(normed)


normed = normed_by(None)


@functools.cache
def initial(transformed, *args):
    return transformed.init(jax.random.key(0), X[:2], *args)


@functools.cache
def haiku_run(stateful):
    """The loop that Haiku's own pages have; the losses, and what is left."""
    optimizer = optax.adamw(1e-3)
    params, state = initial(normed, True) if stateful else (initial(mlp), {})
    opt_state = optimizer.init(params)

    @jax.jit
    def step(params, state, opt_state, batch):
        x, y = batch

        def loss_fn(params):
            if stateful:
                logits, new = normed.apply(params, state, None, x, is_training=True)
            else:
                logits, new = mlp.apply(params, None, x), state
            return cross_entropy(logits, y).mean(), new

        (loss, new), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), new, opt_state, loss

    losses = []
    for batch in BATCHES:
        params, state, opt_state, loss = step(params, state, opt_state, batch)
        losses.append(loss)
    return np.stack(losses), params, state


def our_run(step, made):
    state = step.init(made, key=jax.random.key(1))
    losses = []
    for batch in BATCHES:
        state, metrics = step(state, batch)
        losses.append(metrics["loss"])
    return np.stack(losses), state


@functools.cache
def normed_run():
    step = TrainStep(whole_stateful, optax.adamw(1e-3), batched=True, stateful=True)
    return step, *our_run(step, from_haiku(normed, *initial(normed, True)))


def test_parameters_are_leaves_under_haiku_s_names():
    model = from_haiku(mlp, initial(mlp))
    assert isinstance(model, HaikuModule)
    assert treadle.tree.paths(model) == [
        "params/mlp/linear_0/b",
        "params/mlp/linear_0/w",
        "params/mlp/linear_1/b",
        "params/mlp/linear_1/w",
        "inference",
    ]
    _, _, state = normed_run()
    names = treadle.tree.paths(state)
    assert "model_state/state/batch_norm/mean_ema/average" in names


def test_names_that_would_be_one_say_more():
    params = {"a/~/b": {"w": jnp.ones(2)}, "a/b": {"w": jnp.zeros(2)}, "c": {}}
    model = from_haiku(mlp, params)
    assert treadle.tree.paths(model)[:2] == ["params/a/b/w", "params/a/~0/b/w"]
    assert_same(to_haiku(model)[0], params)
    inside = {"a": {"b": jnp.ones(2)}, "a/b": {"w": jnp.zeros(2)}}
    model = from_haiku(mlp, inside)
    assert treadle.tree.paths(model)[:2] == ["params/a/b", "params/a~1b/w"]
    assert_same(to_haiku(model)[0], inside)


@pytest.mark.optimised
def test_twenty_steps_are_haiku_s_own_bit_for_bit():
    expected, params, _ = haiku_run(False)
    step = TrainStep(one_loss, optax.adamw(1e-3))
    losses, state = our_run(step, from_haiku(mlp, initial(mlp)))
    assert losses.tobytes() == expected.tobytes()
    assert_same(to_haiku(state.model), (params, {}))
    assert treadle.audit(step, state, (X, Y)).ok


def test_twenty_steps_of_a_batch_norm_are_haiku_s_own():
    expected, params, hk_state = haiku_run(True)
    step, losses, state = normed_run()
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    back = to_haiku(state.model, state.model_state)
    assert_close(back, (params, hk_state), rtol=1e-6, atol=1e-6)
    logits, _ = normed.apply(*back, None, X, is_training=False)
    pair = state.model.per_example(), state.model_state
    np.testing.assert_allclose(treadle.predict(pair, X, batch_size=8), logits, rtol=1e-5, atol=1e-6)
    data = treadle.export(state, X[0], platforms=["cpu"])
    np.testing.assert_allclose(treadle.load_exported(data)(X), logits, rtol=1e-5, atol=1e-6)


def test_a_batch_norm_trains_on_examples_with_their_axis_alone():
    step = TrainStep(one_stateful, optax.adamw(1e-3), stateful=True)
    made = from_haiku(normed_by("batch"), *initial(normed, True))
    losses, _ = our_run(step, made)
    np.testing.assert_allclose(losses, haiku_run(True)[0], rtol=1e-6)
    with pytest.raises(ArgumentValueError, match=r"batch_norm has no `cross_replica_axis`.*batche"):
        our_run(step, from_haiku(normed, *initial(normed, True)))


def test_inference_that_nothing_tells_of_is_refused():
    def always(x):
        with standard():
            return hk.BatchNorm(False, False, 0.9)(x, True)

    normalising = hk.transform_with_state(always)
    params, state = normalising.init(jax.random.key(0), X)
    model, model_state = eqx.nn.inference_mode(from_haiku(normalising, params, state))
    with pytest.raises(ArgumentValueError, match="batch_norm normalises by the batch in inference"):
        model(X, model_state)
    meant, model_state = from_haiku(normalising, params, state, training={}, inference={})
    out, _ = eqx.nn.inference_mode(meant)(X, model_state)
    assert_same(out, normalising.apply(params, state, None, X)[0])
    noisy = hk.transform(lambda x: x + jax.random.normal(hk.next_rng_key(), x.shape))
    with pytest.raises(
        ArgumentValueError, match="draws random numbers in inference, and got no ke"
    ):
        eqx.nn.inference_mode(from_haiku(noisy, {}))(X)


def test_draws_are_those_of_apply_with_the_same_key():
    params = initial(dropping, False)
    model, key = from_haiku(dropping, params), jax.random.key(3)
    assert_same(model(X, key=key), dropping.apply(params, key, X, True))
    calm = eqx.nn.inference_mode(model)
    assert_same(calm(X), dropping.apply(params, None, X, False))
    with pytest.raises(ArgumentValueError, match="function draws random numbers and got no key"):
        model(X)
    with pytest.raises(ArgumentValueError, match=r"`hk\.without_apply_rng` hands it no key: give"):
        from_haiku(hk.without_apply_rng(dropping), params)(X, key=key)
    # Without the key in `apply`, there is none to hand on.
    plain = from_haiku(hk.without_apply_rng(mlp), initial(mlp))
    assert_same(plain(X, key=key), mlp.apply(initial(mlp), None, X))


def test_a_call_with_an_argument_key_gets_it():
    keyed = hk.transform(lambda x, key=None: (key, None if key is None else hk.next_rng_key()))
    check_own_key(from_haiku(keyed, {}))


def test_a_state_may_be_left_as_a_number():
    @hk.transform_with_state
    def marks(x):
        for name, value in (("half", 0.5), ("weak", jnp.where(jnp.sum(x) == 0, 1.0, 2.0))):
            hk.set_state(name, value)
        return x

    model, model_state = from_haiku(marks, *marks.init(jax.random.key(0), X))
    for _ in range(2):
        _, model_state = model(X, model_state)
    left = to_haiku(model, model_state)[1]["~"]
    assert_same(left, {"half": np.float32(0.5), "weak": np.float32(2.0)})
    assert not any(leaf.weak_type for leaf in left.values())


def test_only_what_a_glob_names_is_trained():
    step = TrainStep(one_loss, optax.adamw(1e-1), trainable="params/mlp/linear_0/**")
    model = from_haiku(mlp, initial(mlp))
    state, _ = step(step.init(model, key=jax.random.key(0)), (X, Y))
    after, before = state.model.params["mlp"], model.params["mlp"]
    assert_same(after["linear_1"], before["linear_1"])
    assert np.any(after["linear_0"]["b"] != before["linear_0"]["b"])


def test_states_are_saved_and_loaded(tmp_path):
    step, _, state = normed_run()
    treadle.save(tmp_path / "normed", state)
    like = step.init(from_haiku(normed, *initial(normed, True)), key=jax.random.key(5))
    assert_same(treadle.load(tmp_path / "normed", like), state)


arrays = st.builds(
    lambda size, dtype: jnp.arange(size).astype(dtype),
    st.integers(0, 3),
    st.sampled_from(["float32", "bfloat16", "int32"]),
)
mappings = st.dictionaries(
    st.sampled_from(["a", "a/b", "a/~/b", "a/~/b/~/c", "d"]),
    st.dictionaries(st.sampled_from(["b", "w"]), arrays, max_size=2),
)


@given(mappings, mappings)
def test_parameters_come_back_bit_for_bit(params, state):
    def there(pair):
        made = from_haiku(normed, *pair)
        return made if isinstance(made, tuple) else (made,)

    check_roundtrip(there, lambda made: to_haiku(*made), (params, state))
    check_roundtrip(lambda made: to_haiku(*made), there, there((params, state)))


def test_parameters_that_do_not_fit_are_told():
    params = initial(mlp)
    with pytest.raises(TreeError, match=r"does not fit the Haiku function: .*linear_1"):
        from_haiku(mlp, {name: params[name] for name in list(params)[:1]})(X)
    with pytest.raises(TreeError, match=r"does not fit .*retrieved shape \(6, 8\)"):
        from_haiku(mlp, params)(X[:, :5])
    model, state = from_haiku(normed, initial(normed, True)[0], {"a": {"b": X}})
    with pytest.raises(TreeError, match=r"made or removed entries of its state: .*'a/b'"):
        model(X, state)

    @hk.transform
    def broken(x):
        raise ValueError("of the user")

    with pytest.raises(ValueError, match="of the user") as raised:
        from_haiku(broken, {})(X)
    assert not isinstance(raised.value, treadle.TreadleError)


def test_a_transform_that_was_not_brought_in_is_told():
    step = TrainStep(one_loss, optax.adamw(1e-3))
    for transformed, end in ((mlp, r"params\)"), (normed, r"params, state\)")):
        with pytest.raises(ArgumentTypeError, match=rf"from_haiku\(transformed, {end}, key"):
            step.init(transformed, key=jax.random.key(0))


def test_arguments_that_do_not_fit_are_told(monkeypatch):
    params, hk_state = initial(normed, True)
    with pytest.raises(ArgumentTypeError, match="`transformed` is a function: give what `hk"):
        from_haiku(one_loss, params)
    with pytest.raises(ArgumentValueError, match="`state` is missing"):
        from_haiku(normed, params)
    with pytest.raises(ArgumentValueError, match="`state` was given, and `hk"):
        from_haiku(mlp, params, hk_state)
    with pytest.raises(ArgumentTypeError, match=r"`params` is no dictionary of dictionaries \(=\["):
        from_haiku(mlp, [1])
    several = hk.multi_transform(lambda: (mlp_of := hk.nets.MLP([8, 3]), (mlp_of, hk.Linear(2))))
    with pytest.raises(ArgumentTypeError, match=r"a MultiTransformed: .* `hk\.Transformed\(mult"):
        from_haiku(several, params)
    one = from_haiku(hk.Transformed(several.init, several.apply[0]), initial(mlp))
    assert_same(one(X), mlp.apply(initial(mlp), None, X))
    stateful = hk.multi_transform_with_state(lambda: (lambda x: x, (lambda x: x,)))
    with pytest.raises(ArgumentTypeError, match=r"MultiTransformedWithState: .*TransformedWithSta"):
        from_haiku(stateful, params, {})
    with pytest.raises(ArgumentTypeError, match=r"`state\['a'\]\['b'\]` is a str, no array: `tran"):
        from_haiku(normed, params, {"a": {"b": "c"}})
    with pytest.raises(ArgumentTypeError, match=r"called as \(x, is_training\), and got \(is_tr"):
        from_haiku(dropping, initial(dropping, False))()
    with pytest.raises(ArgumentValueError, match="'train', which the call of the Haiku function"):
        from_haiku(mlp, params, training={"train": True}, inference={"train": False})
    model, state = from_haiku(normed, params, hk_state)
    with pytest.raises(ArgumentTypeError, match="`model_state` is missing: a model whose call w"):
        model(X)
    with pytest.raises(ArgumentTypeError, match=r"`inference` of .* Write `eqx\.filter_jit`, wh"):
        jax.jit(lambda model: model(X))(from_haiku(mlp, initial(mlp)))
    with pytest.raises(ArgumentTypeError, match="`model_state` is a ndarray: a model whose call"):
        model(X, X)
    with pytest.raises(ArgumentTypeError, match="`model_state` is a NoneType, and this model kee"):
        to_haiku(model)
    with pytest.raises(ArgumentTypeError, match="`model_state` was given, and this model keeps no"):
        to_haiku(from_haiku(mlp, initial(mlp)), state)
    with pytest.raises(ArgumentTypeError, match="`model` is a dict, which `from_haiku` did not ma"):
        to_haiku(params)
    _, other = treadle.interop.flax.from_nnx(nnx.BatchNorm(6, rngs=nnx.Rngs(0)))
    with pytest.raises(TreeError, match="`model_state` has no 'state': it is the state of another"):
        to_haiku(model, other)
    monkeypatch.setitem(__import__("sys").modules, "haiku", None)
    with pytest.raises(MissingExtraError, match="dm-haiku, which is not installed: `pip install"):
        from_haiku(mlp, params)
