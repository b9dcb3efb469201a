"""How often the compilation cache had a program: a line for each process, in its folder."""

import atexit
import dataclasses
import datetime
import functools
import json
import os
import pathlib
from collections.abc import Iterable

import jax

FILE = "treadle-hits.jsonl"
_KEPT = 1_000
"""Processes that are remembered, at least."""
_LINE = 120
"""About as many bytes as one of them takes."""

_REQUEST = "/jax/compilation_cache/compile_requests_use_cache"
_HIT = "/jax/compilation_cache/cache_hits"
_SAVED = "/jax/compilation_cache/compile_time_saved_sec"


@dataclasses.dataclass
class Hits:
    """What the cache did.

    Attributes:
        requests: Programs that were looked for in it.
        hits: Those that were there.
        saved_seconds: What compiling these had taken, less what reading them took.
        processes: How many processes this is the sum of.
    """

    requests: int = 0
    hits: int = 0
    saved_seconds: float = 0.0
    processes: int = 1

    def on_event(self, event: str, **kwargs: str | int) -> None:
        """Counts one event of JAX's."""
        self.requests += event == _REQUEST
        self.hits += event == _HIT

    def on_seconds(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        """Counts the seconds of one."""
        if event == _SAVED:
            self.saved_seconds += duration_secs


_folder: pathlib.Path | None = None


def count_hits_in(folder: pathlib.Path | None) -> None:
    """Counts from now on, and writes the sum into a folder as the process ends.

    Args:
        folder: That of the cache; `None` writes nothing.
    """
    global _folder
    _folder = folder
    _counted()


@functools.cache
def _counted() -> Hits:
    hits = Hits()
    jax.monitoring.register_event_listener(hits.on_event)
    jax.monitoring.register_event_duration_secs_listener(hits.on_seconds)
    atexit.register(_write, hits, os.getpid())
    return hits


def _write(hits: Hits, pid: int) -> None:
    # A forked process did not compile what its parent did.
    if _folder is None or hits.requests == 0 or os.getpid() != pid:
        return
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    line = {
        "time": now,
        "requests": hits.requests,
        "hits": hits.hits,
        "saved_seconds": round(hits.saved_seconds, 3),
    }
    try:
        _shorten(_folder / FILE)
        # One small write at the end of the file: processes do not tear each other's lines.
        with (_folder / FILE).open("a") as file:
            file.write(json.dumps(line) + "\n")
    except OSError:
        # The folder went away, or is full. Nothing hangs on the count.
        return


def _shorten(file: pathlib.Path) -> None:
    if not file.exists() or file.stat().st_size < 2 * _KEPT * _LINE:
        return
    kept = file.read_text().splitlines(keepends=True)[-_KEPT:]
    aside = file.with_suffix(f".{os.getpid()}")
    aside.write_text("".join(kept))
    aside.replace(file)


def hits_in(folder: pathlib.Path) -> Hits | None:
    """The sum over the processes that wrote into a folder; `None` where none did."""
    try:
        lines = (folder / FILE).read_text().splitlines()
    except FileNotFoundError:
        return None
    found = list(_read(lines))
    if not found:
        return None
    return Hits(
        sum(each.requests for each in found),
        sum(each.hits for each in found),
        sum(each.saved_seconds for each in found),
        len(found),
    )


def _read(lines: Iterable[str]) -> Iterable[Hits]:
    for line in lines:
        try:
            read = json.loads(line)
            yield Hits(int(read["requests"]), int(read["hits"]), float(read["saved_seconds"]))
        except (ValueError, KeyError, TypeError):
            continue  # Cut off where the disk was full.
