"""What a step costs: model flops, counted from the program that JAX traced, and the peak for them.

The figures are worked out when they are first asked for, and from a trace that JAX has already.
"""

import functools
from typing import Any, NamedTuple

import jax

from ._flops import Flops, count_flops
from ._peak import peak_flops


class StepCost:
    """The cost of one step of a program.

    Args:
        program: The program, as a `ClosedJaxpr`.
        steps: How many steps it takes.
        devices: What it runs on.
    """

    def __init__(self, program: Any, steps: int, devices: set[Any]):
        self._program = program
        self._steps = steps
        self._kind = device_kind(devices)
        self._num_devices = len(devices)

    @functools.cached_property
    def _counted(self) -> Flops:
        counted = count_flops(self._program)
        self._program = None
        return counted

    @property
    def flops(self) -> float:
        """Operations in the matrix products and convolutions of one step."""
        return self._counted.total / self._steps

    @property
    def elementwise(self) -> float:
        """Operations in everything else of one step."""
        return self._counted.elementwise / self._steps

    @property
    def notes(self) -> tuple[str, ...]:
        """What was not counted, or not exactly."""
        return self._counted.notes

    @functools.cached_property
    def peak(self) -> float | None:
        """The most FLOP/s that all devices together could do in such steps, where that is known."""
        peak = peak_flops(self._kind, self._counted.products)
        return None if peak is None else self._num_devices * peak


def device_kind(devices: set[Any]) -> str:
    """JAX's name for the devices; of devices of several kinds, all of them."""
    return ", ".join(sorted({device.device_kind for device in devices}))


def devices_of(leaves: Any) -> set[Any]:
    """The devices that arrays lie on; JAX's default one where there is none."""
    found = {
        device
        for leaf in leaves
        if isinstance(leaf, jax.Array)
        for device in leaf.sharding.device_set
    }
    return found or set(jax.local_devices()[:1])


def cost_of_dispatch(
    program: Any, log: Any, state: Any, batch: Any, packed: Any, steps: int
) -> StepCost | None:
    """The cost of a step from a call that has just been made.

    JAX keeps what it traced, so nothing is traced again (a third of a millisecond), nor compiled.

    Args:
        program: What was called, under `jax.jit`.
        log: The step's log of compilations, in which this is none.
        state: What came back: of the same structure, shapes and dtypes as what was handed in.
        batch: As for the call.
        packed: As for the call.
        steps: How many steps it took.
    """
    if jax.config.jax_disable_jit:  # pyright: ignore[reportAttributeAccessIssue]
        return None
    known = len(log.entries)
    traced = program.trace(state, batch, packed)
    log.forget(known)
    return StepCost(traced.jaxpr, steps, devices_of(state.leaves))


class XlaFigures(NamedTuple):
    """What XLA says of a compiled program. A figure that the backend does not report is `None`.

    Attributes:
        flops: Floating point operations, the body of a loop counted once.
        bytes_accessed: Bytes read and written, likewise.
        peak_bytes: Memory while it runs, on each device.
        output_bytes: The part for what comes out and is not aliased.
        temporary_bytes: The part that lives only while it runs.
        aliased_bytes: How much of what was donated what comes out lives in.
    """

    flops: float | None
    bytes_accessed: float | None
    peak_bytes: int | None = None
    output_bytes: int | None = None
    temporary_bytes: int | None = None
    aliased_bytes: int | None = None


def xla_figures(executable: Any) -> XlaFigures:
    """Reads them from a program as JAX compiled it."""
    cost = executable.cost_analysis() or {}
    if isinstance(cost, list):  # One per program in older JAX.
        cost = cost[0]
    found = XlaFigures(cost.get("flops"), cost.get("bytes accessed"))
    memory = executable.memory_analysis()
    if memory is None:
        return found
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return found._replace(
        peak_bytes=memory.argument_size_in_bytes + outputs + memory.temp_size_in_bytes,
        output_bytes=outputs,
        temporary_bytes=memory.temp_size_in_bytes,
        aliased_bytes=memory.alias_size_in_bytes,
    )


def intensity(flops: float | None, bytes_accessed: float | None) -> float | None:
    """Flops for each byte that is read or written, where both are known."""
    return None if flops is None or not bytes_accessed else flops / bytes_accessed
