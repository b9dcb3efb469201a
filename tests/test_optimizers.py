"""Optimizers that ask for more than a gradient, or keep something for others to read."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
import scipy.optimize

import treadle
from tests.helpers import Net, assert_close, assert_same, loss_fn, make_batch
from treadle import ArgumentTypeError, ArgumentValueError, EvalStep, LossError, TrainStep
from treadle._compat import enable_x64


class Linear(eqx.Module):
    """A classifier that is quick to compile."""

    weight: jax.Array
    bias: jax.Array

    def __init__(self, key):
        self.weight = jax.random.normal(key, (3, 6))
        self.bias = jnp.zeros(3)

    def __call__(self, x, *, key=None):
        return self.weight @ x + self.bias


def cross_entropy(model, example, key):
    x, y = example
    return optax.softmax_cross_entropy_with_integer_labels(model(x), y)


def mean_loss(model, batch):
    """The same for a batch, in plain JAX."""
    x, y = batch
    logits = x @ model.weight.T + model.bias[None]
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))


def standard_promotion():
    return jax.numpy_dtype_promotion("standard")


def trained(optimizer, *, steps=3, loss=cross_entropy, **options):
    step = TrainStep(loss, optimizer, **options)
    state = step.init(Linear(jax.random.key(1)), key=jax.random.key(0))
    metrics = {}
    for seed in range(steps):
        state, metrics = step(state, make_batch(seed=seed))
    return state, metrics, step


def by_hand(optimizer, extra, *, steps=3):
    """The loop as optax's pages have it; `extra(value, grads, objective)` are the arguments."""
    params = Linear(jax.random.key(1))
    opt_state = optimizer.init(params)

    @jax.jit
    def update(params, opt_state, batch):
        def objective(params):
            return mean_loss(params, batch)

        value, grads = jax.value_and_grad(objective)(params)
        updates, opt_state = optimizer.update(
            grads, opt_state, params, **extra(value, grads, objective)
        )
        return optax.apply_updates(params, updates), opt_state

    with standard_promotion(), jax.numpy_rank_promotion("allow"):
        for seed in range(steps):
            params, opt_state = update(params, opt_state, make_batch(seed=seed))
    return params, opt_state


def line_search_arguments(value, grads, objective):
    return {"value": value, "grad": grads, "value_fn": objective}


# -- line searches --------------------------------------------------------------------------------


def rosenbrock(x):
    return 100.0 * (x[1] - x[0] ** 2) ** 2 + (1.0 - x[0]) ** 2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lbfgs_finds_the_minimum_of_rosenbrock_as_optax_and_scipy_do(dtype):
    with enable_x64(dtype == "float64"):
        start = jnp.array([-1.2, 1.0], dtype)
        optimizer = optax.lbfgs()
        step = TrainStep(lambda model, batch, key: rosenbrock(model), optimizer, batched=True)
        state = step.init(start, key=jax.random.key(0))
        nothing = np.zeros((50, 1, 1), np.float32)
        state, metrics = step.scan(state, nothing)

        @jax.jit
        def own_loop(params):
            def one(carry, _):
                params, opt_state = carry
                value, grads = jax.value_and_grad(rosenbrock)(params)
                updates, opt_state = optimizer.update(
                    grads, opt_state, params, value=value, grad=grads, value_fn=rosenbrock
                )
                return (optax.apply_updates(params, updates), opt_state), value

            return jax.lax.scan(one, (params, optimizer.init(params)), length=50)

        with standard_promotion():
            (params, _), values = own_loop(start)
        assert state.model.dtype == dtype
        # The path too, as long as rounding has not yet parted them.
        np.testing.assert_allclose(metrics["loss"][:15], values[:15], rtol=1e-3, atol=1e-6)
        tight = 1e-9 if dtype == "float64" else 1e-4
        np.testing.assert_allclose(state.model, params, atol=tight)
        theirs = scipy.optimize.minimize(
            scipy.optimize.rosen,
            np.array(start, np.float64),
            jac=scipy.optimize.rosen_der,
            method="BFGS",
            options={"gtol": 1e-10},
        )
        np.testing.assert_allclose(state.model, theirs.x, atol=max(tight, 1e-7))


