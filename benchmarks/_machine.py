"""Where and with what a figure was measured."""

import datetime
import importlib.metadata
import os
import pathlib
import platform

_PACKAGES = (
    "treadle",
    "jax",
    "jaxlib",
    "equinox",
    "optax",
    "numpy",
    "flax",
    "dm-haiku",
    "klax",
    "keras",
    "torch",
    "lightning",
)


def describe() -> dict:
    """Machine, date, and the version of every library there is."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {
            "cpu": _cpu(),
            "cores": len(os.sched_getaffinity(0)) if _has_affinity() else os.cpu_count(),
            "memory_gib": round(_memory() / 2**30, 1),
            "system": f"{platform.system()} {platform.machine()}",
            "load_before": load(),
        },
        "versions": {"python": platform.python_version()} | _versions(),
    }


def load() -> float:
    """How many processes wanted to run, on average over the last minute."""
    return round(os.getloadavg()[0], 2)


def sentence(described: dict) -> str:
    """The same in a line or two."""
    machine, versions = described["machine"], described["versions"]
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{described['date']}: {machine['cores']} cores ({machine['cpu']}), "
        f"{machine['memory_gib']} GiB, {machine['system']}, load before {machine['load_before']}. "
        f"{listed}."
    )


def _has_affinity() -> bool:
    return "sched_getaffinity" in dir(os)


def _cpu() -> str:
    path = pathlib.Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown CPU"


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if "treadle" not in found:
        found["treadle"] = "from the working tree"
    return found
