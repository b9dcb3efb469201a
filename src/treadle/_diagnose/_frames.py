"""Whose code a line is: the user's own, or a library's."""

import functools
import importlib.util
import os
import sysconfig
from typing import Any

_LIBRARIES = (
    "jax",
    "jaxlib",
    "equinox",
    "optax",
    "flax",
    "haiku",
    "treadle",
    "chex",
    "jaxtyping",
    "beartype",
    "typeguard",
    "wadler_lindig",
    "numpy",
    "scipy",
    "ml_dtypes",
    "opt_einsum",
    "lineax",
    "optimistix",
    "diffrax",
    "quax",
    "orbax",
)


class Place(str):
    """`"/home/me/model.py:31"`, with the parts as attributes.

    Attributes:
        file: The path of the file.
        line: The line in it, from 1.
        function: The function it is in.
    """

    __slots__ = ("file", "function", "line")
    file: str
    line: int
    function: str

    def __new__(cls, file: str, line: int, function: str = "") -> "Place":
        place = super().__new__(cls, f"{file}:{line}")
        place.file, place.line, place.function = file, line, function
        return place

    def __reduce__(self) -> Any:
        return Place, (self.file, self.line, self.function)

    @property
    def short(self) -> str:
        """`model.py:31`."""
        return f"{os.path.basename(self.file)}:{self.line}"


@functools.cache
def _folders() -> tuple[tuple[str, str], ...]:
    """Where each library lies."""
    found = []
    for name in _LIBRARIES:
        spec = importlib.util.find_spec(name)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            found.append((os.path.realpath(folder) + os.sep, name))
    return tuple(found)


# What a user types; other names in brackets are of code that a library wrote.
_TYPED = ("<ipython", "<stdin>", "<python-input", "<doctest")


@functools.cache
def library_of(file: str) -> str | None:
    """The library a file belongs to; `None` for the user's own."""
    if file.startswith("<"):
        return None if file.startswith(_TYPED) else "python"
    path = os.path.realpath(file)
    for folder, name in _folders():
        if path.startswith(folder):
            return name
    standard = os.path.realpath(sysconfig.get_path("stdlib")) + os.sep
    if path.startswith(standard) and "site-packages" not in path:
        return "python"
    return None
