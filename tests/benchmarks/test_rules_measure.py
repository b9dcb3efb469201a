"""`python -m benchmarks rules`: its changes can be made, and one of them is noticed."""

from collections import Counter

import pytest
from benchmarks.measures import rules as measure
from benchmarks.rules import MUTANTS, Mutant, changed, mutated_copy
from tests.audit.corpus import cases

import treadle._audit._rules as rules
from benchmarks import _options

WITHOUT = {"no-compilation-cache"}
"""Rules about the process, not about a step."""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.rule}: {mutant.name}")
def test_the_place_of_a_change_is_there(mutant):
    compile(changed(mutant), mutant.file, "exec")
    assert mutant.step in {case.name for case in cases()}


def test_every_rule_has_enough():
    counts = Counter(mutant.rule for mutant in MUTANTS)
    assert counts.keys() == rules.rules().keys() - WITHOUT
    assert min(counts.values()) >= 3
    assert len({(mutant.rule, mutant.name) for mutant in MUTANTS}) == len(MUTANTS)


def test_a_change_whose_place_is_gone_is_told():
    gone = Mutant("uncompiled", "broken", "_rules/_uncompiled.py", "no such code", "", "no jit")
    with pytest.raises(ValueError, match=r"'no such code' is 0 times in _rules/_uncompiled\.py"):
        changed(gone)


def test_a_copy_differs_in_one_file(tmp_path):
    mutant = MUTANTS[0]
    mutated_copy(mutant, tmp_path / "one")
    mutated_copy(None, tmp_path / "other")
    differing = [
        path.relative_to(tmp_path / "one").as_posix()
        for path in sorted((tmp_path / "one").rglob("*.py"))
        if path.read_text() != (tmp_path / "other" / path.relative_to(tmp_path / "one")).read_text()
    ]
    assert differing == [f"treadle/_audit/{mutant.file}"]


def row(name, noticed, *, mutant=True, error=None):
    told = {"noticed": noticed, "error": error, "steps": 2, "seconds": 3.0}
    return {"rule": "key-reuse", "name": name, "mutant": mutant, **told}


DATA = {
    "rows": [
        row("as it is", None, mutant=False),
        row("killed", "a step"),
        row("alive", None),
        row("broken", None, error="ValueError"),
    ]
}


def test_tables_and_goals():
    totals, single = measure.tables(DATA)
    assert totals.rows == [("key-reuse", "3", "1", "12"), ("all", "3", "1", "12")]
    assert totals.notes == ["key-reuse, broken: ValueError"]
    assert [each[2] for each in single.rows] == ["a step", "survives", "error"]
    assert [goal.met for goal in measure.goals(DATA)] == [False, True]


def test_a_rule_that_fails_as_it_is_is_told():
    data = {"rows": [row("as it is", "a step", mutant=False), row("killed", "a step")]}
    assert measure.tables(data)[0].notes == ["key-reuse as it is fails in 'a step'."]
    assert [goal.met for goal in measure.goals(data)] == [True, False]


@pytest.mark.slow
def test_one_is_noticed():
    from rich.console import Console

    options = _options.Options(smoke=True, rounds=1, turns=1, seconds=0.0, only=("uncompiled",))
    data = measure.measure(options, Console(quiet=True))
    assert all(goal.met for goal in measure.goals(data)), data
    assert [each["noticed"] for each in data["rows"]] == [None, "no jit at all"]
