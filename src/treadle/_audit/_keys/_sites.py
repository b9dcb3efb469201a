"""Where in the user's code a key is consumed twice."""

import functools
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..._jaxpr import ancestors
from .._captures import takes_a_key
from .._private import raw_frames
from .._source import Frame, Place, beyond, frames, in_python_loop, path_frames
from ._lineage import Loop, Path, Reuse, Use, equations_of

_WRAPPERS = (
    "pjit.py",
    "traceback_util.py",
    "core.py",
    "partial_eval.py",
    "source_info_util.py",
    "api_util.py",
    "linear_util.py",
    "batching.py",
    "ad.py",
    "api.py",
    "loops.py",
    "conditionals.py",
    "ad_checkpoint.py",
    "_module.py",
    "_better_abstract.py",
    "_vmap_pmap.py",
    "_ad.py",
    "_jit.py",
    "_decorator.py",
)
"""Files whose calls say nothing to the user."""


class Sites(NamedTuple):
    """Where a key is consumed, and where again.

    Attributes:
        first: The line.
        first_label: What happens there: `"dropout"`.
        second: The line where it is consumed again.
        second_label: What happens there.
        repeated: Whether it is one line that runs several times.
    """

    first: Place
    first_label: str
    second: Place
    second_label: str
    repeated: bool


def _all_frames(path: Sequence[Any]) -> list[Frame]:
    return path_frames(stop.equation for stop in path)


def sites_of(reuse: Reuse) -> Sites | None:
    """The two places; `None` where the reuse is no fault of the user's.

    That is where nothing is drawn from one of the two, where a library consumes a key in two places
    of its own, where an optimizer evaluates the loss again, and in branches of which only one
    counts.
    """
    first, second = reuse.first, reuse.second
    if not first.live or (second is not None and not second.live):
        return None
    of_first = _all_frames(first.path)
    if second is None:
        place = _last_user(of_first)
        if place is None:
            return None
        return _both(of_first, place, of_first, place, first, first, repeated=True)
    if reuse.loop is not None:
        return _moved(reuse, reuse.loop)
    if _are_exclusive(first.path, second.path):
        return None
    if _equations(first.path) == _equations(second.path):
        return _turns(first, second)
    of_second = _all_frames(second.path)
    at = _divergence(of_first, of_second)
    if at == len(of_first) == len(of_second) and len(first.recomputed) > 1:
        # The derivative of `jax.checkpoint` has lost the calls, but what it computes again has not.
        of_first, of_second = (_all_frames(first.recomputed[turn]) for turn in (-1, 0))
        at = _divergence(of_first, of_second)
    if at == len(of_first) == len(of_second):
        return _python_loop(of_first, of_second, first, second)
    if _through_optimizer(of_second[at:]):
        return None
    mine, other = _visible(of_first, at), _visible(of_second, at)
    if other is None or mine is None:
        return _in_library(of_first, of_second, at, first, second)
    return _both(of_first, mine, of_second, other, first, second)


def _equations(path: Path) -> list[int]:
    return [id(stop.equation) for stop in path]


def _divergence(one: list[Frame], other: list[Frame]) -> int:
    at = 0
    for a, b in zip(one, other, strict=False):
        if a.code is not b.code or (a.line, a.column) != (b.line, b.column):
            break
        at += 1
    return at


def _first_user(found: list[Frame], start: int) -> int | None:
    return next((at for at in range(start, len(found)) if found[at].library is None), None)


def _visible(found: list[Frame], start: int) -> int | None:
    """From where two ways part, the line at which the key is written in the user's code.

    That is the call that takes it, or inside of a local function which captures it.
    """
    at = _first_user(found, start)
    while at is not None:
        inner = _first_user(found, at + 1)
        if inner is None or not _captures(found[inner].code, found[at].code):
            return at
        at = inner
    return None


def _captures(inner: Any, outer: Any) -> bool:
    """Whether a function is local to another, and takes no key."""
    if not inner.co_qualname.startswith(f"{outer.co_qualname}.<locals>."):
        return False
    return not takes_a_key(inner)


def _last_user(found: list[Frame]) -> int | None:
    return next((at for at in reversed(range(len(found))) if found[at].library is None), None)


def _through_optimizer(found: list[Frame]) -> bool:
    """Whether an optimizer calls back: a line search wants the same loss, draws and all."""
    start = next((at for at, frame in enumerate(found) if frame.library == "optax"), None)
    return start is not None and any(frame.library is None for frame in found[start:])


def _turns(first: Use, second: Use) -> Sites | None:
    """One equation in two turns of a loop."""
    at = next(
        i for i, (a, b) in enumerate(zip(first.path, second.path, strict=True)) if a.turn != b.turn
    )
    return _in_loop(equations_of(first.path), at, first, second)


def _moved(reuse: Reuse, loop: Loop) -> Sites | None:
    """One equation that each turn of a loop has in common, so that it stands before the loop."""
    equations = equations_of(reuse.first.path)
    inside = [*equations[: loop.depth], loop.equation, *equations[loop.depth :]]
    return _in_loop(inside, loop.depth + 1, reuse.first, reuse.first)


