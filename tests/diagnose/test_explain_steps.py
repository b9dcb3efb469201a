"""Errors inside of treadle's own steps are explained without being asked."""

import os
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tests.diagnose.test_explain import in_one_line, notes_of

import treadle

HERE = os.path.basename(__file__)
BATCH = np.ones((2, 2), np.float32)
BATCHES = np.ones((2, 2, 2), np.float32)
KEY = np.array([0, 1], np.uint32)


def wrong_loss(model, x, key):
    if model(x)[0] > 0:
        return jnp.float32(0)
    return jnp.sum(model(x))


def wrong_metric(model, x):
    if model(x)[0] > 0:
        return {"one": 1.0}
    return {"one": 2.0}


class Model(eqx.Module):
    """Of zeros, so that making it compiles little."""

    weight: jax.Array

    def __init__(self, key=None):
        self.weight = jnp.asarray(np.zeros((2, 2), np.float32))

    def __call__(self, x):
        return self.weight @ x


def wrong_model(x):
    return x if x[0] > 0 else -x


def line_of(function, offset=1):
    return function.__code__.co_firstlineno + offset


def note_of(run: Any, kind: type[Exception]) -> str:
    """The one note of an error, without `explain`."""
    with pytest.raises(kind) as caught:
        run()
    (note,) = notes_of(caught.value)
    return note


def state_of(step):
    return step.init(Model(), key=KEY) if step.members is None else step.init(Model, key=KEY)


