"""Laws of optimizers: every one that optax has, schedules, groups, and weights for evaluation."""

import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers import assert_close, assert_same

import treadle
from treadle import TrainStep

LEFT_OUT = {
    # They call the loss themselves, with parameters that are all theirs; tests/test_optimizers.py
    # and test_step_laws.py have them alone.
    "lbfgs",
    "sophia",
    "hutchinson_estimator_diag_hessian",
    # They look for the shapes of their parameters where a masked tree has none.
    "galore",
    "scale_by_galore",
    "scale_by_muon",
    # They are made of others.
    "chain",
    "named_chain",
}
if optax.__version__ == "0.2.5":
    # Its first update divides by zero, and the loss is the sum over all models.
    LEFT_OUT.add("scale_by_distance_over_gradients")


def ready_made(module):
    """The optimizers of a module of optax that need no arguments, or a learning rate alone."""
    for name, make in inspect.getmembers(module, inspect.isfunction):
        if name.startswith("_") or name in LEFT_OUT:
            continue
        parameters = inspect.signature(make).parameters.values()
        required = [
            p.name
            for p in parameters
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        if not set(required) <= {"learning_rate"}:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = make(**dict.fromkeys(required, 0.01))
        if isinstance(made, optax.GradientTransformation):
            yield name, made


def all_losses(model, example, key):
    """The sum of the losses of models that have nothing in common."""
    x, y = example
    return sum(jnp.sum((weight @ x - y) ** 2) for weight in model.values())


def targets(seed, size=4):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(size, 3)), rng.normal(size=(size, 2))
    return x.astype(np.float32), y.astype(np.float32)


def test_every_optimizer_of_optax_trains_and_scans_to_the_same_bits():
    optimizers = dict(ready_made(optax)) | dict(ready_made(optax.contrib))
    assert len(optimizers) >= 60
    names = {name: name for name in optimizers}
    step = TrainStep(all_losses, optax.partition(optimizers, names), unroll=False)
    start = {name: jax.random.normal(jax.random.key(1), (2, 3)) for name in optimizers}
    called = step.init(start, key=jax.random.key(0))
    scanned = called.copy()
    batches = [targets(seed) for seed in range(2)]
    for batch in batches:
        called, _ = step(called, batch)
    scanned, _ = step.scan(scanned, jax.tree.map(lambda *x: np.stack(x), *batches))
    assert len(step.compilations) == 2
    step.check(called)
    unlike = []
    for name in optimizers:
        same = np.array_equal(called.model[name], scanned.model[name])
        if not same or not np.all(np.isfinite(called.model[name])):
            unlike.append(name)
    assert not unlike
    assert_same(scanned, called)
    stood_still = {n for n in optimizers if np.array_equal(called.model[n], start[n])}
    # For momentum it takes more than two steps, or more than defaults.
    assert stood_still <= STANDS_STILL, stood_still - STANDS_STILL


STANDS_STILL = {"set_to_zero"}


# -- least squares, whose solution is known -------------------------------------------------------


def squares(model, example, key):
    a, b = example
    return 0.5 * (jnp.dot(a, model["x"]) - b) ** 2


def system(seed, rows=12, columns=3):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(rows, columns)), rng.normal(size=rows)
    return a.astype(np.float32), b.astype(np.float32)


def begin(step, seed, **options):
    start = np.random.default_rng(seed + 1).normal(size=3).astype(np.float32)
    return step.init({"x": start}, key=jax.random.key(0), **options), start


seeds = st.integers(0, 2**31 - 1)
LBFGS = TrainStep(squares, optax.lbfgs(), accumulate=3)


@given(seed=seeds)
def test_lbfgs_solves_least_squares(seed):
    a, b = system(seed)
    solution = np.linalg.lstsq(a.astype(np.float64), b.astype(np.float64))[0]
    state, _ = begin(LBFGS, seed)
    state, metrics = LBFGS.scan(state, (np.stack([a] * 15), np.stack([b] * 15)))
    np.testing.assert_allclose(state.model["x"], solution, rtol=1e-3, atol=1e-3)
    # A line search never lets the loss grow, rounding aside.
    losses = np.asarray(metrics["loss"])
    assert np.all(np.diff(losses) <= 1e-6 * (1 + losses[:-1]))


INJECTED = TrainStep(squares, optax.inject_hyperparams(optax.sgd)(learning_rate=0.1, momentum=0.0))


@given(seed=seeds, rate=st.floats(1e-4, 0.1), momentum=st.floats(0, 0.9))
def test_hyperparameters_set_at_the_start_are_those_it_steps_by(seed, rate, momentum):
    state, start = begin(INJECTED, seed, hyperparams={"learning_rate": rate, "momentum": momentum})
    x, trace = start.astype(np.float64), np.zeros(3)
    for index in range(3):
        a, b = system(seed + index)
        state, metrics = INJECTED(state, (a, b))
        trace = a.T @ (a @ x - b) / 12 + momentum * trace
        x = x - rate * trace
        np.testing.assert_allclose(metrics["learning_rate"], rate, rtol=1e-6)
    np.testing.assert_allclose(state.model["x"], x, rtol=1e-4, atol=1e-5)
    assert len(INJECTED.compilations) == 1


FREE = TrainStep(squares, optax.contrib.schedule_free_sgd(0.1, b1=0.7))
MEASURED = treadle.EvalStep(lambda model, example: {"x": treadle.Sum(model["x"])})


@given(seed=seeds)
def test_weights_of_a_schedule_free_optimizer_are_the_mean_of_its_iterates(seed):
    state, start = begin(FREE, seed)
    z = mean = start.astype(np.float64)
    for index in range(1, 4):
        a, b = system(seed + index)
        state, _ = FREE(state, (a, b))
        # Defazio et al., 2024: the gradient between the iterate and the mean of all iterates.
        y = 0.3 * z + 0.7 * mean
        z = z - 0.1 * a.T @ (a @ y - b) / 12
        mean = mean + (z - mean) / index
    found = treadle.evaluate(MEASURED, state, [np.zeros((1, 1))], weights="optimizer")
    np.testing.assert_allclose(found["x"], mean, rtol=1e-4, atol=1e-5)
    y = 0.3 * z + 0.7 * mean
    np.testing.assert_allclose(state.model["x"], y, rtol=1e-4, atol=1e-5)


MULTI = TrainStep(squares, optax.MultiSteps(optax.sgd(0.1), 3))
WHOLE = TrainStep(squares, optax.sgd(0.1))


@given(seed=seeds)
def test_multi_steps_of_equal_batches_are_one_step_on_all(seed):
    a, b = system(seed)
    several, _ = begin(MULTI, seed)
    for index in range(3):
        before = np.array(several.model["x"])
        several, _ = MULTI(several, (a[index::3], b[index::3]))
        assert np.array_equal(before, several.model["x"]) == (index < 2)
    once, _ = WHOLE(begin(WHOLE, seed)[0], (a, b))
    assert_close(several.model, once.model, rtol=1e-4, atol=1e-5)
