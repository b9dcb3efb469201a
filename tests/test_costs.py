"""What a step costs: flops counted by hand, memory by what takes it, the speed that `fit` tells."""

import dataclasses
import itertools
import os
import pathlib
import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich.console import Console

import treadle
from tests.helpers import Net, loss_fn, make_batch
from treadle import _peak, _units
from treadle._compiled import measure
from treadle._cost import StepCost, cost_of_dispatch
from treadle._flops import count_flops
from treadle.callbacks import _progress
from treadle.callbacks._metrics import Dispatched, StepMetrics

H100 = "NVIDIA H100 80GB HBM3"


def count(function, *shapes, dtype=jnp.float32):
    arrays = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    return count_flops(jax.make_jaxpr(function)(*arrays))


def xla(function, *shapes):
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*arrays).compile().cost_analysis()["flops"]


# -- the count ----------------------------------------------------------------------------------


def products_of_mlp(sizes, batch):
    """Forward, and backward for weights and inputs; the data need no gradient."""
    weights = [a * b for a, b in itertools.pairwise(sizes)]
    return 2 * batch * (3 * sum(weights) - weights[0])


def mlp_step(**options):
    def loss(model, example, key):
        return jnp.mean((model(example[0]) - example[1]) ** 2)

    step = treadle.TrainStep(loss, optax.sgd(1e-2), **options)
    model = treadle.nn.MLP(6, 3, width=8, depth=2, key=jax.random.key(0))
    state = step.init(model, key=jax.random.key(1))
    x, _ = make_batch(16)
    return step, state, (x, np.zeros((16, 3), np.float32))


@pytest.mark.parametrize(
    "options",
    [{}, {"accumulate": 4}, {"accumulate": 4, "unroll": True}],
    ids=["whole", "microbatches", "unrolled"],
)
def test_a_step_of_an_mlp(options):
    step, state, batch = mlp_step(**options)
    traced = step._step.trace(state, batch, None)
    assert count_flops(traced.jaxpr).products == {
        "float32": products_of_mlp([6, 8, 8, 3], 16),
    }
    assert count_flops(traced.jaxpr).notes == ()


def test_scanned_steps_count_each():
    step, state, batch = mlp_step(accumulate=2)
    stacked = jax.tree.map(lambda leaf: np.stack([leaf] * 5), batch)
    traced = step._scan.trace(state, stacked, None)
    cost = StepCost(traced.jaxpr, 5, set(jax.devices()[:1]))
    assert cost.flops == products_of_mlp([6, 8, 8, 3], 16)


def test_attention():
    tokens, width = 10, 12
    attention = eqx.nn.MultiheadAttention(3, width, key=jax.random.key(0))
    counted = count(lambda x: attention(x, x, x), (tokens, width))
    projections = 4 * 2 * tokens * width * width
    scores_and_values = 2 * 2 * tokens * tokens * width
    assert counted.total == projections + scores_and_values


CONVOLUTIONS = [
    # strides, padding, dilation of the kernel, groups
    ((1, 1), "SAME", (1, 1), 1),
    ((2, 2), "SAME", (1, 1), 1),
    ((2, 2), "VALID", (2, 2), 2),
    ((3, 2), ((2, 1), (0, 3)), (1, 2), 4),
]


