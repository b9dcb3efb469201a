"""What a step compiled, and why: each cause names the leaf, what it was and is, and a way out."""

import logging
import threading

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import treadle


class Scaled(eqx.Module):
    weight: jax.Array
    factor: float
    name: str = eqx.field(static=True)

    def __call__(self, x):
        return jnp.sum(self.weight * x) * jnp.asarray(self.factor, x.dtype)


def loss_fn(model, example, key, *, args=None):
    loss = (model(example["x"]) - example["y"].astype(jnp.float32)) ** 2
    return loss if args is None else loss * jnp.mean(jnp.asarray(args[0], jnp.float32))


def new_step(**options):
    return treadle.TrainStep(loss_fn, optax.sgd(0.1), **options)


def model(factor=0.5, name="a", size=4):
    return Scaled(jnp.ones(size), factor, name)


def batch(count=8, size=4, dtype=np.float32):
    return {"x": np.ones((count, size), np.float32), "y": np.ones(count, dtype)}


STEP = new_step()


def start(step=STEP, **options):
    return step.init(model(**options), key=jax.random.key(0))


def cause_of(state=None, data=None, step=STEP, args=None):
    """Why one call compiled."""
    known = len(step.compilations)
    step(start(step) if state is None else state, batch() if data is None else data, args=args)
    (newest,) = step.compilations[known:]
    return newest.cause


def test_the_first_call_and_a_ragged_batch(caplog):
    step = new_step()
    with caplog.at_level(logging.INFO, "treadle"):
        assert cause_of(step=step) == "the first call: step"
        step(start(step), batch())
        ragged = cause_of(step=step, data=batch(5))
    assert ragged.startswith("batch/x: shape (8, 4) → (5, 4) (and 1 more alike): ")
    assert "the last batch is ragged: `treadle.data.arrays(..., drop_remainder=True)`" in ragged
    assert "several sizes: make all of 9 examples" in cause_of(step=step, data=batch(9))
    first, second, _ = step.compilations
    assert first.planned
    assert not second.planned
    assert second.signature["batch/x"] == "float32[5,4]"
    assert second.seconds > 0
    assert str(second) == f"step in {second.seconds:.2f} s: {ragged}"
    levels = [record.levelname for record in caplog.records if "compiled" in record.message]
    assert levels == ["INFO", "WARNING", "WARNING"]
    assert ragged in caplog.text


def test_every_cause_is_told_against_the_nearest_call():
    cause_of()
    assert cause_of(data=batch(size=1)) == (
        "batch/x: shape (8, 4) → (8, 1): each shape compiles a program of its own: pad to one "
        "length, or to a few, and give what fills up the weight 0 (`treadle.Weighted`)"
    )
    # Compared with the first call, which it is like, and not with the one before.
    assert cause_of(data=batch(dtype=np.int32)) == (
        "batch/y: dtype float32 → int32: make it the same each time, such as by `x.astype(float32)`"
    )
    assert cause_of(data=batch() | {"y": jnp.full(8, 2.0)}) == (
        "batch/y: float32 → weakly typed float32: it came from a Python number: "
        "`jnp.asarray(x, float32)`"
    )
    assert cause_of(start(factor=0.7)).startswith(
        "state/model/factor: 0.5 → 0.7: a Python number inside of a module is part of the program"
    )
    assert cause_of(start(name="b")).startswith(
        "state/model/name: 'a' → 'b': a static field is part of the program"
    )
    assert not STEP.compilations[-1].planned
    assert cause_of(start(size=1)).startswith("state/model/weight: shape (4,) → (1,): ")
    assert STEP.compilations[-1].planned
    with jax.default_matmul_precision("float32"):
        assert cause_of().startswith("jax_default_matmul_precision: None → float32: set it once")
    with jax.numpy_dtype_promotion("standard"):
        assert cause_of().startswith("jax_numpy_dtype_promotion: strict → standard")


def test_causes_in_args():
    cause_of(args=(1.0,), step=(step := new_step()))
    assert cause_of(args=(np.float32(1),), step=step).startswith(
        "args/0: weakly typed float32 → float32: the one before came from a Python number"
    )
    assert cause_of(args=(1,), step=step).startswith(
        "args/0: dtype float32 → int32: one of them came from a Python number"
    )
    assert cause_of(args=[1.0], step=step).startswith("args: tuple → list: the same containers")
    assert cause_of(args=(np.ones(2, np.float32),), step=step).startswith(
        "args/0: shape () → (2,): each shape of `args`"
    )
    assert cause_of(step=step) == "args: tuple → None: with it and without it are two programs"


