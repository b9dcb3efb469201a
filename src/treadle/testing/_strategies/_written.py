"""Strategies show as the calls that made them, and not as what those calls set in motion."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import equinox as eqx
import hypothesis.strategies as st

from ._draw import Draw

_T = TypeVar("_T")


class _Arguments:
    """Arguments as they were given, for hypothesis to show."""

    def __init__(self, text: str):
        self._text = text

    def __repr__(self) -> str:
        return self._text


def as_written(
    function: Callable[..., Any], names: Mapping[str, Any], strategy: st.SearchStrategy[_T]
) -> st.SearchStrategy[_T]:
    """The same strategy; in errors and reports it is the call of the function.

    Args:
        function: The public function that made it.
        names: What its arguments are, among other names: its `locals()`.
        strategy: The strategy.
    """
    parameters = inspect.signature(function).parameters.values()
    given = {each.name: names[each.name] for each in parameters}
    told = [
        f"{each.name}={eqx.tree_pformat(given[each.name])}"
        for each in parameters
        if given[each.name] is not each.default
    ]

    def drawn(draw: Draw, *arguments: Any) -> _T:
        del arguments
        return draw(strategy)

    drawn.__name__ = function.__name__
    return st.composite(drawn)(*([_Arguments(", ".join(told))] if told else []))