@pytest.mark.parametrize(("strides", "padding", "dilation", "groups"), CONVOLUTIONS)
def test_convolutions_and_their_gradients_count_alike(strides, padding, dilation, groups):
    def convolve(x, w):
        return jax.lax.conv_general_dilated(
            x,
            w,
            strides,
            padding,
            rhs_dilation=dilation,
            feature_group_count=groups,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    shapes = (2, 9, 7, 8), (3, 3, 8 // groups, 12)
    forward = count(convolve, *shapes).total
    # An independent count; XLA adds nothing to a single operation.
    assert forward == xla(convolve, *shapes)
    for which in (0, 1):
        gradient = jax.grad(lambda x, w: jnp.sum(convolve(x, w)), which)
        # The gradient does not need the convolution itself, so XLA drops it.
        assert count(gradient, *shapes).total == forward
    both = jax.grad(lambda x, w: jnp.sum(convolve(x, w) ** 2), (0, 1))
    assert count(both, *shapes).total == 3 * forward


def test_a_convolution_by_hand():
    def convolve(x, w):
        return jax.lax.conv_general_dilated(x, w, (1,), [(1, 1)])

    # Of 5 places with a kernel of 3, the two at the border meet one padded element each.
    assert count(convolve, (2, 3, 5), (4, 3, 3)).total == 2 * 2 * 3 * 4 * (5 * 3 - 2)


def test_an_ensemble_of_convolutions_counts_each_member():
    def loss(w, x):
        return jnp.sum(jax.lax.conv_general_dilated(x, w, (2, 2), "SAME") ** 2)

    one = count(jax.grad(loss), (4, 3, 3, 3), (2, 3, 8, 8))
    each = count(jax.vmap(jax.grad(loss)), (5, 4, 3, 3, 3), (5, 2, 3, 8, 8))
    shared = count(jax.vmap(jax.grad(loss), (0, None)), (5, 4, 3, 3, 3), (2, 3, 8, 8))
    assert each.total == shared.total == 5 * one.total


def test_a_recurrence_counts_each_round():
    def last(x, w):
        return jax.lax.scan(lambda h, row: (jnp.tanh(w @ h + row), None), x[0], x)[0]

    assert count(last, (7, 4), (4, 4)).total == 7 * 2 * 4 * 4
    assert count(last, (7, 4), (4, 4)).elementwise == 7 * 2 * 4
    # Backward: for the state and for the weights.
    gradient = jax.grad(lambda x, w: jnp.sum(last(x, w)), 1)
    assert count(gradient, (7, 4), (4, 4)).total == 3 * 7 * 2 * 4 * 4


def test_elementwise_is_one_for_each_element():
    assert count(lambda x: jnp.exp(x) * x, (3, 4)).elementwise == 2 * 12
    assert count(jnp.sum, (3, 4)).elementwise == 12
    assert count(lambda x: x.reshape(4, 3).T, (3, 4)).elementwise == 0
    assert count(lambda x: x + 1, (3, 4), dtype=jnp.int32).elementwise == 0


def test_pooling_takes_one_for_each_element_of_a_window():
    pool = eqx.nn.MaxPool2d(3, 2)
    assert count(pool, (2, 9, 9)).elementwise == 2 * 4 * 4 * 9
    mean = eqx.nn.AvgPool1d(2, 2)
    assert count(mean, (3, 8)).elementwise == 3 * 4 * 2 + 3 * 4


def test_what_no_output_needs_is_not_counted():
    def wasteful(x):
        unused = jax.jit(lambda x: (x @ x, x))(x)
        return unused[1] + 1

    assert count(wasteful, (4, 4)).total == 0


def test_recomputation_counts():
    def loss(w, x):
        return jnp.sum(jnp.tanh(jnp.tanh(x @ w) @ w))

    plain = count(jax.value_and_grad(loss), (4, 4), (5, 4))
    again = count(jax.value_and_grad(jax.checkpoint(loss)), (4, 4), (5, 4))
    assert plain.total == 5 * 2 * 5 * 4 * 4
    assert again.total == 7 * 2 * 5 * 4 * 4


def test_loops_branches_and_kernels_say_what_is_not_exact():
    def until(x):
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 9, lambda x: x @ x, x)

    def either(x):
        return jax.lax.cond(jnp.sum(x) < 9, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert count(until, (3, 3)).total == 54
    assert "`while` loop is counted once" in count(until, (3, 3)).notes[0]
    assert count(either, (3, 3)).total == 108
    assert "the largest branch" in count(either, (3, 3)).notes[0]
    assert count(jnp.linalg.cholesky, (3, 3)).notes == ("`cholesky` is not counted",)
    # A loop with a known number of rounds, and branches that cost the same, are exact.
    assert count(lambda x: jax.lax.fori_loop(0, 4, lambda i, x: x @ x, x), (3, 3)) == (
        {"float32": 4 * 54.0},
        0.0,
        (),
    )


def test_the_arithmetic_is_named_as_it_was_asked_for():
    def product(x):
        return x @ x

    def highest(x):
        return jnp.matmul(x, x, precision="highest")

    assert count(product, (2, 2), dtype=jnp.bfloat16).products == {"bfloat16": 16.0}
    assert count(highest, (2, 2)).products == {"float32 highest": 16.0}
    assert count(product, (2, 2), dtype=jnp.complex64).products == {"complex64": 64.0}
    assert count(product, (2, 2), dtype=jnp.int32).products == {}
    with jax.default_matmul_precision("high"):
        assert count(product, (2, 2)).products == {"float32 high": 16.0}


def test_shards_count_once_each():
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    rows = PartitionSpec("data")
    product = jax.shard_map(
        lambda x, w: x @ w, mesh=mesh, in_specs=(rows, PartitionSpec()), out_specs=rows
    )
    assert count(product, (8, 3), (3, 5)).total == 2 * 8 * 3 * 5


# -- peaks --------------------------------------------------------------------------------------


def test_peaks_are_of_the_arithmetic_asked_for():
    assert _peak.peak_flops(H100, {"bfloat16": 1.0}) == pytest.approx(989.4e12)
    assert _peak.peak_flops(H100, {"float32": 1.0}) == pytest.approx(494.7e12)
    assert _peak.peak_flops(H100, {"float32 highest": 1.0}) == pytest.approx(66.9e12)
    # Half the operations at a thirteenth of the speed take most of the time.
    mixed = _peak.peak_flops(H100, {"bfloat16": 1.0, "float32 highest": 1.0})
    assert mixed == pytest.approx(2 / (1 / 989.4e12 + 1 / 66.9e12))


def test_the_page_has_the_peaks():
    page = pathlib.Path(__file__).parent.parent / "docs/guides/cost.md"
    rows = [line for line in page.read_text().splitlines() if line.startswith("| `")]
    for kind, peak in _peak._PEAKS.items():
        (row,) = [row for row in rows if f"`{kind}`" in row]
        figures = [cell.strip() for cell in row.strip("|").split("|")[1:]]
        assert figures == ["–" if most is None else f"{most:g}" for most in peak]  # noqa: RUF001


@pytest.mark.parametrize(
    ("kind", "arithmetic"),
    [
        ("cpu", "float32"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bfloat16"),
        ("Tesla V100-SXM2-16GB", "bfloat16"),
        ("TPU v4", "float32 highest"),
        ("TPU v4", "float32 high"),
        (H100, "float64"),
    ],
)
def test_what_no_datasheet_says_is_not_guessed(kind, arithmetic):
    assert _peak.peak_flops(kind, {arithmetic: 1.0, "float16": 0.0}) is None
    assert _peak.peak_flops(kind, {}) is None


def test_a_peak_is_of_all_devices_together():
    program = jax.make_jaxpr(lambda x: x @ x)(jnp.ones((2, 2), jnp.bfloat16))
    cards = {Device(H100) for _ in range(8)}
    assert StepCost(program, 1, cards).peak == pytest.approx(8 * 989.4e12)
    assert StepCost(program, 1, cards | {Device("cpu")}).peak is None


class Device:
    def __init__(self, device_kind):
        self.device_kind = device_kind


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0, "0 FLOP/s"),
        (12.0, "12 FLOP/s"),
        (999.4, "999 FLOP/s"),
        (999.6, "1 kFLOP/s"),
        (12.34e9, "12.3 GFLOP/s"),
        (999.9e9, "1 TFLOP/s"),
        (5e20, "500 EFLOP/s"),
        (float("inf"), "inf FLOP/s"),
    ],
)
def test_units(number, text):
    assert _units.quantity(number, "FLOP/s") == text


