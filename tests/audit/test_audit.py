"""`treadle.audit`: what it reads, what it leaves as it was, and what it reports."""

import functools
import json
import pathlib
import random

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tests.helpers import Net, exactly, loss_fn, make_batch, run_script

import treadle
from treadle._audit import _private
from treadle._audit._purity._host import random_states_kept
from treadle._audit._rules import rules
from treadle._audit._source import Place, ignored_at, library_of

STEP = treadle.TrainStep(loss_fn, optax.adamw(1e-3))
CACHE = "no-compilation-cache"


@pytest.fixture(scope="module")
def state():
    return STEP.init(Net(jax.random.key(0)), key=jax.random.key(1))


@pytest.fixture(scope="module")
def report(state):
    return treadle.audit(STEP, state, make_batch())


@jax.jit
def noisy(w, x, key):
    first = jax.random.normal(key, x.shape)
    return w, x + first + jax.random.uniform(key, x.shape)  # the reuse


LINE = noisy.__wrapped__.__code__.co_firstlineno + 3
ARGS = jnp.ones(3), jnp.ones(4), jax.random.key(0)


# -- what is left as it was ------------------------------------------------------------------------


def test_a_step_of_treadle_is_ok_and_stays_as_it_was(state, report):
    assert report.ok, str(report)
    assert not state.is_consumed
    assert STEP.compilations == ()


def test_nothing_runs_and_no_cache_changes():
    traces, runs = [], []

    @functools.partial(jax.jit, donate_argnums=0)
    def step(w, x):
        traces.append(1)
        jax.debug.callback(lambda: runs.append(1))
        return w - x, inner(x)

    @jax.jit
    def inner(x):
        traces.append(2)
        return x * 2

    w, x = jnp.ones(3), jnp.ones(3)
    treadle.audit(step, w, x)
    assert traces == [1, 2]  # What the traces before changed was put back for the one watched.
    assert (step._cache_size(), inner._cache_size(), runs) == (0, 0, [])
    assert not w.is_deleted()
    step(w, x)  # Traced anew, as if there had been no audit.
    assert traces == [1, 2] * 2
    treadle.audit(step, jnp.ones(3), x)
    assert step._cache_size() == 1
    step(jnp.ones(3), x)
    assert traces == [1, 2] * 3


def test_random_states_of_the_host_are_as_they_were():
    drawn = []

    @jax.jit
    def step(x):
        drawn.append(np.random.rand())  # noqa: NPY002
        return x

    np.random.seed(3)  # noqa: NPY002
    expected, *others = np.random.rand(20)  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    treadle.audit(step, 1.0)
    assert drawn[-1] in others
    assert np.random.rand() == expected  # noqa: NPY002
    # The type checker of the tests draws from the other one.
    before = random.getstate()
    with random_states_kept([]):
        random.random()
    assert random.getstate() == before


def test_an_eval_step_counts_no_compilation(state):
    metric = treadle.EvalStep(lambda model, e: {"hit": jnp.argmax(model(e[0])) == e[1]})
    report = treadle.audit(metric, state, make_batch())
    assert report.ok
    assert metric.compilations == 0
    assert report.name.endswith("<lambda>")
    with pytest.raises(treadle.ArgumentTypeError, match=r"takes a model .* and got 1 arguments"):
        treadle.audit(metric, state)


# -- what can be audited ---------------------------------------------------------------------------


def test_a_step_takes_its_args():
    def loss(model, example, key, args):
        return loss_fn(model, example, key)[0] * args["scale"]

    step = treadle.TrainStep(loss, optax.sgd(0.1))
    state = step.init(Net(jax.random.key(0)), key=jax.random.key(1))
    args = {"scale": jnp.ones(())}
    assert treadle.audit(step, state, make_batch(), args=args).ok
    assert treadle.audit(functools.partial(step, args=args), state, make_batch()).ok
    with pytest.raises(treadle.ArgumentTypeError, match="args"):
        treadle.audit(step, state, make_batch())


