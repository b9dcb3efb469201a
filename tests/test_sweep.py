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


def losses_of(step_of, grid, **options):
    found = treadle.sweep(
        step_of, grid, make_model, BATCHES, num_steps=4, key=KEY, progress=False, **options
    )
    return [row.figures["loss"] for row in found.table], found.table.programs


@pytest.mark.parametrize("kind", ["doubled", "in the loss", "in an option", "a list"])
def test_a_value_that_is_used_elsewhere_too_gets_its_own_program(kind):
    def step_of(learning_rate):
        def loss(model, example, key):
            scale = learning_rate if kind == "in the loss" else 1.0
            return loss_fn(model, example, key)[0] * scale

        optimizer = optax.inject_hyperparams(optax.adamw)(
            learning_rate=learning_rate,
            weight_decay=0.1 / learning_rate if kind == "a list" else 0.0,
        )
        if kind == "doubled":
            optimizer = optax.adamw(learning_rate * 2)
        ema = 1 - learning_rate if kind == "in an option" else None
        return treadle.TrainStep(loss, optimizer, ema=ema)

    rates = [1e-3, 1e-2]
    together, programs = losses_of(step_of, {"learning_rate": rates})
    # What is kept in the optimizer's state differs within one program, however it came there.
    assert programs == (1 if kind == "a list" else 2)
    # The second, for which the first setting's step would be the wrong one.
    alone, _ = losses_of(step_of, {"learning_rate": rates[1:]})
    np.testing.assert_allclose(together[1], alone[0], rtol=1e-5)


def test_values_of_any_kind_and_optimizers_that_look_at_paths():
    def step_of(momentum, learning_rate):
        def labels(params):
            bias = treadle.tree.select("**/bias")(params)
            return jax.tree.map(lambda yes: "biases" if yes else "weights", bias)

        sgd = optax.inject_hyperparams(optax.sgd)(learning_rate, momentum=momentum)
        return treadle.TrainStep(loss_fn, optax.partition({"biases": sgd, "weights": sgd}, labels))

    grid = {"momentum": [0.5, None, 0.9], "learning_rate": [1, 0.1]}
    together, _ = losses_of(step_of, grid)
    alone, _ = losses_of(step_of, {"momentum": [None], "learning_rate": [0.1]})
    np.testing.assert_allclose(together[3], alone[0], rtol=1e-5)
    assert len({round(loss, 7) for loss in together}) == 6


def test_of_equally_good_settings_the_first_is_best_and_its_state_comes():
    constant = treadle.EvalStep(lambda model, example: {"loss": jnp.float32(1)})
    found = treadle.sweep(
        make_step,
        {"learning_rate": [1e-3, 0.1], "width": [8, 4]},
        make_model,
        BATCHES,
        num_steps=2,
        key=KEY,
        eval=(constant, BATCHES[:1]),
        progress=False,
    )
    assert found.table.best.setting == {"learning_rate": 1e-3, "width": 8}
    assert found.best_state.model.first.weight.shape == (8, 6)
    rate = found.best_state.opt_state.hyperparams["learning_rate"]
    np.testing.assert_allclose(rate, 1e-3)


def test_without_an_evaluation_the_figures_are_those_of_the_last_step():
    step = make_step(0.1)
    state = step.init(Net, key=member_keys(KEY, 1)[0])
    batches = [make_batch(seed=seed) for seed in range(103)]
    for batch in batches:
        state, metrics = step(state, batch)
    found = treadle.sweep(
        make_step,
        {"learning_rate": [0.1]},
        make_model,
        batches,
        num_steps=103,
        key=KEY,
        progress=False,
    )
    np.testing.assert_allclose(found.table.rows[0].figures["loss"], metrics["loss"], rtol=1e-3)


def test_a_training_that_is_cut_short_is_not_compared():
    def run(data, num_steps=1):
        grid = {"learning_rate": [0.1]}
        options = {"num_steps": num_steps, "key": KEY, "progress": False}
        return treadle.sweep(make_step, grid, make_model, data, **options)

    with pytest.raises(treadle.DataError, match=r"too few batches for `num_steps` \(=9\)"):
        run(BATCHES, 9)
    with pytest.raises(treadle.DataError, match="`data` is an iterator, which gives its batches"):
        run(iter(BATCHES))
    with pytest.raises(treadle.DataError, match="`data` is empty"):
        run([])


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
