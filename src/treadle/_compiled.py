"""What was compiled: when, why, and at what cost."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax

from ._cost import StepCost, device_kind, intensity, xla_figures
from ._custom_types import Args, Batch, Metrics
from ._diagnose import Signature
from ._errors import ConsumedStateError
from ._state import CONSUMED, TrainState, pack_args
from ._units import binary, quantity


@dataclasses.dataclass(frozen=True)
class Compilation:
    """One program that a step compiled.

    Attributes:
        program: `"step"`, or `"scan of 50"`.
        cause: Why: the first call, or what differs from the one before that is most like it, leaf
            by leaf, and what to do about it.
        seconds: Wall time of the call that compiled, tracing included; `None` until it returns.
        signature: Path, dtype and shape of everything the program depends on.
        ahead: Whether `compile` made it, and no call.
        planned: Whether it had to be: the first call of a program (`scan` has one for each number
            of steps), one ahead of time, one for a state of other shapes (another model), or the
            first member of an ensemble that stands still.
    """

    program: str
    cause: str
    seconds: float | None
    signature: Signature = dataclasses.field(repr=False)
    ahead: bool = False
    planned: bool = True

    def __str__(self) -> str:
        seconds = "" if self.seconds is None else f" in {self.seconds:.2f} s"
        return f"{self.program}{seconds}: {self.cause}"


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A step compiled ahead of time: call it as the step, on the shapes it was compiled for.

    `print(compiled)` shows the figures. Model flops are counted from the program as it was written;
    flops and bytes accessed are XLA's estimate of what it made of it, in which **the body of a loop
    counts once**, however often it runs. Memory is what XLA has laid out, on each device. A figure
    that the backend does not report is `None`.

    Attributes:
        model_flops: Operations in the matrix products and convolutions of one step, forward and
            backward, all devices together, loops times their trips.
        elementwise_flops: One for each element of all other arithmetic, likewise.
        notes: What the two leave out, such as the kernels of Pallas; empty where they are exact.
        flops: Floating point operations by XLA's estimate, the body of a loop counted once.
        bytes_accessed: Bytes read and written, likewise.
        peak_bytes: Memory while a step runs: arguments, outputs and temporaries, less what is
            shared between them.
        state_bytes: The part of it that the state takes.
        batch_bytes: The part that the batch takes.
        args_bytes: The part that `args` take.
        output_bytes: The part for what comes out and is not aliased: the metrics; with
            `donate=False` the new state as well.
        temporary_bytes: The part that lives only during the step: activations, gradients.
        donated_bytes: Size of the state handed in, all of it donated (0 with `donate=False`).
        aliased_bytes: How much of it the new state lives in: equal to `donated_bytes` when nothing
            is allocated for the new state.
        trace_seconds: From Python to StableHLO.
        compile_seconds: From there to machine code; small where the compilation cache had it.
        device_kind: JAX's name for the devices it was compiled for.
        num_devices: How many there are.
        peak_flops_per_second: What all of them could do at most in such steps, by their maker's
            datasheet; `None` where that is not known.
        executable: JAX's own object, with `.as_text()` and `.memory_analysis()`.
    """

    model_flops: float | None
    elementwise_flops: float | None
    notes: tuple[str, ...]
    flops: float | None
    bytes_accessed: float | None
    peak_bytes: int | None
    state_bytes: int
    batch_bytes: int
    args_bytes: int
    output_bytes: int | None
    temporary_bytes: int | None
    donated_bytes: int
    aliased_bytes: int | None
    trace_seconds: float
    compile_seconds: float
    device_kind: str
    num_devices: int
    peak_flops_per_second: float | None
    executable: Any = dataclasses.field(repr=False)

    @property
    def arithmetic_intensity(self) -> float | None:
        """Flops for each byte that is read or written, both by XLA's estimate.

        Below the device's own ratio of FLOP/s to bytes/s, memory is what limits the step.
        """
        return intensity(self.flops, self.bytes_accessed)

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
        each = "" if self.num_devices == 1 else " (each)"
        devices = "" if self.num_devices == 1 else f"{self.num_devices} x "
        peak, intensity = self.peak_flops_per_second, self.arithmetic_intensity
        rows = [
            ("model flops", *_shown(self.model_flops, _flop)),
            ("  elementwise", *_shown(self.elementwise_flops, _flop)),
            ("XLA's estimate", *_shown(self.flops, _flop)),
            ("  bytes accessed", *_shown(self.bytes_accessed, binary)),
            ("  flops per byte", _missing if intensity is None else f"{intensity:.3g}", ""),
            (f"peak memory{each}", *_shown(self.peak_bytes, binary)),
            ("  state", *_shown(self.state_bytes, binary)),
            ("  batch", *_shown(self.batch_bytes, binary)),
            *([("  args", *_shown(self.args_bytes, binary))] if self.args_bytes else []),
            ("  outputs", *_shown(self.output_bytes, binary)),
            ("  temporaries", *_shown(self.temporary_bytes, binary)),
            ("state donated", *_shown(self.donated_bytes, binary)),
            ("state aliased", *_shown(self.aliased_bytes, binary)),
            ("traced in", f"{self.trace_seconds:.2f} s", ""),
            ("compiled in", f"{self.compile_seconds:.2f} s", ""),
        ]
        lines = [f"{name:<20}{human:>14}{exact:>22}".rstrip() for name, human, exact in rows]
        lines.append(f"{'device':<20}{devices + self.device_kind:>14}")
        if peak is not None:
            lines.append(f"{'  its peak':<20}{quantity(peak, 'FLOP/s'):>14}")
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)