def test_binary_units():
    assert _units.binary(0) == "0 B"
    assert _units.binary(1536) == "1.5 KiB"
    assert _units.binary(3 * 1024**3) == "3 GiB"


# -- step.compile -------------------------------------------------------------------------------


def with_args(model, example, key, args):
    loss, aux = loss_fn(model, example, key)
    return loss * args["scale"], aux


@pytest.mark.parametrize("donate", [True, False])
def test_memory_is_split_by_what_takes_it(donate):
    step = treadle.TrainStep(with_args, optax.adamw(1e-3), donate=donate)
    state = step.init(Net(jax.random.key(0)), key=jax.random.key(1))
    batch, args = make_batch(), {"scale": jnp.float32(2.0)}
    compiled = step.compile(state, batch, args=args)
    size = sum(leaf.nbytes for leaf in state.leaves)
    assert compiled.state_bytes == size
    assert compiled.batch_bytes == sum(leaf.nbytes for leaf in batch)
    assert compiled.args_bytes == 4
    assert compiled.donated_bytes == compiled.aliased_bytes == (size if donate else 0)
    # Three metrics and the faults; and the new state, where it is not in the old one's memory.
    assert compiled.output_bytes >= 3 * 4 + (0 if donate else size)
    parts = (
        compiled.state_bytes,
        compiled.batch_bytes,
        compiled.args_bytes,
        compiled.output_bytes,
        compiled.temporary_bytes,
    )
    assert sum(parts) == compiled.peak_bytes
    assert compiled.arithmetic_intensity == compiled.flops / compiled.bytes_accessed
    assert compiled.device_kind == jax.devices()[0].device_kind
    assert compiled.num_devices == 1
    assert compiled.peak_flops_per_second is None


