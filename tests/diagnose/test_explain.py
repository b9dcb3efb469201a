"""`treadle.explain`: what is said of each error, and that nothing else changes."""

import linecache
import os
import re
import subprocess
import sys
import traceback
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tests.diagnose import wrong
from tests.docs.pages import ROOT
from tests.helpers import exactly

import treadle

PAGE = ROOT / "docs" / "guides" / "common-errors.md"
HERE = os.path.basename(__file__)


def notes_of(error):
    """Ours among the notes of an error."""
    return [note for note in getattr(error, "__notes__", ()) if note.startswith("treadle:")]


def explained(run):
    """The error that some code raises, and its note."""
    try:
        with treadle.explain():
            run()
    except Exception as error:
        (note,) = notes_of(error)
        return error, note
    raise AssertionError("nothing was raised")


def anchors():
    """The sections of the page, as links have them."""
    headings = re.findall(r"^##+ (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return {re.sub(r"[-\s]+", "-", heading) for heading in plain}


def in_one_line(text):
    return " ".join(text.split())


def place_of(case):
    """The file and the line at fault; a model's own line is in the model."""
    lines = {"product_under_vmap": wrong.Net.__call__}
    if case.run.__name__ not in lines:
        return f"wrong.py:{case.line}"
    return f"wrong.py:{lines[case.run.__name__].__code__.co_firstlineno + 1}"


@pytest.mark.parametrize("case", wrong.CASES.values(), ids=list(wrong.CASES))
def test_a_wrong_line_gets_its_place_the_cause_a_fix_and_the_page(case):
    error, note = explained(case.run)
    assert isinstance(error, case.error)
    assert note.startswith(f"treadle: {place_of(case)}"), note
    text = in_one_line(note)
    for piece in case.said:
        assert piece in text, note
    assert "Fix: " in text
    # Code stays on one line.
    assert all(line.count("`") % 2 == 0 for line in note.splitlines()), note
    assert f"See: guides/common-errors/#{case.anchor}" in text


def test_the_page_has_a_section_for_each():
    assert {case.anchor for case in wrong.CASES.values()} <= anchors()


@pytest.mark.parametrize("mode", ["off", "remove_frames", "tracebackhide"])
@pytest.mark.parametrize("name", ["if_returns", "into_numpy", "key_twice", "forgotten_vmap"])
def test_however_jax_filters_its_tracebacks(name, mode, traceback_filtering):
    case = wrong.CASES[name]
    _, usual = explained(case.run)
    traceback_filtering(mode)
    _, note = explained(case.run)
    assert note == usual


@pytest.fixture
def traceback_filtering():
    before = jax.config.values["jax_traceback_filtering"]
    yield lambda mode: jax.config.update("jax_traceback_filtering", mode)
    jax.config.update("jax_traceback_filtering", before)


def test_the_note_as_a_whole():
    _, note = explained(wrong.if_returns)
    line = wrong.CASES["if_returns"].line
    assert note == (
        f"treadle: wrong.py:{line}, in `f`: `if x.sum() > 0:  # here`\n"
        "  Python's `if` needs a value, and while JAX traces a function (for `jit`, `vmap`, "
        "`grad`,\n  `scan`) an array has a shape and a dtype, but no value.\n"
        "  Fix: `return jnp.where(x.sum() > 0, x, -x)`, which computes both ways; or\n"
        "       `jax.lax.cond(x.sum() > 0, f, g, x)`, where only one of the functions runs.\n"
        "  See: guides/common-errors/#tracerboolconversionerror"
    )


def test_both_places_of_a_key_outside_of_compiled_functions():
    def draws():
        key = jax.random.key(0)
        jax.random.normal(key)
        jax.random.normal(key)

    first = draws.__code__.co_firstlineno + 2
    with jax.debug_key_reuse(True):
        _, note = explained(draws)
    assert note.startswith(f"treadle: {HERE}:{first + 1}, in `draws`: `jax.random.normal(key)`")
    assert f"that was consumed before at {HERE}:{first}" in in_one_line(note)


def test_shapes_that_are_of_one_example_already_are_not_cut():
    y = jnp.ones((8, 3))
    # Inside of the inner program nothing is batched, and 8 is an axis of the example's own.
    inner = jax.jit(lambda z: jax.lax.add(z, y))

    def run():
        jax.vmap(lambda x: inner(x[:, :4]))(jnp.ones((8, 8, 5)))

    error, note = explained(run)
    assert "(8, 4), (8, 3)" in str(error)
    assert "of one example they are" not in note
    assert "`z` is float32[8,4] and `y` is float32[8,3]" in in_one_line(note)


def test_the_error_stays_what_it_was():
    held = ValueError("shape (3,) is not my size")

    def fail():
        raise held

    message = exactly("shape (3,) is not my size")
    with pytest.raises(ValueError, match=message) as caught, treadle.explain():
        fail()
    assert caught.value is held
    assert not hasattr(held, "__notes__")
    assert [frame.name for frame in traceback.extract_tb(held.__traceback__)][-1] == "fail"


def test_nothing_is_swallowed_and_nothing_returned():
    with treadle.explain():
        value = 3
    assert value == 3

    @treadle.explain()
    def double(x):
        return 2 * x

    assert double(2) == 4


def test_one_note_however_often_it_is_asked():
    def nested():
        with treadle.explain(), treadle.explain():
            wrong.if_returns()

    error, _ = explained(nested)
    with pytest.raises(TypeError, match="boolean conversion"), treadle.explain():
        raise error
    assert len(notes_of(error)) == 1


def test_an_error_raised_from_one_that_is_known():
    def training():
        try:
            wrong.if_returns()
        except TypeError as error:
            raise RuntimeError("the training failed") from error

    error, note = explained(training)
    assert type(error) is RuntimeError
    assert note.startswith(f"treadle: wrong.py:{wrong.CASES['if_returns'].line}, in `f`")
    assert notes_of(error.__cause__) == []


def test_what_was_explained_below_is_not_told_again_above():
    def training():
        try:
            with treadle.explain():
                wrong.if_returns()
        except TypeError as error:
            raise RuntimeError("the training failed") from error

    with pytest.raises(RuntimeError, match="the training failed") as caught, treadle.explain():
        training()
    assert notes_of(caught.value) == []
    assert len(notes_of(caught.value.__cause__)) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1), GeneratorExit()])
