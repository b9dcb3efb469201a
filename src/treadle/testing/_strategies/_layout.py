"""Expressions laid out over lines: on one where it fits, else an argument a line."""

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias, Union

WIDTH = 88
_INDENT = 4

Doc: TypeAlias = Union[str, "Group"]
"""A piece of code: words that stay together, or brackets with pieces inside."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Pieces in brackets, with commas between them.

    Attributes:
        opening: What stands before, the bracket included: `"jnp.zeros("`.
        items: `(before, piece)`, where `before` is such as `"bias="`.
        closing: The other bracket, and what follows.
    """

    opening: str
    items: tuple[tuple[str, Doc], ...]
    closing: str


def call(name: str, *args: Doc, **kwargs: Doc) -> Group:
    """`name(args, kwargs)`."""
    items = [("", arg) for arg in args] + [(f"{key}=", value) for key, value in kwargs.items()]
    return Group(f"{name}(", tuple(items), ")")


def quoted(text: str) -> str:
    """A string in double quotes, where it has none inside."""
    single = repr(text)
    if single.startswith('"') or '"' in text:
        return single
    return f'"{single[1:-1]}"'


def named(name: str, doc: Doc) -> Doc:
    """The expression, bound to a name where it stands."""
    if isinstance(doc, str):
        return f"({name} := {doc})"
    return Group(f"({name} := {doc.opening}", doc.items, f"{doc.closing})")


def followed(doc: Doc, after: str) -> Doc:
    """The expression with something right behind it, such as an index."""
    if isinstance(doc, str):
        return doc + after
    return Group(doc.opening, doc.items, doc.closing + after)


def sequence(opening: str, items: Sequence[Doc], closing: str) -> Group:
    """`[items]`, or with other brackets."""
    return Group(opening, tuple(("", item) for item in items), closing)


def flat(doc: Doc) -> str:
    """On one line."""
    if isinstance(doc, str):
        return doc
    inside = ", ".join(before + flat(item) for before, item in doc.items)
    comma = "," if doc.opening == "(" and len(doc.items) == 1 else ""
    return f"{doc.opening}{inside}{comma}{doc.closing}"


def laid_out(doc: Doc, width: int = WIDTH, indent: int = 0, taken: int = 0) -> str:
    """Over as many lines as it takes.

    Args:
        doc: The expression.
        width: Of a line.
        indent: Of the line that it starts on.
        taken: What else that line holds: before it, and after it.
    """
    line = flat(doc)
    if isinstance(doc, str) or not doc.items or indent + taken + len(line) <= width:
        return line
    inner = indent + _INDENT
    lines = [
        " " * inner + before + laid_out(item, width, inner, len(before) + 1) + ","
        for before, item in doc.items
    ]
    return "\n".join([doc.opening, *lines, " " * indent + doc.closing])
