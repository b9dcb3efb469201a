"""`sweep`: a grid of settings in one table."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import treadle
from tests.helpers import Net, assert_close, loss_fn, make_batch
from treadle._random import member_keys

KEY = jax.random.key(2)
BATCHES = [make_batch(seed=seed) for seed in range(4)]
GRID = {"learning_rate": [1e-3, 0.1], "width": [4, 8]}
EVAL = treadle.EvalStep(
    lambda model, example: {
        "loss": optax.softmax_cross_entropy_with_integer_labels(model(example[0]), example[1])
    }
)


def make_step(learning_rate):
    return treadle.TrainStep(loss_fn, optax.inject_hyperparams(optax.sgd)(learning_rate))


def make_model(key, width=8):
    return Net(key, width=width)


@pytest.fixture(scope="module")
def found():
    return treadle.sweep(
        make_step,
        GRID,
        make_model,
        BATCHES,
        num_steps=4,
        key=KEY,
        eval=(EVAL, BATCHES),
        seeds=2,
        progress=False,
    )


def test_every_setting_is_what_a_run_of_its_own_gives(found):
    assert found.table.programs == 2
    assert [row.setting for row in found.table] == [
        {"learning_rate": rate, "width": width} for rate in (1e-3, 0.1) for width in (4, 8)
    ]
    keys = member_keys(KEY, 2)
    for row in found.table:
        step = make_step(row.setting["learning_rate"])
        for seed in range(2):
            state = step.init(
                lambda key, width=row.setting["width"]: Net(key, width=width), key=keys[seed]
            )
            for batch in BATCHES:
                state, _ = step(state, batch)
            loss = treadle.evaluate(EVAL, state, BATCHES)["loss"]
            np.testing.assert_allclose(row.values["loss"][seed], loss, rtol=1e-5)
        assert row.figures["loss"] == pytest.approx(np.mean(row.values["loss"]))
        assert row.spread["loss"] == pytest.approx(np.std(row.values["loss"], ddof=1))


def test_the_best_state_is_that_of_the_best_seed_of_the_best_setting(found):
    best = found.table.best
    assert best.figures["loss"] == min(row.figures["loss"] for row in found.table)
    loss = treadle.evaluate(EVAL, found.best_state, BATCHES)["loss"]
    np.testing.assert_allclose(loss, min(best.values["loss"]), rtol=1e-6)
    # It is that of a single run, and goes on with the step of its setting.
    step = make_step(best.setting["learning_rate"])
    state, metrics = step(found.best_state.copy(), BATCHES[0])
    assert int(state.step) == 5
    np.testing.assert_allclose(metrics["learning_rate"], best.setting["learning_rate"])
    table, state = found
    assert len(table) == 4


def test_the_table_prints_best_first(found):
    lines = str(found.table).splitlines()
    assert lines[1].split() == ["learning_rate", "width", "loss"]
    assert lines[3].endswith("best")
    assert "±" in lines[3]


def test_cutting_it_into_smaller_ensembles_changes_nothing(found):
    again = treadle.sweep(
        make_step,
        GRID,
        make_model,
        lambda: iter(BATCHES),
        num_steps=4,
        key=KEY,
        eval=(EVAL, BATCHES),
        seeds=2,
        max_members=2,
        progress=False,
    )
    assert again.table.programs == 4
    for row, other in zip(again.table, found.table, strict=True):
        np.testing.assert_allclose(row.values["loss"], other.values["loss"], rtol=1e-5)
    assert_close(again.best_state.model, found.best_state.model, rtol=1e-4, atol=1e-5)


def exploding(model, example, key, *, args):
    # Its gradient is the rate of growth itself: a large learning rate overflows in a few steps.
    return jnp.sum(model**4) * args


def test_a_setting_that_diverges_stops_alone_and_comes_last():
    def step_of(learning_rate):
        return treadle.TrainStep(exploding, optax.inject_hyperparams(optax.sgd)(learning_rate))

    found = treadle.sweep(
        step_of,
        [{"learning_rate": 1e3}, {"learning_rate": 1e-3}],
        lambda key: jax.random.normal(key, (3,)),
        [np.zeros((2, 1), np.float32)] * 8,
        num_steps=8,
        key=KEY,
        args=jnp.float32(1),
        progress=False,
    )
    assert [row.diverged for row in found.table] == [1, 0]
    assert found.table.best.setting == {"learning_rate": 1e-3}
    assert np.isnan(found.table.rows[0].figures["loss"])
    assert str(found.table).rstrip().endswith("diverged")


def test_a_number_that_is_not_handed_on_as_it_is_gets_its_own_program():
    def step_of(learning_rate):
        sgd = optax.inject_hyperparams(optax.sgd)(learning_rate * 2)
        return treadle.TrainStep(loss_fn, sgd)

    found = treadle.sweep(
        step_of,
        {"learning_rate": [1e-3, 1e-2]},
        make_model,
        BATCHES,
        num_steps=2,
        key=KEY,
        progress=False,
    )
    assert found.table.programs == 2


def test_what_cannot_be_swept_is_told():
    def run(grid=None, step=make_step, **options):
        grid = {"learning_rate": [1e-3]} if grid is None else grid
        options = {"num_steps": 1, "key": KEY, "progress": False} | options
        return treadle.sweep(step, grid, make_model, BATCHES, **options)

    with pytest.raises(treadle.ArgumentValueError, match="`grid` has 'depth', but neither"):
        run({"depth": [1]})
    with pytest.raises(treadle.ArgumentTypeError, match=r"`grid\['width'\]` \(=8\) must be a list"):
        run({"width": 8})
    with pytest.raises(treadle.ArgumentTypeError, match="must be a dictionary of names to lists"):
        run(3)
    with pytest.raises(treadle.ArgumentValueError, match="is empty"):
        run({})
    with pytest.raises(treadle.ArgumentValueError, match=r"`grid\[1\]` has the names"):
        run([{"learning_rate": 1.0}, {"width": 4}])
    with pytest.raises(treadle.ArgumentTypeError, match="`make_step` returned"):
        run(step=lambda learning_rate: None)
    with pytest.raises(treadle.ArgumentTypeError, match="returned an ensemble"):
        run(step=lambda learning_rate: treadle.ensemble(make_step(learning_rate), 2))
    with pytest.raises(treadle.ArgumentTypeError, match=r"`make_step` .*must be a function"):
        run(step=3)
    with pytest.raises(treadle.ArgumentValueError, match=r"`metric` \(='f1'\) is not among"):
        run(metric="f1")
    with pytest.raises(treadle.ArgumentValueError, match=r"`mode` \(='least'\)"):
        run(mode="least")
    with pytest.raises(treadle.ArgumentValueError, match="less than `seeds`"):
        run(seeds=3, max_members=2)
