"""`kills`: the write points are seen, a process is killed there, and what differs is told."""

import builtins
import copy
import io
import os
import pathlib
import re

import pytest
from benchmarks.kills.faults import Faults
from benchmarks.kills.outcome import differences
from benchmarks.kills.pool import Pool
from benchmarks.measures import kills
from rich.console import Console

CONSOLE = Console(quiet=True)


class KilledError(Exception):
    """In the place of a signal."""


def kill():
    raise KilledError


@pytest.fixture
def layer(tmp_path):
    """Puts the layer under the folder `run`, and takes it away after the test."""
    with pytest.MonkeyPatch.context() as patch:

        def install(at=None):
            faults = Faults(tmp_path / "run", at, act=kill)
            faults.install(patch.setattr)
            return faults

        yield install


def write(run):
    """Something of each call."""
    aside = run / ".step_00000003.new-host-17-0123abcd"
    aside.mkdir(parents=True)
    with open(aside / "one", "w", encoding="utf-8") as file:
        file.write("text")
    (aside / "two").write_bytes(b"bytes")
    descriptor = os.open(aside / "three", os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, b"12")
    os.fsync(descriptor)
    os.close(descriptor)
    os.rename(aside, run / "done")
    folder = os.open(run / "done", os.O_RDONLY)
    os.unlink("one", dir_fd=folder)
    os.close(folder)
    (run.parent / "elsewhere").write_text("no concern of ours")
    assert (run / "done" / "two").read_bytes() == b"bytes"


ASIDE = ".step_00000003.new"
POINTS = [
    f"mkdir {ASIDE} #1",  # There is no folder to make it in, and it is made again.
    "mkdir . #1",
    f"mkdir {ASIDE} #2",
    f"open {ASIDE}/one #1",
    f"write {ASIDE}/one #1",
    f"half of write {ASIDE}/one #1",
    f"open {ASIDE}/two #1",
    f"write {ASIDE}/two #1",
    f"half of write {ASIDE}/two #1",
    f"open {ASIDE}/three #1",
    f"write {ASIDE}/three #1",
    f"half of write {ASIDE}/three #1",
    f"fsync {ASIDE}/three #1",
    f"rename {ASIDE} #1",
    "unlink done/one #1",
]


def test_every_write_is_seen(tmp_path, layer):
    faults = layer()
    write(tmp_path / "run")
    assert faults.points == POINTS
    assert (tmp_path / "run" / "done" / "three").read_bytes() == b"12"


def test_what_is_written_without_a_buffer_is_there_at_once(layer, tmp_path):
    faults = layer()
    (tmp_path / "run").mkdir()
    with (tmp_path / "run" / "rows").open("ab", buffering=0) as file:
        assert file.write(b"12") == 2
        assert (tmp_path / "run" / "rows").read_bytes() == b"12"
    assert faults.points[-2:] == ["write rows #1", "half of write rows #1"]


@pytest.mark.parametrize("point", POINTS)
def test_it_ends_there(tmp_path, layer, point):
    faults = layer(point)
    with pytest.raises(KilledError):
        write(tmp_path / "run")
    assert faults.points[-1] == point
    found = {path.name: path.stat().st_size for path in (tmp_path / "run").glob("*/*")}
    if point.startswith("half of write"):
        assert found[point.split("/")[1].split(" ")[0]] == 2 - ("three" in point)
    if point.startswith("open"):
        assert point.split("/")[1].split(" ")[0] not in found


def test_the_layer_is_gone():
    assert builtins.open is io.open
    assert "Faults" not in repr(os.write)


OUTCOME = {
    "leaves": {"model/w": "float32[2] ab", "step": "int32[] cd"},
    "rows": ["1", "2", "3"],
    "newest checkpoint": 24,
}


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("leaves", {"model/w": "x", "step": "int32[] cd"}, r"leaves: \{'model/w': \('x', 'floa"),
        ("rows", ["1", "2", "2", "3"], r"rows: 4 instead of 3; too many: \['2'\], missing: \[\]"),
        ("rows", ["1", "3"], r"rows: 2 instead of 3; too many: \[\], missing: \['2'\]"),
        ("rows", ["1", "4", "3"], r"rows: \{1: \('4', '2'\)\}"),
        ("newest checkpoint", 21, "newest checkpoint: 21 instead of 24"),
    ],
)
def test_what_differs_is_told(name, value, told):
    (line,) = differences(OUTCOME | {name: value}, OUTCOME)
    assert re.match(told, line), line
    assert differences(copy.deepcopy(OUTCOME), OUTCOME) == []


def test_a_training_is_killed_and_goes_on(tmp_path):
    cut = "half of write metrics.jsonl #3"
    with Pool(tmp_path) as pool:
        data = kills.run(pool, CONSOLE, moments=1, cuts=[cut], every=150)
    rows = {row[0]: row[1:] for row in kills.tables(data)[0].rows}
    assert rows["all"][0] == "3"
    assert [told for found in data["kinds"].values() for told in found["failures"]] == []
    assert all(row[4] == "0" for row in rows.values())
    for found in data["kinds"].values():
        assert found["kills"] >= found["trainings"] >= 1
        assert found["lives"] > found["kills"]
    assert [goal.met for goal in kills.goals(data)] == [False, True]
    assert not pathlib.Path(pool.folder("moment-0")).exists()