def test_an_interrupt_is_left_alone(error):
    error.__cause__ = jax.errors.KeyReuseError("a known one")
    with pytest.raises(type(error)) as caught, treadle.explain():
        raise error
    assert not hasattr(caught.value, "__notes__")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("All input arrays must have the same shape."),
        TypeError("add got incompatible shapes for broadcasting: (3,), (4,)."),
        RuntimeError("Array has been deleted with shape=float32[3]."),
        RuntimeError("Dropout requires a key when running in non-deterministic mode."),
        ValueError("The truth value of an array with more than one element is ambiguous."),
    ],
    ids=lambda error: str(error)[:12],
)
def test_what_the_users_own_code_raises_is_theirs(error):
    with pytest.raises(type(error)) as caught, treadle.explain():
        raise error
    assert not hasattr(caught.value, "__notes__")


@pytest.mark.parametrize(
    "run",
    [
        lambda: np.ones(3) + np.ones(4),
        lambda: jnp.split(jnp.ones(5), 2),
        lambda: {}["key"],
        lambda: optax.adam(1e-3).update(),  # pyright: ignore[reportCallIssue]
        lambda: eqx.filter_jit(lambda x: eqx.error_if(x, x > 0, "too large"))(1.0),
        lambda: jax.jit(lambda x: x.nothing)(1.0),
    ],
    ids=["numpy", "split", "dict", "optax", "error_if", "attribute"],
)
def test_what_is_not_known_gets_no_note(run):
    with pytest.raises(Exception) as caught, treadle.explain():  # noqa: PT011
        run()
    assert notes_of(caught.value) == []


