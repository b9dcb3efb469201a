import dataclasses
import json

import pytest

from treadle._cli._folder import Settings, claim, clear
from treadle._errors import ArgumentValueError

SETTINGS = Settings(model="mlp", data="digits", digest="0", seed=0, schedule_steps=2000)


def claimed(folder):
    claim(folder, SETTINGS)
    (folder / "checkpoints" / "10").mkdir(parents=True)
    (folder / "checkpoints" / "10" / "leaves.eqx").write_bytes(b"1")
    (folder / "metrics.jsonl").write_text("{}")
    return folder


def test_the_same_settings_claim_a_folder_again(tmp_path):
    run = claimed(tmp_path / "deep" / "run")
    claim(run, SETTINGS)
    assert (run / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "holds a run with seed 0, and this one would have seed 1. .*`--fresh`"),
        ({"digest": "1"}, "with images of checksum 0, and this one would have images of che"),
        ({"seed": 1, "digest": "1"}, "with seed 0, and this one would have seed 1"),
        ({"data": "mnist"}, "with images from digits, and this one would have images from mnist"),
        (
            {"model": "resnet", "schedule_steps": 800},
            r"with the model mlp, and this one would have the model resnet\. Choose",
        ),
        ({"schedule_steps": 9000}, "falls over 2000 steps, and .* falls over 9000 steps"),
    ],
)
def test_other_settings_are_refused(tmp_path, change, message):
    run = claimed(tmp_path)
    with pytest.raises(ArgumentValueError, match=message):
        claim(run, dataclasses.replace(SETTINGS, **change))


def test_a_run_from_before_there_were_models_is_a_perceptrons(tmp_path):
    run = claimed(tmp_path)
    held = dataclasses.asdict(SETTINGS)
    del held["model"]
    (run / "demo.json").write_text(json.dumps(held))
    claim(run, SETTINGS)
    with pytest.raises(ArgumentValueError, match="with the model mlp, and this one"):
        claim(run, dataclasses.replace(SETTINGS, model="resnet"))


def test_someone_elses_run_is_refused(tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(ArgumentValueError, match="holds a run that is not the demo's"):
        claim(tmp_path, SETTINGS)
    with pytest.raises(ArgumentValueError, match="is a file, not a folder"):
        claim(tmp_path / "metrics.jsonl", SETTINGS)


def test_clearing_removes_the_run_and_nothing_else(tmp_path):
    run = claimed(tmp_path / "run")
    (run / "notes.txt").write_text("mine")
    clear(run)
    assert [path.name for path in run.iterdir()] == ["notes.txt"]


def test_clearing_leaves_no_empty_folder(tmp_path):
    clear(claimed(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    clear(tmp_path / "run")


@pytest.mark.parametrize("name", ["notes.txt", "metrics.jsonl"])
def test_what_is_no_run_of_the_demo_is_not_cleared(tmp_path, name):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / name).touch()
    with pytest.raises(ArgumentValueError, match=r"holds none \(there is no demo.json in it\)"):
        clear(tmp_path)
    assert (tmp_path / name).exists()
    assert (tmp_path / "checkpoints").exists()


def test_a_settings_file_of_something_else_is_none_of_ours(tmp_path):
    (tmp_path / "demo.json").write_text('["not", "settings"]')
    with pytest.raises(ArgumentValueError, match="nothing was removed"):
        clear(tmp_path)


def test_links_are_not_followed(tmp_path):
    run = claimed(tmp_path / "run")
    outside = tmp_path / "outside"
    (run / "checkpoints").rename(outside)
    (run / "checkpoints").symlink_to(outside)
    clear(run)
    assert (outside / "10" / "leaves.eqx").exists()
