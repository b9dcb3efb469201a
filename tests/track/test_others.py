"""TensorBoard, Weights & Biases, MLflow: real ones, read back with their own packages."""

import math
import os
import shutil
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from tests.helpers import run_script
from tests.track.training import (
    QUICK,
    in_csv,
    in_mlflow,
    in_tensorboard,
    in_wandb,
    points_in,
    trackers_in,
    train,
)

import treadle
from treadle.track import CSV, MLflow, TensorBoard, WandB
from treadle.track._mlflow import variables

MAKE = {
    "tensorboard": lambda folder: TensorBoard(folder),
    "wandb": lambda folder: WandB(folder, project="tests", settings=QUICK),
    "mlflow": lambda folder: MLflow(folder, name="tests"),
}
READ = {"tensorboard": in_tensorboard, "wandb": in_wandb, "mlflow": in_mlflow}
KINDS = pytest.mark.parametrize("kind", sorted(MAKE))


KILLED = """
import os, pathlib, sys
# Or the client would use the service that belongs to the tests.
os.environ.pop("WANDB_SERVICE", None)
from tests.track import training
training.train(pathlib.Path(sys.argv[1]), kill_at=17)
"""


def test_a_training_that_was_killed_goes_on_in_the_same_runs(tmp_path):
    """Killed at step 17, from a checkpoint at 10 on, and the folder is another one by then."""
    straight = tmp_path / "straight"
    train(straight, trackers={"csv": CSV(straight / "rows.csv")})
    killed = run_script(KILLED, tmp_path / "killed")
    assert killed.returncode == -9, killed.stderr
    # There was something behind the checkpoint, or nothing would be shown.
    assert in_tensorboard(tmp_path / "killed" / "tensorboard")["loss"][-1][0] > 10
    run_id = (tmp_path / "killed" / "wandb" / "run-id").read_text()
    shutil.copytree(tmp_path / "killed", tmp_path / "copied", symlinks=True)
    shutil.rmtree(tmp_path / "killed")

    _, history = train(tmp_path / "copied")
    assert history.steps == list(range(1, 25))
    expected, found = in_csv(straight / "rows.csv"), points_in(tmp_path / "copied")
    assert expected.keys() == {"loss", "accuracy", "grad_norm", "eval/norm"}
    assert [step for step, _ in expected["eval/norm"]] == [5, 10, 15, 20, 24]
    # Every point once, in order, and to the last bit; in TensorBoard they are float32, as here.
    assert found.keys() == {"csv", "tensorboard", "wandb", "mlflow"}
    for name, points in found.items():
        assert points == expected, name
    assert (tmp_path / "copied" / "wandb" / "run-id").read_text() == run_id

    # The same call once more has nothing left to do, and leaves everything as it is.
    train(tmp_path / "copied")
    assert points_in(tmp_path / "copied") == found


@KINDS
def test_resume_drops_what_comes_after(tmp_path, kind):
    tracker = MAKE[kind](tmp_path)
    tracker.resume(0)
    for step in range(1, 6):
        tracker.log(step, {"loss": step / 4})
    tracker.log(5, {"eval/accuracy": 0.5})
    tracker.flush()
    # As after a kill: nobody has closed it.
    again = MAKE[kind](tmp_path)
    tracker.close()
    again.resume(3)
    again.log(4, {"loss": 10.0})
    again.close()
    points = READ[kind](tmp_path)
    assert points["loss"] == [(1, 0.25), (2, 0.5), (3, 0.75), (4, 10.0)]
    assert not points.get("eval/accuracy")
    # From the beginning: what another training left goes.
    again.resume(0)
    again.log(1, {"loss": 5.0})
    again.close()
    assert READ[kind](tmp_path) == {"loss": [(1, 5.0)]}


