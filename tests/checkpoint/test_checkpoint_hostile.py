"""Checkpoints that are damaged or forged: refused, whatever they claim."""

import os
import pickle
import re
import shutil
import tracemalloc

import numpy as np
import pytest
from benchmarks.corruption.damage import KINDS, Damage, drawn
from benchmarks.corruption.forge import LEAVES, MANIFEST, manifest
from benchmarks.corruption.hostile import CASES
from benchmarks.corruption.reading import READERS, refusals, warm_up
from benchmarks.corruption.subject import leaves, make_tree, write
from benchmarks.corruption.watch import Watch
from tests.helpers import assert_same

from treadle import Checkpointer, CheckpointError, DamagedCheckpointError
from treadle.checkpoint import _manifest, _regular, load, read_metadata, save
from treadle.checkpoint import open as open_checkpoint

LIKE = make_tree()
# Of what was tried at each member with each wrong value, every eighth; of everything else, all.
_EACH = re.compile(r"a leaf's|its dtype|a leaf is|a metric is|a version is|a static|\w+ is ")
FEW = [case for at, case in enumerate(CASES) if at % 8 == 0 or not _EACH.match(case.name)]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A checkpoint for all tests, to be copied before it is changed."""
    folder = tmp_path_factory.mktemp("hostile") / "t"
    write(folder)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    shutil.copytree(written, tmp_path / "t")
    (tmp_path / "outside").mkdir()
    return tmp_path / "t"


def assert_refused(folder, damage):
    where = leaves(folder)
    (folder / damage.file).write_bytes(damage.content)
    for name, error in refusals(folder, LIKE, ("load", "verify")).items():
        assert isinstance(error, DamagedCheckpointError), (name, damage.kind, damage.at, error)
        assert damage.file in str(error)
        assert damage.file == MANIFEST or f"`{damage.leaf(where)}`" in str(error)


def test_what_is_not_damaged_is_read(folder):
    assert refusals(folder, LIKE) == dict.fromkeys(READERS)
    large = {"large": np.uint32(LIKE["large"] % 97)}
    read = load(folder, LIKE)
    assert read["large"] == LIKE["large"]
    assert_same(read | large, LIKE | large)


@pytest.mark.parametrize("kind", KINDS)
def test_every_damage_is_refused_by_file_and_leaf(folder, kind):
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    for damage in drawn(files, kind, 40, seed=0):
        assert_refused(folder, damage)
        (folder / damage.file).write_bytes(files[damage.file])


@pytest.mark.parametrize("file", [LEAVES, MANIFEST])
@pytest.mark.parametrize("at", [0, 1, 12, 13, 30, 52, 53, -1])
def test_the_first_and_last_bytes_count(folder, file, at):
    # Of the manifest, those around its own digest.
    content = (folder / file).read_bytes()
    at %= len(content)
    for bit in (0, 5, 7):
        other = content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]
        original = Damage("", file, at, content)
        assert_refused(folder, Damage("", file, at, other))
        (folder / file).write_bytes(original.content)


@pytest.mark.parametrize("cases", [FEW, pytest.param(CASES, marks=pytest.mark.slow)])
def test_every_forgery_is_refused(written, tmp_path, cases):
    found = []
    warm_up(written, LIKE)
    for case in cases:
        (tmp_path / "outside").mkdir()
        forged = tmp_path / "t"
        shutil.copytree(written, forged)
        case.forge(forged)
        with Watch(forged, tmp_path / "outside") as watch:
            errors = refusals(forged, LIKE)
        for name, error in errors.items():
            refused = isinstance(error, CheckpointError)
            if not refused and (name in case.refused_by or error is not None):
                found.append(f"{case.name}, {name}: {error!r}")
        found += [f"{case.name}: {seen}" for seen in watch.found]
        shutil.rmtree(forged)
        shutil.rmtree(tmp_path / "outside")
    assert found == []


@pytest.mark.parametrize("part", ["bytes", "shape", "header", "hole"])
def test_what_is_claimed_is_not_allocated(folder, part):
    cases = {case.name: case for case in CASES}
    name = {
        "bytes": f"the last leaf claims {2**33} bytes",
        "shape": "a shape is [2**40, 2**40]",
        "header": "an array of a huge shape, without data",
        "hole": "the manifest has a hole of 1 TB",
    }[part]
    cases[name].forge(folder)
    tracemalloc.start()
    try:
        errors = refusals(folder, LIKE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert all(isinstance(errors[reader], CheckpointError) for reader in cases[name].refused_by)
    assert peak < 16 << 20


def test_a_leaf_is_verified_without_room_for_it(tmp_path):
    save(tmp_path / "t", np.zeros(4 << 20))
    with open_checkpoint(tmp_path / "t") as opened:
        tracemalloc.start()
        try:
            opened.verify()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 4 << 20


def test_what_would_have_been_seen(tmp_path):
    # That the tests above see nothing means something only if they would.
    inside, outside = tmp_path / "t", tmp_path / "outside"
    for path in (inside, outside):
        path.mkdir()
        (path / "file").write_text("x")
    with Watch(inside, outside) as watch:
        (inside / "file").read_text()
        assert watch.found == []
        (outside / "file").read_text()
        os.close(os.open(outside / "file", os.O_RDONLY))
        with pytest.raises(pickle.UnpicklingError, match=r"."):
            pickle.loads(b"c")
        pickle.loads(pickle.dumps(np.dtype))
    assert [seen for seen in watch.found if seen.startswith("open ")] == [
        f"open {outside / 'file'}",
        f"open {outside / 'file'}",
    ]
    assert any(seen.startswith("pickle.find_class") for seen in watch.found)
    assert "file was opened or read" in watch.found


@pytest.mark.parametrize("value", ["10" * 300, "-1" + "0" * 400])
def test_a_metric_that_is_no_number_does_not_stop_a_save(tmp_path, value):
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, 1, metrics={"acc": 1})

    def change(fields):
        fields["metrics"] = {"acc": int(value)}

    manifest(change)(tmp_path / "step_00000001")
    with pytest.raises(CheckpointError, match=r"too large"):
        read_metadata(tmp_path / "step_00000001")
    with Checkpointer(tmp_path, keep_last=1, keep_best=("acc", "max", 1)) as checkpointer:
        checkpointer.save(2, 2, metrics={"acc": 1})
    assert load(tmp_path / "step_00000002", 0) == 2


def test_a_manifest_is_never_larger_than_a_reader_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(_manifest, "_LARGEST", 2_000)
    save(tmp_path / "small", 1)
    with pytest.raises(CheckpointError, match=r"would have \d+ bytes, and at most 2000 are read"):
        save(tmp_path / "t", 1, metadata={"notes": "x" * 2_000})
    assert os.listdir(tmp_path) == ["small"]
    monkeypatch.setattr(_manifest, "_LARGEST", 100)
    with pytest.raises(CheckpointError, match=r"manifest\.json' has \d+ bytes, and at most 100 "):
        read_metadata(tmp_path / "small")


def test_a_disk_that_gives_nothing_back_is_told(folder, monkeypatch):
    class Broken:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            os.close(descriptor)

        def fileno(self):
            return descriptor

        def read(self):
            raise OSError(5, "Input/output error")

    descriptor = os.open(folder / MANIFEST, os.O_RDONLY)
    os.close(descriptor)

    def broken(opened, *args, **kwargs):
        nonlocal descriptor
        descriptor = opened
        return Broken()

    monkeypatch.setattr(_regular, "open", broken, raising=False)
    with pytest.raises(CheckpointError, match=r"manifest\.json' .* cannot be read: .*output error"):
        read_metadata(folder)


@pytest.mark.parametrize("file", [LEAVES, MANIFEST])
def test_a_file_that_may_not_be_read_is_told(folder, monkeypatch, file):
    def refuse(path, *args, open_=os.open, **kwargs):
        if os.path.basename(path) == file:
            raise PermissionError(13, "Permission denied", str(path))
        return open_(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(CheckpointError, match=rf"{file}' .* cannot be read: .*Permission denied"):
        load(folder, LIKE)
