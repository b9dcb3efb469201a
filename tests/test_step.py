"""`TrainStep`: what it computes, what it leaves alone, and what it says."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import treadle
from tests.helpers import Net, assert_close, assert_same, loss_fn, make_batch


@pytest.fixture(scope="module")
def model():
    return Net(jax.random.key(1))


@pytest.fixture(scope="module")
def step():
    return treadle.TrainStep(loss_fn, optax.adamw(1e-2))


def by_hand(model, batches, optimizer, *, seed):
    """The loop that people write in Equinox, with treadle's documented keys."""
    params, static = eqx.partition(model, eqx.is_inexact_array)
    opt_state = optimizer.init(params)
    root = jax.random.fold_in(jax.random.key(seed), 0x74726169)

    @eqx.filter_jit
    def update(params, opt_state, batch, index):
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(root, index), i))(
            jnp.arange(batch[1].shape[0])
        )

        def mean_loss(params):
            model = eqx.combine(params, static)
            losses, aux = jax.vmap(lambda e, k: loss_fn(model, e, k))(batch, keys)
            return jnp.mean(losses), jnp.mean(aux["accuracy"].astype(jnp.float32))

        (loss, accuracy), grads = jax.value_and_grad(mean_loss, has_aux=True)(params)
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(grads, opt_state, params)
        return eqx.apply_updates(params, updates), opt_state, (loss, accuracy, grads)

    history = []
    for index, batch in enumerate(batches):
        params, opt_state, figures = update(params, opt_state, batch, jnp.int32(index))
        history.append(figures)
    return eqx.combine(params, static), opt_state, history


def test_agrees_with_a_loop_by_hand(model, step):
    batches = [make_batch(seed=seed) for seed in range(3)]
    expected, opt_state, history = by_hand(model, batches, optax.adamw(1e-2), seed=7)
    state = step.init(model, key=jax.random.key(7))
    for batch, (loss, accuracy, grads) in zip(batches, history, strict=True):
        state, metrics = step(state, batch)
        assert set(metrics) == {"loss", "accuracy", "grad_norm"}
        assert_close(metrics["loss"], loss)
        assert_close(metrics["accuracy"], accuracy)
        assert_close(metrics["grad_norm"], optax.tree.norm(grads))
    assert_close(state.model, expected)
    assert_close(state.opt_state, opt_state)
    assert int(state.step) == 3


def test_learns(step):
    batch = make_batch(32)
    state = step.init(Net(jax.random.key(1), dropout=0.1), key=jax.random.key(0))
    losses = []
    for _ in range(100):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-10:]) < 0.75 * np.mean(losses[:10])


def test_caller_keeps_model_key_and_batch(model, step):
    key = jax.random.key(0)
    batch = jax.tree.map(jnp.asarray, make_batch())
    before = jax.tree.map(np.asarray, (eqx.filter(model, eqx.is_array), batch))
    state = step.init(model, key=key)
    for _ in range(3):
        state, _ = step(state, batch)
    assert_same(jax.tree.map(np.asarray, (eqx.filter(model, eqx.is_array), batch)), before)
    jax.random.normal(key)


def test_shared_and_weak_and_numpy_leaves_are_taken(getkey):
    shared = jnp.ones(3)
    tree = {"a": shared, "b": shared, "weak": jnp.asarray(1.0), "numpy": np.ones(2, np.float32)}

    def loss(model, example, key):
        return (
            jnp.sum(model["a"] * example)
            + jnp.sum(model["b"])
            + model["weak"] * jnp.sum(model["numpy"])
        )

    step = treadle.TrainStep(loss, optax.sgd(0.1))
    state = step.init(tree, key=getkey())
    assert all(
        isinstance(leaf, jax.Array) and not getattr(leaf, "weak_type", False)
        for leaf in state.leaves
    )
    for _ in range(2):
        state, _ = step(state, np.ones((4, 3), np.float32))
    assert len(step.compilations) == 1
    assert shared.tolist() == [1, 1, 1]


def test_old_state_says_what_to_do(model, step):
    old = step.init(model, key=jax.random.key(0))
    kept = old.copy()
    new, _ = step(old, make_batch())
    for use in (lambda: step(old, make_batch()), lambda: old.model, lambda: old.copy()):
        with pytest.raises(treadle.ConsumedStateError, match=r"kept = state\.copy\(\)"):
            use()
    again, _ = step(kept, make_batch())
    assert_same(new, again)


