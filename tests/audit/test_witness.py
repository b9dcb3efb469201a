# ruff: noqa: NPY002
"""A trace is watched: which line reads the host; and what is counted and drawn is put back."""

import cProfile
import inspect
import random
import sys
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import treadle
from treadle._audit._load import load
from treadle._audit._private import counters_kept
from treadle._audit._purity._host import fingerprint, random_states_kept
from treadle._audit._purity._witness import Witness, read_for
from treadle._audit._source import TRACER
from treadle._diagnose import Place


def test_who_reads_the_host_is_seen_with_its_line_and_its_callers():
    own = np.random.default_rng(0)

    def clock():
        return time.perf_counter()

    def reads(x):
        x = x + np.random.normal()
        x = x + random.gauss(0, 1)
        x = x + own.normal()
        local = np.random.RandomState(1)
        x = x + local.uniform()
        x = x + clock()
        return x + 1

    with random_states_kept([own]), Witness([], [own]) as witness:
        reads(1.0)
    start = reads.__code__.co_firstlineno
    at = [(read.place.line - start, read.what) for read in witness.reads]
    assert {line for line, _ in at if line > 0} >= {1, 2, 3, 5}
    assert (2, "Random.gauss") in at
    assert witness.reads[-1].what == "perf_counter"
    assert witness.reads[-1].place.line == clock.__code__.co_firstlineno + 1
    called = Place(__file__, start + 6, "")
    assert read_for(witness.reads, called) == witness.reads[-1]


def test_what_the_function_draws_is_drawn_again_by_the_user():
    own = np.random.default_rng(0)

    @jax.jit
    def step(x):
        return x + own.normal(size=2).astype(np.float32) + np.float32(np.random.normal())

    # The type checker of the tests draws from `random`.
    before = fingerprint([own], pythons=False)
    assert not treadle.audit(step, jnp.zeros(2)).ok
    assert fingerprint([own], pythons=False) == before


def test_what_libraries_count_is_not_counted_by_an_audit():
    step = eqx.filter_jit(eqx.debug.assert_max_traces(lambda x: x * 2, max_traces=1))
    assert treadle.audit(step, jnp.zeros(2)).ok
    assert step(jnp.ones(2)).tolist() == [2.0, 2.0]


def test_the_private_counters_are_there():
    version = f"jax {jax.__version__} has no `checkify.next_code`, or equinox no `_traces`"
    from jax._src import checkify

    known = checkify.next_code
    with counters_kept() as start:
        start()
        assert checkify.next_code() == 1, version
    assert checkify.next_code is known, version


def test_under_a_profiler_that_cannot_be_put_back():
    @jax.jit
    def step(x):
        return x * next(numbers)

    numbers = iter([1.0, 2.0, 3.0, 4.0])
    profile = cProfile.Profile()
    profile.enable()
    try:
        found = treadle.audit(step, jnp.ones(2)).errors
        assert sys.getprofile() is profile
    finally:
        profile.disable()
    assert [each.rule for each in found] == ["impure-trace"]


def test_the_file_that_traces_is_known():
    # Behind it stands who called the audit; in older JAX the stacks of operations go on to there.
    assert inspect.unwrap(load).__code__.co_filename == TRACER
