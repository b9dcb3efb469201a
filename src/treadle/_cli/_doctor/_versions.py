"""Whether what is installed fits together."""

import importlib.metadata
import platform
from collections.abc import Iterator

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ._check import Check

GROUP = "versions"

_BESIDE = (
    "jax-cuda12-plugin",
    "jax-cuda12-pjrt",
    "jax-cuda13-plugin",
    "jax-cuda13-pjrt",
    "jax-rocm7-plugin",
    "libtpu",
)
"""What JAX finds accelerators with: of the same version as `jaxlib`, but for `libtpu`."""


def versions() -> Iterator[Check]:
    """Python, what treadle needs, and what is installed of what it can use."""
    yield Check(GROUP, "Python", f"{platform.python_version()} on {platform.platform()}")
    needed, optional = _of_treadle()
    wanted = {name: [("treadle", requirement)] for name, requirement in needed.items()}
    for name in optional:
        wanted.setdefault(name, [("treadle", optional[name])])
    yield Check(GROUP, "treadle", _version("treadle") or "not installed: run from its source")
    for name in [*needed, *optional]:
        for requirement in _requirements(name):
            if _counts(requirement, "") and requirement.name in wanted:
                wanted[requirement.name].append((name, requirement))
    for name, asked in wanted.items():
        version = _version(name)
        if version is not None:
            yield _fits(name, version, asked)
        elif name in needed:
            advice = f"treadle needs {needed[name]}: `pip install '{needed[name]}'`."
            yield Check(GROUP, name, "not installed", "change", advice)
    yield from _plugins()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _requirements(name: str) -> list[Requirement]:
    try:
        asked = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    found = [Requirement(each) for each in asked]
    for requirement in found:
        requirement.name = canonicalize_name(requirement.name)
    return found


def _counts(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


_EXTRAS = ("demo", "testing", "track", "interop")
"""What users install; the others are for working on treadle itself."""


def _of_treadle() -> tuple[dict[str, Requirement], dict[str, Requirement]]:
    asked = _requirements("treadle")
    needed = {each.name: each for each in asked if _counts(each, "")}
    optional = {
        each.name: each
        for extra in _EXTRAS
        for each in asked
        if each.name not in needed and _counts(each, extra)
    }
    return needed, optional


def _fits(name: str, version: str, asked: list[tuple[str, Requirement]]) -> Check:
    broken = [
        (by, each) for by, each in asked if not each.specifier.contains(version, prereleases=True)
    ]
    if not broken:
        return Check(GROUP, name, version)
    who = ", ".join(f"{by} needs {each.name}{each.specifier}" for by, each in broken)
    wanted = " ".join(f"'{name}{each.specifier}'" for _, each in asked)
    return Check(GROUP, name, version, "change", f"{who}: `pip install {wanted}`.")


def _plugins() -> Iterator[Check]:
    jaxlib = _version("jaxlib")
    for name in _BESIDE:
        version = _version(name)
        if version is None:
            continue
        if name == "libtpu" or version == jaxlib:
            yield Check(GROUP, name, version)
        else:
            advice = (
                f"jaxlib is {jaxlib}, and the two have to be of one version, or JAX leaves the "
                f"accelerator aside: `pip install '{name}=={jaxlib}'`."
            )
            yield Check(GROUP, name, version, "change", advice)
