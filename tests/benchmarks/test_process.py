"""The worker: a fresh process, a terminal, and errors that arrive with their traceback."""

import os

import pytest
from benchmarks._process import Worker, WorkerError


@pytest.fixture
def worker():
    with Worker({"BENCHMARKS_TEST": "here"}) as started:
        yield started


def test_calls_happen_elsewhere_with_our_environment(worker):
    assert worker.call("os:getpid") != os.getpid()
    assert worker.call("os:getenv", key="BENCHMARKS_TEST") == "here"
    assert worker.call("os:getenv", key="TREADLE_CACHE") == "off"


def test_it_has_a_terminal(worker):
    setup = "import sys; assert sys.stdout.isatty() and sys.stderr.isatty()"
    worker.call("timeit:timeit", setup=setup, number=1)


def test_it_has_imported_nothing_heavy(worker):
    setup = "import sys; assert not {'jax', 'numpy', 'rich'} & set(sys.modules)"
    worker.call("timeit:timeit", setup=setup, number=1)


def test_answers_come_in_order(worker):
    worker.send("json:loads", s="3")
    worker.send("json:loads", s="7")
    assert [worker.receive(), worker.receive()] == [3, 7]


def test_an_error_brings_its_traceback_and_the_worker_goes_on(worker):
    with pytest.raises(WorkerError, match=r"(?s)Traceback.*No module named 'no_such_module'"):
        worker.call("no_such_module:function")
    assert worker.call("json:loads", s="2") == 2


def test_a_death_tells_what_was_on_the_screen(worker):
    worker.call("os:system", command="echo last words")
    with pytest.raises(WorkerError, match=r"(?s)status 3.*last words"):
        worker.call("os:_exit", status=3)
