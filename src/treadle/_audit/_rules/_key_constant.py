"""`key-constant`: a key is made from a constant, so every step draws the same."""

from collections.abc import Iterator
from typing import Any

from .._audited import Audited
from .._captures import capture, takes_a_key
from .._finding import Finding
from .._keys._lineage import Captured, Constant, equations_of
from .._keys._sites import use_label
from .._source import Place, path_frames, user_place
from ._base import Rule

_OWN = ("jax", "python", "numpy")


class KeyConstant(Rule):
    """A key is made from a number in the code, or is captured, and nothing of the call is in it."""

    slug = "key-constant"
    line = "keys"

    def check(self, audited: Audited) -> Iterator[Finding]:
        """One finding for each line that makes such a key; if it is captured, that uses it."""
        found: dict[Place, list[Constant]] = {}
        for constant in audited.lineage.constants:
            place = _place(constant)
            if place is not None:
                found.setdefault(place, []).append(constant)
        for place, group in found.items():
            yield Finding(self.slug, "warning", _message(group), place, _FIX)

    def evidence(self, audited: Audited) -> str | None:
        """That what is drawn depends on what comes in."""
        return "every draw depends on the arguments" if audited.lineage.draws else None


_FIX = (
    "Hand the key in as an argument, another one for each step: keep one key in the state, and "
    "`jax.random.fold_in(key, step)` the number of the step."
)


def _place(constant: Constant) -> Place | None:
    """Where the key was made, or first used; `None` where that is a library's business."""
    if isinstance(constant.origin, Captured):
        return _captured(equations_of(constant.origin.path))
    if constant.origin is None:
        return _captured(constant.use.equations)
    path = equations_of(constant.origin)
    calls = path_frames(path)
    last = next((at for at in reversed(range(len(calls))) if calls[at].library is None), -1)
    foreign = [frame for frame in calls[last + 1 :] if frame.library not in _OWN]
    if foreign and not any(takes_a_key(frame.code) for frame in foreign):
        return None
    return user_place(path)


def _captured(path: list[Any]) -> Place | None:
    frame = capture(path_frames(path))
    return None if frame is None else frame.place


def _message(group: list[Constant]) -> str:
    draws = ", ".join(dict.fromkeys(use_label(each.use) for each in group))
    places = [user_place(each.use.equations) for each in group]
    uses = ", ".join(dict.fromkeys(place.short for place in places if place is not None))
    how = "made from a constant"
    if group[0].origin is None or isinstance(group[0].origin, Captured):
        how = "captured, a constant of the program"
    return f"this key is {how}: every call draws the same numbers ({draws} at {uses})"
