"""What is said of an error, and how it reads below it."""

import re
import textwrap
from typing import NamedTuple

PAGE = "guides/common-errors/"
"""The page of explained errors, from the root of the documentation."""

_WIDTH = 96
_CODE = re.compile(r"`[^`]+`")
_HELD = "\0"


class Explanation(NamedTuple):
    """What is said of an error.

    Attributes:
        cause: What went wrong, in a sentence.
        fix: What to write instead, with code.
        anchor: The section of `PAGE` that has it.
        links: Other pages, from the root of the documentation.
    """

    cause: str
    fix: str
    anchor: str
    links: tuple[str, ...] = ()


def note_text(where: str, explanation: Explanation) -> str:
    """The note as it stands below an error.

    Args:
        where: The user's line, or nothing.
        explanation: What is said of the error.
    """
    links = ", ".join((f"{PAGE}#{explanation.anchor}", *explanation.links))
    lines = [f"treadle: {where}".rstrip(), *_wrapped(explanation.cause)]
    lines += [*_wrapped(explanation.fix, "Fix: "), f"  See: {links}"]
    return "\n".join(lines)


def is_note(text: str) -> bool:
    """Whether a note is one of ours."""
    return text.startswith("treadle:") and f"\n  See: {PAGE}#" in text


def _wrapped(text: str, label: str = "") -> list[str]:
    """A text, indented; lines of its own that begin with spaces stay as they are."""
    lines: list[str] = []
    for number, paragraph in enumerate(text.split("\n")):
        if paragraph.startswith(" "):
            lines.append(f"  {paragraph}")
            continue
        start = label if number == 0 else " " * len(label)
        lines += textwrap.wrap(
            _CODE.sub(_unbroken, start + paragraph),
            width=_WIDTH,
            initial_indent="  ",
            subsequent_indent="  " + " " * len(label),
            break_long_words=False,
            break_on_hyphens=False,
        )
    return [line.replace(_HELD, " ") for line in lines]


def _unbroken(code: re.Match[str]) -> str:
    """Code that stays on one line, where it fits on one."""
    return code[0].replace(" ", _HELD) if len(code[0]) <= _WIDTH - 10 else code[0]
