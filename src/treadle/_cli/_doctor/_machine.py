"""The devices that JAX sees, the cores, and the memory."""

import os
import pathlib
from collections.abc import Iterator
from typing import Any

import jax

from ..._units import binary
from ._check import Check

GROUP = "machine"

_LITTLE = 1024**3


def machine() -> Iterator[Check]:
    """Devices, cores and memory."""
    yield from _devices()
    yield _cores()
    yield from _memory()


def _devices() -> Iterator[Check]:
    try:
        devices = jax.devices()
    except RuntimeError as error:
        advice = "JAX finds no device. `JAX_PLATFORMS` chooses one: `cpu` is always there."
        yield Check(GROUP, "devices", str(error).splitlines()[0], "change", advice)
        return
    kinds: dict[tuple[str, str], list[Any]] = {}
    for device in devices:
        kinds.setdefault((device.platform, device.device_kind), []).append(device)
    for (platform, kind), group in kinds.items():
        many = f"{len(group)} x {kind}" if kind != platform else f"{len(group)}"
        yield Check(GROUP, f"devices ({platform})", many + _memory_of(group[0]))
    if jax.process_count() > 1:
        yield Check(GROUP, "processes", f"{jax.process_index()} of {jax.process_count()}")
    if all(device.platform == "cpu" for device in devices) and _has_nvidia():
        if os.environ.get("JAX_PLATFORMS", "").lower() == "cpu":
            advice = "`JAX_PLATFORMS=cpu` hides it: take that out of the environment to use it."
        else:
            advice = (
                "There is an NVIDIA driver on this machine, and JAX does not use it: "
                "`pip install -U 'jax[cuda12]'`."
            )
        yield Check(GROUP, "GPU", "not seen by JAX", "change", advice)


def _memory_of(device: Any) -> str:
    stats = device.memory_stats()  # The CPU has none.
    if not stats or "bytes_limit" not in stats:
        return ""
    return f", {binary(stats['bytes_limit'])} each, {binary(stats['bytes_in_use'])} in use"


def _has_nvidia() -> bool:
    return pathlib.Path("/proc/driver/nvidia/version").exists()


def _cores() -> Check:
    cores = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    if usable == cores:
        return Check(GROUP, "cores", str(cores))
    return Check(GROUP, "cores", f"{usable} of {cores} may be used")


def _memory() -> Iterator[Check]:
    total, available = _memory_info()
    if total is None or available is None:
        return
    limit = _limit()
    value = f"{binary(available)} of {binary(total)} free"
    if limit is not None and limit < total:
        value += f"; this process may use {binary(limit)}"
        available = min(available, limit)
    if available >= _LITTLE:
        yield Check(GROUP, "memory", value)
    else:
        advice = "Compiling alone can take a GiB: end what else runs, or train elsewhere."
        yield Check(GROUP, "memory", value, "note", advice)


def _memory_info() -> tuple[int | None, int | None]:
    """All memory, and what of it is free, in bytes; `None` where the system does not say."""
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    except FileNotFoundError:  # Not Linux.
        return None, None
    found = dict(line.split(":", 1) for line in lines)
    sizes = {name: int(found[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable")}
    return sizes["MemTotal"], sizes["MemAvailable"]


def _limit() -> int | None:
    """What a container may use, in bytes."""
    try:
        text = pathlib.Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
