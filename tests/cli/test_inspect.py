"""`treadle inspect`: what it says of checkpoints, of damaged ones, and of two of them."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import treadle
from treadle._cli import _inspect, main
from treadle.checkpoint import Checkpointer, save

LEAVES = "leaves-00000.eqx"
TREE = {
    "model": {"weight": np.arange(6.0, dtype="f4").reshape(2, 3), "bias": np.zeros(2, "f4")},
    "key": jax.random.key(3),
    "scale": jnp.ones(3, jnp.float8_e4m3fn),
    "large": 10**30,
    "step": 7,
}


class Sized(eqx.Module):
    weight: np.ndarray
    size: int = eqx.field(static=True, default=1)


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    """A terminal of 120 columns, without colours."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("one") / "t"
    save(path, TREE, metadata={"width": 3, "note": "x" * 400})
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with checkpoints of three steps."""
    run = tmp_path_factory.mktemp("run") / "digits"
    checkpointer = Checkpointer(run / "checkpoints", asynchronous=False)
    for step in (100, 200, 1_300):
        tree = {"w": np.arange(4.0) * step, "n": step, "same": np.ones(2)}
        checkpointer.save(step, tree, metadata={"at": step}, metrics={"loss": 1 / step})
    return run


@pytest.fixture
def damaged(run, tmp_path):
    """The same with a bit turned in the weight of step 200."""
    run = shutil.copytree(run, tmp_path / "run")
    turn(run / "checkpoints" / "step_00000200" / LEAVES, -1)
    return run


def turn(file, at):
    raw = bytearray(file.read_bytes())
    raw[at] ^= 1
    file.write_bytes(raw)


def told(capsys, *arguments):
    assert main(["inspect", *map(str, arguments)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def refused(capsys, *arguments):
    assert main(["inspect", *map(str, arguments)]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("treadle: ")
    return captured.out, captured.err


def cells(out):
    """The rows of all tables, by their first cell."""
    rows = [[cell for cell in line.split("  ") if cell.strip()] for line in out.splitlines()]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows if row}


def test_every_leaf_has_a_row(checkpoint, capsys):
    out = told(capsys, checkpoint)
    rows = cells(out)
    assert out.splitlines()[0] == str(checkpoint)
    assert rows["leaf"] == ["shape", "dtype", "numbers", "on disk"]
    assert rows["model/weight"] == ["2x3", "float32", "6", "152 B"]
    assert rows["key"] == ["key<threefry2x32>", "1", "136 B"]
    assert rows["scale"] == ["3", "float8_e4m3fn", "3", "131 B"]
    assert rows["large"] == ["python int", "1", "0 B"]
    total = sum(file.stat().st_size for file in checkpoint.iterdir())
    assert rows["model"] == ["2 leaves", "8", "288 B"]
    assert rows["others"][0] == "4 leaves"
    assert rows["in all"][:2] == ["6 leaves", "14"]
    assert f"({total:,} bytes)" in rows["on disk"][0]
    assert rows["metadata width"] == ["3"]
    assert "... (402 characters, see `--json`)" in " ".join(out.split())
    assert f"jax {jax.__version__}" in rows["written by"][0]
    assert "verified" not in out


def test_a_bare_leaf_and_nothing_have_rows_too(tmp_path, capsys):
    save(tmp_path / "leaf", np.zeros(2))
    assert cells(told(capsys, tmp_path / "leaf"))["(the tree itself)"] == [
        *("2", "float64", "2", "144 B")
    ]
    save(tmp_path / "nothing", {})
    assert cells(told(capsys, tmp_path / "nothing"))["in all"] == ["0 leaves", "0", "0 B"]


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_no_line_is_longer_than_the_terminal_and_no_path_is_cut(
    checkpoint, run, capsys, monkeypatch, columns
):
    monkeypatch.setenv("COLUMNS", str(columns))
    long = "encoder/blocks/11/attention/query_projection/weight"
    tree = {"a": {long: np.zeros((1_000, 30))}, "b": np.zeros(3)}
    path = run.parent / f"long{columns}"
    save(path, tree)
    out = told(capsys, path, "--verify")
    assert max(map(len, out.splitlines()[1:])) <= columns
    # Paths are folded, not cut.
    escaped = f"a/{long.replace('/', '~1')}"
    column = "".join(line.split("  ")[0].strip() for line in out.splitlines()[3:])
    assert escaped in column.replace(" ", "")
    for arguments in ([run], [run, "--diff", 100, 200]):
        out = told(capsys, *arguments)
        lines = [line for line in out.splitlines() if str(run) not in line]
        assert max(map(len, lines)) <= columns


def test_where_it_is_no_terminal_nothing_is_broken(checkpoint, capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS")
    (row,) = [line for line in told(capsys, checkpoint).splitlines() if "metadata note" in line]
    assert "x" * 200 in row


def test_globs_choose_leaves(checkpoint, capsys):
    out = told(capsys, checkpoint, "--only", "model/*", "--only", "st?p")
    rows = cells(out)
    assert {"model/weight", "model/bias", "step"} <= rows.keys()
    assert "large" not in rows
    assert rows["in all"][:2] == ["3 leaves", "9"]
    assert "3 more leaves, which `--only` leaves out" in out
    _, error = refused(capsys, checkpoint, "--only", "modle/**")
    assert "`--only` goes by the names of leaves. The glob 'modle/**' matches none of" in error


@pytest.mark.parametrize("inside", ["", "checkpoints"])
def test_of_a_run_the_steps_are_listed_and_the_newest_is_told(run, capsys, inside):
    out = told(capsys, run / inside)
    rows = cells(out)
    assert out.splitlines()[0] == str(run / "checkpoints")
    assert rows["step"] == ["leaves", "on disk", "written (UTC)", "loss"]
    assert rows["100"][0] == "3"
    assert rows["100"][-1] == "0.01"
    assert rows["1,300"][-1] == "0.0007692"
    assert str(run / "checkpoints" / "step_00001300") in out
    assert rows["metadata at"] == ["1300"]


def test_another_step_is_told_alone(run, capsys):
    out = told(capsys, run, "--step", 200)
    assert out.splitlines()[0] == str(run / "checkpoints" / "step_00000200")
    assert cells(out)["metadata at"] == ["200"]
    assert "1,300" not in out
    _, error = refused(capsys, run, "--step", 300)
    assert "There is no checkpoint of step 300 in" in error
    assert "there are those of 100, 200, 1300" in error


def test_many_metrics_are_told_in_one_column(tmp_path, capsys):
    checkpointer = Checkpointer(tmp_path / "c", asynchronous=False)
    metrics = {f"eval/figure_{at}": at / 3 for at in range(9)}
    checkpointer.save(1, {"a": 1}, metrics=metrics)
    checkpointer.save(2, {"a": 1})
    out = told(capsys, tmp_path / "c")
    assert cells(out)["step"] == ["leaves", "on disk", "written (UTC)", "metrics"]
    assert "eval/figure_7=2.333" in out


def test_nothing_is_written_by_looking(run, capsys):
    def everything():
        paths = sorted(run.rglob("*"))
        return [(path, path.stat().st_mtime_ns, path.stat().st_ino) for path in paths]

    # What a dead writer left is for the next training to clear up.
    left = run / "checkpoints" / ".step_00000300.new-elsewhere-1-00000000"
    left.mkdir(exist_ok=True)
    before = everything()
    for arguments in ([run, "--verify"], [run, "--diff", 100, 200], [run, "--json"]):
        told(capsys, *arguments)
    assert everything() == before
    assert left.exists()


def test_a_checkpoint_that_is_whole_is_verified(checkpoint, run, capsys):
    out = told(capsys, checkpoint, "--verify")
    assert "every byte is what was written" in cells(out)["verified"][0]
    rows = cells(told(capsys, run, "--verify"))
    assert [rows[step][3] for step in ("100", "200", "1,300")] == ["yes"] * 3
    assert "every byte is what was written" in rows["verified"][0]


def test_a_damaged_checkpoint_is_told_and_the_status_is_1(damaged, capsys):
    path = damaged / "checkpoints" / "step_00000200"
    assert "same" in told(capsys, path)  # Nobody asked.
    out, error = refused(capsys, path, "--verify")
    assert cells(out)["same"] == ["2", "float64", "2", "144 B"]
    assert "every byte" not in out
    assert error == (
        f"treadle: The file {str(path / LEAVES)!r} is damaged at the leaf `w`: its bytes are not "
        "those that were written. Go back to an earlier checkpoint.\n"
    )
    out, error = refused(capsys, damaged, "--verify")
    rows = cells(out)
    assert [rows[step][3] for step in ("100", "200", "1,300")] == ["yes", "damaged", "yes"]
    assert "is damaged at the leaf `w`" in error
    assert "every byte is what was written" in rows["verified"][0]


@pytest.mark.parametrize("step", [200, 1300])
def test_a_checkpoint_without_a_manifest_to_believe_is_told_beside_the_others(
    damaged, capsys, step
):
    turn(damaged / "checkpoints" / f"step_{step:08d}" / "manifest.json", 100)
    out, error = refused(capsys, damaged)
    rows = cells(out)
    assert rows[f"{step:,}"] == ["damaged"]
    assert rows["100"][-1] == "0.01"
    assert error.count("is damaged") == 1
    assert ("metadata at" in rows) == (step == 200)
    _, error = refused(capsys, damaged, "--step", step)
    assert "manifest.json" in error


def test_what_a_training_removes_meanwhile_is_no_damage(run, tmp_path, capsys, monkeypatch):
    run = shutil.copytree(run, tmp_path / "run")
    whole = _inspect.inspect

    def inspect(path, step, *arguments, **options):
        if step == 100:
            shutil.rmtree(path)
        return whole(path, step, *arguments, **options)

    monkeypatch.setattr(_inspect, "inspect", inspect)
    rows = cells(told(capsys, run))
    assert "100" not in rows
    assert rows["200"][0] == "3"


@pytest.mark.parametrize("verify", [True, False])
def test_all_of_it_is_told_as_json(checkpoint, run, capsys, verify):
    options = ["--json", *(["--verify"] if verify else [])]
    read = json.loads(told(capsys, checkpoint, *options))
    assert read["path"] == str(checkpoint)
    assert read["step"] is None
    assert read["verified"] is (True if verify else None)
    assert read["error"] is None
    assert read["metadata"]["note"] == "x" * 400
    assert read["num_leaves"] == 6
    assert read["nbytes"] == os.path.getsize(checkpoint / LEAVES)
    assert read["disk"] == sum(file.stat().st_size for file in checkpoint.iterdir())
    assert "checkpoints" not in read
    leaves = {leaf.pop("path"): leaf for leaf in read["leaves"]}
    assert list(leaves["scale"].values()) == [[3], "float8_e4m3fn", "uint8", 3, 131]
    assert list(leaves["scale"]) == ["shape", "dtype", "storage", "count", "nbytes"]
    assert leaves["large"]["storage"] is None
    read = json.loads(told(capsys, run, *options, "--only", "w"))
    assert read["step"] == 1300
    assert [leaf["path"] for leaf in read["leaves"]] == ["w"]
    assert [item["step"] for item in read["checkpoints"]] == [100, 200, 1300]
    assert read["checkpoints"][0]["metrics"] == {"loss": 0.01}
    assert read["checkpoints"][0]["verified"] is (True if verify else None)


def test_damage_is_told_as_json_too(damaged, capsys):
    out, error = refused(capsys, damaged, "--verify", "--json")
    states = [item["verified"] for item in json.loads(out)["checkpoints"]]
    assert states == [True, False, True]
    assert "leaf `w`" in json.loads(out)["checkpoints"][1]["error"]
    out, _ = refused(capsys, damaged, "--verify", "--json", "--step", 200)
    assert json.loads(out)["verified"] is False
    assert "leaf `w`" in json.loads(out)["error"]


A = {
    "a": np.arange(4.0),
    "b": np.array([1.0, np.nan, 3.0]),
    "key": jax.random.key(0),
    "n": 3,
    "large": 10**30,
    "text": np.array(["x", "y"]),
    "bits": np.array([True, False]),
    "order": np.arange(6.0).reshape(2, 3),
    "bf": jnp.ones(2, jnp.bfloat16),
    "shape": np.zeros(2),
    "dtype": np.zeros(2, "f4"),
    "only_a": 1,
    "m": Sized(np.ones(1), 3),
}
B = A | {
    "a": np.array([0, 1.5, 2, 2.0]),
    "b": np.array([1.0, 2.0, 3.0]),
    "key": jax.random.key(1),
    "n": 5,
    "large": 10**30 + 7,
    "text": np.array(["x", "z"]),
    "bits": np.array([True, True]),
    "order": np.asfortranarray(A["order"]),
    "bf": np.ones(2, ml_dtypes.bfloat16),
    "shape": np.zeros((2, 1)),
    "dtype": np.zeros(2),
    "m": Sized(np.ones(1), 4),
    "only_b": np.zeros((2, 2)),
}
del B["only_a"]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    save(folder / "a", A, metadata={"epoch": 3, "same": 1})
    save(folder / "b", B, metadata={"epoch": 4, "same": 1, "new": None, "more": [1]})
    return folder / "a", folder / "b"


def test_two_checkpoints_are_compared_leaf_by_leaf(two, capsys):
    out = told(capsys, "--diff", *two)
    rows = cells(out)
    assert [line.split("  ", 1) for line in out.splitlines()[:2]] == [
        ["A", str(two[0])],
        ["B", str(two[1])],
    ]
    assert rows["a"] == ["value", "2 of 4", "1"]
    assert rows["b"] == ["value", "1 of 3, 1 NaN", "0"]
    assert rows["key"][:2] == ["value", "1 of 1"]
    assert rows["n"] == ["value", "1 of 1", "2"]
    assert rows["large"] == ["value", "1 of 1", "7"]
    assert rows["text"] == ["value", "1 of 2"]
    assert rows["bits"] == ["value", "1 of 2"]
    assert rows["shape"] == ["shape", "float64[2] -> float64[2,1]"]
    assert rows["dtype"] == ["dtype", "float32[2] -> float64[2]"]
    assert rows["only_a"] == ["only in A", "python int"]
    assert rows["only_b"] == ["only in B", "float64[2,2]"]
    for same in ("order", "bf", "m/weight"):
        assert same not in rows
    assert "3 of 14 leaves are the same, bit for bit; 7 have other values" in out
    assert rows["m/size"] == ["3", "4"]
    assert rows["epoch"] == ["3", "4"]
    assert rows["more"] == ["(not there)", "[1]"]
    assert "same" not in rows


def test_what_differs_is_told_as_json(two, capsys):
    read = json.loads(told(capsys, "--diff", *two, "--json", "--only", "a", "--only", "only_*"))
    assert (read["a"], read["b"]) == tuple(map(str, two))
    rows = {row["path"]: row for row in read["rows"]}
    assert rows.keys() == {"a", "only_a", "only_b"}
    spec = "float64[4]"
    assert list(rows["a"]) == ["path", "kind", "a", "b", "count", "size", "max_abs", "nans"]
    assert list(rows["a"].values()) == ["a", "value", spec, spec, 2, 4, 1.0, 0]
    assert rows["only_a"]["b"] is None
    assert read["same"] == 0
    assert read["static"] == {"m/size": ["3", "4"]}


def test_a_checkpoint_is_the_same_as_itself(two, capsys):
    out = told(capsys, "--diff", two[0], two[0], "--verify")
    assert "No difference: all leaves are the same, bit for bit (13)." in out
    assert "verified: every byte of both is what was written" in out


def test_steps_of_a_run_are_compared(run, capsys):
    out = told(capsys, run, "--diff", 100, 1300)
    rows = cells(out)
    assert rows["w"] == ["value", "3 of 4", "3600"]
    assert rows["n"] == ["value", "1 of 1", "1200"]
    assert rows["at"] == ["100", "1300"]
    assert rows["loss"] == ["0.01", "0.0007692"]
    assert rows["A"] == [str(run / "checkpoints" / "step_00000100")]
    # Of a directory, the newest.
    out = told(capsys, "--diff", run / "checkpoints" / "step_00000200", run)
    assert cells(out)["n"] == ["value", "1 of 1", "1100"]


def test_only_what_differs_is_read_to_compare(damaged, capsys):
    directory = damaged / "checkpoints"
    # The damage is in `w`, and that of step 200 is another one than that of 100.
    _, error = refused(capsys, damaged, "--diff", 100, 200)
    assert "is damaged at the leaf `w`" in error
    told(capsys, damaged, "--diff", 100, 200, "--only", "same")
    told(capsys, "--diff", directory / "step_00000200", directory / "step_00000200")
    _, error = refused(capsys, damaged, "--diff", 100, 200, "--only", "same", "--verify")
    assert "is damaged at the leaf `w`" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "`PATH` is missing: give a checkpoint, a directory of them, or a run folder"),
        (["{run}", "--diff", "100", "best"], "`--diff` has 'best', which is no step of `PATH`"),
        (["--diff", "{run}", "{run}", "--step", "3"], "`--step` (=3) goes without `--diff`"),
        (["{run}/checkpoints/step_00000100", "--step", "3"], "`--step` (=3) chooses from a dir"),
        (["{run}/missing"], "There is no checkpoint at `path` (='{run}/missing')"),
        (["{run}/missing", "--step", "3"], "`--step` (=3) chooses from a directory"),
        (["{empty}"], "There is no checkpoint in '{empty}': give a checkpoint (a folder with a"),
        (["{file}"], "'{file}') is a file, and a checkpoint is a folder"),
    ],
)
def test_what_cannot_be_looked_at_is_told(run, tmp_path, capsys, arguments, message):
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    (tmp_path / "model.eqx").write_bytes(b"")
    names = {"run": run, "empty": tmp_path / "empty", "file": tmp_path / "model.eqx"}
    out, error = refused(capsys, *(argument.format(**names) for argument in arguments))
    assert out == ""
    assert message.format(**names) in error


def test_the_step_of_a_checkpoint_is_that_of_its_name(run, capsys, monkeypatch):
    monkeypatch.chdir(run / "checkpoints" / "step_00000200")
    assert json.loads(told(capsys, ".", "--json"))["step"] == 200


def test_names_cannot_command_the_terminal(tmp_path, capsys):
    save(tmp_path / "t", {"\x1b[2J[red]a\n\ud800": 1}, metadata={"\x07": "\x1b]0;x\x07"})
    out = told(capsys, tmp_path / "t")
    assert "\x1b" not in out
    assert "\x07" not in out
    assert r"\x1b[2J[red]a\n\ud800" in out


def test_a_reader_that_has_seen_enough_is_no_error(run):
    source = pathlib.Path(treadle.__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(source)}
    # A pipe that nobody reads any more.
    read, write = os.pipe()
    os.close(read)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "treadle", "inspect", str(run), "--json"],
            stdout=write,
            stderr=subprocess.PIPE,
            env=environment,
            check=False,
        )
    finally:
        os.close(write)
    assert ended.stderr == b""


def test_the_command_is_listed(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "look into a checkpoint" in capsys.readouterr().out