def test_the_table_has_readable_and_exact_figures():
    step, state, batch = mlp_step()
    text = str(step.compile(state, batch))
    size = sum(leaf.nbytes for leaf in state.leaves)
    (line,) = [line for line in text.splitlines() if line.startswith("  state")]
    assert line.split() == ["state", _units.binary(size).split()[0], "B", f"{size:,}"]
    assert "flops per byte" in text
    assert "  args" not in text


def test_what_a_backend_does_not_report_is_none():
    step, state, batch = mlp_step()
    compiled = step.compile(state, batch)
    silent = types.SimpleNamespace(
        cost_analysis=lambda: None,
        memory_analysis=lambda: None,
        args_info=compiled.executable.args_info,
        input_shardings=compiled.executable.input_shardings,
    )
    poor = measure(silent, True, 0.0, 0.0, None)
    assert poor.flops is poor.bytes_accessed is poor.arithmetic_intensity is None
    assert poor.peak_bytes is poor.temporary_bytes is poor.output_bytes is None
    assert poor.model_flops is None
    assert str(poor).count("not reported") == 9


def test_model_flops_notes_and_peak_are_shown():
    step, state, batch = mlp_step()
    traced = step._step.trace(state, batch, None)
    executable = traced.lower().compile()
    measured = measure(executable, True, 0.0, 0.0, traced.jaxpr)
    assert measured.model_flops == products_of_mlp([6, 8, 8, 3], 16)
    # What XLA made of it has more, such as the optimizer.
    assert 0 < measured.elementwise_flops < measured.flops
    known = dataclasses.replace(measured, peak_flops_per_second=989.4e12, notes=("so and so",))
    assert "989 TFLOP/s" in str(known)
    assert "note: so and so" in str(known)


def test_a_sharded_batch_counts_what_lies_on_each_device():
    step, state, batch = mlp_step()
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    batch = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    compiled = step.compile(state, batch)
    assert compiled.num_devices == 4
    assert compiled.batch_bytes == sum(leaf.nbytes for leaf in batch) // 4
    assert compiled.state_bytes == sum(leaf.nbytes for leaf in state.leaves)
    assert "4 x" in str(compiled)


# -- fit ----------------------------------------------------------------------------------------


def fit(step, state, batch, **options):
    options.setdefault("num_steps", 12)
    options.setdefault("progress", False)
    return treadle.fit(step, state, [batch] * 40, **options)


@pytest.mark.parametrize("steps_per_call", [1, 3])
def test_fit_tells_flops_without_tracing_again(steps_per_call):
    traces = []

    def loss(model, example, key):
        traces.append(1)
        return jnp.mean((model(example[0]) - example[1]) ** 2)

    _, _, batch = mlp_step()
    step = treadle.TrainStep(loss, optax.sgd(1e-2), accumulate=2)
    model = treadle.nn.MLP(6, 3, width=8, depth=2, key=jax.random.key(0))
    throughput = treadle.callbacks.Throughput(peak_flops=1e12)
    state = step.init(model, key=jax.random.key(1))
    state, history = fit(step, state, batch, callbacks=[throughput], steps_per_call=steps_per_call)
    expected = products_of_mlp([6, 8, 8, 3], 16)
    assert history.flops == throughput.flops == expected
    assert history.flops_per_second > 0
    assert history.peak_fraction is None
    assert throughput.flops_per_second == expected * throughput.steps_per_second
    assert throughput.peak_fraction == throughput.flops_per_second / 1e12
    assert "FLOP/s" in repr(history)
    assert len(step.compilations) == 1
    # One trace for the shapes of the loop over microbatches, one for the loop.
    told = len(traces)
    fit(step, state, batch, num_steps=24, steps_per_call=steps_per_call)
    assert len(traces) == told


