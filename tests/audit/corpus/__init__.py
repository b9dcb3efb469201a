"""Training steps as people write them, each with the rule it breaks at a marked line, or right.

A case is a function that makes `(step, *args)`. A line with `# expect: key-reuse` is the one that
the finding has to name. A case without such a line is right, and nothing may be found in it.
"""

import dataclasses
import functools
import importlib
import importlib.util
import inspect
import pkgutil
import re
from collections.abc import Callable
from typing import Any

_EXPECT = re.compile(r"#\s*expect:\s*([\w, -]+)")


@dataclasses.dataclass(frozen=True)
class Case:
    """One step.

    `expected` are pairs of a rule and a line. `group` is the rule that the case is about.
    """

    group: str
    name: str
    build: Callable[[], tuple[Any, ...]]
    expected: frozenset[tuple[str, int]]
    needs: str | None
    options: tuple[tuple[str, Any], ...]

    @property
    def is_wrong(self) -> bool:
        return bool(self.expected)

    @property
    def available(self) -> bool:
        return self.needs is None or importlib.util.find_spec(self.needs) is not None

    def __str__(self) -> str:
        return f"{self.group}: {self.name}"


_FOUND: list[Case] = []


def case(group: str, *, needs: str | None = None, **options: Any) -> Callable[[Any], Any]:
    """Puts a function into the corpus. `needs` is a package without which it is left out."""

    def register(build: Callable[[], tuple[Any, ...]]) -> Callable[[], tuple[Any, ...]]:
        lines, start = inspect.getsourcelines(build)
        expected = {
            (rule.strip(), start + at)
            for at, line in enumerate(lines)
            for found in _EXPECT.findall(line)
            for rule in found.split(",")
        }
        name = build.__name__.replace("_", " ")
        chosen = tuple(options.items())
        _FOUND.append(Case(group, name, build, frozenset(expected), needs, chosen))
        return build

    return register


@functools.cache
def cases() -> tuple[Case, ...]:
    """All of them."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return tuple(_FOUND)


def x64(on: bool) -> Any:
    """A context in which 64-bit types are on, or not."""
    import jax

    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(on)
    return importlib.import_module("jax.experimental").enable_x64(on)


def findings_of(found: Case) -> set[tuple[str, int | None]]:
    """What an audit finds in a case: the rule and the line of every error, warning and, where the
    case is about one that only remarks, remark."""
    import jax

    import treadle

    options = dict(found.options)
    doubles = bool(options.pop("x64", False))
    # JAX as it is when nobody has told it to be strict.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), x64(doubles):
        step, *args = found.build()
        report = treadle.audit(step, *args, **options)
    own = {rule for rule, _ in found.expected}
    return {
        (each.rule, None if each.where is None else each.where.line)
        for each in report.findings
        if each.severity != "info" or each.rule in own
    }
