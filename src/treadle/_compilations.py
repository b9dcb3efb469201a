"""Every program that a step compiles, and why: a recompilation is never silent."""

import dataclasses
import logging

import jax

from ._compiled import Compilation
from ._custom_types import Batch
from ._diagnose import Signature, differences, signature
from ._state import Bundle, TrainState

_log = logging.getLogger("treadle")


class CompilationLog:
    """What one step has compiled so far, in `entries`."""

    def __init__(self) -> None:
        self.entries: list[Compilation] = []

    def record(self, program: str, state: TrainState, batch: Batch, args: Bundle | None) -> None:
        """Notes that a program is being traced: JAX runs the Python only then."""
        if jax.config.jax_disable_jit:  # pyright: ignore[reportAttributeAccessIssue]
            return
        unpacked = None if args is None else args.unpack()
        seen = signature(state=state, batch=batch, args=unpacked)
        self.entries.append(Compilation(program, self._cause(program, seen), None, seen))

    def _cause(self, program: str, seen: Signature) -> str:
        earlier = [c for c in self.entries if c.program == program]
        if not earlier:
            return f"the first call ({program})"
        changed = min((differences(c.signature, seen) for c in earlier), key=len)
        if changed:
            return "; ".join(changed)
        return (
            "the same shapes and dtypes, but the container types (a list for a tuple), a static "
            "value of the model (an activation function, a static field), the sharding, or JAX's "
            "configuration changed"
        )

    def complete(self, name: str, known: int, seconds: float) -> None:
        """Completes what was recorded while tracing; or records what traced nothing.

        Args:
            name: `"step"` or `"scan"`.
            known: How many entries there were before the call.
            seconds: What the call took.
        """
        if len(self.entries) == known:
            newest = self._untraced(name, seconds)
            if newest is None:
                return
            self.entries.append(newest)
        else:
            newest = dataclasses.replace(self.entries[-1], seconds=seconds)
            self.entries[-1] = newest
        again = any(c.program == newest.program for c in self.entries[:-1])
        _log.log(
            logging.WARNING if again else logging.DEBUG,
            "treadle compiled %s in %.2f s: %s",
            newest.program,
            seconds,
            newest.cause,
        )

    def _untraced(self, name: str, seconds: float) -> Compilation | None:
        """A program that was compiled from a trace that JAX had already."""
        earlier = [c for c in self.entries if c.program.startswith(name)]
        if not earlier:
            return None
        cause = "the same trace: for other devices or another sharding, or traced by `compile`"
        return dataclasses.replace(earlier[-1], cause=cause, seconds=seconds)

    def forget(self, known: int) -> None:
        """Drops what was recorded by a call that failed."""
        del self.entries[known:]
