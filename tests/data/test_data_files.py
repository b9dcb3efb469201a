"""`treadle.data.npz` and `parquet`: what they read, and what they say of damaged files."""

import io
import json
import pickle
import zipfile
from typing import Any

import jax
import numpy as np
import pytest
from tests.data.sources import BATCH, check_fit, make_rows

import treadle
from treadle import TreadleError
from treadle.data import idx, npz, parquet

X, Y = make_rows()


def saved(path, **arrays):
    np.savez(path, **arrays)
    return path


def member(array=None, header=None, body=b""):
    """The bytes of a `.npy`, or of one with another header."""
    file = io.BytesIO()
    if header is None:
        np.lib.format.write_array(file, array, allow_pickle=True)
        return file.getvalue()
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + body


def archive(path, **members):
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name.replace("_npy", ".npy"), data)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_gives_what_was_saved(save, tmp_path):
    path = tmp_path / "a.npz"
    fields = np.array([(1, 2.0)], dtype=[("a", "i4"), ("ü", "f8")])
    save(path, x=X, y=Y, empty=np.zeros((0, 3)), scalar=np.float32(2), fields=fields)
    found = npz(path)
    assert list(found) == ["x", "y", "empty", "scalar", "fields"]
    np.testing.assert_array_equal(found["x"], X)
    np.testing.assert_array_equal(found["fields"], fields)
    assert found["y"].dtype == Y.dtype
    assert found["scalar"] == 2
    assert npz(str(path))["empty"].shape == (0, 3)


