"""Every Python block of README and site runs: page by page, each page in one namespace.

A block under `<!-- no-run: reason -->` is left out. One under `<!-- output -->` is what the Python
block before it prints, line breaks aside.
"""

import contextlib
import io
import pathlib
import sys
import types
from typing import Any

import jax
import pytest
from tests.docs.pages import ROOT, Block, blocks, pages

import treadle
from treadle import _cache


def checked_blocks(page: pathlib.Path) -> list[Block]:
    """The blocks that run, and the outputs that are compared."""
    found = blocks(page.read_text(encoding="utf-8"))
    return [
        block
        for block in found
        if (block.language == "python" and block.no_run is None) or block.is_output
    ]


def run_page(page: pathlib.Path) -> None:
    """Runs a page's blocks in order, as a module whose tracebacks show the page's own lines."""
    module = types.ModuleType("docs_page")
    module.__file__ = str(page)
    # Dataclasses, and so equinox modules, look their module up by name.
    sys.modules[module.__name__] = module
    printed = io.StringIO()
    try:
        for block in checked_blocks(page):
            if block.is_output:
                assert printed.getvalue().split() == block.code.split(), f"{page}:{block.line}"
                continue
            printed = io.StringIO()
            aligned = "\n" * (block.line - 1) + block.code
            with contextlib.redirect_stdout(printed):
                exec(compile(aligned, str(page), "exec"), module.__dict__)
    finally:
        del sys.modules[module.__name__]


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """A page writes into a folder of its own; the cache that it switches on is off behind it."""
    config: Any = jax.config  # Its options are not in JAX's type stubs.
    before = config.jax_compilation_cache_dir
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(_cache, "_switched_on", _cache._switched_on)
    yield
    treadle.compilation_cache(before)


WITH_CODE = [page for page in pages() if checked_blocks(page)]


# Before 0.8 it was in `jax.experimental`; the pages have today's name.
NEEDS_X64 = {"docs/rules/float64.md"}


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_of_page_run(page, own_folder):
    if str(page.relative_to(ROOT)) in NEEDS_X64 and not hasattr(jax, "enable_x64"):
        pytest.skip("this JAX has no `jax.enable_x64`")
    run_page(page)


def test_a_broken_block_fails_on_its_own_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n```python\nx = 1\n```\n\ntext\n\n```python\nassert x == 2\n```\n")
    with pytest.raises(AssertionError) as raised:
        run_page(page)
    assert raised.traceback[-1].lineno + 1 == 10


def test_blocks_share_a_namespace_and_skip_what_is_marked(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nx = 1\n```\n<!-- no-run: needs a cluster -->\n```python\n1 / 0\n```\n"
        "```bash\nexit 1\n```\n- item\n\n    ```python\n    assert x == 1\n    ```\n"
    )
    run_page(page)
    found = list(blocks(page.read_text()))
    assert [block.no_run for block in found] == [None, "needs a cluster", None, None]
    assert [block.language for block in found] == ["python", "python", "bash", "python"]
    assert found[-1].code == "assert x == 1"


def test_an_output_that_is_not_printed_fails(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nprint('a', 'b')\n```\n\n<!-- output -->\n\n```text\na\nb\n```\n")
    run_page(page)
    page.write_text(page.read_text().replace("a\nb", "a\nc"))
    with pytest.raises(AssertionError, match=r"page\.md:8"):
        run_page(page)