class Stepper(eqx.Module):
    """A step that is a method."""

    rate: float

    @eqx.filter_jit
    def step(self, w, x, key):
        return w, x + self.rate * jax.random.normal(key) + jax.random.uniform(key)


@pytest.mark.parametrize(
    ("fn", "args"),
    [
        (noisy, ARGS),
        (functools.partial(noisy, ARGS[0]), ARGS[1:]),
        (jax.tree_util.Partial(noisy, ARGS[0]), ARGS[1:]),
        (noisy.__wrapped__, ARGS),
        (eqx.filter_jit(noisy.__wrapped__), ARGS),
        (Stepper(0.1).step, ARGS),
        (jax.jit(lambda w, n, x, key: noisy(w, x * n, key), static_argnums=1), (1, 2, *ARGS[1:])),
    ],
    ids=["jit", "partial", "Partial", "plain", "filter_jit", "method", "static"],
)
def test_what_can_be_audited(fn, args):
    report = treadle.audit(fn, *args)
    assert [each.rule for each in report.errors] == ["key-reuse"]


def test_arguments_by_name():
    x, key = ARGS[1:]
    for fn in (noisy, eqx.filter_jit(noisy.__wrapped__)):
        assert len(treadle.audit(fn, ARGS[0], key=key, x=x).errors) == 1


@pytest.mark.parametrize("wrap", [jax.jit, eqx.filter_jit, lambda fn: fn])
def test_types_stand_for_arrays(wrap):
    args = jax.eval_shape(lambda: ARGS)
    (finding,) = treadle.audit(wrap(noisy.__wrapped__), *args, ignore=["uncompiled"]).errors
    assert finding.where.line == LINE


class Trainer:
    """Compiled in the ways in which people compile methods."""

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def method(self, times, w, x):
        return w - times * jax.grad(lambda w: jnp.mean((x * w) ** 2))(w)

    @functools.partial(jax.jit, static_argnames=("self", "times"))
    def __call__(self, w, x, times):
        return self.method(times, w, x)


@pytest.mark.parametrize(
    ("fn", "args"),
    [
        (Trainer().method, (2,)),
        (functools.partial(Trainer().method, 2), ()),
        (Trainer.method, (Trainer(), 2)),
        (functools.partial(Trainer(), times=2), ()),
    ],
)
def test_static_arguments_are_not_taken_for_arrays(fn, args):
    w = jnp.ones(1 << 18)
    (finding,) = treadle.audit(fn, *args, w, jnp.ones(1 << 18)).warnings
    assert finding.rule == "undonated-state"
    assert finding.message.startswith("`w` (1 MiB)")


def test_a_compiled_program_is_refused():
    compiled = noisy.lower(*ARGS).compile()
    with pytest.raises(TypeError, match="is a Compiled, not a function"):
        treadle.audit(compiled, *ARGS)


def test_what_is_no_function_is_refused():
    with pytest.raises(treadle.ArgumentTypeError, match=r"`fn` \(=3\) is a int, not a function"):
        treadle.audit(3)


