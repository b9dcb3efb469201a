"""`treadle audit`: what it prints, its exit status, and what it says where there is no step."""

import json
import re
import sys

import pytest

from treadle._cli import main

MODULE = """
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

print("imported")
x = np.zeros((8, 4), np.float32)


@eqx.filter_jit
def augment(x, key):
    x = x + jax.random.normal(key, x.shape)
    return x * jax.random.bernoulli(key, 0.9, x.shape).astype(x.dtype)


@jax.jit
def double(x):
    return x * 2


def plain(x):
    return x * 2


def wrong():
    print("made")
    return augment, x, jax.random.key(0)


class Made:
    @staticmethod
    def right():
        return double, x


def warned():
    return plain, x


def wants(size, *rest, shift=1):
    return double, x


def lone():
    return double


def empty():
    return ()


def unnamed():
    return x, double


number = 3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audited")
    (folder / "audited_steps.py").write_text(MODULE)
    (folder / "broken_import.py").write_text("import a_module_that_is_not_there\n")
    return folder


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")


def test_tells_what_is_wrong_and_exits_with_1(capsys):
    assert main(["audit", "audited_steps:wrong"]) == 1
    captured = capsys.readouterr()
    assert re.search(r"error +key-reuse +audited_steps.py:14 ", captured.out)
    assert "[ ]  keys are split" in captured.out
    assert "[x]  everything hot is compiled" in captured.out
    # What the function prints is not part of the report.
    assert "made" in captured.err
    assert "made" not in captured.out


def test_a_right_step_exits_with_0(capsys):
    assert main(["audit", "audited_steps:Made.right"]) == 0
    assert "Audit of double: ok" in capsys.readouterr().out


def test_warnings_count_where_it_is_strict(capsys):
    assert main(["audit", "audited_steps.py:warned"]) == 0
    assert main(["audit", "--strict", "audited_steps.py:warned"]) == 1
    assert main(["audit", "--strict", "--ignore", "uncompiled", "audited_steps.py:warned"]) == 0


def test_json_and_nothing_else_on_standard_output(capsys):
    assert main(["audit", "audited_steps:wrong", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [each["rule"] for each in told["findings"] if each["severity"] == "error"] == [
        "key-reuse"
    ]
    assert not told["ok"]


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (
            "audited_steps",
            r"`TARGET` \(='audited_steps'\) has no function: write",
        ),
        (":wrong", r"has no function"),
        ("audited_steps:wrongg", r"has no 'wrongg'\. Did you mean 'wrong'\?"),
        ("audited_steps:Made.left", r"'Made' has no 'left'\."),
        ("audited_steps:number", r"is of the type int: name a function without arguments"),
        ("audited_steps:wants", r"takes arguments \(size\): name a function without arguments"),
        (
            "audited_steps:lone",
            r"returned a value of the type PjitFunction: it has to",
        ),
        ("audited_steps:empty", r"returned an empty tuple"),
        ("audited_steps:unnamed", r"whose first entry is not a step, but of the type ndarray"),
        ("not_there:wrong", r"there is no module 'not_there', neither in "),
        ("not_there.at_all:wrong", r"there is no module 'not_there', neither in "),
        ("not_there.py:wrong", r"there is no file not_there\.py"),
        (".audited_steps:wrong", r"is relative: give the module's whole name"),
    ],
)
def test_where_there_is_nothing_to_audit(capsys, target, says):
    assert main(["audit", target]) == 2
    captured = capsys.readouterr()
    assert re.search(says, captured.err)
    assert captured.out == ""


def test_an_unknown_rule_is_told_as_by_audit(capsys):
    assert main(["audit", "audited_steps:wrong", "--ignore", "key-resue"]) == 2
    assert "Did you mean 'key-reuse'?" in capsys.readouterr().err


def test_errors_of_the_module_are_the_users():
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        main(["audit", "broken_import:make"])
