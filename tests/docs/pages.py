"""Reading the pages of the site: their code blocks and their API directives."""

import dataclasses
import pathlib
import re
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<info>[^`]*)$")
_NO_RUN = re.compile(r"^\s*<!-- no-run: (?P<reason>.+) -->\s*$")
_OUTPUT = "<!-- output -->"
_DIRECTIVE = re.compile(r"^::: (?P<path>[\w.]+)\s*$")


@dataclasses.dataclass
class Block:
    """One fenced block: its language, its code, the line that its code starts on.

    `no_run` is why it must not run; `is_output` says that it is what the block before it prints.
    """

    language: str
    code: str
    line: int
    no_run: str | None
    is_output: bool


@dataclasses.dataclass
class Directive:
    """One `::: path` of an API page, with the `members:` named below it (None: not named)."""

    path: str
    members: list[str] | None


def pages() -> list[pathlib.Path]:
    """README and every page of the site."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(text: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order, dedented."""
    lines = text.splitlines()
    at, before = 0, ""
    while at < len(lines):
        fence = _FENCE.match(lines[at])
        if fence is None:
            before = lines[at] if lines[at].strip() else before
            at += 1
            continue
        end = at + 1
        while end < len(lines) and lines[end].strip() != fence["ticks"]:
            end += 1
        code = "\n".join(line.removeprefix(fence["indent"]) for line in lines[at + 1 : end])
        language = fence["info"].strip().split(" ")[0]
        marker = _NO_RUN.match(before)
        reason = marker["reason"] if marker else None
        yield Block(language, code, at + 2, reason, before.strip() == _OUTPUT)
        at, before = end + 1, ""


def directives(text: str) -> Iterator[Directive]:
    """The mkdocstrings directives of a page."""
    lines = text.splitlines()
    for at, line in enumerate(lines):
        directive = _DIRECTIVE.match(line)
        if directive is None:
            continue
        members: list[str] | None = None
        for below in lines[at + 1 :]:
            if below.strip() and not below.startswith(" "):
                break
            if re.match(r"^\s+members:", below):
                members = []
            elif members is not None and (item := re.match(r"^\s+- (\w+)\s*$", below)):
                members.append(item[1])
        yield Directive(directive["path"], members)