class Hostile:
    """What runs code when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("it was unpickled",)


HUGE = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }"
OBJECTS = "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x_npy", member(np.array([{}])), r"Python objects in 'x\.npy', .* never unpickled"),
        ("x_npy", member(header=OBJECTS, body=pickle.dumps(Hostile())), "never unpickled"),
        (
            "x_npy",
            member(header=HUGE),
            r"promises shape \(1000000, 1000000\) of float64.*8,000,000",
        ),
        ("x_npy", member(X)[:-5], r"is damaged at 'x\.npy' \(its header promises shape \(22, 6\)"),
        ("x_npy", member(X) + b"more", r"damaged at 'x\.npy' \(there is more behind the array"),
        ("x_npy", b"\x93NUMPY", r"is damaged at 'x\.npy'"),
        ("x_npy", member(header="__import__('os')"), r"is damaged at 'x\.npy'"),
        ("x_npy", member(header=f"{{'shape': {'(' * 99 + ')' * 99}}}"), r"is damaged at 'x\.npy'"),
        (
            "x_npy",
            member(header=HUGE.ljust(20_000)),
            r"is damaged at 'x\.npy' \(Header info length",
        ),
        ("x_npy", member(header=HUGE.replace("(1000000", "(0, 1" + "0" * 30)), "is damaged at 'x"),
        ("readme", b"hello", r"holds 'readme', which is not an array"),
    ],
)
def test_npz_tells_of_members_that_are_no_whole_arrays(name, data, message, tmp_path):
    path = archive(tmp_path / "a.npz", **{name: data})
    with pytest.raises(TreadleError, match=message) as caught:
        npz(path)
    assert str(caught.value).startswith(str(path))


def test_npz_tells_of_files_that_are_none(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(TreadleError, match="cannot be read: No such file"):
        npz(path)
    path.write_bytes(b"x,y\n1,2\n")
    with pytest.raises(TreadleError, match=r"is not an \.npz file, or not all of one"):
        npz(path)
    path.write_bytes(member(X))
    with pytest.raises(TreadleError, match=r"is one array, .*`np\.load\(path\)` reads it"):
        npz(path)
    with pytest.raises(TreadleError, match=r"holds no arrays: write it with `np\.savez"):
        npz(archive(path))
    with pytest.raises(TypeError, match=r"`path` \(=3\) must be the path of a file"):
        npz(3)


def test_npz_tells_of_arrays_of_one_name(tmp_path):
    path = archive(tmp_path / "a.npz", x_npy=member(X))
    with (
        zipfile.ZipFile(path, "a") as file,
        pytest.warns(UserWarning, match=r"Duplicate name: 'x\.npy'"),
    ):
        file.writestr("x.npy", member(Y))
    with pytest.raises(TreadleError, match="has several arrays of one name"):
        npz(path)


def test_every_cut_and_every_other_byte_is_told_or_changes_nothing(tmp_path):
    whole = saved(tmp_path / "a.npz", x=Y[:4], y=Y[:2]).read_bytes()
    path = tmp_path / "b.npz"
    told = 0
    for at in range(0, len(whole), 3):
        for data in (whole[:at], whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :]):
            path.write_bytes(data)
            try:
                found = npz(path)
            except TreadleError:
                told += 1
                continue
            for name, array in {"x": Y[:4], "y": Y[:2]}.items():
                # A name is covered by nothing but its copy.
                np.testing.assert_array_equal(found[name], array)
    assert told > len(whole) / 3


def test_fit_on_files_resumes_bit_for_bit(tmp_path):
    path = saved(tmp_path / "a.npz", x=X, y=Y)
    check_fit(
        lambda: treadle.data.arrays(npz(path), BATCH, key=jax.random.key(0)), tmp_path / "run"
    )


def test_idx_takes_no_memory_for_what_is_not_there(tmp_path):
    path = tmp_path / "a.idx"
    path.write_bytes(b"\x00\x00\x0e\x04" + b"\xff" * 16 + bytes(100))
    with pytest.raises(TreadleError, match="but holds 100: it is cut off"):
        idx(path)


pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def write(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)
    return path


def test_parquet_gives_columns_in_their_types(tmp_path):
    images = pa.FixedSizeListArray.from_arrays(
        pa.FixedSizeListArray.from_arrays(pa.array(range(24), pa.uint8()), 3), 2
    )
    columns = {
        "image": images,
        "list": [[1.5, 2.5]] * 4,
        "flag": [True, False, True, False],
        "half": pa.array(np.arange(4, dtype=np.float16)),
        "label": pa.array([0, 1, 2, 1], pa.int8()),
        "text": list("abcd"),
    }
    # Several chunks.
    path = write(tmp_path / "a.parquet", columns, row_group_size=3)
    names = ["image", "list", "flag", "half", "label"]
    found = parquet(path, names)
    assert list(found) == names
    assert [str(array.dtype) for array in found.values()] == [
        "uint8",
        "float64",
        "bool",
        "float16",
        "int8",
    ]
    np.testing.assert_array_equal(found["image"], np.arange(24).reshape(4, 2, 3))
    np.testing.assert_array_equal(found["list"], [[1.5, 2.5]] * 4)
    np.testing.assert_array_equal(found["flag"], [True, False, True, False])
    np.testing.assert_array_equal(found["label"], [0, 1, 2, 1])
    with pytest.raises(TreadleError, match=r"the column 'text' of string, which JAX does not have"):
        parquet(path)
    with pytest.raises(
        TreadleError, match=r"`columns` names 'nope', which .* it has 'image', 'list'"
    ):
        parquet(path, ["nope"])
    with pytest.raises(TypeError, match=r"`columns` \(='label'\) is a string: put it into a list"):
        parquet(path, "label")


def test_parquet_folders_and_empty_files(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    for part in range(2):
        write(folder / f"{part}.parquet", {"y": [2 * part, 2 * part + 1]})
    np.testing.assert_array_equal(parquet(folder)["y"], range(4))
    empty = {"y": pa.array([], pa.int32()), "l": pa.array([], pa.list_(pa.float32()))}
    found = parquet(write(tmp_path / "empty.parquet", empty))
    assert found["y"].shape == (0,)
    assert found["y"].dtype == np.int32


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([1, None], r"has 1 missing values in the column 'a': fill them"),
        ([[1, 2], [1]], r"has lists of 1 to 2 elements in the column 'a': pad them"),
        ([[1, None], [1, 2]], r"has 1 missing values in the column 'a'"),
        ([b"a", b"b"], r"the column 'a' of binary"),
    ],
)
def test_parquet_tells_of_columns_that_are_no_arrays(column, message, tmp_path):
    with pytest.raises(TreadleError, match=message):
        parquet(write(tmp_path / "a.parquet", {"a": column}))


def test_parquet_tells_of_files_that_are_not_whole(tmp_path):
    path = write(tmp_path / "a.parquet", {"y": Y})
    whole = path.read_bytes()
    cut = [whole[:at] for at in range(0, len(whole), 37)]
    for data in [*cut, whole[:-8] + b"\xff\xff\xff\x7fPAR1", b"PAR1" * 3, json.dumps([1]).encode()]:
        path.write_bytes(data)
        with pytest.raises(
            TreadleError, match="is not a Parquet file, or it is cut off or damaged"
        ):
            parquet(path)
    with pytest.raises(TreadleError, match="cannot be read: there is no such file"):
        parquet(tmp_path / "nothing")


def test_parquet_checks_the_pages_that_have_checksums(tmp_path):
    path = tmp_path / "rows.parquet"
    options = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    write(path, {"x": np.arange(100)}, **options)
    data = path.read_bytes()
    value = np.int64(57).tobytes()
    assert data.count(value) == 1
    path.write_bytes(data.replace(value, np.int64(58).tobytes()))
    with pytest.raises(TreadleError, match=r"cut off or damaged .*checksum"):
        parquet(path)


@pytest.mark.parametrize("columns", [3, [], "x"])
def test_columns_are_a_list_of_names(columns: Any, tmp_path):
    with pytest.raises(TreadleError, match=r"`columns` "):
        parquet(tmp_path / "rows.parquet", columns)


def test_a_folder_without_parquet_files_is_told(tmp_path):
    with pytest.raises(TreadleError, match="has no columns: a folder without Parquet files"):
        parquet(tmp_path)


def test_fit_on_parquet_resumes_bit_for_bit(tmp_path):
    path = write(tmp_path / "a.parquet", {"x": list(X), "y": Y})
    check_fit(
        lambda: treadle.data.arrays(parquet(path), BATCH, key=jax.random.key(0)), tmp_path / "run"
    )


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_what_memory_does_not_hold_is_not_called_damaged(kind, tmp_path, monkeypatch):
    def full(*_, **__):
        raise MemoryError("no room for 9 bytes")

    path = tmp_path / f"a.{kind}"
    if kind == "npz":
        np.savez(path, x=np.arange(3))
        monkeypatch.setattr(np.lib.format, "read_array", full)
    else:
        pq.write_table(pa.table({"x": [1, 2]}), path)
        monkeypatch.setattr(pq, "ParquetDataset", full)
    with pytest.raises(treadle.DataError, match=r"not fit into memory \(no room for 9 bytes\)"):
        getattr(treadle.data, kind)(path)


def test_a_disk_that_fails_is_not_called_damage(tmp_path, monkeypatch):
    def failing(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(pq, "ParquetDataset", failing)
    with pytest.raises(treadle.DataError, match=r"cannot be read: Input/output error"):
        treadle.data.parquet(tmp_path / "a.parquet")
