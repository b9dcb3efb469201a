"""What was compiled: when, why, and at what cost."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ._custom_types import Args, Batch, Metrics
from ._diagnose import Signature
from ._errors import ConsumedStateError
from ._state import CONSUMED, TrainState, pack_args


@dataclasses.dataclass(frozen=True)
class Compilation:
    """One program that a step compiled.

    Attributes:
        program: `"step"`, or `"scan of 50"`.
        cause: Why: the first call, or what differed from the call before, leaf by leaf.
        seconds: Wall time of the call that compiled, tracing included; `None` until it returns.
        signature: Path, dtype and shape of everything the program depends on.
    """

    program: str
    cause: str
    seconds: float | None
    signature: Signature = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A step compiled ahead of time: call it as the step, on the shapes it was compiled for.

    Figures are XLA's own; one that the backend does not report is `None`.

    Attributes:
        flops: Floating point operations in one step.
        bytes_accessed: Bytes read and written in one step.
        peak_bytes: Memory while a step runs: arguments, outputs and temporaries, less what is
            shared between them.
        temporary_bytes: The part of it that lives only during the step.
        donated_bytes: Size of the state handed in, all of it donated (0 with `donate=False`).
        aliased_bytes: How much of it the new state lives in: equal to `donated_bytes` when nothing
            is allocated for the new state.
        trace_seconds: From Python to StableHLO.
        compile_seconds: From there to machine code; small where the compilation cache had it.
        executable: JAX's own object, with `.as_text()` and `.memory_analysis()`.
    """

    flops: float | None
    bytes_accessed: float | None
    peak_bytes: int | None
    temporary_bytes: int | None
    donated_bytes: int
    aliased_bytes: int | None
    trace_seconds: float
    compile_seconds: float
    executable: Any = dataclasses.field(repr=False)

    def __call__(
        self, state: TrainState, batch: Batch, *, args: Args | None = None
    ) -> tuple[TrainState, Metrics]:
        """One step; the state is donated as by the step itself.

        Raises:
            ConsumedStateError: A step has taken the state.
        """
        if state.is_consumed:
            raise ConsumedStateError(CONSUMED)
        packed = None if args is None else pack_args(args)
        state, metrics, _ = self.executable(state, batch, packed)
        return state, metrics

    def __str__(self) -> str:
        rows = [
            ("flops", _number(self.flops)),
            ("bytes accessed", _number(self.bytes_accessed)),
            ("peak memory, bytes", _number(self.peak_bytes)),
            ("temporaries, bytes", _number(self.temporary_bytes)),
            ("state donated, bytes", _number(self.donated_bytes)),
            ("state aliased, bytes", _number(self.aliased_bytes)),
            ("traced in, s", f"{self.trace_seconds:.2f}"),
            ("compiled in, s", f"{self.compile_seconds:.2f}"),
        ]
        return "\n".join(f"{name:<22}{value:>18}" for name, value in rows)


def _number(value: float | int | None) -> str:
    return "not reported" if value is None else f"{value:,.0f}"


def measure(
    executable: Any, state: TrainState, donate: bool, trace_seconds: float, compile_seconds: float
) -> Compiled:
    """Reads the figures of a compiled executable."""
    cost = executable.cost_analysis() or {}
    if isinstance(cost, list):  # One per program in older JAX.
        cost = cost[0]
    memory = executable.memory_analysis()
    size = sum(_nbytes(leaf) for leaf in state.leaves)
    peak = aliased = temporary = None
    if memory is not None:
        temporary, aliased = memory.temp_size_in_bytes, memory.alias_size_in_bytes
        peak = memory.argument_size_in_bytes + memory.output_size_in_bytes + temporary - aliased
    return Compiled(
        flops=cost.get("flops"),
        bytes_accessed=cost.get("bytes accessed"),
        peak_bytes=peak,
        temporary_bytes=temporary,
        donated_bytes=size if donate else 0,
        aliased_bytes=aliased,
        trace_seconds=trace_seconds,
        compile_seconds=compile_seconds,
        executable=executable,
    )


def _nbytes(leaf: Any) -> int:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return leaf.size * leaf.dtype.itemsize
