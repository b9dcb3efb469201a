"""`side-effect`: the program calls back into Python."""

import os
from collections.abc import Iterator
from typing import Any

from .._audited import Audited
from .._callbacks import CALLS, callbacks_of
from .._finding import Finding
from .._private import is_backward
from .._source import Place, path_frames, user_place
from ._base import Rule

_OWN = ("jax", "python", "numpy")

_FOR_DEBUGGING = os.path.join("equinox", "debug") + os.sep


class SideEffect(Rule):
    """Each call of the program runs Python on the host: a print, a callback."""

    slug = "side-effect"
    line = "pure"

    def check(self, audited: Audited) -> Iterator[Finding]:
        """One finding for each line that calls back."""
        told: dict[Place, str] = {}
        misplaced: dict[Place, str] = {}
        for path in callbacks_of(audited.program.jaxpr.jaxpr):
            place, name = _users(path), CALLS[path[-1].primitive.name]
            if place is None:
                continue
            if any(is_backward(each) for each in path):
                misplaced.setdefault(place, name)
            else:
                told.setdefault(place, name)
        if misplaced:
            # The lines that ask for a callback; none is the user's where a library asks backward.
            name = next(iter(misplaced.values()))
            for place in audited.program.callbacks or misplaced:
                told.setdefault(place, name)
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


def _users(path: list[Any]) -> Place | None:
    """The user's line; `None` where a library calls back, such as `eqx.error_if`."""
    found = path_frames(path)
    last = next((at for at in reversed(range(len(found))) if found[at].library is None), None)
    if last is None:
        return None
    own = [frame for frame in found[last + 1 :] if frame.library not in _OWN]
    if own and _FOR_DEBUGGING not in own[0].code.co_filename:
        return None
    return user_place(path)