def test_fit_with_args_and_shards_traces_nothing_again():
    step = treadle.TrainStep(with_args, optax.sgd(1e-2))
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    state = step.init(Net(jax.random.key(0)), key=jax.random.key(1))
    state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    batch = jax.device_put(make_batch(), NamedSharding(mesh, PartitionSpec("data")))
    asked = []

    def args(count):
        asked.append(count)
        return {"scale": 1.0 + count}

    _, history = fit(step, state, batch, args=args)
    assert history.flops == 2 * 8 * (2 * 6 * 8 + 3 * 8 * 3)
    assert asked == list(range(12))
    assert len(step.compilations) == 1


def test_flops_given_are_taken_and_checked():
    step, state, batch = mlp_step()
    throughput = treadle.callbacks.Throughput(flops=50.0)
    state, _ = fit(step, state, batch, callbacks=[throughput])
    assert throughput.flops == 50.0
    assert throughput.peak_fraction is None
    with pytest.raises(treadle.ArgumentValueError, match=r"`peak_flops` \(=0\) must be positive"):
        treadle.callbacks.Throughput(peak_flops=0)
    with pytest.raises(treadle.ArgumentValueError, match=r"`flops` \(=nan\) must be positive"):
        treadle.callbacks.Throughput(flops=float("nan"))


def test_the_peak_fraction_of_a_known_device(monkeypatch):
    monkeypatch.setitem(_peak._PEAKS, jax.devices()[0].device_kind, _peak._PEAKS[H100])
    step, state, batch = mlp_step()
    throughput = treadle.callbacks.Throughput()
    state, history = fit(step, state, batch, callbacks=[throughput])
    assert history.peak_fraction == history.flops_per_second / 494.7e12
    assert throughput.peak_fraction == throughput.flops_per_second / 494.7e12
    assert "of peak)" in repr(history)


def test_one_dispatch_has_no_speed():
    step, state, batch = mlp_step()
    _, history = fit(step, state, batch, num_steps=1)
    assert history.flops == products_of_mlp([6, 8, 8, 3], 16)
    assert history.flops_per_second is history.peak_fraction is None
    assert "FLOP/s" not in repr(history)


def test_without_jit_there_is_no_program_to_count():
    step, state, batch = mlp_step()
    with jax.disable_jit():
        assert cost_of_dispatch(step._step, step._log, state, batch, None, 1) is None


class Host:
    def __init__(self, cost):
        self.count, self.state, self.cost = 0, STATE, cost

    def save(self, checkpointer): ...

    def save_what_is_left(self, checkpointer, error): ...

    def request_stop(self, reason): ...

    def stop_members(self, mask): ...


def draw(monkeypatch, *, width, shown, figures=None, cost=None):
    """The lines of a bar at the end of a training of 100 steps in 10 s."""
    # At the start; the first step, which is noted when it is next looked for; the last one.
    clock = iter([0.0, 1.0, 1.0, 11.0, 11.0])
    monkeypatch.setattr(_progress, "_RATE_SECONDS", 100.0)
    monkeypatch.setattr(_progress.time, "perf_counter", lambda: next(clock))
    with open(os.devnull, "w") as nowhere:
        console = Console(file=nowhere, force_terminal=True, width=width, record=True)
        bar = treadle.callbacks.ProgressBar(console)
        host = Host(cost)

        def context(step):
            metrics = None if not step else StepMetrics(Dispatched(shown))
            return treadle.callbacks.Context(host, step, 101, metrics, figures, False, 8 * step, {})

        bar.on_start(context(0))
        if figures is not None:
            bar.on_eval(context(0))
        bar.on_step(context(1))
        bar.on_step(context(2))
        bar.on_end(context(101))
    return console.export_text()


STATE = treadle.TrainStep(loss_fn, optax.sgd(1e-2)).init(
    Net(jax.random.key(0)), key=jax.random.key(1)
)
COST = types.SimpleNamespace(flops=2e9, peak=1e11)