def _in_loop(equations: list[Any], at: int, first: Use, second: Use) -> Sites | None:
    """An equation that runs in each turn of a loop.

    Args:
        equations: The way to it.
        at: How many of them are the loop, and what encloses it.
        first: It in one turn.
        second: It in another.
    """
    around = path_frames(equations[:at])
    if _last_user(frames(equations[at - 1])) is None and _belongs_to_library(around):
        return None
    if any(frame.library == "optax" for frame in frames(equations[at - 1])):
        return None
    whole = path_frames(equations)
    place = _first_user(whole, len(around))
    if place is None:
        place = _last_user(around)
    if place is None:
        return None
    return _both(whole, place, whole, place, first, second, repeated=True)


def _belongs_to_library(found: list[Frame]) -> bool:
    """Whether the innermost call is a library's own."""
    return bool(found) and found[-1].library is not None


def _python_loop(
    of_first: list[Frame], of_second: list[Frame], first: Use, second: Use
) -> Sites | None:
    """Two equations of one line: a loop in Python, nearest to where the key is consumed."""
    users = [at for at, frame in enumerate(of_first) if frame.library is None]
    if not users:
        return None
    looping = [at for at in reversed(users) if in_python_loop(of_first[at])]
    place = looping[0] if looping else users[-1]
    return _both(of_first, place, of_second, place, first, second, repeated=True)


def _in_library(
    of_first: list[Frame], of_second: list[Frame], at: int, first: Use, second: Use
) -> Sites | None:
    """Two calls into libraries from one line; if it is one call, it is the library's business."""
    ends = at >= len(of_first) or at >= len(of_second)
    place = _last_user(of_second[:at])
    if ends or place is None or of_first[at].code is of_second[at].code:
        return None
    if place != at - 1 or not in_python_loop(of_second[place]):
        return None
    return _both(of_first, place, of_second, place, first, second, repeated=True)


def _both(
    of_first: list[Frame],
    mine: int,
    of_second: list[Frame],
    other: int,
    first: Use,
    second: Use,
    *,
    repeated: bool = False,
) -> Sites:
    labels = _label(of_first, mine, first), _label(of_second, other, second)
    return Sites(of_first[mine].place, labels[0], of_second[other].place, labels[1], repeated)


def _label(found: list[Frame], at: int, use: Use) -> str:
    """What is called at a line: `dropout` of `Dropout.__call__`, `normal`."""
    for frame in found[at + 1 :]:
        if os.path.basename(frame.code.co_filename) in _WRAPPERS or frame.library == "python":
            continue
        name = _name(frame.code.co_qualname)
        if name:
            return name
    return use_label(use)


def use_label(use: Use) -> str:
    """What consumes a key, by the innermost function of `jax.random`."""
    if use.kind != "draw":
        return {"split": "split", "fold": "fold_in"}[use.kind]
    start, before = 0, list[Frame]()
    for at, stop in enumerate(use.path):
        own = frames(stop.equation)
        if any(frame.library is None for frame in beyond(own, before)):
            start = at
        before = own
    for stop in use.path[start:]:
        name = stop.equation.params.get("name")
        if isinstance(name, str) and name.startswith("_"):
            return name.lstrip("_")
    return "draw"


def _name(qualname: str) -> str:
    parts = qualname.replace(".<locals>", "").split(".")
    if parts[-1] in ("__call__", "__init__") and len(parts) > 1:
        return parts[-2].lower()
    if parts[-1].startswith(("<", "_")):
        return ""
    return {"random_split": "split", "random_fold_in": "fold_in", "random_bits": ""}.get(
        parts[-1], parts[-1]
    )


# -- branches under vmap --------------------------------------------------------------------------


def _are_exclusive(one: Path, other: Path) -> bool:
    """Whether two equations lie in two branches of a `cond` that became a selection under `vmap`.

    Both then run for every example, and each example takes what came of one of them.
    """
    for a, b in zip(one, other, strict=False):
        if a.jaxpr is not b.jaxpr or a.turn != b.turn:
            return False
        if a.equation is not b.equation:
            return any(
                _apart(cases, id(a.equation), id(b.equation)) for cases in _selections(a.jaxpr)
            )
    return False


def _apart(cases: list[set[int]], a: int, b: int) -> bool:
    of_a = {at for at, case in enumerate(cases) if a in case}
    of_b = {at for at, case in enumerate(cases) if b in case}
    return bool(of_a) and bool(of_b) and not of_a & of_b


class _Key:
    """A program by identity."""

    def __init__(self, jaxpr: Any):
        self.jaxpr = jaxpr

    def __hash__(self) -> int:
        return id(self.jaxpr)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and other.jaxpr is self.jaxpr


def _selections(jaxpr: Any) -> list[list[set[int]]]:
    return _selections_of(_Key(jaxpr))


@functools.lru_cache(maxsize=32)
def _selections_of(key: _Key) -> list[list[set[int]]]:
    """For each selection between branches, the equations that each case comes of."""
    makers = {var: equation for equation in key.jaxpr.eqns for var in equation.outvars}
    found = []
    groups: dict[Any, list[set[int]]] = {}
    for equation in key.jaxpr.eqns:
        if equation.primitive.name != "select_n":
            continue
        stack = raw_frames(equation)
        if not any(os.path.basename(each.code.co_filename) == "conditionals.py" for each in stack):
            continue
        cases = [ancestors(makers, [atom]) for atom in equation.invars[1:]]
        found.append(cases)
        group = groups.setdefault((*stack, len(cases)), [set() for _ in cases])
        for total, case in zip(group, cases, strict=True):
            total |= case
    return found + list(groups.values())