def test_where_arrays_lie():
    step = new_step()
    cause_of(step=step)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    everywhere, split = (
        jax.sharding.NamedSharding(mesh, spec)
        for spec in (jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("data"))
    )
    told = cause_of(
        jax.device_put(start(step), everywhere), jax.device_put(batch(), split), step=step
    )
    assert "batch/x: not committed to a device → sharded by P" in told
    assert "'data'" in told
    assert "over data=4 (and 1 more alike): put every `batch` in the same place" in told
    one = jax.device_put(start(step), jax.devices()[1])
    told = cause_of(one, jax.device_put(batch(), jax.devices()[1]), step=step)
    assert "state/model/weight: not committed to a device → committed to " in told


def test_what_has_to_compile_is_no_surprise(caplog):
    step = new_step()

    def stacked(steps, count=8):
        return jax.tree.map(lambda leaf: np.stack([leaf] * steps), batch(count))

    for steps in (2, 3):
        step.scan(start(step), stacked(steps))
    step.compile(start(step), batch())
    ensemble = treadle.ensemble(step, 2)
    state = ensemble.init(model, key=jax.random.key(0))
    state, _ = ensemble(state, batch())
    state, _ = ensemble(state.replace(active=np.array([True, False])), batch())
    two, three, ahead = step.compilations
    assert (two.program, two.cause) == ("scan of 2", "the first call: scan of 2 steps")
    assert (three.program, three.cause) == ("scan of 3", "the first call: scan of 3 steps")
    assert ahead.ahead
    assert "ahead of time" in ahead.cause
    assert "the first member that stands still" in ensemble.compilations[1].cause
    assert not caplog.records
    step.scan(start(step), stacked(3, 5))
    assert "batch/x: shape (3, 8, 4) → (3, 5, 4)" in step.compilations[-1].cause
    assert "ragged" in step.compilations[-1].cause
    assert "treadle compiled scan of 3" in caplog.text


def test_members_with_batches_of_their_own():
    step = treadle.ensemble(new_step(), 2, shared_batches=False)
    for count in (8, 5):
        data = jax.tree.map(lambda leaf: np.stack([leaf] * 2), batch(count))
        step(step.init(model, key=jax.random.key(0)), data)
    assert "batch/x: shape (2, 8, 4) → (2, 5, 4)" in step.compilations[1].cause
    assert "ragged" in step.compilations[1].cause


def test_caches_that_were_cleared():
    step = new_step()
    cause_of(step=step)
    step._step.clear_cache()
    step._pure = eqx.filter_jit(step._advance)
    assert "JAX's caches cleared" in cause_of(step=step)


def test_what_other_threads_compile_is_not_counted():
    step = new_step()
    cause_of(step=step)
    running = step._step

    def with_another(*arguments):
        thread = threading.Thread(target=lambda: jax.jit(lambda x: x * 3)(1.0))
        thread.start()
        thread.join()
        return running(*arguments)

    step._step = with_another
    step(start(step), batch())
    assert len(step.compilations) == 1


def test_an_evaluation_tells_too(caplog):
    measure = treadle.EvalStep(lambda model, batch: {"x": jnp.sum(batch["x"])}, batched=True)
    with caplog.at_level(logging.INFO, "treadle"):
        treadle.evaluate(measure, model(), [batch(8), batch(5), batch(8)])
        treadle.evaluate(measure, model(size=1), [batch(8)])
    assert measure.compilations == 3
    told = [record.message for record in caplog.records if "evaluation" in record.message]
    assert all(record.levelname == "INFO" for record in caplog.records)
    assert told[0].endswith("the first call: evaluation")
    assert "batch/x: shape (8, 4) → (5, 4)" in told[1]
    assert "model/weight: shape (4,) → (1,): it is another model" in told[2]


@pytest.mark.parametrize("ragged", [False, True])
def test_fit_warns_and_gives_the_total(ragged, caplog):
    step = new_step()
    data = [batch(5 if ragged and at == 3 else 8) for at in range(8)]
    with caplog.at_level(logging.INFO, "treadle"):
        _, history = treadle.fit(
            step, start(step), data, num_steps=8, steps_per_call=2, progress=False
        )
    assert history.compilations == step.compilations
    warned = [record.message for record in caplog.records if record.levelname == "WARNING"]
    total = caplog.records[-1].message
    if ragged:
        assert [each.program for each in history.compilations] == ["scan of 2", "step", "step"]
        assert len(warned) == 1
        assert "batch/x: shape (8, 4) → (5, 4)" in warned[0]
        assert total.startswith("compiled 3 programs in ")
        assert total.endswith("1 of them by surprise: `history.compilations` says why")
    else:
        assert not warned
        assert total.startswith("compiled 1 program in ")
        again = treadle.fit(step, start(step), data, num_steps=4, steps_per_call=2, progress=False)
        assert again[1].compilations == ()
