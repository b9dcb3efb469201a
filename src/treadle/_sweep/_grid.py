"""The settings of a sweep, and who takes which of their names."""

import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from .._errors import ArgumentTypeError, ArgumentValueError

Setting = dict[str, Any]


def settings_of(grid: Any) -> list[Setting]:
    """Every setting: the product of the values of a mapping; or a list of settings as it is.

    Raises:
        ArgumentTypeError: It is neither.
        ArgumentValueError: It is empty, or its settings differ in their names.
    """
    if isinstance(grid, Mapping):
        for name, values in grid.items():
            if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
                raise ArgumentTypeError(
                    f"`grid[{name!r}]` (={values!r}) must be a list of values to try, such as "
                    f"[{values!r}]."
                )
        columns = {name: [_plain(value) for value in values] for name, values in grid.items()}
        found = [
            dict(zip(columns, chosen, strict=True))
            for chosen in itertools.product(*columns.values())
        ]
        if not columns or not found:
            raise ArgumentValueError(f"`grid` (={grid!r}) is empty: there is nothing to try.")
        return found
    if not isinstance(grid, Sequence) or not all(isinstance(point, Mapping) for point in grid):
        raise ArgumentTypeError(
            f"`grid` (={grid!r}) must be a dictionary of names to lists of values, whose product "
            f"is tried, or a list of dictionaries, each of which is tried."
        )
    if not grid or not grid[0]:
        raise ArgumentValueError(f"`grid` (={grid!r}) is empty: there is nothing to try.")
    for index, point in enumerate(grid):
        if set(point) != set(grid[0]):
            raise ArgumentValueError(
                f"`grid[{index}]` has the names {sorted(point)}, and `grid[0]` {sorted(grid[0])}: "
                f"every setting must have the same."
            )
    return [{name: _plain(point[name]) for name in grid[0]} for point in grid]


def _plain(value: Any) -> Any:
    """NumPy's and JAX's numbers as Python's, which print and compare simply."""
    scalar = isinstance(value, (np.ndarray, np.generic, jax.Array)) and np.ndim(value) == 0
    return value.item() if scalar else value


def names_of(function: Callable[..., Any], names: Iterable[str]) -> set[str]:
    """Which of the names a function takes as keyword arguments."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return set(names)
    places = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return {name for name in names if name in parameters and parameters[name].kind in places}


def require_known(
    names: Iterable[str], make_step: Callable[..., Any], make_model: Callable[..., Any]
) -> None:
    """Refuses names of the grid that nothing takes.

    Raises:
        ArgumentValueError: With what they take.
    """
    names = list(names)
    taken = names_of(make_step, names) | names_of(make_model, names)
    for name in names:
        if name not in taken:
            raise ArgumentValueError(
                f"`grid` has {name!r}, but neither `make_step{inspect.signature(make_step)}` nor "
                f"`make_model{inspect.signature(make_model)}` takes it."
            )
