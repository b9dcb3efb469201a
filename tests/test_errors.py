"""What is wrong is told at the door: the argument, the value, the way out."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import treadle
from tests.helpers import Net, loss_fn, make_batch


@pytest.fixture(scope="module")
def model():
    return Net(jax.random.key(1))


@pytest.fixture
def state(model):
    return treadle.TrainStep(loss_fn, optax.sgd(0.1)).init(model, key=jax.random.key(0))


def run(loss, model=None, batch=None, **options):
    step = treadle.TrainStep(loss, optax.sgd(0.1), **options)
    model = jnp.ones(3) if model is None else model
    batch = np.ones((4, 3), np.float32) if batch is None else batch
    return step(step.init(model, key=jax.random.key(0)), batch)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda m, e: m * e, r"The loss has shape \(3,\), not \(\)\. The loss function sees one"),
        (lambda m, e: 3, "The loss has dtype int32, which is not a float"),
        (
            lambda m, e: jnp.sum(m * e).astype(jnp.complex64),
            "which is complex: return a real number",
        ),
        (lambda m, e: None, "returned None of type NoneType.*Does it end in `return loss`"),
        (lambda m, e: (jnp.sum(m), {}, 1), "returned a tuple of 3"),
        (lambda m, e: (jnp.sum(m), jnp.ones(2)), "aux of the loss is a .*return a dictionary"),
        (lambda m, e: (jnp.sum(m), {"name": "x"}), "`name` .='x'. is a str, not an array"),
        (lambda m, e: (jnp.sum(m), {"none": None}), "`none` .=None. is a NoneType"),
        (lambda m, e: (jnp.sum(m), {"a": m}), r"`a` has shape \(3,\).*treadle\.Sum"),
        (
            lambda m, e: (jnp.sum(m), {"loss": 1.0}),
            "entry 'loss': the names 'loss', 'grad_norm', 'step'",
        ),
        (lambda m, e: (jnp.sum(m), {"z": 1j}), "`z` has dtype complex64"),
        (lambda m, e: treadle.Sum(jnp.sum(m)), r"The loss is a `treadle\.Sum`"),
        (
            lambda m, e: treadle.Weighted(jnp.sum(m), jnp.ones(2)),
            r"weight has shape \(2,\), but its value has shape \(\)",
        ),
    ],
)
def test_losses(returned, message):
    with pytest.raises(treadle.LossError, match=message):
        run(lambda model, example, key: returned(model, example))


def test_batched_loss_is_told_to_reduce():
    with pytest.raises(treadle.LossError, match=r"it must reduce the batch itself"):
        run(lambda m, batch, key: jnp.sum(batch * m[None], axis=1), batched=True)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((np.ones((4, 3)), np.ones(5)), "differ in their leading size .'0': 4, '1': 5.*`args`"),
        ((np.ones((4, 3)), np.float32(1)), "scalar at '1'.*goes through `args`"),
        ((np.ones((4, 3)), 0.5), "scalar at '1'.*goes through `args`"),
        ((np.ones(3), 1), r"If this is one example, cut the data into batches .*data\.arrays"),
        (np.ones((0, 3)), "`batch` is empty"),
        ({"x": np.ones((4, 3)), "name": "cat"}, "'cat' of type str at 'name'"),
        ((), "holds no arrays"),
        (None, "holds no arrays"),
    ],
)
def test_batches(model, state, batch, message):
    step = treadle.TrainStep(loss_fn, optax.sgd(0.1))
    with pytest.raises(treadle.BatchError, match=message):
        step(state, batch)


def test_accumulate_divides():
    with pytest.raises(
        treadle.ArgumentValueError, match=r"`accumulate` \(=3\) must divide the batch size \(=4\)"
    ):
        run(lambda m, e, k: jnp.sum(m * e), accumulate=3)


@pytest.mark.parametrize("accumulate", [0, -1, 2.0, True, "2"])
def test_accumulate_is_a_count(accumulate):
    with pytest.raises(treadle.TreadleError, match=r"`accumulate` .*at least 1"):
        treadle.TrainStep(loss_fn, optax.sgd(0.1), accumulate=accumulate)


def test_no_trainable_leaves():
    with pytest.raises(treadle.TreeError, match=r"has no trainable leaves: it holds no arrays"):
        run(lambda m, e, k: jnp.sum(m * e), model={"n": jnp.arange(3)})
    with pytest.raises(treadle.TreeError, match=r"of its 1 arrays of floats.*chooses none"):
        run(lambda m, e, k: jnp.sum(m * e), trainable=lambda leaf: False)


def test_globs_that_match_nothing(model):
    with pytest.raises(treadle.TreeError, match=r"'frist/weight' matches none.*'first/weight'"):
        run(loss_fn, model=model, trainable="frist/weight")
    with pytest.raises(treadle.TreeError, match=r"It is a subtree: write 'first/\*\*'"):
        run(loss_fn, model=model, trainable=("last/**", "first"))


def test_masks_that_do_not_fit(model):
    with pytest.raises(treadle.TreeError, match=r"does not fit the tree"):
        run(loss_fn, model=model, trainable={"first": True})
    with pytest.raises(treadle.ArgumentTypeError, match=r"`trainable` holds 3"):
        run(loss_fn, model=model, trainable=3)


@pytest.mark.parametrize("optimizer", [1e-3, optax.constant_schedule(1.0), "adam", None])
def test_what_is_no_optimizer(optimizer):
    with pytest.raises(treadle.ArgumentTypeError, match=r"not an optax optimizer\. Write"):
        treadle.TrainStep(loss_fn, optimizer)


@pytest.mark.parametrize("key", [0, 1.5, "seed", None])
def test_what_is_no_key(model, key):
    step = treadle.TrainStep(loss_fn, optax.sgd(0.1))
    with pytest.raises(treadle.ArgumentTypeError, match=r"not a key.*jax\.random\.key\(0\)"):
        step.init(model, key=key)


def test_several_keys(model):
    step = treadle.TrainStep(loss_fn, optax.sgd(0.1))
    with pytest.raises(treadle.ArgumentValueError, match=r"array of 2 keys"):
        step.init(model, key=jax.random.split(jax.random.key(0)))
    with pytest.raises(treadle.ArgumentTypeError, match=r"an array float32\[2\]"):
        step.init(model, key=jnp.ones(2))


def test_arity():
    with pytest.raises(treadle.ArgumentTypeError, match=r"called as loss_fn.model, example, key"):
        treadle.TrainStep(lambda model, example: 0.0, optax.sgd(0.1))
    with pytest.raises(treadle.ArgumentTypeError, match=r"called as loss_fn.model, batch, key"):
        treadle.TrainStep(lambda m, b, k, extra: 0.0, optax.sgd(0.1), batched=True)
    with pytest.raises(treadle.ArgumentTypeError, match=r"is a int, not a function"):
        treadle.TrainStep(3, optax.sgd(0.1))
    with pytest.raises(treadle.ArgumentTypeError, match=r"called as metric_fn.model, example"):
        treadle.EvalStep(lambda model: {})


def test_args_without_a_parameter(model, state):
    step = treadle.TrainStep(loss_fn, optax.sgd(0.1))
    with pytest.raises(treadle.ArgumentTypeError, match=r"has no parameter `args`"):
        step(state, make_batch(), args=1.0)


def test_words_and_states(model):
    with pytest.raises(treadle.ArgumentValueError, match=r"'explode'.*'raise', 'skip', 'ignore'"):
        treadle.TrainStep(loss_fn, optax.sgd(0.1), nonfinite="explode")
    step = treadle.TrainStep(loss_fn, optax.sgd(0.1))
    with pytest.raises(treadle.ArgumentTypeError, match=r"`state` is a Net, not a `TrainState`"):
        step(model, make_batch())


def test_state_of_another_optimizer(model, state):
    step = treadle.TrainStep(loss_fn, optax.adam(0.1))
    with pytest.raises(treadle.TreeError, match=r"`opt_state` does not fit.*step.init"):
        step(state, make_batch())


def test_state_of_another_model(model):
    step = treadle.TrainStep(loss_fn, optax.adam(0.1))
    small = step.init(model, key=jax.random.key(0))
    large = step.init(Net(jax.random.key(0), width=9), key=jax.random.key(0))
    with pytest.raises(treadle.TreeError, match=r"first/weight' is float32\[8,6\] in the state"):
        small.replace(opt_state=large.opt_state)


def test_unhashable_static_leaf():
    class Odd:
        __hash__ = None

    with pytest.raises(treadle.ArgumentTypeError, match=r"'odd'.*neither an array nor hashable"):
        run(lambda m, e, k: jnp.sum(m["w"] * e), model={"w": jnp.ones(3), "odd": Odd()})


def test_error_in_the_loss_leaves_the_state_alive(model):
    def broken(model, example, key):
        raise ZeroDivisionError("mine")

    step = treadle.TrainStep(broken, optax.sgd(0.1))
    state = step.init(model, key=jax.random.key(0))
    with pytest.raises(ZeroDivisionError, match=r"mine"):
        step(state, make_batch())
    assert not state.is_consumed
    assert step.compilations == ()


def test_mlp_is_told_in_the_users_terms(getkey):
    model = treadle.nn.MLP(4, 2, 8, 1, key=getkey())

    def loss(model, example, key):
        return jnp.sum(model(example, key=key))

    with pytest.raises(treadle.TreadleError, match=r"\(2, 2\).*\(4,\)"):
        run(loss, model=model, batch=np.ones((3, 2, 2), np.float32))


def test_every_error_is_in_the_family():
    errors = [getattr(treadle, name) for name in dir(treadle) if name.endswith("Error")]
    assert len(errors) >= 11
    for error in errors:
        assert issubclass(error, treadle.TreadleError)
        assert error is treadle.TreadleError or len(error.__mro__) > 4


def test_checks_of_equinox_reach_the_user(getkey):
    def loss(model, example, key):
        return eqx.error_if(jnp.sum(model * example), example[0] > 0, "mine: positive")

    with pytest.raises(Exception, match=r"mine: positive"):
        jax.block_until_ready(run(loss))
