"""The tables of `python -m benchmarks audit`: what counts as caught, as false, and as left out."""

import pytest
from benchmarks.measures import audit


def row(name, wrong, expected, found, skipped=None):
    pairs = {tuple(each) for each in expected}, {tuple(each) for each in found}
    rules = {rule for rule, _ in pairs[0]}
    return {
        "group": "key-reuse",
        "name": name,
        "wrong": wrong,
        "skipped": skipped,
        "expected": expected,
        "found": found,
        "caught": rules <= {rule for rule, _ in pairs[1]},
        "at_line": pairs[0] <= pairs[1],
        "unexpected": [list(each) for each in pairs[1] - pairs[0]],
    }


DATA = {
    "rows": [
        row("caught", True, [["key-reuse", 3]], [["key-reuse", 3]]),
        row("elsewhere", True, [["key-reuse", 3]], [["key-reuse", 4]]),
        row("missed", True, [["key-reuse", 3]], []),
        row("right", False, [], []),
        row("false", False, [], [["state-drift", 1]]),
        row("not here", True, [["key-reuse", 3]], [], skipped="flax"),
    ],
    "times": {"plain": [[1.0, 1.0]], "audit": [[1.2, 1.4]]},
    "layers": 24,
}


def test_tables_and_goals():
    corpus, cost = audit.tables(DATA)
    assert corpus.rows[0] == ("key-reuse", "3", "2", "1", "2", "2")
    assert corpus.rows[-1] == ("all", *corpus.rows[0][1:])
    assert "Left out, because flax is not installed." in corpus.notes
    assert any(note.startswith("key-reuse: elsewhere: expected") for note in corpus.notes)
    assert cost.rows[-1] == ("ratio", "1.30")
    assert [goal.met for goal in audit.goals(DATA)] == [False, False, False, True]
    assert audit.goals(DATA)[3].measured == pytest.approx(1.3)