def test_lbfgs_on_a_batch_is_scipys_minimum():
    x, y = make_batch(32)

    def ridge(model, example, key):
        image, label = example
        loss = optax.softmax_cross_entropy_with_integer_labels(model(image), label)
        return loss + 0.05 * (jnp.sum(model.weight**2) + jnp.sum(model.bias**2))

    step = TrainStep(ridge, optax.lbfgs())
    state = step.init(Linear(jax.random.key(1)), key=jax.random.key(0))
    for _ in range(30):
        state, metrics = step(state, (x, y))
    assert len(step.compilations) == 1

    def objective(flat):
        weight, bias = flat[:18].reshape(3, 6), flat[18:]
        logits = x.astype(np.float64) @ weight.T + bias
        peak = logits.max(axis=1, keepdims=True)
        log_sum = np.log(np.exp(logits - peak).sum(axis=1)) + peak[:, 0]
        return np.mean(log_sum - logits[np.arange(32), y]) + 0.05 * np.sum(flat**2)

    theirs = scipy.optimize.minimize(objective, np.zeros(21), method="L-BFGS-B", tol=1e-14)
    ours = np.concatenate([np.ravel(state.model.weight), state.model.bias])
    np.testing.assert_allclose(metrics["loss"], theirs.fun, rtol=1e-6)
    np.testing.assert_allclose(ours, theirs.x, atol=2e-4)


LINE_SEARCHES = {
    "lbfgs": lambda: optax.lbfgs(),
    "backtracking": lambda: optax.chain(
        optax.sgd(1.0), optax.scale_by_backtracking_linesearch(8, store_grad=True)
    ),
    "zoom": lambda: optax.chain(optax.scale_by_adam(), optax.scale_by_zoom_linesearch(8)),
    "polyak": lambda: optax.polyak_sgd(),
}


@pytest.mark.parametrize("name", LINE_SEARCHES)
def test_line_searches_go_the_way_of_optaxs_own_loop(name):
    state, _, step = trained(LINE_SEARCHES[name]())
    params, opt_state = by_hand(LINE_SEARCHES[name](), line_search_arguments)
    assert_close(state.model, params, rtol=1e-4, atol=1e-5)
    close = jax.tree.map(
        lambda ours, theirs: np.allclose(ours, theirs, rtol=1e-2, atol=1e-3),
        state.opt_state,
        opt_state,
    )
    assert jax.tree.all(close), close
    assert len(step.compilations) == 1


def noisy(model, example, key):
    """Its draws decide the loss, so a line search that drew anew would see another function."""
    x, y = example
    x = x * jax.random.bernoulli(key, 0.5, x.shape).astype(x.dtype)
    loss = optax.softmax_cross_entropy_with_integer_labels(model(x), y)
    return loss, {"drawn": treadle.Sum(jax.random.uniform(key))}


def far_too_long():
    """A line search whose first guess is too long, so the values decide how far it goes."""
    search = optax.scale_by_backtracking_linesearch(12, slope_rtol=0.5)
    return optax.chain(optax.sgd(20.0), search)


