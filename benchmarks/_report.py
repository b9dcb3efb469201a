"""A result as tables: in the terminal, and in the docs between their marks."""

import pathlib
import re

from rich.console import Console

from . import _machine
from ._table import Table, goals_table, to_markdown, to_rich
from .contenders import CONTENDERS
from .measures import MEASURES

_MARKS = "<!-- benchmarks: {name} -->", "<!-- end of benchmarks: {name} -->"


def tables(name: str, result: dict) -> list[Table]:
    """One benchmark's tables, its goals last. The smallest form is too short to judge."""
    data = result["benchmarks"][name]
    found = MEASURES[name].tables(data)
    goals = MEASURES[name].goals(data)
    if goals and not result["smoke"]:
        found.append(goals_table(goals))
    return found


def print_report(name: str, result: dict, console: Console) -> None:
    """Everything about one benchmark."""
    for table in tables(name, result):
        console.print(to_rich(table))
    console.print(_machine.sentence(result), style="dim", highlight=False)
    if result["smoke"]:
        console.print("The smallest form: these figures show that it runs, not how fast.")


def markdown(result: dict) -> str:
    """All of a result, as a page would have it."""
    return "\n\n".join(_section(name, result) for name in result["benchmarks"])


def _section(name: str, result: dict) -> str:
    parts = [to_markdown(table) for table in tables(name, result)]
    return "\n\n".join([*parts, f"Measured {_machine.sentence(result)}"])


def contenders() -> str:
    """Who the contenders are, as a page would have it."""
    lines = ["| contender | what it is |", "| :--- | :--- |"]
    return "\n".join([*lines, *(f"| {c.name} | {c.about} |" for c in CONTENDERS.values())])


def page_of(name: str) -> str:
    """On which page of the docs a benchmark is: that of the races, unless it says otherwise."""
    return getattr(MEASURES[name], "PAGE", "benchmarks.md")


def into_docs(result: dict, page: pathlib.Path) -> None:
    """Renews what lies between a page's marks: the contenders, and each benchmark of the result.

    A result of everything goes into the page of the races, without what has a page of its own; one
    of that alone goes into its own, where there are no contenders.

    Raises:
        ValueError: If the page has no marks for one of them.
    """
    text = page.read_text(encoding="utf-8")
    names = list(result["benchmarks"])
    racing = [name for name in names if page_of(name) == "benchmarks.md"]
    sections = {"contenders": contenders()} if racing else {}
    sections |= {name: _section(name, result) for name in racing or names}
    for name, section in sections.items():
        text = _renewed(text, name, section)
    page.write_text(text, encoding="utf-8")


def _renewed(text: str, name: str, section: str) -> str:
    begin, end = (mark.format(name=name) for mark in _MARKS)
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    text, count = pattern.subn(lambda _: f"{begin}\n\n{section}\n\n{end}", text)
    if count != 1:
        raise ValueError(f"The page must have one {begin} … {end}; it has {count}.")
    return text
