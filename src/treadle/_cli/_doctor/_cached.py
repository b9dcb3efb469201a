"""Whether programs are kept from one start to the next, and found again."""

import os
import pathlib
import shutil
import warnings
from collections.abc import Iterator
from typing import Any

import jax

from ..._cache import ensure_compilation_cache
from ..._cache_hits import hits_in
from ..._units import binary
from ._check import Check

GROUP = "compilation cache"

_FEW = 0.5
_ENOUGH = 20
"""Programs that were looked for, below which a rate says nothing."""


def cached() -> Iterator[Check]:
    """The folder, what is in it, and how often it had what was looked for."""
    config: Any = jax.config  # Its options are not in JAX's type stubs.
    by_user = bool(config.jax_compilation_cache_dir)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ensure_compilation_cache()
    folder = config.jax_compilation_cache_dir
    if not folder:
        yield _off([str(each.message) for each in said])
        return
    yield from _of_folder(str(folder), by_user=by_user)


def _off(said: list[str]) -> Check:
    if said:
        return Check(GROUP, "folder", "none", "change", said[0])
    advice = (
        "Every start compiles everything anew. TREADLE_CACHE in the environment says so; without "
        "it, or with a folder there, programs are kept."
    )
    return Check(GROUP, "folder", "off", "note", advice)


def _of_folder(folder: str, *, by_user: bool) -> Iterator[Check]:
    whose = "your own setting" if by_user else "treadle's"
    if "://" in folder:
        yield Check(GROUP, "folder", f"{folder} ({whose})")
        return
    path = pathlib.Path(folder)
    if path.exists() and not os.access(path, os.W_OK):
        advice = "Nothing can be written there, so nothing new is kept: choose another folder."
        yield Check(GROUP, "folder", f"{folder} ({whose})", "change", advice)
    else:
        yield Check(GROUP, "folder", f"{folder} ({whose})")
    yield from _content(path)
    yield _rate(path, by_user=by_user)
    yield from _thresholds(by_user=by_user)


def _content(path: pathlib.Path) -> Iterator[Check]:
    # Programs alone: JAX has a file beside each for when it was read, treadle one of counts.
    entries = [each for each in path.glob("*-cache") if each.is_file()]
    size = sum(each.stat().st_size for each in entries)
    yield Check(GROUP, "programs", f"{len(entries):,}, {binary(size)}")
    empty = [each for each in entries if each.stat().st_size == 0]
    if empty:
        advice = (
            "JAX never writes over an entry, so these are compiled at every start: "
            f"`find '{path}' -name '*-cache' -empty -delete`."
        )
        yield Check(GROUP, "cut off", f"{len(empty):,} of them", "change", advice)
    if path.exists():
        free = shutil.disk_usage(path).free
        if free < 1024**3:
            advice = "The disk is nearly full: programs that do not fit are not kept."
            yield Check(GROUP, "disk", f"{binary(free)} free", "change", advice)


def _rate(path: pathlib.Path, *, by_user: bool) -> Check:
    if by_user:
        return Check(GROUP, "hit rate", "not counted: only in the folder that treadle chooses")
    hits = hits_in(path)
    if hits is None:
        return Check(GROUP, "hit rate", "nothing was counted yet")
    rate = hits.hits / hits.requests
    value = (
        f"{rate:.0%}: {hits.hits:,} of {hits.requests:,} programs, in {hits.processes:,} "
        f"{'process' if hits.processes == 1 else 'processes'}; {hits.saved_seconds:,.0f} s of "
        f"compiling saved"
    )
    if rate >= _FEW or hits.requests < _ENOUGH:
        return Check(GROUP, "hit rate", value)
    advice = (
        "Most programs were compiled anew. Those of new code always are; if the same script "
        "misses, something of it differs at each start: `treadle.audit` tells of traces that "
        "differ (`impure-trace`), and JAX_EXPLAIN_CACHE_MISSES=1 has JAX say what it looks for."
    )
    return Check(GROUP, "hit rate", value, "note", advice)


def _thresholds(*, by_user: bool) -> Iterator[Check]:
    config: Any = jax.config
    seconds = config.jax_persistent_cache_min_compile_time_secs
    if by_user and seconds > 0:
        advice = (
            "Small programs are compiled at every start: "
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 keeps them too."
        )
        yield Check(GROUP, "kept", f"what took {seconds:g} s to compile", "note", advice)