_missing = "not reported"


def _flop(number: float | int) -> str:
    return quantity(number, "flop")


def _shown(value: float | int | None, human: Callable[..., str]) -> tuple[str, str]:
    """A figure as people read it, and exactly."""
    return (_missing, "") if value is None else (human(value), f"{value:,.0f}")


def measure(
    executable: Any,
    donate: bool,
    trace_seconds: float,
    compile_seconds: float,
    program: Any,
) -> Compiled:
    """Reads the figures of a compiled executable.

    Args:
        executable: The step, as JAX compiled it.
        donate: Whether the step donates the state.
        trace_seconds: What tracing took.
        compile_seconds: What compiling took.
        program: The traced program, a `ClosedJaxpr`; `None` where it is not known.
    """
    parts = _argument_bytes(executable)
    devices = _devices(executable)
    model = None if program is None else StepCost(program, 1, devices)
    return Compiled(
        model_flops=None if model is None else model.flops,
        elementwise_flops=None if model is None else model.elementwise,
        notes=() if model is None else model.notes,
        **xla_figures(executable)._asdict(),
        state_bytes=parts[0],
        batch_bytes=parts[1],
        args_bytes=parts[2],
        donated_bytes=parts[0] if donate else 0,
        trace_seconds=trace_seconds,
        compile_seconds=compile_seconds,
        device_kind=device_kind(devices),
        num_devices=len(devices),
        peak_flops_per_second=None if model is None else model.peak,
        executable=executable,
    )


def _argument_bytes(executable: Any) -> tuple[int, int, int]:
    """What state, batch and `args` take on each device; what the program does not read is left out.

    XLA is not given that, so it is not part of the peak.
    """
    infos, _ = executable.args_info
    shardings, _ = executable.input_shardings

    def size(info: Any, sharding: Any) -> int:
        leaves, treedef = jax.tree.flatten(info)
        return _nbytes(leaves, treedef.flatten_up_to(sharding))

    state, batch, args = map(size, infos, shardings)
    return state, batch, args


def _nbytes(leaves: Sequence[Any], shardings: Sequence[Any]) -> int:
    return sum(
        math.prod(where.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf, where in zip(leaves, shardings, strict=True)
        if where is not None
    )


def _devices(executable: Any) -> set[Any]:
    """The devices that the executable was compiled for."""
    return {
        device
        for sharding in jax.tree.leaves(executable.input_shardings)
        for device in sharding.device_set
    }