@KINDS
def test_an_evaluation_that_comes_again_is_there_once(tmp_path, kind):
    tracker = MAKE[kind](tmp_path)
    tracker.log(4, {"loss": 0.5})
    tracker.log(4, {"eval/norm": 2.0})
    tracker.close()
    tracker.resume(4)
    tracker.log(4, {"eval/norm": 2.0, "eval/other": 1.0})
    tracker.log(5, {"loss": 0.25})
    tracker.close()
    points = READ[kind](tmp_path)
    assert points == {
        "loss": [(4, 0.5), (5, 0.25)],
        "eval/norm": [(4, 2.0)],
        "eval/other": [(4, 1.0)],
    }


@KINDS
def test_all_kinds_of_numbers(tmp_path, kind):
    tracker = MAKE[kind](tmp_path)
    row = {
        "nan": math.nan,
        "inf": -math.inf,
        "scalar": np.float16(0.5),
        "true": np.bool_(True),
        "bf16": jnp.bfloat16(1.5),
        "int": 3,
        "deep/er/name": 1.0,
        "array": np.arange(4).reshape(2, 2),
        "jax": jnp.ones(1),
        "empty": np.zeros(0),
    }
    tracker.log(1, row)
    with pytest.raises(treadle.ArgumentTypeError, match=r"`row` has 'text' for 'name'"):
        tracker.log(2, {"name": "text"})
    with pytest.raises(treadle.ArgumentTypeError, match=r"`row` has None for 'name'"):
        tracker.log(2, {"name": None})
    tracker.close()
    points = {name: value for name, [(_, value)] in READ[kind](tmp_path).items()}
    assert math.isnan(float(points.pop("nan")))
    # JSON has no infinities: the client of Weights & Biases writes them as text.
    assert float(str(points.pop("inf")).lower()) == -math.inf
    assert points == {
        "scalar": 0.5,
        "true": 1,
        "bf16": 1.5,
        "int": 3,
        "deep/er/name": 1,
        "array/0": 0,
        "array/1": 1,
        "array/2": 2,
        "array/3": 3,
        "jax/0": 1,
    }


@KINDS
def test_two_trainings_one_behind_the_other(tmp_path, kind):
    """The second goes on from the state of the first, without a checkpoint."""
    for first in (0, 5):
        tracker = MAKE[kind](tmp_path)
        tracker.resume(first)
        for step in range(first + 1, first + 6):
            tracker.log(step, {"loss": float(step)})
        tracker.close()
        tracker.close()
    assert READ[kind](tmp_path) == {"loss": [(step, step) for step in range(1, 11)]}


@KINDS
def test_packages_are_needed_when_they_are_used(tmp_path, kind, monkeypatch):
    name = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}[kind]
    for module in [each for each in sys.modules if each.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        treadle.MissingExtraError,
        match=rf"needs {name}, which is not installed: `pip install 'treadle\[track\]'`",
    ):
        MAKE[kind](tmp_path)


@KINDS
def test_folders_that_are_none(tmp_path, kind):
    (tmp_path / "file").write_text("")
    with pytest.raises(treadle.ArgumentValueError, match=r"is a file: give a folder"):
        MAKE[kind](tmp_path / "file")
    with pytest.raises(treadle.ArgumentTypeError, match=r"\(=3\) must be the path of a folder"):
        MAKE[kind](3)
    if kind != "mlflow":
        with pytest.raises(treadle.ArgumentValueError, match=r"\(='gs://a/b'\) is a URL"):
            MAKE[kind]("gs://a/b")


# -- TensorBoard -----------------------------------------------------------------------------------


def test_event_files_are_in_order_whatever_the_clock_says(tmp_path, monkeypatch):
    for now, step in ((2_000_000_000, 0), (1_000_000_000, 1), (1_000_000_000, 1)):
        monkeypatch.setattr("treadle.track._tensorboard.time.time", lambda now=now: float(now))
        board = TensorBoard(tmp_path)
        board.resume(step)
        for at in (1, 2, 3):
            board.log(step + at, {"loss": float(step + at)})
        board.close()
    assert in_tensorboard(tmp_path) == {"loss": [(step, step) for step in (1, 2, 3, 4)]}
    assert len(list(tmp_path.iterdir())) == 3


