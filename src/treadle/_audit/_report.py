"""`Report`: the findings, the figures, and the checklist that they tick."""

import dataclasses
import html
import io
from collections.abc import Iterable
from typing import Any

from .._units import binary, quantity
from ._checklist import Tick
from ._figures import Figures
from ._finding import SEVERITIES, Finding

SCHEMA = 1
"""The version of what `to_json` gives."""

_WIDTH = 100
_MARKS = {True: "[x]", False: "[ ]", None: "[?]"}
_STYLES = {True: "green", False: "red", None: "dim"}


@dataclasses.dataclass(frozen=True)
class Report:
    """What `treadle.audit` found.

    `print(report)` shows it; a notebook shows it as a table.

    Attributes:
        name: The function that was looked at.
        findings: What is wrong, the worst first.
        figures: What the program costs, a `treadle.AuditFigures`.
        checklist: What is asked of a step in production, each line ticked by what was seen.
        ignored: What was found and told to be ignored, by `ignore=` or by a comment.
    """

    name: str
    findings: tuple[Finding, ...]
    figures: Figures
    checklist: tuple[Tick, ...]
    ignored: tuple[Finding, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there is no error and no warning."""
        return not self.errors and not self.warnings

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that are errors."""
        return self._of("error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that are warnings."""
        return self._of("warning")

    def _of(self, severity: str) -> tuple[Finding, ...]:
        return tuple(each for each in self.findings if each.severity == severity)

    def to_json(self) -> dict[str, Any]:
        """The report as `json.dumps` takes it; the page of `treadle.audit` has the schema."""
        figures = dataclasses.asdict(self.figures)
        figures["arithmetic_intensity"] = self.figures.arithmetic_intensity
        return {
            "schema": SCHEMA,
            "name": self.name,
            "ok": self.ok,
            "findings": [finding.to_json() for finding in self.findings],
            "ignored": [finding.to_json() for finding in self.ignored],
            "figures": figures,
            "checklist": [tick._asdict() for tick in self.checklist],
        }

    def __str__(self) -> str:
        from rich.console import Console

        console = Console(
            file=io.StringIO(), width=_WIDTH, color_system=None, highlight=False, markup=False
        )
        console.print(self)
        text: str = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
        return "\n".join(line.rstrip() for line in text.rstrip().splitlines())

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.text import Text

        parts: list[Any] = [Text(f"Audit of {self.name}: {self._verdict()}", style="bold")]
        if self.findings:
            parts.append(_findings_table(self.findings))
        parts += [_figures_table(self.figures), _checklist_table(self.checklist)]
        return Group(*[each for part in parts for each in (part, "")][:-1])

    def _repr_html_(self) -> str:
        rows = [
            f"<tr><td>{html.escape(each.severity)}</td><td>{html.escape(each.rule)}</td>"
            f"<td>{html.escape(_short(each))}</td><td>{html.escape(each.message)}<br>"
            f"<em>{html.escape(each.fix)}</em></td></tr>"
            for each in self.findings
        ]
        figures = [
            f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>"
            for name, value in _figures(self.figures)
        ]
        ticks = [
            f"<tr><td>{_MARKS[tick.ticked]}</td><td>{html.escape(tick.text)}</td>"
            f"<td>{html.escape(tick.evidence)}</td></tr>"
            for tick in self.checklist
        ]
        title = html.escape(f"Audit of {self.name}: {self._verdict()}")
        return "".join(
            [f"<strong>{title}</strong>", *(_html_table(each) for each in (rows, figures, ticks))]
        )

    def _verdict(self) -> str:
        counts = [f"{len(self._of(each))} {_plural(each, len(self._of(each)))}" for each in _BAD]
        return "ok" if self.ok else " and ".join(counts)


_BAD = SEVERITIES[:2]


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _html_table(rows: Iterable[str]) -> str:
    text = "".join(rows)
    return f"<table>{text}</table>" if text else ""


def _short(finding: Finding) -> str:
    return "" if finding.where is None else finding.where.short


def _findings_table(findings: Iterable[Finding]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("", "rule", "where"):
        table.add_column(name, no_wrap=True)
    table.add_column("", overflow="fold")
    styles = {"error": "red", "warning": "yellow", "info": "dim"}
    for each in findings:
        style = styles[each.severity]
        says = Text.assemble(f"{each.message}\n{each.fix}\n", (each.link, "dim"))
        # As `Text`: brackets would be read as rich's markup.
        table.add_row(Text(each.severity, style=style), each.rule, Text(_short(each)), says)
    return table


def _figures(figures: Figures) -> list[tuple[str, str]]:
    def shown(value: Any, text: Any) -> str:
        return "not reported" if value is None else text(value)

    def flop(value: Any) -> str:
        return quantity(value, "flop")

    intensity = figures.arithmetic_intensity
    return [
        ("equations", f"{figures.equations:,}"),
        ("model flops", flop(figures.model_flops)),
        ("flops, by XLA", shown(figures.flops, flop)),
        ("bytes accessed", shown(figures.bytes_accessed, binary)),
        ("flops per byte", shown(intensity, lambda value: f"{value:.3g}")),
        ("peak memory", shown(figures.peak_bytes, binary)),
        ("  state", binary(figures.state_bytes)),
        ("  batch", binary(figures.batch_bytes)),
        ("  outputs", shown(figures.output_bytes, binary)),
        ("  temporaries", shown(figures.temporary_bytes, binary)),
        ("constants", binary(figures.constant_bytes)),
        ("donated", binary(figures.donated_bytes)),
        ("aliased", shown(figures.aliased_bytes, binary)),
        ("traced in", f"{figures.trace_seconds:.2f} s"),
        ("lowered in", f"{figures.lower_seconds:.2f} s"),
        ("compiled in", f"{figures.compile_seconds:.2f} s"),
    ]


def _figures_table(figures: Figures) -> Any:
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    for row in _figures(figures):
        table.add_row(*row)
    return table


def _checklist_table(checklist: Iterable[Tick]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for tick in checklist:
        mark = Text(_MARKS[tick.ticked], style=_STYLES[tick.ticked])
        table.add_row(mark, Text(tick.text), Text(tick.evidence))
    return table