def test_the_line_search_draws_what_the_gradient_drew():
    optimizer = far_too_long()
    state, _, _ = trained(optimizer, loss=noisy, steps=2)
    params = Linear(jax.random.key(1))
    opt_state = optimizer.init(params)
    root = jax.random.fold_in(jax.random.key(0), 0x74726169)
    with standard_promotion(), jax.numpy_rank_promotion("allow"):
        for index in range(2):
            x, y = make_batch(seed=index)
            keys = [jax.random.fold_in(jax.random.fold_in(root, index), i) for i in range(8)]
            kept = [jax.random.bernoulli(key, 0.5, (6,)) for key in keys]
            batch = x * np.stack(kept).astype(np.float32), y

            def objective(params, batch=batch):
                return mean_loss(params, batch)

            value, grads = jax.value_and_grad(objective)(params)
            updates, opt_state = optimizer.update(
                grads, opt_state, params, value=value, grad=grads, value_fn=objective
            )
            params = optax.apply_updates(params, updates)
    assert_close(state.model, params, rtol=1e-4, atol=1e-5)


def test_the_line_search_sees_all_microbatches():
    def weighted(model, example, key):
        loss, aux = noisy(model, example, key)
        return treadle.Weighted(loss, 1.0 + jnp.abs(example[0][0])), aux

    whole, metrics, _ = trained(far_too_long(), loss=weighted)
    cut, cut_metrics, _ = trained(far_too_long(), loss=weighted, accumulate=2)
    assert_close(cut.model, whole.model, rtol=1e-3, atol=1e-4)
    assert_close(cut_metrics, metrics, rtol=1e-3, atol=1e-4)


# -- what an update is handed ---------------------------------------------------------------------


def asking(seen):
    """An optimizer that looks at all it is handed."""

    def update(updates, state, params=None, **extra):
        seen.update(extra)
        value = extra["value"]
        again = extra["value_fn"](params)
        grads = extra["grad_fn"](params, 0)
        same = jnp.array(
            [
                jnp.isclose(again, value, rtol=1e-6),
                jnp.array_equal(grads.weight, updates.weight),
                jnp.array_equal(grads.weight, extra["grad"].weight),
                jnp.isclose(extra["obj_fn"](params), value, rtol=1e-6),
            ]
        )
        return jax.tree.map(lambda g: -0.1 * g, updates), same

    return optax.GradientTransformationExtraArgs(lambda params: jnp.zeros(4, bool), update)


def test_an_update_is_handed_value_gradient_and_functions_for_both():
    seen = {}
    state, _, _ = trained(asking(seen), loss=noisy, steps=1)
    assert sorted(seen) == ["grad", "grad_fn", "obj_fn", "value", "value_fn"]
    assert state.opt_state.tolist() == [True] * 4


def test_an_update_is_handed_no_more_than_it_names():
    def update(updates, state, params=None, *, value):
        return jax.tree.map(lambda g: -value * g, updates), state

    def plain(updates, state, params=None):
        return jax.tree.map(lambda g: -0.1 * g, updates), state

    for each, make in (
        (update, optax.GradientTransformationExtraArgs),
        (plain, optax.GradientTransformation),
    ):
        state, _, _ = trained(make(lambda params: (), each), steps=1)
        assert not np.array_equal(state.model.weight, Linear(jax.random.key(1)).weight)


def test_strict_promotion_holds_in_the_loss_that_a_line_search_calls():
    modes = []

    def loss(model, example, key):
        modes.append(jax.config.jax_numpy_dtype_promotion)
        return cross_entropy(model, example, key)

    trained(far_too_long(), loss=loss, steps=1)
    assert len(modes) >= 2
    assert set(modes) == {"strict"}


VALUE_HUNGRY = {
    "momo": lambda: optax.contrib.momo(0.1),
    "momo_adam": lambda: optax.contrib.momo_adam(0.1),
    "plateau": lambda: optax.chain(
        optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1, rtol=0.5, factor=0.5)
    ),
    "sophia": lambda: optax.contrib.sophia(0.1, update_interval=2),
    "prodigy": lambda: optax.contrib.prodigy(),
    "dadapt_adamw": lambda: optax.contrib.dadapt_adamw(),
    "mechanic": lambda: optax.contrib.mechanize(optax.adam(0.1)),
    "schedule_free": lambda: optax.contrib.schedule_free_sgd(0.1),
}