def test_the_bar_tells_model_flops(monkeypatch):
    shown = {"loss": jnp.float32(0.5), "accuracy": jnp.float32(0.25)}
    wide = draw(monkeypatch, width=140, shown=shown, cost=COST)
    last = wide.splitlines()[-1]
    assert "loss 0.5  accuracy 0.25  80 ex/s  20 GFLOP/s (20% of peak)" in last


def test_a_narrow_bar_tells_them_below(monkeypatch):
    shown = {"loss": jnp.float32(0.5), "accuracy": jnp.float32(0.25)}
    narrow = draw(monkeypatch, width=70, shown=shown, cost=COST)
    assert narrow.splitlines()[-1].strip() == "20 GFLOP/s (20% of peak)"
    unknown = types.SimpleNamespace(flops=2e9, peak=None)
    text = draw(monkeypatch, width=140, shown=shown, cost=unknown)
    assert "20 GFLOP/s" in text
    assert "peak" not in text


def test_the_bar_goes_by_what_is_over(monkeypatch):
    """The host dispatches far ahead of the device: what is only under way is no speed."""
    now = [0.0]
    monkeypatch.setattr(_progress.time, "perf_counter", lambda: now[0])
    with open(os.devnull, "w") as nowhere:
        console = Console(file=nowhere, force_terminal=True, width=140, record=True)
        bar = treadle.callbacks.ProgressBar(console)
        over = set()

        class Later(dict):
            ready = property(lambda self: self["step"] in over)

        def step(at, number):
            now[0] = at
            metrics = Later(loss=0.5, step=number)
            bar.on_step(
                treadle.callbacks.Context(
                    Host(COST), number, 1000, metrics, None, False, number, {}
                )
            )

        bar.on_start(treadle.callbacks.Context(Host(COST), 0, 1000, None, None, False, 0, {}))
        step(10.0, 1)
        over.add(1)
        step(11.0, 100)  # The first is over: the clock runs. This one is waited for.
        step(12.0, 200)
        step(13.0, 300)
        assert bar._rate is None
        over.add(100)
        step(14.0, 400)
    assert bar._rate == pytest.approx(99 / 3)
    assert bar._flops == "66 GFLOP/s (66% of peak)"


class Slow(treadle.Callback):
    def on_step(self, ctx):
        dict(ctx.metrics)


def test_a_short_run_that_ends_with_an_evaluation_has_a_speed():
    step, state, batch = mlp_step()
    with open(os.devnull, "w") as nowhere:
        console = Console(file=nowhere, force_terminal=True, width=140, record=True)
        bar = treadle.callbacks.ProgressBar(console)
        fit(step, state, batch, callbacks=[Slow(), bar], eval=lambda state: {"size": 1.0})
    last = console.export_text().splitlines()[-1]
    assert "ex/s" in last
    assert "FLOP/s" in last


def test_a_step_without_products_tells_no_speed(monkeypatch):
    nothing = types.SimpleNamespace(flops=0.0, peak=None)
    text = draw(monkeypatch, width=140, shown={"loss": jnp.float32(0.5)}, cost=nothing)
    assert "FLOP/s" not in text


def test_the_bar_shows_means_over_members(monkeypatch):
    shown = {
        "loss": jnp.array([0.25, 0.75], jnp.float32),
        "confusion": jnp.ones((3, 3)),
        "grad_norm": jnp.ones(2),
    }
    figures = {"accuracy": np.array([0.5, 1.0], np.float32), "count": 3.0}
    text = draw(monkeypatch, width=140, shown=shown, figures=figures)
    assert "loss 0.5  80 ex/s  eval accuracy 0.75  eval count 3  (means of 2)" in text


def test_arrays_of_a_single_run_are_not_shown(monkeypatch):
    shown = {"loss": jnp.float32(0.5), "classes": jnp.ones(2)}
    text = draw(monkeypatch, width=140, shown=shown)
    assert "classes" not in text
    assert "means" not in text


def test_a_history_of_members_has_their_mean_in_its_line():
    history = treadle.History()
    history.log(1, {"loss": np.array([1.0, 3.0])})
    assert "last loss 2" in repr(history)
