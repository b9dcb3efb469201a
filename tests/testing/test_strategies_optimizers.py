"""Optimizers and states of training that are drawn: everything there is, and it trains."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis.control import current_build_context
from hypothesis.vendor.pretty import RepresentationPrinter
from tests.helpers import Net, loss_fn, make_batch
from tests.testing.drawing import drawn, paste

import treadle
from treadle import ArgumentTypeError, ArgumentValueError
from treadle._compat import enable_x64
from treadle._diagnose import compilation_counter
from treadle._program import optax_promotion
from treadle.testing import optimizers, train_states


def printed(value):
    """As hypothesis prints it in a report."""
    printer = RepresentationPrinter(context=current_build_context())
    printer.pretty(value)
    return printer.getvalue()


@pytest.fixture(scope="module")
def many():
    """Optimizers with what they print."""
    found = []

    @settings(max_examples=250, database=None, derandomize=True)
    @given(optimizers())
    def draw(optimizer):
        found.append((optimizer, printed(optimizer)))

    draw()
    return found


PARAMS = {"w": jnp.ones((2, 3)), "b": jnp.ones(2), "s": jnp.ones((), jnp.bfloat16)}


def update(optimizer):
    """What the first update makes of some parameters, by shapes alone."""
    with optax_promotion():
        return jax.eval_shape(lambda p: optimizer.update(p, optimizer.init(p), p), PARAMS)


@pytest.mark.parametrize(
    "word",
    [
        *("optax.sgd(", "optax.adam(", "optax.adamw(", "optax.lion(", "momentum=", "nesterov="),
        *("optax.rmsprop(", "optax.adafactor(", "learning_rate=0.", "learning_rate=optax."),
        *("optax.chain(", "optax.clip", "optax.add_decayed_weights(", "optax.zero_nans()"),
        *("optax.masked(", 'treadle.tree.select("**")', "pool.matrices", "mask="),
        *("optax.MultiSteps(", "optax.inject_hyperparams(", "_schedule("),
    ],
)
def test_chains_hold_everything(many, word):
    assert sum(word in text for _, text in many) > 0


def test_printed_optimizers_are_the_same(many):
    distinct = {text: optimizer for optimizer, text in many}
    assert len(distinct) > 100
    for text, optimizer in list(distinct.items())[:60]:
        assert update(paste(text)) == update(optimizer)


def test_optimizers_are_transformations_that_keep_the_dtypes(many):
    for optimizer, _ in many[:60]:
        assert isinstance(optimizer, optax.GradientTransformation)
        updates, _ = update(optimizer)
        assert {name: leaf.shape for name, leaf in updates.items()} == {
            name: leaf.shape for name, leaf in PARAMS.items()
        }


# -- states of training ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def states():
    return drawn(train_states(), 60)


def paths_of(states):
    return {path for state in states for path in state.leaf_paths()}


@pytest.mark.parametrize(
    "word",
    [
        *("opt_state/0/mu", "mini_step", "hyperparams/learning_rate", "inner_state", "trace"),
        *("ema_model", "loss_scale/scale", "skipped", "model_state/", "model/right/parts/key"),
    ],
)
def test_states_hold_everything(states, word):
    assert any(word in path for path in paths_of(states))


def test_states_are_plausible(states):
    for state in states:
        step = int(state.step)
        assert 0 <= step <= 1_000
        for path, leaf in zip(state.leaf_paths(), state.leaves, strict=True):
            values = np.asarray(leaf) if path != "model/right/parts/key" else np.zeros(())
            if path.startswith("opt_state") and path.endswith("/count"):
                assert values == step
            if path.startswith("opt_state"):
                assert (values >= 0).all()
            if path == "skipped":
                assert values <= step
    assert len({int(state.step) for state in states}) > 10
    floats = [eqx.filter(state.model, eqx.is_inexact_array) for state in states]
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(floats)} == {"float32", "bfloat16"}


def test_views_of_drawn_states_work(states):
    for state in states[:20]:
        parts = (state.model, state.opt_state, state.model_state, state.key, state.loss_scale)
        assert jax.tree.leaves(parts)
        assert state.key.shape == ()
        assert treadle.tree.to_dict(state.copy())


@pytest.fixture(scope="module")
def trained():
    """A step of one's own, and a model for it."""
    step = treadle.TrainStep(loss_fn, optax.adam(1e-2), ema=0.9, nonfinite="skip")
    return step, Net(jax.random.key(1))


def test_states_of_a_step_of_ones_own_go_into_it(trained):
    step, model = trained
    made = step.init(model, key=jax.random.key(0))
    for state in drawn(train_states(step, model, max_step=9), 5):
        assert jax.tree.structure(state) == jax.tree.structure(made)
        before = int(state.step)
        state, metrics = step(state, make_batch())
        assert int(state.step) == before + 1 <= 10
        assert jnp.isfinite(metrics["loss"])
    made, _ = step(made, make_batch())
    assert len(step.compilations) == 1


def test_states_of_an_ensemble(trained):
    step, _ = trained
    ensemble = treadle.ensemble(treadle.TrainStep(loss_fn, optax.sgd(0.1)), 2)
    for state in drawn(train_states(ensemble, Net), 3):
        assert state.members == 2
        assert state.key.shape == (2,)
        assert [*map(int, (s.step for s in treadle.tree.unstack(state)))] == 2 * [int(state.step)]


def test_states_with_64_bits():
    with enable_x64(True):
        for state in drawn(train_states(), 5):
            assert state.step.dtype == np.int32
            assert treadle.tree.to_dict(state)


def test_drawing_them_compiles_nothing():
    before = compilation_counter().count
    drawn(optimizers(), 50)
    drawn(train_states(), 40)
    assert compilation_counter().count == before


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"step": 1, "model": 1},
            ArgumentTypeError,
            r"`step` \(=1\) must be a `treadle.Train",
        ),
        ({"model": 1}, ArgumentTypeError, "`step` is missing: give `step` and `model`"),
        ({"max_step": -1}, ArgumentValueError, r"`max_step` \(=-1\) must be"),
        ({"max_step": 2**31}, ArgumentValueError, r"`max_step` \(=2147483648\) must be at most"),
    ],
)
def test_wrong_arguments_are_told_at_once(arguments, error, message):
    with pytest.raises(error, match=message):
        train_states(**arguments)