def test_without_donation_the_old_state_lives(model):
    step = treadle.TrainStep(loss_fn, optax.sgd(0.1), donate=False)
    state = step.init(model, key=jax.random.key(0))
    new, _ = step(state, make_batch())
    again, _ = step(state, make_batch())
    assert_same(new, again)
    assert int(state.step) == 0


def test_ownership_without_copy(getkey):
    model = Net(getkey())
    step = treadle.TrainStep(loss_fn, optax.sgd(0.1))
    state = step.init(model, key=getkey(), copy=False)
    step(state, make_batch())
    assert model.first.weight.is_deleted()


def test_second_state_of_the_same_structure_compiles_nothing(model):
    step = treadle.TrainStep(loss_fn, optax.sgd(0.1))
    one, two = (step.init(Net(jax.random.key(s)), key=jax.random.key(s)) for s in (0, 1))
    step(one, make_batch())
    step(two, make_batch())
    assert len(step.compilations) == 1


def test_all_of_the_state_is_aliased(model, step):
    state = step.init(model, key=jax.random.key(0))
    compiled = step.compile(state, make_batch())
    assert compiled.aliased_bytes == compiled.donated_bytes > 0
    assert compiled.flops > 0
    assert "state aliased" in str(compiled)


def test_compiles_from_shapes_alone(model, step):
    state = eqx.filter_eval_shape(step.init, model, key=jax.random.key(0))
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), make_batch())
    compiled = step.compile(state, batch)
    real = step.init(model, key=jax.random.key(0))
    expected, _ = step(real.copy(), make_batch())
    got, metrics = compiled(real, make_batch())
    assert_same(got, expected)
    assert set(metrics) == {"loss", "accuracy", "grad_norm"}


def test_pure_goes_through_jit_vmap_and_scan(model, step):
    start = step.init(model, key=jax.random.key(0))
    batches = [make_batch(seed=seed) for seed in range(2)]
    expected = start.copy()
    for batch in batches:
        expected, _ = step(expected, batch)
    jitted = start
    for batch in batches:
        jitted, _ = jax.jit(step.pure)(jitted, batch)
    assert_close(jitted, expected)
    stacked = jax.tree.map(lambda *x: np.stack(x), *batches)
    scanned, metrics = jax.lax.scan(step.pure, start, stacked)
    assert_close(scanned, expected)
    assert metrics["loss"].shape == (2,)
    states = jax.tree.map(lambda x: jnp.stack([x, x]), start)
    mapped, _ = jax.vmap(step.pure)(states, stacked)
    assert mapped.step.tolist() == [1, 1]
    one, _ = step(start, batches[1])
    assert_close(jax.tree.map(lambda x: x[1], mapped), one, rtol=1e-4, atol=1e-5)


def test_any_structure_and_dtype_of_batch(getkey):
    class Pair(eqx.Module):
        x: jax.Array
        more: dict

    def loss(model, example, key):
        total = jnp.sum(example.x.astype(jnp.float32)) + jnp.sum(example.more["y"][0])
        return jnp.sum(model) * total

    step = treadle.TrainStep(loss, optax.sgd(0.1))
    state = step.init(jnp.ones(2), key=getkey())
    for dtype in (np.uint8, np.int32, np.float16, np.bool_):
        batch = Pair(np.ones((4, 2), dtype), {"y": [jnp.ones(4)]})
        state, metrics = step(state, batch)
        assert np.isfinite(float(metrics["loss"]))


def test_batched_loss_gets_the_batch_and_one_key(model):
    seen = []

    def batched(model, batch, key):
        seen.append((batch[0].shape, key.shape))
        losses = jax.vmap(lambda x, y: loss_fn(model, (x, y), key)[0])(*batch)
        return jnp.mean(losses), {"n": batch[0].shape[0]}

    step = treadle.TrainStep(batched, optax.sgd(0.1), batched=True)
    state, metrics = step(step.init(model, key=jax.random.key(0)), make_batch())
    assert seen[0] == ((8, 6), ())
    assert float(metrics["n"]) == 8


