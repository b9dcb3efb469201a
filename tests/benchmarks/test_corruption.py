"""`corruption` counts what is refused, and sees what is not."""

import shutil

import pytest
from benchmarks.corruption.damage import KINDS
from benchmarks.measures import _corruption_child as child
from benchmarks.measures import corruption

from treadle.checkpoint import _reader, _regular


def measured(**hostile):
    files = {kind: child.damaged(kind, 20, seed=1) for kind in KINDS}
    forged = {"cases": 5, "refused": 9, "to refuse": 9, "failures": [], "seen": []}
    return {
        "files": {kind: found["files"] for kind, found in files.items()},
        "failures": [line for found in files.values() for line in found["failures"]],
        "hostile": forged | {"extra_mib": 3.0} | hostile,
    }


def test_all_is_counted():
    data = measured()
    assert data["failures"] == []
    damages, forged = corruption.tables(data)
    assert damages.rows[0] == ("bit flipped: `leaves-00000.eqx`", "10", "10", "10", "10", "10")
    assert damages.rows[-1] == ("all", "60", "60", "60", "60", "60")
    assert forged.rows[0][1:] == ("5", "9 of 9", "0", "3")
    assert all(goal.met for goal in corruption.goals(data))


def test_a_reader_that_overlooks_damage_is_seen(monkeypatch):
    class Forgiving(str):
        def __ne__(self, other):
            return False

        __hash__ = str.__hash__

    monkeypatch.setattr(_reader, "str", lambda value: Forgiving(value), raising=False)
    found = child.damaged("bit flipped", 40, seed=0)
    counts = found["files"]["leaves-00000.eqx"]
    assert counts["damages"] == 20
    assert counts["verify: refused"] == 0
    assert counts["load: refused"] < 20
    assert "not refused" in found["failures"][0]
    assert found["files"]["manifest.json"]["load: told where"] == 20


def test_a_message_that_does_not_say_where_is_seen(monkeypatch):
    monkeypatch.setattr(_reader, "quoted", lambda path: "a leaf")
    found = child.damaged("cut short", 20, seed=0)
    counts = found["files"]["leaves-00000.eqx"]
    assert (counts["verify: refused"], counts["verify: told where"]) == (10, 0)
    assert "is not named in" in found["failures"][0]


@pytest.fixture
def tried(tmp_path):
    """A function that forges a checkpoint and reads it."""
    folder, outside = tmp_path / "checkpoint", tmp_path / "outside"
    like = child.subject.make_tree()
    child.subject.write(folder)
    child.reading.warm_up(folder, like)
    found = {"cases": 0, "refused": 0, "readings": 0, "to refuse": 0, "failures": [], "seen": []}

    def attempt(name):
        (case,) = [case for case in child.forgeries.CASES if case.name == name]
        outside.mkdir()
        child._try(case, folder, outside, like, found)
        shutil.rmtree(outside)
        return found

    return attempt


def test_what_is_opened_outside_is_seen(tried, monkeypatch):
    found = tried("manifest.json is a link to outside")
    assert (found["refused"], found["readings"], found["seen"]) == (3, 3, [])
    monkeypatch.setattr(_regular.os, "O_NOFOLLOW", 0)
    found = tried("manifest.json is a link to outside")
    assert any("was opened or read" in line for line in found["seen"])
    assert len(found["failures"]) == 3