def test_errors_of_the_function_come_through():
    with pytest.raises(ZeroDivisionError):
        treadle.audit(jax.jit(lambda x: x / (1 // 0)), 1.0)


# -- what is reported ------------------------------------------------------------------------------


def test_what_xla_does_not_know_is_not_told():
    @jax.jit
    def loud(x):
        jax.debug.print("{}", x)
        return x

    report = treadle.audit(loud, 1.0)
    assert report.figures.flops is None or report.figures.flops >= 0
    assert "-1 flop" not in str(report)
    ticks = {tick.name: tick for tick in report.checklist}
    assert ticks["recompilation"].ticked is None
    assert ticks["recompilation"].evidence.startswith("nothing that comes in goes out updated")


def test_a_finding_names_the_line():
    (finding,) = treadle.audit(noisy, *ARGS).errors
    here = pathlib.Path(__file__)
    assert finding.where == f"{here}:{LINE}"
    assert (finding.where.file, finding.where.line) == (str(here), LINE)
    assert finding.where.function == "noisy"
    assert finding.link == "rules/key-reuse/"
    assert finding.message == (
        f"key consumed at test_audit.py:{LINE - 1} (normal) and again at test_audit.py:{LINE} "
        f"(uniform)"
    )


def test_the_report_as_text_has_all_of_it():
    report = treadle.audit(noisy, *ARGS)
    text = str(report)
    assert text.startswith("Audit of noisy: 1 error and ")
    for part in ("key-reuse", f"test_audit.py:{LINE}", "rules/key-reuse/", "peak memory"):
        assert part in text
    assert "[ ]  keys are split before each use" in text
    assert f"key-reuse at test_audit.py:{LINE}" in text
    assert "[x]  what it costs to compile is known" in text
    assert "[?]  checkpoints are in place" in text
    assert not any(line != line.rstrip() for line in text.splitlines())


def test_the_report_of_what_is_right_ticks_by_what_was_seen(report):
    ticks = {tick.name: tick for tick in report.checklist}
    assert ticks["keys"].ticked
    told = (
        "no draw serves a whole batch; every draw depends on the arguments; 1 draws, 8 keys: none "
        "is consumed twice"
    )
    assert ticks["keys"].evidence == told
    assert ticks["donated"].evidence.startswith("0 B of constants; ")
    assert ticks["recompilation"].evidence.startswith("`state` comes back in the structure")
    assert str(report.figures.equations) in ticks["cost"].evidence
    assert ticks["checkpoints"].ticked is None


def test_the_report_as_json():
    report = treadle.audit(noisy, *ARGS)
    found = json.loads(json.dumps(report.to_json()))
    assert found["schema"] == 1
    assert found["ok"] is False
    (finding,) = [each for each in found["findings"] if each["severity"] == "error"]
    assert finding["rule"] == "key-reuse"
    assert finding["where"] == {"file": __file__, "line": LINE, "function": "noisy"}
    assert finding["link"] == "rules/key-reuse/"
    assert {"equations", "flops", "arithmetic_intensity", "aliased_bytes"} <= set(found["figures"])
    assert {tick["name"]: tick["ticked"] for tick in found["checklist"]}["keys"] is False


def test_the_report_in_a_notebook_is_escaped():
    report = treadle.audit(jax.jit(lambda x: x), 1.0)
    assert "&lt;lambda&gt;" in report._repr_html_()
    assert "<lambda>" not in report._repr_html_()


def test_figures_agree_with_the_compiled_step(state, report):
    compiled = STEP.compile(state, make_batch())
    figures = report.figures
    assert figures.flops == compiled.flops
    assert figures.model_flops == compiled.model_flops
    assert figures.peak_bytes == compiled.peak_bytes
    assert figures.state_bytes == compiled.state_bytes
    assert figures.batch_bytes == compiled.batch_bytes
    assert figures.donated_bytes == figures.aliased_bytes == compiled.donated_bytes
    assert figures.arithmetic_intensity == compiled.arithmetic_intensity
    assert figures.draws == 1
    assert min(figures.trace_seconds, figures.lower_seconds, figures.compile_seconds) > 0


# -- what is ignored -------------------------------------------------------------------------------


def test_rules_are_ignored_by_name():
    report = treadle.audit(noisy, *ARGS, ignore=["key-reuse"])
    assert report.errors == ()
    assert [each.rule for each in report.ignored] == ["key-reuse"]
    ticks = {tick.name: tick for tick in report.checklist}
    assert ticks["keys"].evidence.endswith("ignored: key-reuse")


def test_rules_are_ignored_on_the_line():
    @jax.jit
    def step(x, key):
        x = x + jax.random.normal(key)
        return x + jax.random.uniform(key)  # treadle: ignore[key-reuse, side-effect]

    assert treadle.audit(step, 1.0, ARGS[2]).errors == ()


def test_a_comment_for_another_rule_changes_nothing():
    @jax.jit
    def step(x, key):
        x = x + jax.random.normal(key)
        return x + jax.random.uniform(key)  # treadle: ignore[side-effect]

    assert len(treadle.audit(step, 1.0, ARGS[2]).errors) == 1


def test_comments_of_decorated_functions(tmp_path):
    file = tmp_path / "step.py"
    file.write_text("@jit\n@other\ndef f():  # treadle: ignore[uncompiled]\n    pass  # treadle:")
    assert ignored_at(Place(str(file), 1)) == {"uncompiled"}
    assert ignored_at(Place(str(file), 4)) == frozenset()
    assert ignored_at(None) == frozenset()


def test_unknown_rules_are_refused_with_the_nearest():
    told = r"`ignore` names 'key_reuse', which is no rule. Did you mean 'key-reuse'\?"
    with pytest.raises(treadle.ArgumentValueError, match=told):
        treadle.audit(noisy, *ARGS, ignore=["key_reuse"])
    with pytest.raises(
        treadle.ArgumentTypeError,
        match=exactly(
            "`ignore` (='key-reuse') is a string: give a list of rules, `ignore=['key-reuse']`."
        ),
    ):
        treadle.audit(noisy, *ARGS, ignore="key-reuse")


# -- the rules, and private names ------------------------------------------------------------------


@pytest.mark.parametrize("slug", sorted(rules()))
def test_every_rule_has_a_page(slug):
    page = pathlib.Path(__file__).parents[2] / "docs" / "rules" / f"{slug}.md"
    text = page.read_text()
    assert text.startswith(f"# `{slug}`\n")
    for title in ("## What", "## Why", "## Wrong", "## Right"):
        assert title in text
    index = (page.parent / "index.md").read_text()
    assert f"({slug}.md)" in index
    assert rules()[slug].slug == slug


def test_private_names_of_jax_are_there():
    """Everything that `_private` takes from JAX 0.6.1 to 0.10.2; the message says what is gone."""
    version = f"jax {jax.__version__}, equinox {eqx.__version__}"
    traced = jax.jit(lambda x: x + 1).trace(1.0)
    (equation,) = traced.jaxpr.jaxpr.eqns
    frames = _private.raw_frames(equation)
    assert frames, f"`source_info.traceback.raw_frames()` has no frames: {version}"
    assert any(frame.code.co_filename == __file__ for frame in frames), version
    assert all(frame.line > 0 for frame in frames), version
    assert not _private.is_backward(equation), version
    assert not _private.is_recomputation(equation), version
    backward = jax.jit(jax.grad(lambda x: jnp.sin(x) ** 2)).trace(1.0).jaxpr.jaxpr.eqns
    assert any(map(_private.is_backward, backward)), f"the backward pass has no name: {version}"
    assert _private.is_jitted(jax.jit(lambda: 0)), version
    assert not _private.is_jitted(lambda: 0), version
    key = jax.eval_shape(lambda: jax.random.key(0))
    assert _private.is_array_of_keys(key), version
    assert _private.key_words(key) == (2,), version
    assert isinstance(_private.splits_are_folds(), bool), version
    assert _private.keys_like(key).shape == key.shape, version
    assert not _private.is_committed(jnp.ones(1)), version
    assert _private.is_committed(jax.device_put(jnp.ones(1), jax.devices()[0])), version


def test_private_names_of_equinox_are_there():
    version = f"equinox {eqx.__version__}"
    fn = eqx.filter_jit(lambda x, *, y: (x, y, "static"))
    assert _private.is_filter_jitted(fn), version
    call = _private.filtered_call(fn, (1.0,), {"y": jnp.ones(2)})
    traced = call.jitted.trace(*call.args)
    out = _private.filtered_output(traced.out_info)
    assert (out[0], out[1].shape, out[2]) == (1.0, (2,), "static"), version


def test_private_names_of_flax_are_there():
    nnx = pytest.importorskip("flax.nnx")
    fn = nnx.jit(lambda module, x: module(x))
    module, x = nnx.Linear(2, 3, rngs=nnx.Rngs(0)), jnp.ones((1, 2))
    assert _private.is_nnx_jitted(fn)
    assert not _private.is_nnx_jitted(noisy)
    (given, _), named = _private.nnx_arguments(fn, (module, x), {})
    assert not named
    assert len(jax.tree.leaves(given)) == 2
    traced = _private.nnx_trace(fn, (module, x), {})
    assert [info.shape for info in jax.tree.leaves(traced.out_info)][-1] == (1, 3)


def test_a_fresh_context_misses_every_cache():
    traces = []

    @jax.jit
    def inner(x):
        traces.append(1)
        return x

    inner(1.0)
    for _ in range(2):
        with _private.without_caches():
            jax.jit(lambda x: inner(x)).trace(1.0)
    assert len(traces) == 3
    inner(1.0)
    assert len(traces) == 3


def test_the_first_audit_of_a_process_leaves_compiled_calls_alone():
    code = """
import jax, treadle
traces = []

@jax.jit
def step(x):
    traces.append(1)
    return x

step(1.0)
treadle.audit(jax.jit(lambda x: x + 1), 1.0)
step(1.0)
print(len(traces))
"""
    told = run_script(code)
    assert told.stdout == "1\n", told.stderr


def test_libraries_are_told_from_users():
    assert library_of(eqx.filter_jit.__code__.co_filename) == "equinox"
    assert library_of(optax.adam.__code__.co_filename) == "optax"
    assert library_of(treadle.__file__) == "treadle"
    assert library_of(functools.__file__) == "python"
    assert library_of("<frozen abc>") == "python"
    assert library_of(__file__) is None


def test_what_looks_at_programs_is_imported_by_the_first_audit():
    code = (
        "import sys, treadle; print([n for n in sys.modules if '_rules' in n or '_lineage' in n])"
    )
    told = run_script(code)
    assert told.stdout == "[]\n", told.stderr


def test_nested_messages():
    """What a message tells beside the line."""

    @jax.jit
    def step(w, x):
        key = jax.random.key(0)
        return w, x + jax.random.normal(key, x.shape) * eqx.nn.Dropout(0.5)(x, key=key)

    report = treadle.audit(step, *ARGS[:2])
    line = step.__wrapped__.__code__.co_firstlineno + 3
    messages = {each.rule: each.message for each in report.findings}
    assert messages["key-constant"] == (
        f"this key is made from a constant: every call draws the same numbers (normal, bernoulli "
        f"at test_audit.py:{line})"
    )
    assert messages["key-reuse"] == (
        f"key consumed at test_audit.py:{line} (normal) and again at test_audit.py:{line} (dropout)"
    )


def test_what_differs_between_two_traces_is_told():
    count = iter(range(10))

    @jax.jit
    def step(x):
        for _ in range(next(count)):
            x = jnp.sin(x)
        return x * 2

    report = treadle.audit(step, 1.0)
    (finding,) = report.errors
    assert finding.rule == "impure-trace"
    assert "`mul` has become `sin`" in finding.message or "`sin` has become" in finding.message
    assert {tick.name: tick.ticked for tick in report.checklist}["pure"] is False


def test_callbacks_are_counted_once_a_line():
    @jax.jit
    def step(x):
        for _ in range(3):
            jax.debug.print("{}", x)
        return x

    (finding,) = treadle.audit(step, 1.0).warnings
    # Older JAX prints through `jax.debug.callback`.
    name = step.trace(1.0).jaxpr.eqns[0].primitive.name.removeprefix("debug_")
    assert name in ("print", "callback")
    assert finding.message.startswith(f"`jax.debug.{name}` inside of the program")
