import contextlib
import importlib.metadata
import io
import json
import runpy
import shutil
import signal
import sys

import jax
import numpy as np
import pytest
from matplotlib.image import imread

import treadle
from treadle import Callback, fit
from treadle._cli import _demo, _mlp, _resnet, _training, main
from treadle._cli._extra import MissingExtraError


@pytest.fixture(autouse=True, scope="module")
def small():
    """Small models, but for the slow test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_mlp, "WIDTH", 16)
        patch.setattr(_resnet, "WIDTH", 4)
        yield patch


@pytest.fixture(autouse=True, scope="module")
def compiled_once(tmp_path_factory):
    """A compilation cache: every run here compiles the same programs."""
    settings = (
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
        "jax_persistent_cache_min_entry_size_bytes",
    )
    before = {name: getattr(jax.config, name) for name in settings}
    treadle.compilation_cache(tmp_path_factory.mktemp("cache"))
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    treadle.compilation_cache(before["jax_compilation_cache_dir"])


@pytest.fixture(scope="module")
def straight(small, tmp_path_factory):
    """A run of 30 steps that nothing disturbed, and what it said."""
    run = tmp_path_factory.mktemp("straight") / "run"
    with contextlib.redirect_stdout(io.StringIO()) as told:
        assert demo(run, "--steps", 30) == 0
    return run, told.getvalue()


def demo(run, *options):
    return main(["demo", "--run", str(run), *map(str, options)])


def rows_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


class InterruptAt(Callback):
    """Ctrl-C, after one given step."""

    def __init__(self, step):
        self.step = step

    def on_step(self, ctx):
        if ctx.step == self.step:
            signal.raise_signal(signal.SIGINT)


def interrupted_at(step):
    def interrupted(*args, callbacks, **options):
        return fit(*args, callbacks=[*callbacks, InterruptAt(step)], **options)

    return interrupted


def test_a_short_run_leaves_everything_it_promises(straight):
    run, told = straight
    assert "scikit-learn's digits: 1,437 images of 8x8 to train on, 360 to test" in told
    assert "layers/0" in told
    assert "test accuracy" in told
    names = ["checkpoints", "curves.png", "demo.json", "environment.json", "metrics.jsonl"]
    assert sorted(path.name for path in run.iterdir()) == [*names, "predictions.png"]
    assert f"In {run}:" in told
    assert all(name in told for name in names if name != "demo.json")
    assert [row["step"] for row in rows_of(run)] == [10, 20, 30, 30]
    assert rows_of(run)[-1].keys() == {"step", "eval/accuracy", "eval/loss"}
    assert imread(run / "curves.png").size > 0
    assert imread(run / "predictions.png").size > 0


def test_the_accuracy_that_is_told_is_the_one_that_was_measured(straight):
    run, told = straight
    right = round(360 * rows_of(run)[-1]["eval/accuracy"])
    assert f"{right} of 360 images" in told


def test_run_again_it_is_done(straight, tmp_path, capsys):
    run = shutil.copytree(straight[0], tmp_path / "run")
    (run / "curves.png").unlink()
    assert demo(run, "--steps", 30) == 0
    assert "This run is done: it has taken 30 steps." in capsys.readouterr().out
    assert (run / "metrics.jsonl").read_bytes() == (straight[0] / "metrics.jsonl").read_bytes()
    assert (run / "curves.png").exists()


def test_fresh_starts_over(straight, tmp_path, capsys):
    run = shutil.copytree(straight[0], tmp_path / "run")
    assert demo(run, "--steps", 10, "--fresh", "--seed", 1) == 0
    assert "This run is done" not in capsys.readouterr().out
    assert [row["step"] for row in rows_of(run)] == [10, 10]
    starts = json.loads((run / "environment.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0]
    assert rows_of(run)[0]["loss"] != rows_of(straight[0])[0]["loss"]


def test_interrupted_and_continued_it_is_the_same_run(straight, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(_training, "fit", interrupted_at(13))
        assert demo(run, "--steps", 30) == 128 + signal.SIGINT
    told = capsys.readouterr().out
    assert "Stopped at step 13 of 30. Run the same command again to go on." in told
    assert [row["step"] for row in rows_of(run)] == [10]
    assert demo(run, "--steps", 30) == 0
    assert (run / "metrics.jsonl").read_bytes() == (straight[0] / "metrics.jsonl").read_bytes()


@pytest.fixture(scope="module")
def resnet(small, tmp_path_factory):
    """A ResNet's run of 12 steps, and what it said."""
    run = tmp_path_factory.mktemp("resnet") / "run"
    with contextlib.redirect_stdout(io.StringIO()) as told:
        assert demo(run, "--model", "resnet", "--steps", 12) == 0
    return run, told.getvalue()


