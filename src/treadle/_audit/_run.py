"""One audit: every rule on one program, and the checklist that they tick."""

import difflib
from collections.abc import Callable, Sequence
from typing import Any

from .._errors import ArgumentTypeError, ArgumentValueError
from .._units import counted
from ._audited import Audited
from ._checklist import LINES, Tick
from ._finding import SEVERITIES, Finding
from ._load import load
from ._report import Report
from ._rules import rules
from ._source import ignored_at


def run(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any], ignore: Any) -> Report:
    """See `audit`."""
    ignore = _known(ignore)
    audited = Audited(load(fn, args, kwargs))
    found = [(rule, list(rule.check(audited))) for rule in rules().values()]
    kept, ignored = [], []
    for rule, findings in found:
        for finding in findings:
            waved = rule.slug in ignore or rule.slug in ignored_at(finding.where)
            (ignored if waved else kept).append(finding)
    kept.sort(key=_badness)
    return Report(
        name=audited.program.name,
        findings=tuple(kept),
        figures=audited.figures,
        checklist=tuple(_checklist(audited, kept, ignored)),
        ignored=tuple(ignored),
    )


def _badness(finding: Finding) -> tuple[int, str, str, int]:
    where = finding.where
    file, line = ("", 0) if where is None else (where.file, where.line)
    return SEVERITIES.index(finding.severity), finding.rule, file, line


def _known(ignore: Any) -> frozenset[str]:
    """The rules to ignore.

    Raises:
        ArgumentTypeError: It is one string.
        ArgumentValueError: One is no rule.
    """
    if isinstance(ignore, str):
        raise ArgumentTypeError(
            f"`ignore` (={ignore!r}) is a string: give a list of rules, `ignore=[{ignore!r}]`."
        )
    chosen = list(ignore)
    for slug in chosen:
        if slug not in rules():
            near = difflib.get_close_matches(str(slug), rules(), 1, 0.0)
            raise ArgumentValueError(
                f"`ignore` names {slug!r}, which is no rule. Did you mean {near[0]!r}? The rules "
                f"are {', '.join(rules())}."
            )
    return frozenset(chosen)


# -- the checklist ---------------------------------------------------------------------------------


def _checklist(
    audited: Audited, findings: Sequence[Finding], ignored: Sequence[Finding]
) -> list[Tick]:
    return [_tick(name, audited, findings, ignored) for name in LINES]


def _tick(
    name: str, audited: Audited, findings: Sequence[Finding], ignored: Sequence[Finding]
) -> Tick:
    own = [rule for rule in rules().values() if rule.line == name]
    broken = [each for each in findings if each.rule in {rule.slug for rule in own}]
    if broken:
        return Tick(name, LINES[name], False, _what_broke(broken))
    seen = [text for text in (rule.evidence(audited) for rule in own) if text]
    waved = sorted({each.rule for each in ignored if each.rule in {rule.slug for rule in own}})
    seen += [f"ignored: {', '.join(waved)}"] if waved else []
    measured = _MEASURED.get(name)
    if measured is not None:
        seen.append(measured(audited))
    if not seen:
        return Tick(name, LINES[name], None, _UNSEEN.get(name, "no rule looks at it"))
    return Tick(name, LINES[name], True, "; ".join(seen))


def _what_broke(findings: Sequence[Finding]) -> str:
    places = [each.rule + (f" at {each.where.short}" if each.where else "") for each in findings]
    return "; ".join(dict.fromkeys(places))


def _cost(audited: Audited) -> str:
    figures = audited.figures
    return (
        f"{counted(figures.equations, 'equation')}: traced in {figures.trace_seconds:.2f} s, "
        f"lowered in {figures.lower_seconds:.2f} s, compiled in {figures.compile_seconds:.2f} s"
    )


_MEASURED: dict[str, Callable[[Audited], str]] = {"cost": _cost}

_UNSEEN = {
    "recompilation": "nothing that comes in goes out updated, to come in again",
    "checkpoints": "not seen from a step: `treadle.fit(..., run=...)`, or a `Checkpointer`",
}