def test_a_torn_event_hides_nothing_behind_it(tmp_path):
    board = TensorBoard(tmp_path)
    for step in (1, 2):
        board.log(step, {"loss": float(step)})
    board.close()
    (file,) = tmp_path.iterdir()
    os.truncate(file, file.stat().st_size - 5)
    board = TensorBoard(tmp_path)
    board.resume(1)
    board.log(2, {"loss": 4.0})
    board.close()
    assert in_tensorboard(tmp_path) == {"loss": [(1, 1.0), (2, 4.0)]}


def test_what_a_start_took_back_is_not_there_for_the_next(tmp_path):
    board = TensorBoard(tmp_path)
    board.log(4, {"loss": 0.5, "eval/norm": 2.0})
    board.resume(3)
    board.log(4, {"loss": 0.25})
    board.resume(4)
    board.log(4, {"eval/norm": 1.0})
    board.close()
    assert in_tensorboard(tmp_path) == {"loss": [(4, 0.25)], "eval/norm": [(4, 1.0)]}


def test_points_that_are_flushed_are_on_the_disk(tmp_path, monkeypatch):
    synced, sync = [], os.fsync

    def fsync(descriptor):
        synced.append(os.fstat(descriptor).st_size)
        sync(descriptor)

    board = TensorBoard(tmp_path)
    board.flush()
    monkeypatch.setattr(os, "fsync", fsync)
    for step in (1, 2):
        board.log(step, {"loss": 0.5})
        board.flush()
        (file,) = tmp_path.iterdir()
        assert synced[-1] == file.stat().st_size
    board.close()


# -- MLflow ----------------------------------------------------------------------------------------


def test_names_that_mlflow_does_not_take(tmp_path):
    tracker = MLflow(tmp_path, name="tests")
    row = {"acc@5": 1.0, "a/b": 2.0, "a": 3.0, "a/b/c": 4.0, "/x//y/": 5.0, "..": 6.0, "acc#5": 7.0}
    for step in (1, 2):
        tracker.log(step, row)
    tracker.close()
    expected = {"acc_5": 1, "a/b": 2, "a_": 3, "a.b.c": 4, "x/y": 5, "_": 6, "acc_5_": 7}
    assert in_mlflow(tmp_path) == {
        name: [(1, value), (2, value)] for name, value in expected.items()
    }


def test_what_mlflow_cannot_take_back_is_not_doubled(tmp_path, caplog):
    """Spoken to by a URI, as a server is: nothing but its API is used."""
    uri = (tmp_path / "store").as_uri()
    tracker = MLflow(uri, name="tests", experiment="treadle")
    for step in range(1, 6):
        tracker.log(step, {"loss": step / 4})
    first = tracker.run_id
    tracker = MLflow(uri, name="tests")
    tracker.resume(3)
    for step in range(4, 8):
        tracker.log(step, {"loss": step / 4})
    tracker.close()
    assert tracker.run_id == first
    assert in_mlflow(tmp_path / "store") == {"loss": [(step, step / 4) for step in range(1, 8)]}
    assert not caplog.text
    tracker.resume(5)
    for step in (6, 7, 8):
        tracker.log(step, {"loss": 0.0})
    assert caplog.text.count("MLflow keeps loss=1.5 of step 6") == 1
    assert in_mlflow(tmp_path / "store")["loss"][5:] == [(6, 1.5), (7, 1.75), (8, 0.0)]
    # Another training of that name gets another run.
    tracker.resume(0)
    assert tracker.run_id != first
    assert tracker.client.get_run(first).info.status == "KILLED"


def test_a_damaged_file_of_mlflow_is_mended(tmp_path):
    tracker = MAKE["mlflow"](tmp_path)
    for step in (1, 2, 3):
        tracker.log(step, {"loss": float(step)})
    (file,) = tmp_path.glob("*/*/metrics/loss")
    file.write_text(file.read_text().replace(" 2.0 2", " \0\0") + "17959 4")
    tracker.resume(3)
    tracker.log(4, {"loss": 4.0})
    assert in_mlflow(tmp_path) == {"loss": [(1, 1.0), (3, 3.0), (4, 4.0)]}


