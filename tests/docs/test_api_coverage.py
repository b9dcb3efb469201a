"""Every public name of treadle stands on an API page, and every page names what exists."""

import importlib
import inspect
import pathlib
import pkgutil
import types

import pytest
from tests.docs.pages import ROOT, Directive, directives

import treadle

API_PAGES = sorted((ROOT / "docs" / "api").glob("*.md"))


def public_names(module: types.ModuleType) -> set[str]:
    """Dotted public names of a module and of its public subpackages, lazy ones included."""
    own = {name for name in dir(module) if not name.startswith("_")}
    # A subpackage that nothing has imported yet is no attribute.
    inside = {name for _, name, _ in pkgutil.iter_modules(getattr(module, "__path__", []))}
    submodules = {name for name in inside if not name.startswith("_")}
    found = set()
    for name in own - inside:
        if not isinstance(getattr(module, name), types.ModuleType):
            found.add(f"{module.__name__}.{name}")
    for name in submodules:
        found |= public_names(importlib.import_module(f"{module.__name__}.{name}"))
    return found


def public_members(cls: type) -> set[str]:
    """Public methods and properties that a class brings: what a base declares is told there."""
    bases = [base for base in cls.__mro__[1:] if base is not object]
    return {
        name
        for name, value in vars(cls).items()
        if not name.startswith("_")
        and (inspect.isroutine(value) or isinstance(value, property | classmethod | staticmethod))
        and not any(name in vars(base) for base in bases)
    }


def documented(found: list[Directive]) -> set[str]:
    """The dotted names that directives put on a page: their own and their members'."""
    names = {directive.path for directive in found}
    for directive in found:
        names |= {f"{directive.path}.{member}" for member in directive.members or []}
    return names


def resolve(dotted: str) -> object:
    """The object behind a dotted name."""
    parts = dotted.split(".")
    value: object = importlib.import_module(parts[0])
    for at, part in enumerate(parts[1:], start=2):
        try:
            value = getattr(value, part)
        except AttributeError:
            value = importlib.import_module(".".join(parts[:at]))
    return value


def directives_of(pages: list[pathlib.Path]) -> list[Directive]:
    return [found for page in pages for found in directives(page.read_text(encoding="utf-8"))]


def undocumented(names: set[str], found: list[Directive]) -> list[str]:
    """The names that are on no page, nor the same object under another name."""
    objects = {id(resolve(directive.path)) for directive in found}
    return sorted(name for name in names - documented(found) if id(resolve(name)) not in objects)


def test_every_public_name_is_on_an_api_page():
    assert undocumented(public_names(treadle), directives_of(API_PAGES)) == []


@pytest.mark.parametrize("found", directives_of(API_PAGES), ids=lambda found: found.path)
def test_directive_names_what_exists_and_all_of_a_class(found):
    value = resolve(found.path)
    for member in found.members or []:
        assert hasattr(value, member) or member in getattr(value, "__annotations__", {})
    if inspect.isclass(value):
        assert sorted(public_members(value) - set(found.members or [])) == []


def test_a_public_name_without_a_page_is_found():
    page = (
        "::: treadle.TrainStep\n\ntext\n\n"
        "::: treadle.tree\n    options:\n      members:\n        - paths\n\ntext\n\n- select\n"
    )
    names = {
        "treadle.TrainStep",
        "treadle._step.TrainStep",
        "treadle.tree.paths",
        "treadle.tree.select",
    }
    assert undocumented(names, list(directives(page))) == ["treadle.tree.select"]
