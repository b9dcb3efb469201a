"""`side-effect`: the program calls back into Python."""

from collections.abc import Iterator
from typing import Any

from ..._jaxpr import inner_jaxprs
from .._audited import Audited
from .._finding import Finding
from .._source import Place, path_frames, user_place
from ._base import Rule

_CALLS = {
    "debug_callback": "`jax.debug.callback`",
    "debug_print": "`jax.debug.print`",
    "io_callback": "`io_callback`",
    "pure_callback": "`pure_callback`",
}

_OWN = ("jax", "python", "numpy")


class SideEffect(Rule):
    """Each call of the program runs Python on the host: a print, a callback."""

    slug = "side-effect"
    line = "pure"

    def check(self, audited: Audited) -> Iterator[Finding]:
        """One finding for each line that calls back."""
        told: dict[Place, str] = {}
        for path in _calls(audited.program.jaxpr.jaxpr, []):
            place = _users(path)
            if place is not None:
                told.setdefault(place, _CALLS[path[-1].primitive.name])
        for place, name in told.items():
            message = (
                f"{name} inside of the program: in each call the device hands arrays to Python on "
                f"the host and waits its turn there, and the program is not stored in the "
                f"compilation cache"
            )
            yield Finding(self.slug, "warning", message, place, _FIX)

    def evidence(self, audited: Audited) -> str:
        """That there are none."""
        return "no callbacks"


_FIX = (
    "Return the number with the metrics and print it outside; while debugging, say so on the line: "
    "`# treadle: ignore[side-effect]`."
)


def _calls(jaxpr: Any, path: list[Any]) -> Iterator[list[Any]]:
    for equation in jaxpr.eqns:
        here = [*path, equation]
        if equation.primitive.name in _CALLS:
            yield here
        for value in equation.params.values():
            for inner in inner_jaxprs(value):
                yield from _calls(inner, here)


def _users(path: list[Any]) -> Place | None:
    """The user's line; `None` where a library calls back, such as `eqx.error_if`."""
    libraries = [frame.library for frame in path_frames(path)]
    last = next((at for at in reversed(range(len(libraries))) if libraries[at] is None), None)
    if last is None or any(each not in _OWN for each in libraries[last + 1 :]):
        return None
    return user_place(path)