@pytest.mark.parametrize("name", VALUE_HUNGRY)
def test_optimizers_of_contrib_go_the_way_of_a_loop_by_hand(name):
    def extra(value, grads, objective):
        return {"value": value, "obj_fn": objective}

    state, _, _ = trained(VALUE_HUNGRY[name]())
    params, _ = by_hand(VALUE_HUNGRY[name](), extra)
    assert_close(state.model, params, rtol=1e-4, atol=1e-5)
    if name == "plateau":
        assert float(state.opt_state[1].scale) < 1


# -- sharpness-aware minimisation -----------------------------------------------------------------


RADIUS = 0.05


def adversary():
    return optax.chain(optax.contrib.normalize(), optax.sgd(RADIUS))


def sam_by_hand(batches):
    """Foret et al., 2021: the gradient at the worst point of a ball, applied at its centre."""
    model = Linear(jax.random.key(1))
    for batch in batches:
        grads = jax.grad(mean_loss)(model, batch)
        norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)))
        worst = jax.tree.map(lambda w, g, norm=norm: w + RADIUS * g / norm, model, grads)
        sharp = jax.grad(mean_loss)(worst, batch)
        model = jax.tree.map(lambda w, g: w - 0.1 * g, model, sharp)
    return model


def test_opaque_sam_is_sam_by_hand():
    optimizer = optax.contrib.sam(optax.sgd(0.1), adversary(), opaque_mode=True)
    state, _, _ = trained(optimizer)
    expected = sam_by_hand([make_batch(seed=seed) for seed in range(3)])
    assert_close(state.model, expected, rtol=1e-5, atol=1e-6)


