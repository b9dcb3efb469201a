"""`Finding`: one rule that a program breaks, at one line."""

import dataclasses
from typing import Any

from ._source import Place

SEVERITIES = ("error", "warning", "info")


@dataclasses.dataclass(frozen=True)
class Finding:
    """One rule that a program breaks, at one line.

    Attributes:
        rule: The rule's name, `"key-reuse"`.
        severity: `"error"`, `"warning"` or `"info"`.
        message: What is wrong, in a sentence or two.
        where: The user's own line, `"/home/me/model.py:31"`, a string with `file`, `line` and
            `function` as attributes; `None` where no single line is to blame.
        fix: What to do, in a line or two.
    """

    rule: str
    severity: str
    message: str
    where: Place | None
    fix: str

    @property
    def link(self) -> str:
        """The rule's page, from the root of the documentation."""
        return f"rules/{self.rule}/"

    def to_json(self) -> dict[str, Any]:
        """The same as JSON has it."""
        where = None
        if self.where is not None:
            where = {
                "file": self.where.file,
                "line": self.where.line,
                "function": self.where.function,
            }
        return {
            "rule": self.rule,
            "severity": self.severity,
            "message": self.message,
            "where": where,
            "fix": self.fix,
            "link": self.link,
        }