def test_a_kill_while_points_are_taken_out_leaves_no_metric(tmp_path, monkeypatch):
    def killed(one, other):
        raise KeyboardInterrupt

    tracker = MAKE["mlflow"](tmp_path)
    for step in (1, 2):
        tracker.log(step, {"loss": float(step)})
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            tracker.resume(1)
    assert in_mlflow(tmp_path) == {"loss": [(1, 1.0), (2, 2.0)]}
    tracker.resume(1)
    assert in_mlflow(tmp_path) == {"loss": [(1, 1.0)]}


def test_a_server_that_is_gone_ends_no_training(tmp_path, monkeypatch, caplog):
    # Or it is tried a second time after some seconds.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracker = MLflow("http://127.0.0.1:9", name="tests")
    state, _ = train(tmp_path, num_steps=3, trackers={"gone": tracker})
    assert int(state.step) == 3
    told = [record.getMessage() for record in caplog.records if record.name == "treadle"]
    assert [message[:26] for message in told] == ["The tracker MLflow failed "] * 2
    assert "did not take 4 of 4 rows" in told[1]
    with variables():
        # The user's own setting stays, and otherwise it is not waited for minutes.
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "10"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ


def test_a_run_of_mlflow_says_whether_it_is_over(tmp_path):
    tracker = MLflow(tmp_path, name="tests")
    tracker.client.log_param(tracker.run_id, "width", 8)
    status = lambda: tracker.client.get_run(tracker.run_id).info.status
    tracker.resume(0)
    tracker.log(1, {"loss": 1.0})
    assert status() == "RUNNING"
    tracker.close()
    assert status() == "FINISHED"
    tracker.log(2, {"loss": 1.0})
    assert status() == "RUNNING"
    tracker.close()
    assert tracker.client.get_run(tracker.run_id).data.params == {"width": "8"}


def test_nothing_is_told_to_anybody(tmp_path):
    trackers_in(tmp_path)
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"
    assert "MLFLOW_ALLOW_FILE_STORE" not in os.environ


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"name": "it's"}, treadle.ArgumentValueError, r"`name` \(=\"it's\"\) must be a name"),
        ({"name": ""}, treadle.ArgumentValueError, r"`name` \(=''\) must be a name without"),
        ({"name": 3}, treadle.ArgumentTypeError, r"`name` \(=3\) must be a string"),
        ({"name": "a", "experiment": None}, treadle.ArgumentTypeError, r"`experiment` \(=None\)"),
    ],
)
def test_names_of_runs_that_cannot_be(tmp_path, options, error, says):
    with pytest.raises(error, match=says):
        MLflow(tmp_path, **options)


# -- Weights & Biases ------------------------------------------------------------------------------


