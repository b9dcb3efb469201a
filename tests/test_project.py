"""What the project's own files promise: commands that exist, extras that stay light."""

import os
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]


def requirement_name(requirement: str) -> str:
    return re.match(r"[\w-]+", requirement)[0].lower()


def test_the_extras_of_the_design_are_there():
    names = {"demo", "testing", "track", "data", "interop", "torch", "export"}
    names |= {"docs", "bench", "dev"}
    assert set(EXTRAS) == names


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_only_its_own_extra_pulls_in_torch(extra):
    names = {requirement_name(requirement) for requirement in EXTRAS[extra]}
    heavy = names & {"torch", "torchdata", "lightning", "pytorch-lightning", "torchvision"}
    assert heavy == ({"torch", "torchdata"} if extra == "torch" else set())
    assert not any("torch" in re.findall(r"\w+", one) for one in EXTRAS[extra] if "[" in one)


def test_every_dependency_says_why_and_names_its_oldest_version():
    lines = (ROOT / "pyproject.toml").read_text().splitlines()
    every = [*PROJECT["dependencies"], *(one for extra in EXTRAS.values() for one in extra)]
    for requirement in every:
        at = next(at for at, line in enumerate(lines) if line.strip() == f'"{requirement}",')
        above = lines[at - 1].strip()
        assert above.startswith("#") or requirement_name(above.strip('"')) == "jax", requirement
        assert ">=" in requirement or requirement.startswith("treadle["), requirement


def test_the_oldest_versions_are_the_lower_bounds():
    lines = (ROOT / "tools" / "oldest.txt").read_text().splitlines()
    pins = {line.replace("==", ">=") for line in lines if not line.startswith("#")}
    assert pins == {requirement.split(",")[0] for requirement in PROJECT["dependencies"]}


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_make_targets_named_on_a_page_exist(page):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z]+)", (ROOT / page).read_text(), re.MULTILINE))
    assert named
    assert named <= targets


def test_the_layers_on_the_page_are_those_that_are_held():
    contracts = PYPROJECT["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["id"] == "layers")
    held = [re.findall(r"\w+", layer) for layer in layers]
    (block,) = re.findall(
        r"^```\n(_cli .*?)^```", (ROOT / "CONTRIBUTING.md").read_text(), re.M | re.S
    )
    assert [line.split() for line in block.splitlines()] == held


def test_setup_without_a_new_python_says_so(tmp_path):
    script = tmp_path / "tools" / "setup.sh"
    script.parent.mkdir()
    script.write_bytes((ROOT / "tools" / "setup.sh").read_bytes())
    # A folder of its own as PATH: no uv, no Python, only what the script itself calls.
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "tr").symlink_to("/usr/bin/tr")
    answer = subprocess.run(
        ["/bin/sh", str(script), "dev"],
        cwd=tmp_path,
        env={"PATH": str(bin_folder)},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 1
    assert "treadle needs Python 3.11 or newer" in answer.stderr
    assert not (tmp_path / ".venv").exists()


def test_the_package_says_it_is_typed():
    assert (ROOT / "src" / "treadle" / "py.typed").exists()


def test_import_treadle_is_light():
    heavy = ["matplotlib", "sklearn", "hypothesis", "rich.progress", "torch"]
    heavy += ["flax", "haiku", "orbax"]
    heavy += ["tensorboard", "wandb", "mlflow"]
    heavy += ["grain", "tensorflow_datasets", "array_record", "datasets", "pyarrow"]
    code = f"import sys, treadle; print([name for name in {heavy!r} if name in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ)
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == "[]"
