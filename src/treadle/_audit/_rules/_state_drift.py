"""`state-drift`: the state that comes out is not like the one that came in."""

from collections.abc import Iterator
from typing import Any

import jax

from .._audited import Audited
from .._finding import Finding
from .._leaf import Leaf, Static
from .._owners import Owners
from .._private import is_committed
from .._program import Program
from .._states import State
from ._base import Rule

_MOST = 4
"""Differences that a message names."""


class StateDrift(Rule):
    """What comes out differs from what came in, so that the second step is compiled anew."""

    slug = "state-drift"
    line = "recompilation"

    def check(self, audited: Audited) -> Iterator[Finding]:
        """One finding for each state, with all its differences."""
        for state in audited.states:
            found = list(_differences(audited.program, state))
            if found:
                more = f"; and {len(found) - _MOST} more" if len(found) > _MOST else ""
                message = (
                    f"`{state.name}` comes back changed, and the second step compiles again: "
                    f"{'; '.join(found[:_MOST])}{more}"
                )
                once = _is_placed(audited.program, state, len(found))
                once = once or _is_made_so(audited.program, state, len(found))
                severity = "info" if once else "warning"
                yield Finding(self.slug, severity, message, audited.program.place, _FIX)

    def evidence(self, audited: Audited) -> str | None:
        """That what comes out is like what came in."""
        if not audited.states:
            return None
        names = ", ".join(f"`{state.name}`" for state in audited.states)
        comes, it = ("comes", "it") if len(audited.states) == 1 else ("come", "they")
        return f"{names} {comes} back in the structure, shapes, dtypes and shardings {it} came in"


_FIX = (
    "Give the state back as it came: `.astype(old.dtype)`, `jnp.asarray(value, jnp.float32)` for "
    "numbers that start out as Python's, the same containers."
)


def _differences(program: Program, state: State) -> Iterator[str]:
    before, after = _leaves(state.given), _leaves(state.new)
    yield from (f"{path or 'it'} is gone" for path in before if path not in after)
    yield from (f"{path or 'it'} is new" for path in after if path not in before)
    for path in before:
        if path in after:
            told = _difference(program, before[path], after[path])
            if told:
                yield f"{_called(state, before[path], path)}: {told}"
    # What `nnx.jit` hands back says of each module which one it was.
    if before.keys() == after.keys() and program.kind != "nnx_jit":
        was, now = jax.tree.structure(state.given), jax.tree.structure(state.new)
        if was != now:
            kinds = type(state.given).__name__, type(state.new).__name__
            yield (
                f"a {kinds[0]} came in and a {kinds[1]} goes out"
                if kinds[0] != kinds[1]
                else "its containers or static fields differ"
            )


def _leaves(tree: Any) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _called(state: State, leaf: Any, path: str) -> str:
    return leaf.path if isinstance(leaf, Leaf) and leaf.path else f"{state.name}{path}"


def _difference(program: Program, old: Any, new: Any) -> str | None:
    if isinstance(old, Static) and isinstance(new, Static):
        if _equal(old.value, new.value) or _would_be_traced(program, old.value):
            return None
        return f"{old.value!r} becomes {new.value!r}"
    if isinstance(old, Static) or isinstance(new, Static):
        return f"{_told(old)} becomes {_told(new)}"
    if (old.aval.shape, old.aval.dtype) != (new.aval.shape, new.aval.dtype):
        return f"{_told(old)} becomes {_told(new)}"
    if bool(old.aval.weak_type) != bool(new.aval.weak_type):
        return f"{_strength(old)} {_told(old)} becomes {_strength(new)}"
    return _moved(program, old, new)


def _would_be_traced(program: Program, value: Any) -> bool:
    """Whether a number is static only because the function is not compiled yet."""
    return not program.is_compiled and isinstance(value, (bool, int, float, complex))


def _equal(old: Any, new: Any) -> bool:
    if old is new:
        return True
    try:
        return type(old) is type(new) and bool(old == new)
    except (TypeError, ValueError):  # What cannot be compared is looked at by nobody.
        return True


def _told(leaf: Any) -> str:
    if isinstance(leaf, Static):
        return f"{leaf.value!r} (static)"
    return f"{leaf.aval.dtype}{list(leaf.aval.shape)}"


def _strength(leaf: Leaf) -> str:
    return "weakly typed" if leaf.aval.weak_type else "strongly typed"


def _moved(program: Program, old: Leaf, new: Leaf) -> str | None:
    """Whether an array comes out on other devices, or cut otherwise."""
    if not isinstance(old.value, jax.Array):
        return None
    places = program.output_shardings
    if new.index >= len(places):
        return None
    was, now = old.value.sharding, places[new.index]
    if was.is_equivalent_to(now, len(old.aval.shape)):
        return None
    return f"it was {_where(was)} and comes out {_where(now)}"


def _is_placed(program: Program, state: State, differences: int) -> bool:
    """Whether the program only chose devices for arrays for which nobody had.

    So it is in the first step of `jax.pmap` and of data parallelism: one more compilation, once.
    """
    chosen = [
        new
        for old, new in state.pairs
        if isinstance(old, Leaf)
        and isinstance(old.value, jax.Array)
        and not is_committed(old.value)
        and _difference(program, old, new) is not None
        and _difference(program, old, new) == _moved(program, old, new)
    ]
    if len(chosen) < differences:
        return False
    places = program.output_shardings
    return program.kind == "plain" or all(places[each.index].is_fully_replicated for each in chosen)


def _is_made_so(program: Program, state: State, differences: int) -> bool:
    """Whether only numbers differ that a library makes weakly typed, in a layer or an optimizer.

    So do `eqx.nn.PReLU(0.2)` and `optax.lbfgs().init`: one more compilation, once, and nothing that
    the user wrote.
    """
    owners = Owners(program.inputs)
    made = [
        old
        for old, new in state.pairs
        if isinstance(old, Leaf)
        and isinstance(new, Leaf)
        and (old.aval.shape, old.aval.dtype) == (new.aval.shape, new.aval.dtype)
        and old.aval.weak_type
        and not new.aval.weak_type
        and (owners.is_of_library(old) or owners.is_of_optimizer(old))
    ]
    return len(made) == differences


def _where(sharding: Any) -> str:
    spec = getattr(sharding, "spec", None)
    count = len(sharding.device_set)
    devices = "one device" if count == 1 else f"{count} devices"
    return f"on {devices}" if spec is None else f"on {devices} as {spec}"