def test_a_resnet_leaves_the_same(resnet, straight):
    run, told = resnet
    assert "stages/3" in told
    assert "2 blocks" in told
    assert sorted(path.name for path in run.iterdir()) == sorted(
        path.name for path in straight[0].iterdir()
    )
    assert [row["step"] for row in rows_of(run)] == [10, 12]
    assert json.loads((run / "demo.json").read_text())["model"] == "resnet"
    right = round(360 * rows_of(run)[-1]["eval/accuracy"])
    assert f"{right} of 360 images" in told


# The perceptron's run is interrupted below, and a model with BatchNorm in the tests of kills.
@pytest.mark.slow
def test_a_resnet_that_was_interrupted_goes_on_with_its_statistics(resnet, tmp_path, monkeypatch):
    run = tmp_path / "run"
    options = ("--model", "resnet", "--steps", 12)
    with monkeypatch.context() as patch:
        patch.setattr(_training, "fit", interrupted_at(7))
        assert demo(run, *options) == 128 + signal.SIGINT
    assert demo(run, *options) == 0
    assert (run / "metrics.jsonl").read_bytes() == (resnet[0] / "metrics.jsonl").read_bytes()


def test_another_model_is_another_run(straight, resnet, capsys):
    assert demo(straight[0], "--steps", 30, "--model", "resnet") == 1
    told = capsys.readouterr().err
    assert "holds a run with the model mlp, and this one would have the model resnet" in told
    # The number of steps follows from the model.
    assert "falls over" not in told
    assert demo(resnet[0], "--steps", 12) == 1
    assert "with the model resnet, and this one would have the model mlp" in capsys.readouterr().err


