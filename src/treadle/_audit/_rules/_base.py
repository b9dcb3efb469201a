"""What a rule is. Each has a file of its own here, and a page `docs/rules/SLUG.md`."""

import abc
import functools
import importlib
import pkgutil
from collections.abc import Iterable
from typing import ClassVar

from .._audited import Audited
from .._finding import Finding


class Rule(abc.ABC):
    """One rule. It is found by the module's name: `_rules/_key_reuse.py` has `key-reuse`.

    Attributes:
        slug: Its name.
        line: The line of the checklist that it belongs to (see `_checklist`).
    """

    slug: ClassVar[str]
    line: ClassVar[str]

    @abc.abstractmethod
    def check(self, audited: Audited) -> Iterable[Finding]:
        """What breaks the rule."""

    @abc.abstractmethod
    def evidence(self, audited: Audited) -> str | None:
        """What shows that nothing does, for the checklist; `None` if there is nothing to say."""


@functools.cache
def rules() -> dict[str, Rule]:
    """Every rule by its name."""
    package = importlib.import_module(__package__ or "")
    found: dict[str, Rule] = {}
    for module in pkgutil.iter_modules(package.__path__):
        if module.name == "_base":
            continue
        content = vars(importlib.import_module(f"{__package__}.{module.name}"))
        for value in content.values():
            own = isinstance(value, type) and value.__module__.endswith(f".{module.name}")
            if own and issubclass(value, Rule):
                found[value.slug] = value()
    return dict(sorted(found.items()))
