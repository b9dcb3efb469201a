"""How fast it goes, and where the time goes."""

import time
from collections.abc import Mapping
from typing import Any

from .._custom_types import Door
from .._errors import ArgumentValueError
from ._base import Callback, Context


class Throughput(Callback):
    """Counts examples and model FLOPs a second, the first call (which compiles) left out.

    After the training, `examples_per_second`, `steps_per_second`, `flops_per_second` and
    `peak_fraction` have the figures (`None` where there was nothing to measure, or the peak is not
    known).

    Args:
        flops: Floating point operations of one step. Without it they are counted: those in the
            matrix products and convolutions of the program that the first step traced.
        peak_flops: What the devices could do at most, all together, in FLOP/s. Without it that of
            the makers' datasheets, for the devices that treadle has in its table.

    Raises:
        ArgumentValueError: `flops` or `peak_flops` is not positive.
    """

    per_dispatch = True

    def __init__(self, flops: Door[float | None] = None, peak_flops: Door[float | None] = None):
        for name, value in (("flops", flops), ("peak_flops", peak_flops)):
            if value is not None and not value > 0:
                raise ArgumentValueError(f"`{name}` (={value!r}) must be positive, or None.")
        self._given = (flops, peak_flops)
        self.flops, self.peak_flops = self._given
        self.steps_per_second: float | None = None
        self.examples_per_second: float | None = None
        self._start: float | None = None
        self._begun = (0, 0)
        self._newest: Any = None

    @property
    def flops_per_second(self) -> float | None:
        """Model FLOP/s: the operations of a step, times the steps each second."""
        if self.flops is None or self.steps_per_second is None:
            return None
        return self.flops * self.steps_per_second

    @property
    def peak_fraction(self) -> float | None:
        """How much of the devices' peak that is (model FLOPs utilisation); 1 would be all of it."""
        if self.flops_per_second is None or self.peak_flops is None:
            return None
        return self.flops_per_second / self.peak_flops

    def on_start(self, ctx: Context) -> None:
        """Starts anew."""
        self._start = None

    def on_step(self, ctx: Context) -> None:
        """Counts."""
        self._newest = ctx.metrics
        if self._start is None:
            dict(ctx.metrics)  # Waits: the clock starts when the first call is over.
            self._start = time.perf_counter()
            self._begun = (ctx.step, ctx.seen)

    def on_end(self, ctx: Context) -> None:
        """Waits for the last step, and divides."""
        if self._start is None or ctx.step == self._begun[0]:
            return
        dict(self._newest)
        flops, peak = self._given
        self.flops = ctx.flops if flops is None else flops
        self.peak_flops = ctx.peak_flops if peak is None else peak
        elapsed = time.perf_counter() - self._start
        self.steps_per_second = (ctx.step - self._begun[0]) / elapsed
        self.examples_per_second = (ctx.seen - self._begun[1]) / elapsed


class TimeSplit(Callback):
    """Where the wall time went: `data`, `step`, `eval`, `save`, `other`, in seconds.

    After the training, `seconds` has the figures and `str()` gives a table. JAX works
    asynchronously: the time of a step is what the loop spent in dispatching it and waiting for it.
    """

    def __init__(self) -> None:
        self._spent: Mapping[str, float] = {}
        self._other = self._start = 0.0

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by what they went to."""
        # Read late: the last checkpoint is written after the other callbacks have ended.
        return {**self._spent, "other": self._other} if self._spent else {}

    def on_start(self, ctx: Context) -> None:
        """Starts the clock."""
        self._start = time.perf_counter()

    def on_end(self, ctx: Context) -> None:
        """Reads it."""
        self._spent = ctx.seconds
        total = time.perf_counter() - self._start
        self._other = max(0.0, total - sum(ctx.seconds.values()))

    def __str__(self) -> str:
        total = sum(self.seconds.values()) or 1.0
        return "\n".join(
            f"{name:<6}{seconds:>9.2f} s {seconds / total:>6.1%}"
            for name, seconds in self.seconds.items()
        )
