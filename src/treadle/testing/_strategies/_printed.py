"""Drawn values print as code in hypothesis's reports."""

from typing import Any, TypeVar

import hypothesis.strategies as st
from hypothesis.control import current_build_context
from hypothesis.vendor.pretty import IDKey, RepresentationPrinter

from ._code import document
from ._draw import Draw
from ._layout import Doc, laid_out

_T = TypeVar("_T")

# What prints as itself, and exists once: hypothesis would take a value of the user's for ours.
_ITSELF = (bool, int, float, complex, str, bytes, type(None))


def _print(doc: Doc, printer: RepresentationPrinter) -> None:
    # Room for the name of the argument before it, and the comma after.
    for number, line in enumerate(laid_out(doc, indent=0, taken=24).split("\n")):
        if number:
            printer.break_()
        printer.text(line)


def remember(value: _T, doc: Doc | None = None) -> _T:
    """The value itself, which will print as an expression in the report of the running test.

    Args:
        value: What a strategy drew.
        doc: The expression, where it is not that of `code`.
    """
    if not isinstance(value, _ITSELF):

        def show(obj: Any, printer: RepresentationPrinter, cycle: bool) -> None:
            del cycle
            _print(document(obj) if doc is None else doc, printer)

        # Hypothesis has no public way: what it calls for its own strategies, with calls to show.
        current_build_context().known_object_printers[IDKey(value)].append(show)
    return value


@st.composite
def printed(draw: Draw, strategy: st.SearchStrategy[_T]) -> _T:
    """The same strategy; what it draws prints as code."""
    return remember(draw(strategy))