def test_an_error_of_ours_says_itself_what_is_wrong():
    def consumed():
        step = treadle.TrainStep(lambda model, x, key: jnp.sum(model) * x, optax.sgd(0.1))
        state = step.init(jnp.ones(2), key=jax.random.key(0))
        batch = np.ones(2, np.float32)
        step(state, batch)
        step(state, batch)

    consumed_state = pytest.raises(treadle.ConsumedStateError, match="was consumed")
    with consumed_state as caught, treadle.explain():
        consumed()
    assert notes_of(caught.value) == []


def test_an_error_of_ours_that_was_raised_from_one_of_jax():
    def ours():
        try:
            wrong.if_returns()
        except TypeError as error:
            raise treadle.LossError("the loss decides") from error

    with pytest.raises(treadle.LossError, match="decides") as caught, treadle.explain():
        ours()
    assert notes_of(caught.value) == []


def test_an_explanation_that_fails_lets_the_error_through(monkeypatch):
    def broken(raised):
        raise AttributeError("no such thing")

    monkeypatch.setattr("treadle._diagnose._explain.KINDS", (broken,))
    error, note = explained(wrong.if_returns)
    assert isinstance(error, jax.errors.TracerBoolConversionError)
    assert note == "treadle: this error could not be explained (AttributeError: no such thing)."


def run_cell(source, name):
    """Runs code as a notebook does, under a name that is no file."""
    linecache.cache[name] = (len(source), None, source.splitlines(True), name)
    scope: dict[str, Any] = {}
    exec(compile(source, name, "exec"), scope)
    return scope


@pytest.mark.parametrize("name", ["<ipython-input-3-abc>", "<stdin>"])
def test_a_cell_of_a_notebook_is_the_users(name):
    run = run_cell("def f(x):\n    return x if x > 0 else -x\n\n", name)["f"]
    _, note = explained(lambda: jax.jit(run)(1.0))
    assert note.startswith(f"treadle: {name}:2, in `f`: `return x if x > 0 else -x`")
    assert "`jnp.where(x > 0, x, -x)`" in note


def test_a_function_in_a_file_that_is_not_python(tmp_path):
    code = "if True:\n    def f(x):\n        return x if x > 0 else -x\n"
    page = tmp_path / "page.md"
    page.write_text(f"# Prose, of which it's full\n\n{code}\nMore prose.\n")
    scope: dict[str, Any] = {}
    exec(compile("\n\n" + code, str(page), "exec"), scope)
    _, note = explained(lambda: jax.jit(scope["f"])(1.0))
    assert note.startswith("treadle: page.md:5, in `f`: `return x if x > 0 else -x`")
    assert "`jnp.where(x > 0, x, -x)`" in note


def test_without_the_source_the_cause_is_told_all_the_same():
    scope: dict[str, Any] = {}
    exec(compile("def f(x):\n    return x if x > 0 else -x\n", "/nowhere/model.py", "exec"), scope)
    _, note = explained(lambda: jax.jit(scope["f"])(1.0))
    assert note.startswith("treadle: model.py:2, in `f`\n")
    assert "Python's `if`, `while`" in note


def test_code_that_a_library_wrote_is_not_the_users():
    # As a dataclass makes its `__init__`.
    scope = run_cell("def f(x):\n    return x if x > 0 else -x\n", "<string>")
    _, note = explained(lambda: jax.jit(scope["f"])(1.0))
    assert note.startswith(f"treadle: {HERE}:")


SCRIPT = """
import jax, jax.numpy as jnp, optax, treadle

def loss_fn(model, x, key):
    loss = jnp.sum(model * x)
    if loss > 1.0:
        loss = jnp.log(loss)
    return loss

step = treadle.TrainStep(loss_fn, optax.sgd(0.1))
state = step.init(jnp.ones(2), key=jax.random.key(0))
step(state, jnp.ones((4, 2)))
"""


def test_a_terminal_shows_the_note_last(tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "TREADLE_CACHE": "off"}
    done = subprocess.run(
        [sys.executable, "train.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-6:]
    assert last[0] == "treadle: train.py:6, in `loss_fn`: `if loss > 1.0:`"
    assert "`loss = jnp.where(loss > 1.0, jnp.log(loss), loss)`" in in_one_line(done.stderr)
    assert last[-1] == "  See: guides/common-errors/#tracerboolconversionerror"