STEP = treadle.TrainStep(wrong_loss, optax.sgd(0.1))
MEMBERS = treadle.ensemble(STEP, 2)
CALLS = {
    "step": lambda: STEP(state_of(STEP), BATCH),
    "scan": lambda: STEP.scan(state_of(STEP), BATCHES),
    "pure": lambda: STEP.pure(state_of(STEP), BATCH),
    "compile": lambda: STEP.compile(state_of(STEP), BATCH),
    "ensemble": lambda: MEMBERS(state_of(MEMBERS), BATCH),
    "fit": lambda: treadle.fit(STEP, state_of(STEP), [BATCH], num_steps=1, progress=False),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
def test_the_step(call):
    note = note_of(call, jax.errors.TracerBoolConversionError)
    assert note.startswith(f"treadle: {HERE}:{line_of(wrong_loss)}, in `wrong_loss`: `if model(x)")
    assert "`return jnp.where(model(x)[0] > 0, jnp.float32(0), jnp.sum(model(x)))`" in (
        in_one_line(note)
    )


def test_evaluation():
    measure = treadle.EvalStep(wrong_metric)
    kind = jax.errors.TracerBoolConversionError
    note = note_of(lambda: treadle.evaluate(measure, Model(), [BATCH]), kind)
    assert note.startswith(f"treadle: {HERE}:{line_of(wrong_metric)}, in `wrong_metric`: `if")
    assert measure.compilations == 0


def test_prediction():
    kind = jax.errors.TracerBoolConversionError
    note = note_of(lambda: treadle.predict(wrong_model, BATCH, batch_size=2), kind)
    assert note.startswith(f"treadle: {HERE}:{line_of(wrong_model)}, in `wrong_model`: `return x")


def test_a_callback_of_fit():
    class Late(treadle.Callback):
        def on_step(self, ctx):
            jax.jit(lambda x: x + 1, donate_argnums=0)(first)
            first.sum()

    first = jnp.ones(2)
    step = treadle.TrainStep(lambda model, x, key: jnp.sum(model(x)), optax.sgd(0.1))
    note = note_of(
        lambda: treadle.fit(
            step, state_of(step), [BATCH], num_steps=1, progress=False, callbacks=[Late()]
        ),
        RuntimeError,
    )
    assert note.startswith(f"treadle: {HERE}:{line_of(Late.on_step, 2)}, in `Late.on_step`: `first")
    assert "`first` was donated" in note


def test_init():
    def init(params: Any) -> Any:
        both: Any = (params, jax.nn.relu)
        return optax.trace(0.9).init(both)

    optimizer = optax.GradientTransformation(init, optax.trace(0.9).update)
    step = treadle.TrainStep(wrong_loss, optimizer)
    note = note_of(lambda: state_of(step), TypeError)
    assert note.startswith(f"treadle: {HERE}:{line_of(init, 2)}, in `init`: `return optax.trace(")
    assert "a leaf of type `custom_jvp`" in note


def test_shapes_are_those_of_one_example():
    def loss_fn(model, x, key):
        return jnp.sum(model(jnp.concatenate([x, x])))

    step = treadle.TrainStep(loss_fn, optax.sgd(0.1))
    text = in_one_line(note_of(lambda: step(state_of(step), BATCH), TypeError))
    assert (
        f"{HERE}:{line_of(Model.__call__)}, in `Model.__call__`: `return self.weight @ x`" in text
    )
    assert "Here `self.weight` is float32[2,2] and `x` is float32[4]." in text
    assert "for one of 2 at a time" in text


def test_a_step_that_works_says_nothing_and_can_be_repaired():
    limit = [True]

    def loss_fn(model, x, key):
        loss = jnp.sum(model(x))
        return loss * float(loss) if limit[0] else loss

    step = treadle.TrainStep(loss_fn, optax.sgd(0.1))
    state = state_of(step)
    assert "`float` needs a value" in note_of(
        lambda: step(state, BATCH), jax.errors.ConcretizationTypeError
    )
    assert step.compilations == ()
    limit[0] = False
    state, _ = step(state, BATCH)
    assert len(step.compilations) == 1


def test_what_is_not_finite_names_the_ways_to_look():
    def loss_fn(model, x, key):
        return jnp.log(jnp.sum(model(x)) - 1.0)

    step = treadle.TrainStep(loss_fn, optax.sgd(0.1))
    state, _ = step(state_of(step), BATCH)
    note = note_of(lambda: step.check(), treadle.NonFiniteError)
    assert note.startswith(f"treadle: {HERE}:")
    assert "`treadle.explain_nonfinite(step, state, batch)`" in in_one_line(note)
    assert "`treadle.replay(run, step, ...)`" in in_one_line(note)


# -- out of memory ----------------------------------------------------------------------------

# More bytes than there are addresses.
TOO_MANY = 2**46


# There a compiled program that runs out of memory on a CPU says nothing; its results never come.
never_told = pytest.mark.skipif(
    jax.__version_info__ < (0, 7), reason="jaxlib before 0.7 does not tell of it"
)


def wide_loss(model, x, key):
    loss = jnp.sum(model(x))
    wide = jnp.full(TOO_MANY, loss)
    return loss, {"wide": treadle.Sum(wide)}


def behind_loss(model, x, key):
    loss = jnp.sum(model(x))
    return loss, {"far": jnp.sum(jnp.sort(jnp.full(TOO_MANY, jax.lax.stop_gradient(loss))))}


def out_of_memory(run):
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED") as caught:
        run()
    (note,) = notes_of(caught.value)
    return note


@never_told
@pytest.mark.parametrize("way", ["step", "scan", "fit"])
def test_out_of_memory_names_the_largest_values_and_their_lines(way):
    step = treadle.TrainStep(wide_loss, optax.sgd(0.1))
    calls = {
        "step": lambda: step(state_of(step), BATCH),
        "scan": lambda: step.scan(state_of(step), BATCHES),
        "fit": lambda: treadle.fit(step, state_of(step), [BATCH], num_steps=1, progress=False),
    }
    note = out_of_memory(calls[way])
    place = f"{HERE}:{line_of(wide_loss, 2)}: `wide = jnp.full(TOO_MANY, loss)`"
    rows = [line for line in note.splitlines() if "TiB  " in line]
    assert rows[0] == f"      512 TiB  float32[2,{TOO_MANY}]  {place} (broadcast_in_dim)"
    # What an inner program returns is told where it is made, once.
    assert not any("jit)" in row or " x " in row for row in rows)
    assert "#resource_exhausted" in note
    assert len(step.compilations) <= 1


@never_told
def test_a_device_that_says_it_later():
    step = treadle.TrainStep(behind_loss, optax.sgd(0.1))

    def run():
        step(state_of(step), BATCH)
        step.check()

    rows = [line for line in out_of_memory(run).splitlines() if "TiB  " in line]
    # The sort is in a program of its own, of which only the call is in the user's line.
    assert len(rows) == 1
    assert f"{HERE}:{line_of(behind_loss, 2)}: `return loss, " in rows[0]
    assert "sort" in rows[0]


def test_out_of_memory_in_a_compiled_function_of_ones_own():
    def grow(x):
        return jnp.full(TOO_MANY, x)

    jitted = jax.jit(grow)

    @eqx.filter_jit
    def grow_more(make, x):
        return make(TOO_MANY, x)

    x = jnp.float32(1)

    def first():
        with treadle.explain():
            jitted(x)

    def second():
        with treadle.explain():
            grow_more(jnp.full, x)

    row = f"256 TiB  float32[{TOO_MANY}]  {HERE}:"
    assert f"{row}{line_of(grow)}: `return jnp.full(" in out_of_memory(first)
    assert row in out_of_memory(second)


@pytest.mark.parametrize(
    ("said", "size"),
    [
        ("Out of memory allocating 1073741824 bytes.", "1 GiB"),
        ("Out of memory while trying to allocate 1073741824 bytes.", "1 GiB"),
        ("Failed to allocate request for 1.00GiB (1073741824B) on device ordinal 0", "1.00GiB"),
        ("Error allocating device buffer: Attempting to allocate 15.26G. That was", "15.26G"),
        ("Ran out of memory in memory space hbm. Used 20.00G of 15.48G hbm.", None),
    ],
)
def test_how_backends_say_it(said, size):
    def run():
        with treadle.explain():
            raise jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: {said}")

    note = in_one_line(out_of_memory(run))
    told = "" if size is None else f", which could not give {size} more"
    assert f"The device has less memory than is needed{told}." in note


def test_what_else_may_be_exhausted():
    with pytest.raises(jax.errors.JaxRuntimeError, match="message") as caught, treadle.explain():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Received message larger than max")
    assert notes_of(caught.value) == []


def test_out_of_memory_outside_of_compiled_functions_lists_what_is_alive():
    held = jnp.asarray(np.zeros(2**19, np.float32))

    def run():
        with treadle.explain():
            jnp.zeros(TOO_MANY)

    note = out_of_memory(run)
    assert "could not give 256 TiB more" in in_one_line(note)
    assert f"2 MiB  float32[{held.size}]" in note
