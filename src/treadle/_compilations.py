"""Every program that a step compiles, and why: a recompilation is never silent."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import jax

from ._batch import num_examples
from ._compiled import Compilation
from ._diagnose import Snapshot, cause, signature
from ._state import Bundle

_log = logging.getLogger("treadle")

_AHEAD = "ahead of time, by `step.compile`"


class CompilationLog:
    """What one step has compiled so far, in `entries`.

    Args:
        axis: Which axis of a batch counts its examples.
        quiet: Whether to compile again is as it should be.
    """

    def __init__(self, axis: int = 0, *, quiet: bool = False) -> None:
        self.entries: list[Compilation] = []
        # Of each entry, once it is complete.
        self._snapshots: list[Snapshot | None] = []
        self._axis = axis
        self._quiet = quiet

    def record(self, program: str, **arguments: Any) -> None:
        """Notes that a program is being traced: JAX runs the Python only then."""
        if not _runs_uncompiled():
            self._add(program, arguments)

    def complete(
        self, name: str, known: int, seconds: float, *, ahead: bool = False, **arguments: Any
    ) -> None:
        """Completes what was recorded while tracing; or records what traced nothing.

        Args:
            name: `"step"`, `"scan"` or `"evaluation"`.
            known: How many entries there were before the call.
            seconds: What the call took.
            ahead: Whether it was compiled, and not called.
            arguments: What it was called with, by name; it may be donated by now.
        """
        if _runs_uncompiled():
            return  # What was compiled are single operations.
        program = name if name != "scan" else f"scan of {num_examples(arguments['batch'])}"
        snapshot = Snapshot.of(**_opened(arguments))
        earlier = [
            (entry, seen)
            for entry, seen in zip(self.entries[:known], self._snapshots, strict=False)
            if entry.program == program and seen is not None
        ]
        if len(self.entries) == known:
            if not ahead and any(
                not (entry.ahead or seen.distance(snapshot)) for entry, seen in earlier
            ):
                return  # Another thread of the process compiled something meanwhile.
            self._add(program, arguments)
        why, planned = self._cause(program, snapshot, earlier, ahead)
        newest = dataclasses.replace(
            self.entries[-1],
            cause=why,
            seconds=seconds,
            ahead=ahead,
            planned=planned or self._quiet,
        )
        self.entries[-1], self._snapshots[-1] = newest, snapshot
        _log.log(
            logging.INFO if newest.planned else logging.WARNING,
            "treadle compiled %s in %.2f s: %s",
            newest.program,
            seconds,
            newest.cause,
        )

    def _cause(
        self,
        program: str,
        new: Snapshot,
        earlier: list[tuple[Compilation, Snapshot]],
        ahead: bool,
    ) -> tuple[str, bool]:
        """Why it was compiled, and whether that is as it should be."""
        if ahead:
            return _AHEAD, True
        if not earlier:
            steps = " steps" if program.startswith("scan") else ""
            return f"the first call: {program}{steps}", True
        made, nearest = min(earlier, key=lambda pair: new.distance(pair[1]))
        distance = new.distance(nearest)
        if made.ahead and not distance:
            # Newer JAX calls what was compiled ahead; older compiles anew.
            return "the first call, which does not find what `step.compile` made: call that", True
        why = cause(nearest, new, self._axis + program.startswith("scan"))
        # Once, and meant so: the program in which members may stand still is a slower one.
        stops = new.leaves.keys() - nearest.leaves.keys() == {"state/active"} and distance <= 2
        return why, stops or _is_other_model(nearest, new)

    def _add(self, program: str, arguments: Mapping[str, Any]) -> None:
        seen = signature(**_opened(arguments))
        self.entries.append(Compilation(program, "", None, seen))
        self._snapshots.append(None)

    def forget(self, known: int) -> None:
        """Drops what was recorded by a call that failed."""
        del self.entries[known:], self._snapshots[known:]


def _is_other_model(old: Snapshot, new: Snapshot) -> bool:
    """Whether a state has other shapes, which no step gives the one that it was given."""
    return any(
        path.startswith("state/") and path in old.leaves and old.leaves[path].shape != leaf.shape
        for path, leaf in new.leaves.items()
    )


def _runs_uncompiled() -> bool:
    return jax.config.jax_disable_jit  # pyright: ignore[reportAttributeAccessIssue]


def _opened(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: each.unpack() if isinstance(each, Bundle) else each
        for name, each in arguments.items()
    }
