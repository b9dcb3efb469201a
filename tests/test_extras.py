"""Packages of extras: what to install where one is missing; a broken one speaks for itself."""

import sys

import pytest

import treadle
from treadle._extras import required


def test_a_package_that_is_there_is_imported():
    assert required("json.decoder", extra="data", wanted_by="This") is sys.modules["json.decoder"]


@pytest.mark.parametrize(("package", "name"), [(None, "nowhere"), ("dm-nowhere", "dm-nowhere")])
def test_a_missing_one_is_told_with_the_install_line(package, name):
    expected = rf"^`f` needs {name}, which is not installed: `pip install 'treadle\[data\]'`\.$"
    with pytest.raises(treadle.MissingExtraError, match=expected):
        required("nowhere.at.all", extra="data", wanted_by="`f`", package=package)


def test_one_that_lacks_a_package_of_its_own_says_so_itself(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import another_that_is_nowhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="another_that_is_nowhere") as raised:
        required("half_installed", extra="data", wanted_by="This")
    assert not isinstance(raised.value, treadle.MissingExtraError)