def test_args_are_shared_and_not_consumed(model):
    def distil(model, example, key, *, args):
        teacher, weight = args
        x, _ = example
        return weight * jnp.sum((model(x, key=key) - teacher(x, key=key)) ** 2)

    step = treadle.TrainStep(distil, optax.sgd(0.1))
    teacher = eqx.nn.inference_mode(Net(jax.random.key(9)))
    state = step.init(model, key=jax.random.key(0))
    for weight in (1.0, 0.0):
        state, metrics = step(state, make_batch(), args=(teacher, jnp.float32(weight)))
    assert float(metrics["loss"]) == 0
    assert len(step.compilations) == 1
    assert not teacher.first.weight.is_deleted()


def test_trainable_by_globs_selectors_masks_and_filters(model):
    everything = jax.tree.map(lambda _: False, model)
    mask = eqx.tree_at(lambda m: (m.last.weight, m.last.bias), everything, (True, True))
    ways = [
        "last/**",
        ("last/weight", "last/bias"),
        treadle.tree.select("last/**"),
        ~treadle.tree.select("first/**"),
        mask,
        lambda leaf: eqx.is_inexact_array(leaf) and leaf.shape[0] == 3,
    ]
    ends = []
    for way in ways:
        step = treadle.TrainStep(loss_fn, optax.adamw(1e-2, weight_decay=0.1), trainable=way)
        state = step.init(model, key=jax.random.key(0))
        assert len(jax.tree.leaves(state.opt_state[0].mu)) == 2
        state, _ = step(state, make_batch())
        assert_same(state.model.first, model.first)
        ends.append(state)
    for end in ends[1:]:
        assert_same(end, ends[0])


def test_complex_parameters_descend(getkey):
    target = jnp.asarray([1 + 2j, -3j])

    def loss(model, example, key):
        return jnp.sum(jnp.abs(model - target) ** 2) + 0 * example

    step = treadle.TrainStep(loss, optax.sgd(0.1))
    state = step.init(jnp.zeros(2, jnp.complex64), key=getkey())
    for _ in range(50):
        state, _ = step(state, np.zeros(2, np.float32))
    np.testing.assert_allclose(state.model, target, atol=1e-3)


def test_model_made_by_a_function(step):
    one = step.init(lambda: Net(jax.random.key(1)), key=jax.random.key(0))
    two = step.init(Net(jax.random.key(1)), key=jax.random.key(0))
    assert_same(one, two)
    three = step.init(Net, key=jax.random.key(0))
    assert not np.array_equal(three.model.first.weight, two.model.first.weight)


def test_raw_keys_are_wrapped(model, step):
    raw = step.init(model, key=jax.random.PRNGKey(3))
    assert_same(raw, step.init(model, key=jax.random.key(3)))


def test_line_search_sees_the_same_loss(getkey):
    def loss(model, example, key):
        a, b = model
        return (1 - a) ** 2 + 100 * (b - a**2) ** 2 + 0 * example

    step = treadle.TrainStep(loss, optax.lbfgs(), accumulate=2)
    state = step.init((jnp.float32(-1.2), jnp.float32(1.0)), key=getkey())
    for _ in range(60):
        state, metrics = step(state, np.zeros(4, np.float32))
    assert float(metrics["loss"]) < 1e-6


def test_nonfinite_raises_later_skips_or_ignores(getkey):
    def loss(model, example, key):
        return jnp.sum(model) * example

    good, bad = np.ones(2, np.float32), np.full(2, np.inf, np.float32)
    step = treadle.TrainStep(loss, optax.sgd(0.1))
    state = step.init(jnp.ones(2), key=getkey())
    state, _ = step(state, good)
    step.check()
    state, _ = step(state, bad)
    state, _ = step(state, good)
    with pytest.raises(treadle.NonFiniteError, match="step 1 is NaN or infinite"):
        step.check()

    def go_on(state):
        for _ in range(64):
            state, _ = step(state, good)
            jax.block_until_ready(state)

    with pytest.raises(treadle.NonFiniteError, match="step 1 is NaN or infinite"):
        go_on(state)

    skip = treadle.TrainStep(loss, optax.adam(0.1), nonfinite="skip")
    state = skip.init(jnp.ones(2), key=getkey())
    state, _ = skip(state, good)
    before = jax.tree.map(np.asarray, (state.model, state.opt_state))
    state, _ = skip(state, bad)
    assert_same(jax.tree.map(np.asarray, (state.model, state.opt_state)), before)
    assert int(state.step) == 2
    skip.check()

    ignore = treadle.TrainStep(loss, optax.sgd(0.1), nonfinite="ignore")
    state, _ = ignore(ignore.init(jnp.ones(2), key=getkey()), bad)
    ignore.check(state)
    assert not np.all(np.isfinite(state.model))