def test_transparent_sam_takes_two_steps_for_one():
    step = TrainStep(cross_entropy, optax.contrib.sam(optax.sgd(0.1), adversary()))
    state = step.init(Linear(jax.random.key(1)), key=jax.random.key(0))
    for seed in (0, 0, 1, 1):
        state, _ = step(state, make_batch(seed=seed))
    expected = sam_by_hand([make_batch(seed=seed) for seed in range(2)])
    assert_close(state.model, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wrapper", ["chain", "inject", "multi steps", "partition"])
def test_sam_inside_another_says_to_put_it_outermost(wrapper):
    sam = optax.contrib.sam(optax.sgd(0.1), adversary(), opaque_mode=True)
    wrapped = {
        "chain": optax.chain(optax.clip(1.0), sam),
        "inject": optax.inject_hyperparams(lambda rate: sam)(rate=0.1),
        "multi steps": optax.MultiSteps(sam, 2),
        "partition": optax.partition({"all": sam}, "all"),
    }[wrapper]
    with pytest.raises(ArgumentTypeError, match="put it outermost") as raised:
        trained(wrapped, steps=1)
    assert isinstance(raised.value.__cause__, TypeError)


def test_another_type_error_of_an_optimizer_is_its_own():
    def update(updates, state, params=None, **extra):
        raise TypeError("something else")

    with pytest.raises(TypeError, match="something else") as raised:
        trained(optax.GradientTransformationExtraArgs(lambda params: (), update), steps=1)
    assert not isinstance(raised.value, ArgumentTypeError)


# -- hyperparameters ------------------------------------------------------------------------------


def _mean(leaf):
    return jnp.mean(leaf, axis=0)


def test_updates_that_would_be_broadcast_are_refused():
    # As of one that takes the first axis of a gradient for that of the examples.
    optimizer = optax.GradientTransformation(
        lambda params: (), lambda grads, state, params=None: (jax.tree.map(_mean, grads), state)
    )
    step = TrainStep(loss_fn, optimizer)
    model = treadle.nn.MLP(3, 3, 3, 1, key=jax.random.key(0))
    state = step.init(model, key=jax.random.key(1))
    expected = (
        r"updates of other shapes .* 4 in all; .*'layers/0/weight', is of shape \(3,\) for an "
    )
    with pytest.raises(treadle.TreeError, match=expected):
        step(state, (np.ones((4, 3), np.float32), np.zeros(4, np.int32)))


def test_the_learning_rate_in_metrics_is_the_one_of_the_step():
    schedule = optax.linear_schedule(0.4, 0.0, 4)
    step = TrainStep(cross_entropy, optax.inject_hyperparams(optax.sgd)(learning_rate=schedule))
    state = step.init(Linear(jax.random.key(1)), key=jax.random.key(0))
    for index in range(3):
        before = state.model.weight.copy()
        batch = make_batch(seed=index)
        grads = jax.grad(mean_loss)(state.model, batch)
        state, metrics = step(state, batch)
        np.testing.assert_allclose(metrics["learning_rate"], schedule(index), rtol=1e-6)
        np.testing.assert_allclose(
            before - state.model.weight, schedule(index) * grads.weight, rtol=1e-4, atol=1e-6
        )
    assert sorted(metrics) == ["grad_norm", "learning_rate", "loss"]


def labels(**globs):
    """Labels for `optax.partition`: a leaf gets the name of the first glob that chooses it."""
    chosen = {name: treadle.tree.select(glob) for name, glob in globs.items()}

    def label(params):
        masks = [select(params) for select in chosen.values()]

        def first(*yes):
            return next((name for name, y in zip(chosen, yes, strict=True) if y), "rest")

        return jax.tree.map(first, *masks)

    return label


def test_hyperparameters_of_one_name_get_their_paths():
    sgd = optax.inject_hyperparams(optax.sgd)
    optimizer = optax.partition(
        {"weights": sgd(learning_rate=0.1), "rest": sgd(learning_rate=0.2, momentum=0.9)},
        labels(weights="weight"),
    )
    _, metrics, _ = trained(optimizer, steps=2)
    rates = {name: float(value) for name, value in metrics.items() if "learning_rate" in name}
    assert rates == {
        "inner_states/weights/inner_state/learning_rate": pytest.approx(0.1),
        "inner_states/rest/inner_state/learning_rate": pytest.approx(0.2),
    }


def test_hyperparameters_inside_hyperparameters():
    @optax.inject_hyperparams
    def outer(scale):
        inner = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
        return optax.chain(inner, optax.scale(scale))

    step = TrainStep(cross_entropy, outer(scale=2.0))
    state = step.init(
        Linear(jax.random.key(1)), key=jax.random.key(0), hyperparams={"learning_rate": 0.3}
    )
    _, metrics = step(state, make_batch())
    assert float(metrics["learning_rate"]) == pytest.approx(0.3)


def test_metrics_tell_the_learning_rate_and_what_is_scheduled():
    decay = optax.linear_schedule(0.0, 0.3, 3)
    optimizer = optax.inject_hyperparams(optax.adamw)(learning_rate=0.1, weight_decay=decay)
    _, metrics, _ = trained(optimizer, steps=2)
    assert sorted(metrics) == ["grad_norm", "learning_rate", "loss", "weight_decay"]
    assert float(metrics["weight_decay"]) == pytest.approx(0.1)


def test_an_aux_of_the_name_of_a_hyperparameter_is_refused():
    def loss(model, example, key):
        return cross_entropy(model, example, key), {"learning_rate": 1.0}

    trained(optax.sgd(0.1), loss=loss, steps=1)
    with pytest.raises(LossError, match=r"'learning_rate'.*inject_hyperparams"):
        trained(optax.inject_hyperparams(optax.sgd)(learning_rate=0.1), loss=loss, steps=1)


def test_hyperparameters_are_set_at_the_start():
    model = Linear(jax.random.key(1))
    step = TrainStep(cross_entropy, optax.inject_hyperparams(optax.sgd)(learning_rate=0.1))
    state = step.init(model, key=jax.random.key(0), hyperparams={"learning_rate": 0.25})
    state, metrics = step(state, make_batch())
    assert float(metrics["learning_rate"]) == 0.25
    same = step.init(model, key=jax.random.key(0))
    step(same, make_batch())
    assert len(step.compilations) == 1
    plain = TrainStep(cross_entropy, optax.sgd(0.25))
    expected, _ = plain(plain.init(model, key=jax.random.key(0)), make_batch())
    assert_close(state.model, expected.model, rtol=1e-6, atol=1e-7)


SCHEDULE = optax.linear_schedule(0.1, 0.0, 10)


@pytest.mark.parametrize(
    ("optimizer", "values", "match"),
    [
        (
            optax.inject_hyperparams(optax.sgd)(learning_rate=0.1),
            {"lr": 1},
            "it has 'learning_rate'",
        ),
        (optax.sgd(0.1), {"learning_rate": 1}, "keeps no hyperparameters.*inject_hyperparams"),
        (
            optax.inject_hyperparams(optax.sgd)(learning_rate=SCHEDULE),
            {"learning_rate": 1},
            "a schedule does",
        ),
        (
            optax.inject_hyperparams(optax.sgd)(learning_rate=0.1),
            {"learning_rate": np.ones(2)},
            r"shape \(2,\)",
        ),
        (
            optax.inject_hyperparams(optax.sgd)(learning_rate=0.1),
            {"learning_rate": "fast"},
            "must be a number",
        ),
    ],
)
def test_hyperparameters_that_cannot_be_set(optimizer, values, match):
    step = TrainStep(cross_entropy, optimizer)
    with pytest.raises(ArgumentValueError, match=match):
        step.init(Linear(jax.random.key(1)), key=jax.random.key(0), hyperparams=values)


def test_hyperparameters_must_be_named():
    step = TrainStep(cross_entropy, optax.inject_hyperparams(optax.sgd)(learning_rate=0.1))
    with pytest.raises(ArgumentTypeError, match="dictionary of names to numbers"):
        step.init(Linear(jax.random.key(1)), key=jax.random.key(0), hyperparams=0.1)


def test_the_learning_rate_is_changed_on_the_way_without_compiling():
    step = TrainStep(cross_entropy, optax.inject_hyperparams(optax.adam)(learning_rate=0.1))
    state = step.init(Linear(jax.random.key(1)), key=jax.random.key(0))
    state, _ = step(state, make_batch())
    opt_state = state.opt_state
    hyperparams = opt_state.hyperparams | {"learning_rate": jnp.float32(0.0)}
    state = state.replace(opt_state=opt_state._replace(hyperparams=hyperparams))
    before = state.model.weight.copy()
    state, metrics = step(state, make_batch(seed=1))
    assert float(metrics["learning_rate"]) == 0
    assert_same(state.model.weight, before)
    assert len(step.compilations) == 1


# -- groups and accumulation ----------------------------------------------------------------------


def test_multi_steps_is_accumulate_for_sgd():
    batches = [make_batch(4, seed=seed) for seed in range(4)]
    multi = TrainStep(cross_entropy, optax.MultiSteps(optax.sgd(0.5), 2))
    state = multi.init(Linear(jax.random.key(1)), key=jax.random.key(0))
    for batch in batches:
        state, _ = multi(state, batch)
    # Microbatches are strided: example `i` goes to microbatch `i % 2`.
    joined = [
        jax.tree.map(lambda a, b: np.stack([a, b], axis=1).reshape(8, *a.shape[1:]), *pair)
        for pair in (batches[:2], batches[2:])
    ]
    once = TrainStep(cross_entropy, optax.sgd(0.5), accumulate=2)
    expected = once.init(Linear(jax.random.key(1)), key=jax.random.key(0))
    for batch in joined:
        expected, _ = once(expected, batch)
    assert_close(state.model, expected.model, rtol=1e-5, atol=1e-6)
    assert int(state.opt_state.gradient_step) == 2


def test_multi_steps_hands_on_what_the_optimizer_needs():
    inner = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau())
    state, _, _ = trained(optax.MultiSteps(inner, 2), steps=4)
    assert np.isfinite(state.opt_state.inner_opt_state[1].best_value)