@pytest.mark.slow
def test_a_resnet_takes_images_in_colour_that_are_large_enough(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    images, labels = np.random.default_rng(0).random((30, 9, 6, 3)), np.arange(30) % 3
    np.savez("colours.npz", x=images, y=labels)
    options = ["demo", "--model", "resnet", "--steps", "1"]
    assert main([*options, "--data", "colours.npz"]) == 0
    assert (tmp_path / "runs" / "colours-resnet" / "predictions.png").exists()
    assert "f32[4,9,6]" in capsys.readouterr().out
    np.savez("tiny.npz", x=images[:, :4], y=labels)
    assert main([*options, "--data", "tiny.npz"]) == 1
    assert "an image of 4x6, too small for this ResNet" in capsys.readouterr().err
    assert not (tmp_path / "runs" / "tiny-resnet").exists()


def test_inputs_of_a_resnet_are_channels_first():
    rows = np.arange(2 * 3 * 4 * 3, dtype=np.float32).reshape(2, -1)
    colour = _resnet._channels_first(rows, (3, 4, 3))
    assert colour.shape == (2, 3, 3, 4)
    np.testing.assert_array_equal(colour[1, 2], rows.reshape(2, 3, 4, 3)[1, :, :, 2])
    grey = _resnet._channels_first(rows, (9, 4))
    np.testing.assert_array_equal(grey[:, 0], rows.reshape(2, 9, 4))


def test_shifts_are_of_up_to_an_eighth_and_keep_the_rest(getkey):
    image = jax.numpy.ones((1, 16, 5)).at[0, 8, 2].set(2.0)
    moves = set()
    for _ in range(60):
        moved = _resnet.shifted(image, getkey())
        assert moved.shape == image.shape
        _, row, column = np.argwhere(np.asarray(moved) == 2.0)[0]
        down, right = row - 8, column - 2
        assert np.count_nonzero(moved) == (16 - abs(down)) * (5 - abs(right))
        moves.add((int(down), int(right)))
    assert moves == {(down, right) for down in range(-2, 3) for right in (-1, 0, 1)}


def test_a_run_that_was_cut_short_goes_on(straight, tmp_path):
    run = tmp_path / "run"
    assert demo(run, "--steps", 20) == 0
    assert demo(run, "--steps", 30) == 0
    # It was measured where it ended first; otherwise nothing tells the two apart.
    assert [row for row in rows_of(run) if row != rows_of(run)[2]] == rows_of(straight[0])


def test_another_seed_is_another_run(straight, tmp_path, capsys):
    run = shutil.copytree(straight[0], tmp_path / "run")
    assert demo(run, "--steps", 30, "--seed", 1) == 1
    assert "holds a run with seed 0" in capsys.readouterr().err
    assert (run / "metrics.jsonl").read_bytes() == (straight[0] / "metrics.jsonl").read_bytes()


def test_data_of_ones_own_has_a_folder_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    images, labels = rng.random((30, 5, 4)), np.arange(30) % 3
    np.savez("shapes.npz", x=images, y=labels)
    assert main(["demo", "--data", "shapes.npz", "--steps", "3"]) == 0
    assert (tmp_path / "runs" / "shapes" / "predictions.png").exists()
    # Other images under the same name are not the same run.
    np.savez("shapes.npz", x=1 - images, y=labels)
    assert main(["demo", "--data", "shapes.npz", "--steps", "3"]) == 1
    assert "holds a run with images of checksum" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stopped", "status"), [(None, 0), ("SIGINT (Ctrl-C)", 130), ("SIGTERM", 143)]
)
def test_the_exit_status_is_what_shells_expect(stopped, status):
    assert _demo._status(stopped) == status


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--data", "nowhere"), "treadle: `--data` (=nowhere) does not exist. Give a folder"),
        (("--steps", "0"), "treadle: `--steps` (=0) must be at least 1."),
        (("--seed", "-1"), "treadle: `--seed` (=-1) must be from 0 to 2**32 - 1."),
    ],
)
def test_what_the_user_can_mend_is_told_without_a_traceback(tmp_path, capsys, options, message):
    assert demo(tmp_path / "run", *options) == 1
    told = capsys.readouterr()
    assert told.err.startswith(message)
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert not (tmp_path / "run").exists()


def test_a_missing_package_is_told_before_the_training(tmp_path, capsys, monkeypatch):
    def missing(name):
        raise MissingExtraError("The demo needs matplotlib")

    monkeypatch.setattr(_demo, "require_demo", missing)
    assert demo(tmp_path / "run") == 1
    assert capsys.readouterr().err == "treadle: The demo needs matplotlib\n"
    assert not (tmp_path / "run").exists()


def test_ctrl_c_outside_the_training_needs_no_traceback(tmp_path, capsys, monkeypatch):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(_demo, "require_demo", interrupted)
    assert demo(tmp_path / "run") == 130
    assert capsys.readouterr().err == "treadle: interrupted\n"


def test_version(capsys, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: f"1.2.3 of {name}")
    monkeypatch.setattr(sys, "argv", ["treadle", "--version"])
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_module("treadle", run_name="__main__")
    assert capsys.readouterr().out == "treadle 1.2.3 of treadle\n"


def test_without_a_command_the_usage_is_told(capsys):
    with pytest.raises(SystemExit, match=r"^2$"):
        main([])
    assert "usage: treadle" in capsys.readouterr().err


@pytest.mark.slow
def test_most_seeds_reach_the_promised_accuracy(tmp_path, small):
    small.undo()
    accuracies = []
    for seed in range(10):
        run = tmp_path / str(seed)
        assert demo(run, "--seed", seed) == 0
        accuracies.append(rows_of(run)[-1]["eval/accuracy"])
    assert accuracies[0] >= 0.975
    assert sum(accuracy >= 0.975 for accuracy in accuracies) >= 9, accuracies


@pytest.mark.slow
def test_every_seed_of_a_resnet_reaches_the_promised_accuracy(tmp_path, small):
    small.undo()
    accuracies = []
    for seed in range(5):
        run = tmp_path / str(seed)
        assert demo(run, "--model", "resnet", "--seed", seed) == 0
        accuracies.append(rows_of(run)[-1]["eval/accuracy"])
    assert min(accuracies) >= 0.98, accuracies
