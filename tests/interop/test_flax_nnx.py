"""NNX modules: what they compute, how they train, what goes back, and what is refused."""

import functools

import equinox as eqx
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
from treadle import ArgumentTypeError, ArgumentValueError, TrainStep, TreeError
from treadle.interop.flax import NNXModule, from_nnx, to_nnx
from treadle.testing import check_roundtrip


class Net(nnx.Module):
    def __init__(self, rngs, *, rate=0.0, normed=False, axis_name=None):
        # Before a batch norm a bias would have no gradient but rounding.
        self.first = nnx.Linear(6, 8, use_bias=not normed, rngs=rngs)
        self.normed = normed
        if normed:
            self.norm = nnx.BatchNorm(8, momentum=0.9, axis_name=axis_name, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.last = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        x = self.first(x)
        x = self.norm(x) if self.normed else x
        return self.last(self.dropout(nnx.relu(x)))


def net(**options):
    return Net(nnx.Rngs(0), **options)


@functools.cache
def nnx_run(normed):
    """The loop that NNX's own pages have; the losses, and the module."""
    module = net(normed=normed)
    optimizer = nnx.Optimizer(module, optax.adamw(1e-3), wrt=nnx.Param)

    @nnx.jit
    def step(module, optimizer, batch):
        x, y = batch
        loss, grads = nnx.value_and_grad(lambda module: cross_entropy(module(x), y).mean())(module)
        with jax.numpy_dtype_promotion("standard"):
            optimizer.update(module, grads)
        return loss

    return np.stack([step(module, optimizer, batch) for batch in BATCHES]), module


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
    return step, *our_run(step, from_nnx(net(normed=True)))


def values(module):
    return jax.tree.leaves(nnx.state(module, nnx.Not(nnx.RngState)))


def test_parameters_are_leaves_under_nnx_s_names():
    model = from_nnx(net())
    assert isinstance(model, NNXModule)
    assert [name for name in treadle.tree.paths(model) if name.startswith("params")] == [
        "params/first/bias",
        "params/first/kernel",
        "params/last/bias",
        "params/last/kernel",
    ]
    _, _, state = normed_run()
    assert [name for name in treadle.tree.paths(state) if name.startswith("model_state")] == [
        "model_state/variables/norm/mean",
        "model_state/variables/norm/var",
    ]


@pytest.mark.optimised
def test_twenty_steps_are_nnx_s_own_bit_for_bit():
    expected, module = nnx_run(False)
    losses, state = our_run(TrainStep(one_loss, optax.adamw(1e-3)), from_nnx(net()))
    assert losses.tobytes() == expected.tobytes()
    assert_same(values(to_nnx(state.model)), values(module))


def test_twenty_steps_of_a_batch_norm_are_nnx_s_own():
    expected, module = nnx_run(True)
    step, losses, state = normed_run()
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    back = to_nnx(state.model, state.model_state)
    assert_close(values(back), values(module), rtol=1e-6, atol=1e-6)
    assert_same(
        back.norm.mean[...],
        state.model_state.get(state.model.collections["variables"])["norm"]["mean"],
    )
    module.eval()
    pair = state.model, state.model_state
    np.testing.assert_allclose(
        treadle.predict(pair, X, batch_size=8), module(X), rtol=1e-5, atol=1e-6
    )
    data = treadle.export(state, X[0], platforms=["cpu"])
    np.testing.assert_allclose(treadle.load_exported(data)(X), module(X), rtol=1e-5, atol=1e-6)
    assert treadle.audit(step, state, (X, Y)).ok


def test_a_batch_norm_trains_on_examples_with_their_axis_alone():
    step = TrainStep(one_stateful, optax.adamw(1e-3), stateful=True)
    losses, state = our_run(step, from_nnx(net(normed=True, axis_name="batch")))
    np.testing.assert_allclose(losses, nnx_run(True)[0], rtol=1e-6)
    with pytest.raises(ArgumentValueError, match=r"NNX's norm has no `axis_name`.*batched=True"):
        our_run(step, from_nnx(net(normed=True)))


def test_a_call_draws_from_its_key():
    module = net(rate=0.5)
    model = from_nnx(module)
    one, two = (model(X, key=jax.random.key(seed)) for seed in (3, 4))
    assert_same(one, model(X, key=jax.random.key(3)))
    assert np.any(np.asarray(one) != np.asarray(two))
    # As NNX draws from a stream with this key, of the same count.
    twin = nnx.clone(module)
    for _, node in nnx.iter_graph(twin):
        if isinstance(node, nnx.RngKey):
            node[...] = jax.random.key(3)
    assert_same(one, twin(X))
    with pytest.raises(ArgumentValueError, match="Net draws random numbers and got no key"):
        model(X)
    module.eval()
    assert_same(eqx.nn.inference_mode(model)(X), module(X))


def test_a_key_is_wanted_only_where_the_output_depends_on_it():
    class Recurrent(nnx.Module):
        """Draws the carry that it begins with, of zeros."""

        def __init__(self, rngs):
            self.rnn = nnx.RNN(nnx.SimpleCell(6, 4, rngs=rngs), rngs=rngs)

        def __call__(self, x):
            return self.rnn(x)

    module = Recurrent(nnx.Rngs(0))
    assert_same(from_nnx(module)(X[None]), module(X[None]))

    class Looped(nnx.Module):
        """A loop that hands streams through, whether it draws from them or not."""

        def __init__(self, rngs):
            @nnx.split_rngs(splits=2)
            @nnx.vmap
            def make(rngs):
                return nnx.Dropout(0.5, rngs=rngs)

            self.layers = make(rngs)

        def __call__(self, x):
            loop = nnx.scan(lambda layer, x: layer(x), in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
            return loop(self.layers, x)

    looped = from_nnx(Looped(nnx.Rngs(0)))
    assert_same(eqx.nn.inference_mode(looped)(X), jnp.asarray(X))
    with pytest.raises(ArgumentValueError, match="Looped draws random numbers and got no key"):
        looped(X)

    class Counting(nnx.Module):
        """Its state alone is drawn."""

        def __init__(self, rngs):
            self.rngs, self.last = rngs, nnx.BatchStat(jnp.zeros(()))

        def __call__(self, x):
            self.last[...] = jax.random.normal(self.rngs())
            return x

    counting, model_state = from_nnx(Counting(nnx.Rngs(0)))
    with pytest.raises(ArgumentValueError, match="Counting draws random numbers and got no key"):
        counting(X, model_state)


def test_several_streams_have_keys_of_their_own():
    class Noisy(nnx.Module):
        def __init__(self, rngs):
            self.rngs = rngs

        def __call__(self, x):
            return jax.random.normal(self.rngs.one(), x.shape), jax.random.normal(
                self.rngs.two(), x.shape
            )

    one, two = from_nnx(Noisy(nnx.Rngs(one=0, two=0)))(X, key=jax.random.key(0))
    assert np.all(np.asarray(one) != np.asarray(two))

    class Stacked(nnx.Module):
        def __init__(self, rngs):
            self.rngs = rngs

        def __call__(self, x):
            return nnx.vmap(lambda rngs, x: jax.random.normal(rngs.one(), x.shape))(self.rngs, x)

    rngs = nnx.Rngs(one=0)
    # Flax 0.11 has no `split`, and Flax 0.12 warns of `fork(split=)`.
    stacked = Stacked(rngs.split(16) if hasattr(nnx.Rngs, "split") else rngs.fork(split=16))
    rows = from_nnx(stacked)(X, key=jax.random.key(0))
    assert len({row.tobytes() for row in np.asarray(rows)}) == 16


def test_a_call_with_an_argument_key_gets_it():
    class Keyed(nnx.Module):
        def __init__(self, rngs):
            self.rngs = rngs

        def __call__(self, x, *, key=None):
            return key, None if key is None else self.rngs.noise()

    check_own_key(from_nnx(Keyed(nnx.Rngs(noise=0))))


def test_only_what_a_glob_names_is_trained():
    step = TrainStep(one_loss, optax.adamw(1e-1), trainable="params/first/**")
    model = from_nnx(net())
    state, _ = step(step.init(model, key=jax.random.key(0)), (X, Y))
    assert_same(state.model.params["last"], model.params["last"])
    assert_same(state.model.rngs, model.rngs)
    assert np.any(state.model.params["first"]["bias"] != model.params["first"]["bias"])


def test_states_are_saved_and_loaded(tmp_path):
    step, _, state = normed_run()
    treadle.save(tmp_path / "net", state)
    like = step.init(from_nnx(net(normed=True)), key=jax.random.key(5))
    assert_same(treadle.load(tmp_path / "net", like), state)


def split(module):
    """All of a module, as a tree that can be compared."""
    graphdef, state = nnx.split(module)
    return {"graph": graphdef, "state": state}


@given(st.booleans(), st.integers(0, 9), st.booleans())
def test_modules_come_back_bit_for_bit(normed, seed, called):
    module = Net(nnx.Rngs(seed), rate=0.5, normed=normed)
    if called:
        module(X)  # Its counts and statistics go on.

    def there(tree):
        made = from_nnx(nnx.merge(tree["graph"], tree["state"]))
        return made if isinstance(made, tuple) else (made,)

    check_roundtrip(there, lambda made: split(to_nnx(*made)), split(module))
    check_roundtrip(lambda made: split(to_nnx(*made)), there, there(split(module)))


def test_the_module_that_was_handed_over_stays_as_it_is():
    module = net(normed=True, rate=0.5)
    before = split(nnx.clone(module))
    model, state = from_nnx(module)
    model(X, state, key=jax.random.key(0))
    assert_same(split(module), before)


def test_lists_flags_and_wanted_batches():
    # Flax 0.12 refuses a plain list, and Flax 0.11 has no other.
    listed = getattr(nnx, "List", list)

    class Flagged(nnx.Module):
        def __init__(self, rngs):
            self.layers = listed([nnx.Linear(6, 6, rngs=rngs) for _ in range(11)])

        def __call__(self, x, train, mask=None):
            self.seen = nnx.Intermediate(x)
            return self.layers[0](x.reshape(x.shape[0], -1)), train

    model = from_nnx(Flagged(nnx.Rngs(0)))
    assert "params/layers/10/kernel" in treadle.tree.paths(model)
    out, flag = model(X)
    assert flag is True
    assert eqx.nn.inference_mode(model)(X)[1] is False
    # What is sown is dropped, also where it was there before.
    module = to_nnx(model)
    module(X, True)
    assert_same(from_nnx(module)(X)[0], out)
    assert isinstance(module.seen, nnx.Intermediate)
    loud = eqx.nn.inference_mode(model).per_example()
    with pytest.raises(ArgumentTypeError, match=r"Flagged is called as \(x, train, mask=None\)"):
        loud()
    only = from_nnx(Flagged(nnx.Rngs(0)), training={"train": X}, inference={"train": X})
    assert_close(only.per_example()(X[0], train=Y[0])[0], np.asarray(out)[0])


def test_calls_that_make_variables_are_refused():
    class Makes(nnx.Module):
        def __call__(self, x):
            self.more = nnx.BatchStat(x)
            return x

    with pytest.raises(TreeError, match="Makes made or removed variables: it has 'more', and ha"):
        from_nnx(Makes())(X)

    class Grows(nnx.Module):
        def __init__(self):
            self.last = nnx.Cache(jnp.zeros(6))

        def __call__(self, x):
            self.last[...] = x
            return x

    model, state = from_nnx(Grows())
    _, state = model(jnp.ones(6), state)
    assert_same(to_nnx(model, state).last[...], jnp.ones(6))


def test_what_a_call_writes_into_a_parameter_is_not_kept():
    class Halves(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(jnp.ones(()))

        def __call__(self, x):
            self.w[...] = self.w[...] / 2
            return self.w[...] * x

    model = from_nnx(Halves())
    for _ in range(2):
        assert_same(model(X), jnp.asarray(X / 2))
    assert_same(to_nnx(model).w[...], jnp.ones(()))


def test_attributes_that_a_call_changes_are_told():
    class Counts(nnx.Module):
        def __init__(self, calls):
            self.calls = calls
            self.deterministic, self.size = True, None

        def __call__(self, x, resize=False):
            self.calls += 1
            self.shape = x.shape  # Made anew by each call.
            self.train()
            self.size = len(x) if resize else self.size
            return x * self.calls

    with pytest.raises(TreeError, match=r"Counts changed its attribute 'calls' from 0 to 1, .*nn"):
        from_nnx(Counts(0))(X)
    # An array is kept, with a variable around it and without.
    model, state = from_nnx(Counts(jnp.zeros(())))
    for calls in (1, 2):
        out, state = model(X, state)
        assert_same(out, jnp.asarray(X * calls))
    with pytest.raises(TreeError, match="its attribute 'size' from None to 16, which would be los"):
        model(X, state, resize=True)


def test_a_module_that_was_not_brought_in_is_told():
    step = TrainStep(one_loss, optax.adamw(1e-3))
    for made in (net(normed=True), lambda key: net(normed=True)):
        with pytest.raises(ArgumentTypeError, match=r"a `flax\.nnx\.Module`, .*nnx\("):
            step.init(made, key=jax.random.key(0))


def test_arguments_of_the_wrong_type_are_told():
    shapes = nnx.eval_shape(net)
    with pytest.raises(ArgumentTypeError, match="`module` has a shape at 'first/bias', and no arr"):
        from_nnx(shapes)
    for wrong, what in ((Net, "the class Net"), (one_loss, "a function")):
        with pytest.raises(ArgumentTypeError, match=f"`module` is {what}, no instance of"):
            from_nnx(wrong)

    class Silent(nnx.Module):
        pass

    with pytest.raises(ArgumentTypeError, match="`module` is a Silent, which has no `__call__`"):
        from_nnx(Silent())
    model, state = from_nnx(net(normed=True))
    with pytest.raises(ArgumentTypeError, match="`model_state` is a NoneType, and this model kee"):
        to_nnx(model)
    with pytest.raises(ArgumentTypeError, match="`model_state` was given, and this model keeps no"):
        to_nnx(from_nnx(net()), state)
    with pytest.raises(ArgumentTypeError, match="`model` is a Net, which `from_nnx` did not make"):
        to_nnx(net())
    with pytest.raises(ArgumentTypeError, match="`model_state` is missing: a model whose call w"):
        model(X)
    with pytest.raises(ArgumentTypeError, match=r"`inference` of .* Write `eqx\.filter_jit`, wh"):
        jax.jit(lambda model: model(X))(from_nnx(net()))
    with pytest.raises(ArgumentTypeError, match="`model_state` is a ndarray: a model whose call"):
        model(X, X)
