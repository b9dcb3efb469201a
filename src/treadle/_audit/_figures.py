"""What a program costs, beside the findings."""

import dataclasses

from .._cost import intensity


@dataclasses.dataclass(frozen=True)
class Figures:
    """What a program costs. A figure that the backend does not report is `None`.

    Attributes:
        equations: Of the traced program, those of inner programs included.
        draws: Equations that draw random numbers.
        model_flops: Operations in matrix products and convolutions, counted from the program as it
            was written, loops times their trips.
        flops: Floating point operations by XLA's estimate, the body of a loop counted once.
        bytes_accessed: Bytes read and written, likewise.
        peak_bytes: Memory while it runs, on each device.
        state_bytes: The part of it that what is updated takes.
        batch_bytes: The part that everything else that goes in takes.
        output_bytes: The part for what comes out and is not aliased.
        temporary_bytes: The part that lives only while it runs.
        constant_bytes: Of constants that are part of the program.
        donated_bytes: Size of what is donated.
        aliased_bytes: How much of it what comes out lives in.
        trace_seconds: To trace it.
        lower_seconds: From there to StableHLO.
        compile_seconds: From there to machine code; little where the compilation cache had it.
    """

    equations: int
    draws: int
    model_flops: float
    flops: float | None
    bytes_accessed: float | None
    peak_bytes: int | None
    state_bytes: int
    batch_bytes: int
    output_bytes: int | None
    temporary_bytes: int | None
    constant_bytes: int
    donated_bytes: int
    aliased_bytes: int | None
    trace_seconds: float
    lower_seconds: float
    compile_seconds: float

    @property
    def arithmetic_intensity(self) -> float | None:
        """Flops for each byte that is read or written, both by XLA's estimate."""
        return intensity(self.flops, self.bytes_accessed)