def test_norm_that_overflows_is_no_fault(getkey):
    def loss(model, example, key):
        return jnp.sum(model) * example

    step = treadle.TrainStep(loss, optax.sgd(1e-30))
    state = step.init(jnp.zeros(2), key=getkey())
    state, metrics = step(state, np.full(2, 3e38, np.float32))
    assert np.isinf(metrics["grad_norm"])
    step.check(state)


def test_zero_total_weight_is_flagged(getkey):
    def loss(model, example, key):
        return treadle.Weighted(jnp.sum(model) * example, jnp.float32(0))

    step = treadle.TrainStep(loss, optax.sgd(0.1))
    state = step.init(jnp.ones(2), key=getkey())
    new, metrics = step(state.copy(), np.ones(2, np.float32))
    assert float(metrics["loss"]) == 0
    assert_same(new.model, state.model)
    with pytest.warns(treadle.ZeroWeightWarning, match="In step 0, all weights"):
        step.check()


def test_optimizers_own_promotion_is_standard_and_the_loss_keeps_strict(getkey):
    def strict_loss(model, example, key):
        return jnp.sum(model * jnp.float16(1)) * example

    step = treadle.TrainStep(strict_loss, optax.adam(1e-3))
    state = step.init(jnp.ones(2), key=getkey())
    with pytest.raises(Exception, match="promotion=strict"):
        step(state, np.ones(2, np.float32))
    # The loss inside a line search too.
    step = treadle.TrainStep(
        lambda m, e, k: jnp.sum(m) * e, optax.chain(optax.adam(1e-3), optax.scale(1))
    )
    step(step.init(jnp.ones(2, jnp.bfloat16), key=getkey()), np.ones(2, jnp.bfloat16))


def test_replace_exchanges_a_view_and_keeps_the_rest(model, step):
    state = step.init(model, key=jax.random.key(0))
    state, _ = step(state, make_batch())
    bias = jnp.arange(3.0)
    swapped = state.replace(model=eqx.tree_at(lambda m: m.last.bias, state.model, bias))
    assert swapped.model.last.bias.tolist() == [0, 1, 2]
    assert_same(swapped.opt_state, state.opt_state)
    step(swapped.copy(), make_batch())
    assert bias.tolist() == [0, 1, 2]
    assert int(state.replace(step=5).step) == 5
    with pytest.raises(
        treadle.TreeError, match="does not fit the state: 'last/bias' is f"
    ) as error:
        state.replace(model=eqx.tree_at(lambda m: m.last.bias, state.model, jnp.ones(4)))
    assert str(error.value) == (
        "`model` does not fit the state: 'last/bias' is float32[3] in the state and float32[4] in "
        "`model`. `replace` keeps the optimizer's state, so structure, shapes and dtypes must "
        "stay. For a model that was changed there is `step.migrate(state, model)`; for another "
        "one, start a new state with `step.init(model, key=...)`."
    )
    for stray, told in (
        (jnp.ones(3, jnp.int32), "int32[3]"),
        ("x", "'x'"),
        (jax.nn.relu, "<relu>"),
    ):
        with pytest.raises(treadle.TreeError, match=re.escape(f"and {told} in `model`")):
            state.replace(model=eqx.tree_at(lambda m: m.last.bias, state.model, stray))
    with pytest.raises(treadle.TreeError, match="only the state has 'last/bias'"):
        state.replace(model=eqx.tree_at(lambda m: m.last.bias, state.model, None))
    with pytest.raises(treadle.ArgumentTypeError, match="views model, opt_state, key, step"):
        state.replace(mode=1)


def test_state_takes_whatever_a_tree_map_puts_there(model, step):
    state = step.init(model, key=jax.random.key(0))
    shapes = jax.tree.map(lambda x: x.shape, state, is_leaf=None)
    named = jax.tree.map(lambda x: str(x.dtype), state)
    assert named.model.first.weight == "float32"
    assert jax.tree.structure(shapes) is not None
    assert "model/first/weight" in treadle.tree.paths(state)
    assert "opt_state/0/mu/first/weight" in treadle.tree.paths(state)
