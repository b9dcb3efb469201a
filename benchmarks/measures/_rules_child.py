"""The process of `rules`: one rule, changed, on its steps of the corpus."""

import importlib
import multiprocessing
import pathlib
import sys
import tempfile
import time
import traceback
from typing import Any

from ..rules import MUTANTS, Mutant, mutated_copy

# What every copy of the package needs and is slow to import; treadle itself each imports anew.
_SLOW = ("equinox", "jax", "jax.numpy", "jax.experimental.sparse", "optax")


def outcomes(rule: str, most: int | None) -> list[dict]:
    """What became of the changes to one rule, and of the rule as it is.

    Args:
        rule: Its name.
        most: How many changes are tried; all if `None`.
    """
    for name in _SLOW:
        importlib.import_module(name)
    mutants = [mutant for mutant in MUTANTS if mutant.rule == rule][:most]
    steps = list(dict.fromkeys(mutant.step for mutant in mutants))
    return [_tried(rule, None, steps), *(_tried(rule, mutant, [mutant.step]) for mutant in mutants)]


def _tried(rule: str, mutant: Mutant | None, first: list[str]) -> dict:
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            mutated_copy(mutant, pathlib.Path(folder))
            answer = _forked(folder, rule, first, alone=mutant is None)
        except ValueError as error:
            answer = {"noticed": None, "error": str(error), "steps": 0}
    return {
        "rule": rule,
        "name": "as it is" if mutant is None else mutant.name,
        "mutant": mutant is not None,
        "seconds": time.perf_counter() - start,
        **answer,
    }


def _forked(folder: str, rule: str, first: list[str], *, alone: bool) -> dict:
    # JAX has not started anything yet, so that a process can be forked.
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(folder, rule, first, alone, theirs))
    process.start()
    theirs.close()
    try:
        answer = ours.recv()
    except EOFError:
        answer = {"noticed": None, "error": "the process died", "steps": 0}
    process.join()
    return answer


def _run(folder: str, rule: str, first: list[str], alone: bool, pipe: Any) -> None:
    """In the forked process: the steps, until one notices."""
    try:
        sys.path.insert(0, folder)
        treadle = importlib.import_module("treadle")
        assert treadle.__file__ is not None
        assert treadle.__file__.startswith(folder), treadle.__file__
        pipe.send(_noticed(rule, first, alone=alone))
    except BaseException:
        pipe.send({"noticed": None, "error": traceback.format_exc(limit=-6), "steps": 0})


def _noticed(rule: str, first: list[str], *, alone: bool) -> dict:
    """The first step in which something else is found than should be.

    Args:
        rule: Whose steps.
        first: Those that are tried first.
        alone: Whether no others are.
    """
    corpus = importlib.import_module("tests.audit.corpus")
    every = [case for case in corpus.cases() if case.available]
    own = [case for case in every if case.group == rule]
    # A step of another rule may be the one to notice that this one has come to say too much.
    known = {case.name for case in own}
    early = [case for case in own if case.name in first]
    early += [case for case in every if case.name in first and case.name not in known]
    tried = early if alone else [*early, *(case for case in own if case not in early)]
    for count, case in enumerate(tried, 1):
        if corpus.findings_of(case) != set(case.expected):
            return {"noticed": case.name, "error": None, "steps": count}
    return {"noticed": None, "error": None, "steps": len(tried)}
