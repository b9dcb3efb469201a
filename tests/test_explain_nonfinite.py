"""`explain_nonfinite`: the operation in which a NaN began, its line, its module, its examples."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import treadle
from tests.helpers import assert_same
from treadle._nonfinite import _code, _run, _values


class Scaled(eqx.Module):
    weight: jax.Array

    def __call__(self, x):
        return jnp.sqrt(jnp.sum((self.weight * x) ** 2))  # here: sqrt


class Net(eqx.Module):
    first: eqx.nn.Linear
    layers: list

    def __init__(self, key):
        self.first = eqx.nn.Linear(4, 3, use_bias=False, key=key)
        self.layers = [jnp.abs, Scaled(jnp.ones(3))]

    def __call__(self, x):
        x = self.first(x)
        for layer in self.layers:
            x = layer(x)
        return x


MODEL = Net(jax.random.key(0))


def total(model, x):
    """A loss of which nothing is ever wrong."""
    return jnp.sum(model.first(x))


def rows(**changes):
    """A batch of eight examples, some of them filled with a number."""
    x = np.ones((8, 4), np.float32)
    for row, value in changes.items():
        x[int(row.removeprefix("row"))] = value
    return x


def explained(loss_fn, batch=None, *, model=MODEL, args=None, init=None, **options):
    options = {"optimizer": optax.sgd(0.1)} | options
    step = treadle.TrainStep(loss_fn, **options)
    state = step.init(model, key=jax.random.key(0), **(init or {}))
    batch = rows() if batch is None else batch
    return treadle.explain_nonfinite(step, state, batch, args=args)


def line_of(name):
    with open(__file__, encoding="utf-8") as file:
        return next(at for at, line in enumerate(file, 1) if f"# here: {name}" in line)


def assert_at(operation, name):
    assert operation.place.file == __file__
    assert operation.place.line == line_of(name)


def test_the_derivative_of_a_root_at_zero():
    report = explained(lambda model, x, key: model(x), rows(row2=0, row5=0))
    assert report
    assert report.where == report.reaches == "gradient"
    assert math.isfinite(report.figures["loss"])
    began, then = report.operation, report.then
    assert (began.primitive, began.called, began.kind) == ("div", "jnp.sqrt", "inf")
    assert began.backward
    assert began.module == "layers/1"
    assert began.place.function == "Scaled.__call__"
    assert_at(began, "sqrt")
    half, root = began.operands
    assert (half.name, half.min) == ("a constant", 0.5)
    assert (root.shape, root.min, root.nan, root.inf) == ((8,), 0, 0, 0)
    assert root.max > 0
    assert (began.result.inf, began.result.nan) == (2, 0)
    assert (then.kind, then.values) == ("nan", "inf * 0 = nan, for 6 of 24 numbers")
    assert report.examples == (2, 5)
    told = str(report)
    assert "Step 0: the loss is finite; the gradient is not." in told
    assert "It began in the derivative of `jnp.sqrt`: 0.5 / 0 = inf, for 2 of 8 numbers" in told
    assert f"{__file__}:{line_of('sqrt')}, in Scaled.__call__ (module 'layers/1')" in told
    assert "return jnp.sqrt(jnp.sum((self.weight * x) ** 2))" in told
    assert "It became NaN in the derivative of `" in told
    assert "There it met examples 2, 5 of the batch." in told


def test_nothing_is_consumed_nor_counted():
    def loss(model, x, key):
        return jnp.log(jnp.sum(x)) + total(model, x)  # here: log

    step = treadle.TrainStep(loss, optax.adam(0.1), accumulate=2)
    state = step.init(MODEL, key=jax.random.key(0))
    kept = state.copy()
    report = treadle.explain_nonfinite(step, state, rows(row3=0, row5=-1))
    assert not state.is_consumed
    assert_same(state, kept)
    assert step.compilations == ()
    step.check()
    assert report.where == "forward"
    nan, inf = "log(-4) = nan, for 1 of 4 numbers", "log(0) = -inf, for 1 of 4 numbers"
    assert report.operation.values == f"{nan}; {inf}"
    assert_at(report.operation, "log")
    # Both are of the second microbatch, which has every second example.
    assert report.operation.turns == (1,)
    assert report.examples == (3, 5)


def with_args(model, x, key, *, args):
    return total(model, x) * args["scale"]


@pytest.mark.parametrize(
    ("given", "path", "told"),
    [
        ({"batch": rows(row5=np.nan)}, "batch", "batch has 4 NaN at row 5."),
        ({"args": {"scale": np.float32(np.inf)}}, "args/scale", "args/scale has 1 infinite."),
        (
            {"model": eqx.tree_at(lambda m: m.first.weight, MODEL, jnp.full((3, 4), jnp.nan))},
            "model/first/weight",
            "model/first/weight was not finite before this step: it has 12 NaN.",
        ),
    ],
)
def test_what_went_in(given, path, told):
    given = {"args": {"scale": np.float32(1)}} | given
    report = explained(with_args, **given)
    assert report.where == "inputs"
    assert report.reaches == "loss"
    assert [each.path for each in report.inputs] == [path]
    assert report.examples == ((5,) if path == "batch" else ())
    assert told in str(report)
    assert "That reaches the loss." in str(report)


def test_a_bad_moment_of_the_optimizer():
    step = treadle.TrainStep(lambda model, x, key: total(model, x), optax.adam(0.1))
    state = step.init(MODEL, key=jax.random.key(0))
    broken = eqx.tree_at(lambda s: s[0].mu.first.weight, state.opt_state, jnp.full((3, 4), np.inf))
    report = treadle.explain_nonfinite(step, state.replace(opt_state=broken), rows())
    assert (report.where, report.reaches) == ("inputs", "update")
    assert [each.path for each in report.inputs] == ["opt_state/0/mu/first/weight"]


def masked(model, x, key):
    scores = jnp.where(jnp.arange(3.0) < jnp.sum(x), model.first(x), -jnp.inf)
    # A NaN that is not chosen, before anything else.
    ignored = jnp.where(jnp.sum(x) > 100, jnp.log(-jnp.abs(x[0])), 0.0)
    return jax.nn.softmax(scores)[0] + ignored  # here: softmax


def test_infinities_that_are_meant():
    assert not explained(masked)
    report = explained(masked, rows(row6=-1))
    assert (report.where, report.examples) == ("forward", (6,))
    # Not the mask, nor the logarithm that nobody chose.
    assert (report.operation.called, report.operation.primitive) == ("jax.nn.softmax", "sub")
    assert "-inf - -inf = nan" in report.operation.values
    assert_at(report.operation, "softmax")
    assert report.then is None


def test_of_a_selection_what_was_chosen_counts():
    def loss(model, x, key):
        value = -jnp.abs(total(model, x)) - 1
        first = jnp.log(value)
        return jnp.where(value < 0, jnp.sqrt(value), first)  # here: chosen

    report = explained(loss)
    assert report.operation.primitive == "sqrt"
    assert_at(report.operation, "chosen")


class Buffered(eqx.Module):
    weight: jax.Array
    mask: jax.Array

    def __call__(self, x):
        return jnp.sum(jax.nn.softmax(x * self.weight + self.mask) ** 2)  # here: buffer


@pytest.mark.parametrize("kept", [True, False])
def test_a_mask_among_the_leaves(kept):
    mask = jnp.where(jnp.arange(4) == (0 if kept else -1), 0.0, -jnp.inf)
    report = explained(
        lambda model, x, key: model(x), model=Buffered(jnp.ones(4), mask), trainable="weight"
    )
    if kept:
        assert not report
        assert str(report) == "Step 0: nothing is NaN or infinite."
    else:
        assert report.where == "forward"
        assert_at(report.operation, "buffer")


def scanned(model, x, key):
    def body(carry, rate):
        return carry * jnp.exp(rate), carry  # here: scan

    return jax.lax.scan(body, total(model, x) ** 2 + 1, jnp.arange(40.0))[0]


def scanned_back(model, x, key):
    def body(carry, rate):
        return carry * jnp.exp(rate), carry  # here: reverse

    start = total(model, x) ** 2 + 1
    return jax.lax.scan(body, start, jnp.arange(40.0), reverse=True)[0]


def counted(model, x, key):
    def body(carry):
        return carry[0] + 1, carry[1] * 1e3  # here: while

    start = jax.lax.stop_gradient(total(model, x) ** 2 + 1)
    return jax.lax.while_loop(lambda carry: carry[0] < 50, body, (0, start))[1] * total(model, x)


def branched(model, batch, key):
    value = jnp.sum(jax.vmap(model.first)(batch)) ** 2 + 1
    return jax.lax.cond(
        batch[0, 0] > 0,
        lambda value: jnp.exp(value * 1e4),  # here: cond
        lambda value: value,
        value,
    )


def rematerialised(model, x, key):
    return jax.checkpoint(lambda y: jnp.log(y * 0 - 1))(total(model, x))  # here: remat


@jax.custom_vjp
def twice(x):
    return 2 * x


twice.defvjp(lambda x: (2 * x, x * 0), lambda zero, grad: (grad / zero,))


def backwards(model, x, key):
    return twice(total(model, x))  # here: custom_vjp


@pytest.mark.parametrize(
    ("loss", "name", "turns", "where"),
    [
        (scanned, "scan", (13,), "forward"),
        (scanned_back, "reverse", (37,), "forward"),
        (counted, "while", (12,), "forward"),
        (branched, "cond", (), "forward"),
        (rematerialised, "remat", (), "forward"),
        (backwards, "custom_vjp", (), "gradient"),
    ],
)
def test_inside_of_other_programs(loss, name, turns, where):
    report = explained(loss, batched=loss is branched)
    assert report.where == where
    assert_at(report.operation, name)
    assert report.operation.turns == turns
    assert report.operation.result.nan or report.operation.result.inf
    assert all(not each.nan and not each.inf for each in report.operation.operands)
    assert report.examples == (() if loss is branched else tuple(range(8)))


def test_what_the_optimizer_makes():
    def update(grads, state, params=None):
        return jax.tree.map(lambda grad: grad / jnp.zeros_like(grad), grads), state  # here: update

    broken = optax.GradientTransformation(lambda params: (), update)
    report = explained(lambda model, x, key: total(model, x), optimizer=broken)
    assert report.where == "update"
    assert_at(report.operation, "update")
    assert report.leaves == ("model/first/weight", "model/layers/1/weight")
    assert "What is not finite then: model/first/weight" in str(report)
    # The optimizer's own line, where there is none of the user's.
    report = explained(lambda model, x, key: total(model, x) * 1e30, optimizer=optax.adam(0.1))
    assert report.where == "update"
    assert "optax" in report.operation.place.file


def test_a_norm_that_overflows_is_no_fault():
    report = explained(lambda model, x, key: total(model, x) * 1e30)
    assert not report
    assert report.figures["grad_norm"] == math.inf
    assert "each of its elements is finite" in report.notes[0]


def test_a_loss_scale_that_overflows():
    def loss(model, x, key):
        return jnp.sum(model.first(x).astype(jnp.float32)) * 300  # here: fp16

    report = explained(loss, precision="fp16")
    assert report.where == "gradient"
    assert "as float16 = inf" in report.operation.values
    assert_at(report.operation, "fp16")
    assert "the loss was scaled by 32768." in report.notes[0]


def test_members_with_batches_of_their_own():
    def loss(model, x, key):
        return total(model, x) + jnp.log(jnp.sum(x))

    step = treadle.ensemble(
        treadle.TrainStep(loss, optax.sgd(0.1), nonfinite="skip"), 2, shared_batches=False
    )
    state = step.init(Net, key=jax.random.key(0))
    report = treadle.explain_nonfinite(step, state, np.stack([rows(), rows(row6=-1)]))
    assert report.members == (1,)
    assert report.examples == (6,)
    assert "Of the ensemble it met member 1." in str(report)
    assert "the step drops this update" in report.notes[0]
    report = treadle.explain_nonfinite(step, state, np.stack([rows(), rows(row4=np.inf)]))
    assert report.inputs[0].rows == report.examples == (4,)


def test_layers_with_a_state():
    class Normed(eqx.Module):
        norm: eqx.nn.BatchNorm

        def __init__(self):
            self.norm = eqx.nn.BatchNorm(4, "batch", mode="batch")

        def __call__(self, x, state):
            return self.norm(x, state)

    model, model_state = eqx.nn.make_with_state(Normed)()

    def loss(model, model_state, x, key):
        y, model_state = model(x * 1e30, model_state)
        return jnp.sum(y), model_state

    report = explained(
        loss,
        np.arange(32, dtype=np.float32).reshape(8, 4),
        model=model,
        stateful=True,
        init={"model_state": model_state},
    )
    assert report.where == "forward"
    assert report.operation.module == "norm"


def test_a_number_that_stands_in_the_program():
    def loss(model, x, key):
        return jnp.where(jnp.sum(x) > 1, jnp.nan, total(model, x))  # here: constant

    # Who made the same call before is not named instead.
    explained(lambda model, x, key: jnp.where(jnp.sum(x) > 1, jnp.nan, total(model, x)))
    report = explained(loss)
    assert report.operation.from_constant
    assert_at(report.operation, "constant")
    assert "it reads a number that is nan in the program" in str(report)


def test_a_figure_beside_the_loss():
    report = explained(lambda model, x, key: (total(model, x), {"log": jnp.log(-jnp.sum(x))}))
    assert report.where == "aux"


def test_where_only_the_compiled_step_is_not_finite(monkeypatch):
    monkeypatch.setattr(_run._Finder, "search", lambda self, roots: _run.Found([], []))
    report = explained(lambda model, x, key: jnp.log(-jnp.sum(x)) + total(model, x))
    assert report.where == "compiled"
    assert "XLA computes some of them together" in str(report)


class Strict(eqx.Module):
    weight: jax.Array

    def __call__(self, x):
        assert type(self) is Strict
        return jnp.log(jnp.sum(self.weight * x) - 100)


def test_what_cannot_be_known_is_said():
    def one_size(model, batch, key):
        assert len(batch) == 8
        return jnp.mean(jax.vmap(model)(batch))

    report = explained(one_size, model=Strict(jnp.ones(4)), batched=True)
    assert report.operation.values == "log(-96) = nan, for 8 of 8 numbers"
    assert report.examples == ()
    assert "no modules are named, because marking them failed: AssertionError" in report.notes[0]
    assert "which example it was is not known: for twice as many, Assertion" in report.notes[1]


def test_arguments():
    step = treadle.TrainStep(lambda model, x, key: total(model, x), optax.sgd(0.1))
    state = step.init(MODEL, key=jax.random.key(0))
    with pytest.raises(treadle.ArgumentTypeError, match=r"`step` is a int, not a `TrainStep`"):
        treadle.explain_nonfinite(1, state, rows())
    with pytest.raises(treadle.ArgumentTypeError, match=r"has no parameter `args`"):
        treadle.explain_nonfinite(step, state, rows(), args=1.0)
    jax.tree.map(lambda leaf: leaf.delete(), state)
    with pytest.raises(treadle.ConsumedStateError, match=r"was consumed"):
        treadle.explain_nonfinite(step, state, rows())


def test_programs_that_are_run_in_pieces(monkeypatch):
    pieces = []

    class Counted(_code.Chunk):
        def __init__(self, instructions):
            super().__init__(instructions)
            pieces.append(len(instructions))

    monkeypatch.setattr(_code, "_CHUNK_BYTES", 2_000)
    monkeypatch.setattr(_code, "Chunk", Counted)
    report = explained(lambda model, x, key: model(x), rows(row2=0))
    assert len(pieces) > 1
    assert report.operation.values == "0.5 / 0 = inf, for 1 of 8 numbers"
    assert report.then.values == "inf * 0 = nan, for 3 of 24 numbers"
    assert report.examples == (2,)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_numbers_are_looked_at_where_they_lie(backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert _values.is_finite(jnp.ones(3, jnp.bfloat16))
    assert not _values.is_finite(jnp.array([1.0, jnp.nan], jnp.bfloat16))
    assert _values.is_finite(jnp.arange(3))
    assert _values.is_finite(jax.random.key(0))
    both = np.array([complex(np.nan, np.inf)])
    assert _values.mask_of(both, "nan").all()
    assert not _values.mask_of(both, "inf").any()