def test_what_the_client_had_not_written_is_logged_again(tmp_path):
    """It writes in blocks; what was in one when it was killed is in our rows."""
    tracker = MAKE["wandb"](tmp_path)
    for step in (1, 2, 3):
        tracker.log(step, {"loss": float(step)})
        tracker.log(step, {"eval/norm": -float(step)})
    tracker.close()
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    data = file.read_bytes()
    for size in (0, 7, len(data) // 2):
        file.write_bytes(data[:size])
        tracker.resume(3)
        tracker.close()
        assert in_wandb(tmp_path) == {
            "loss": [(1, 1), (2, 2), (3, 3)],
            "eval/norm": [(1, -1), (2, -2), (3, -3)],
        }
        for other in tmp_path.glob("wandb/offline-run-*"):
            if other != file.parent:
                shutil.rmtree(other)


def test_half_of_the_last_step_is_logged_again(tmp_path):
    tracker = MAKE["wandb"](tmp_path)
    tracker.log(1, {"loss": 1.0})
    tracker.close()
    (first,) = tmp_path.glob("wandb/offline-run-*")
    tracker.log(1, {"eval/norm": 2.0})
    tracker.close()
    for other in tmp_path.glob("wandb/offline-run-*"):
        if other != first:
            shutil.rmtree(other)
    tracker.resume(1)
    tracker.close()
    assert in_wandb(tmp_path) == {"loss": [(1, 1.0)], "eval/norm": [(1, 2.0)]}


def test_what_was_uploaded_is_not_uploaded_again(tmp_path):
    tracker = MAKE["wandb"](tmp_path)
    for step in range(1, 6):
        tracker.log(step, {"loss": float(step)})
    tracker.close()
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    file.with_name(f"{file.name}.synced").touch()
    tracker.resume(3)
    for step in range(4, 8):
        tracker.log(step, {"loss": float(step)})
    tracker.close()
    assert in_wandb(tmp_path) == {"loss": [(step, step) for step in range(1, 8)]}


def test_a_damaged_file_of_the_client_is_cut_off_there(tmp_path):
    tracker = MAKE["wandb"](tmp_path)
    for step in range(1, 6):
        tracker.log(step, {"loss": float(step)})
    tracker.close()
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    data = bytearray(file.read_bytes())
    at = len(data) // 2
    data[at : at + 40] = bytes(40)
    file.write_bytes(data)
    tracker.resume(5)
    tracker.close()
    assert file.stat().st_size < at
    assert in_wandb(tmp_path) == {"loss": [(step, step) for step in range(1, 6)]}


def test_a_run_of_the_users_own_goes_on_beside_it(tmp_path):
    import wandb

    quiet = wandb.Settings(silent=True, console="off", **QUICK)
    own = wandb.init(mode="offline", dir=str(tmp_path), project="own", settings=quiet)
    (tmp_path / "ours").mkdir()
    tracker = MAKE["wandb"](tmp_path / "ours")
    tracker.log(1, {"loss": 2.0})
    assert wandb.run is own
    tracker.close()
    own.log({"x": 1.0})
    own.finish()
    assert in_wandb(tmp_path / "ours") == {"loss": [(1, 2.0)]}


def test_long_histories_span_blocks(tmp_path):
    tracker = MAKE["wandb"](tmp_path)
    for step in range(1, 301):
        tracker.log(step, {f"name-{index}": float(step) for index in range(10)})
    tracker.close()
    tracker.resume(150)
    tracker.close()
    points = in_wandb(tmp_path)
    assert all(points[f"name-{index}"][-1] == (150, 150) for index in range(10))
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert file.stat().st_size > 32 * 1024


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"project": ""}, treadle.ArgumentTypeError, r"`project` \(=''\) must be the name"),
        ({"mode": "disabled"}, treadle.ArgumentValueError, r"`mode` \(='disabled'\) must be"),
        ({"id": "a/b"}, treadle.ArgumentValueError, r"`id` \(='a/b'\) must be a string"),
        ({"resume": "must"}, treadle.ArgumentValueError, r"`resume` cannot be given"),
        ({"project": "me/sums"}, treadle.ArgumentValueError, r"\(='me/sums'\) .*`entity=\.\.\.`"),
        ({"nmae": "x"}, treadle.ArgumentTypeError, r"`nmae` is nothing that `wandb\.init` takes: "),
        ({"settings": 3}, treadle.ArgumentTypeError, r"`settings` \(=3\) must be a dictionary"),
        ({"settings": {"nix": 1}}, treadle.ArgumentValueError, r"'nix': 1.* `wandb\.Settings`: "),
    ],
)
def test_runs_of_wandb_that_cannot_be(tmp_path, options, error, says):
    with pytest.raises(error, match=says):
        WandB(tmp_path, **({"project": "tests"} | options))


def test_an_id_of_ones_own(tmp_path):
    tracker = WandB(tmp_path, project="tests", id="mine", name="one", settings=QUICK)
    tracker.log(1, {"loss": 1.0})
    assert (tracker.run.id, tracker.run.name, tracker.run.project) == ("mine", "one", "tests")
    tracker.close()
    assert tracker.run is None
    assert in_wandb(tmp_path) == {"loss": [(1, 1)]}