def test_groups_have_their_own_optimizers():
    optimizer = optax.partition(
        {"first": optax.sgd(0.1), "frozen": optax.set_to_zero(), "rest": optax.sgd(0.2)},
        labels(first="first/**", frozen="last/bias"),
    )
    model = Net(jax.random.key(1))
    step = TrainStep(loss_fn, optimizer)
    state, _ = step(step.init(model, key=jax.random.key(0)), make_batch())
    single = TrainStep(loss_fn, optax.sgd(0.1))
    one, _ = single(single.init(model, key=jax.random.key(0)), make_batch())
    assert_close(state.model.first, one.model.first)
    assert_same(state.model.last.bias, model.last.bias)
    np.testing.assert_allclose(
        state.model.last.weight - model.last.weight,
        2 * (one.model.last.weight - model.last.weight),
        rtol=1e-4,
        atol=1e-6,
    )


def test_groups_among_what_is_trained():
    optimizer = optax.partition(
        {"bias": optax.set_to_zero(), "rest": optax.adamw(0.1, weight_decay=0.5)},
        labels(bias="**/bias"),
    )
    model = Net(jax.random.key(1))
    step = TrainStep(loss_fn, optimizer, trainable="last/**")
    state, _ = step(step.init(model, key=jax.random.key(0)), make_batch())
    assert_same(state.model.first, model.first)
    assert_same(state.model.last.bias, model.last.bias)
    assert not np.array_equal(state.model.last.weight, model.last.weight)
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert [leaf.shape for leaf in moments] == [(3, 8), (3, 8)]


# -- parameters for evaluation --------------------------------------------------------------------


def raw_weights(model, example):
    return {"weight": treadle.Sum(model.weight), "bias": treadle.Sum(model.bias)}


RAW = EvalStep(raw_weights)


def measured(state, **options):
    """The weights that `evaluate` hands to a metric."""
    found = treadle.evaluate(RAW, state, [np.zeros((1, 1), np.float32)], **options)
    return np.asarray(found["weight"]), np.asarray(found["bias"])


def schedule_free():
    return optax.contrib.schedule_free_adamw(0.1, b1=0.8)


SCHEDULE_FREE = {
    "alone": (schedule_free(), lambda s: s),
    "chain": (optax.chain(optax.clip(1.0), schedule_free()), lambda s: s[1]),
    "multi steps": (optax.MultiSteps(schedule_free(), 2), lambda s: s.inner_opt_state),
    "injected": (
        optax.inject_hyperparams(optax.contrib.schedule_free_sgd)(learning_rate=0.1, b1=0.8),
        lambda s: s.inner_state,
    ),
}


@pytest.mark.parametrize("where", SCHEDULE_FREE)
def test_weights_of_the_optimizer_are_optaxs(where):
    optimizer, find = SCHEDULE_FREE[where]
    state, _, _ = trained(optimizer, steps=4)
    expected = optax.contrib.schedule_free_eval_params(find(state.opt_state), state.model)
    weight, bias = measured(state, weights="optimizer")
    np.testing.assert_allclose(weight, expected.weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(bias, expected.bias, rtol=1e-5, atol=1e-6)
    assert not np.allclose(weight, state.model.weight, atol=1e-4)
    x, _ = make_batch()
    predicted = treadle.predict(state, x, batch_size=4, weights="optimizer")
    np.testing.assert_allclose(predicted, jax.vmap(expected)(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["partition", "masked", "trainable"])
def test_weights_of_the_optimizer_are_the_models_where_it_trains_none(kind):
    options = {}
    if kind == "partition":
        optimizer = optax.partition(
            {"free": schedule_free(), "rest": optax.sgd(0.1)}, labels(free="weight")
        )
    elif kind == "masked":
        optimizer = optax.masked(schedule_free(), treadle.tree.select("weight"))
    else:
        optimizer, options = schedule_free(), {"trainable": "weight"}
    state, _, _ = trained(optimizer, **options)
    nodes = jax.tree.leaves(
        state.opt_state, is_leaf=lambda n: isinstance(n, optax.contrib.ScheduleFreeState)
    )
    (inner,) = [n for n in nodes if isinstance(n, optax.contrib.ScheduleFreeState)]
    expected = (state.model.weight - 0.2 * inner.z.weight) / 0.8
    weight, bias = measured(state, weights="optimizer")
    np.testing.assert_allclose(weight, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(bias, state.model.bias)


def test_weights_of_two_optimizers():
    optimizer = optax.partition(
        {"free": schedule_free(), "rest": optax.contrib.schedule_free_sgd(0.1, b1=0.5)},
        labels(free="weight"),
    )
    state, _, _ = trained(optimizer)
    z = state.opt_state.inner_states["rest"].inner_state.z
    _, bias = measured(state, weights="optimizer")
    np.testing.assert_allclose(bias, (state.model.bias - 0.5 * z.bias) / 0.5, atol=1e-6)


def test_weights_of_the_optimizer_of_a_model_of_several_formats():
    model = Linear(jax.random.key(1))
    mixed = eqx.tree_at(lambda m: m.bias, model, jnp.zeros(3, jnp.float16))

    def loss(model, example, key):
        wide = eqx.tree_at(lambda m: m.bias, model, model.bias.astype(jnp.float32))
        return cross_entropy(wide, example, key)

    step = TrainStep(loss, schedule_free())
    state, _ = step(step.init(mixed, key=jax.random.key(0)), make_batch())
    weight, _ = measured(state, weights="optimizer")
    state_of = state.opt_state
    expected = (np.asarray(state.model.weight) - 0.2 * np.asarray(state_of.z.weight)) / 0.8
    np.testing.assert_allclose(weight, expected, rtol=1e-2, atol=1e-3)


def test_weights_of_the_optimizer_of_an_ensemble():
    single = TrainStep(cross_entropy, schedule_free())
    step = treadle.ensemble(single, 3)
    state = step.init(Linear, key=jax.random.key(0))
    for seed in range(3):
        state, _ = step(state, make_batch(seed=seed))
    weight, bias = measured(state, weights="optimizer")
    for index, member in enumerate(treadle.tree.unstack(state)):
        own_weight, own_bias = measured(member, weights="optimizer")
        np.testing.assert_allclose(weight[index], own_weight, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(bias[index], own_bias, rtol=1e-6, atol=1e-6)


def test_weights_of_an_optimizer_that_keeps_none():
    state, _, _ = trained(optax.adam(0.1), steps=1)
    with pytest.raises(ArgumentValueError, match=r"schedule_free_adamw.*Use 'model', or 'ema'"):
        measured(state, weights="optimizer")
    with pytest.raises(ArgumentValueError, match="hand over the `TrainState`"):
        measured(state.model, weights="optimizer")
    with pytest.raises(ArgumentValueError, match="`weights`"):
        measured(state, weights="optimiser")


# -- checkpoints ----------------------------------------------------------------------------------


def test_the_memory_of_lbfgs_is_saved(tmp_path):
    state, _, step = trained(optax.lbfgs())
    treadle.save(tmp_path / "saved", state)
    again = treadle.load(
        tmp_path / "saved", step.init(Linear(jax.random.key(2)), key=jax.random.key(5))
    )
    assert_same(again, state)
    assert_same(step(again, make_batch(seed=9))[0], step(state, make_batch(seed=9))[0])
