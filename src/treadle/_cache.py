"""The persistent compilation cache: on with the first state, small programs included."""

import os
import pathlib
import warnings
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache as _jax_cache

from . import _cache_hits

# JAX's own cap (`jax_compilation_cache_max_size`) needs one more package, takes a lock around every
# read and write, and lists the folder at each: pruning once a process does the same for nothing.
_MAX_BYTES = 2 * 1024**3

# What `TREADLE_CACHE` may say besides the path of a folder.
_OFF = ("off", "0", "false", "no", "none")
_ON = ("", "on", "1", "true", "yes")

_switched_on = False


def compilation_cache(path: str | os.PathLike[str] | None) -> None:
    """Moves the persistent compilation cache, or stops it.

    treadle switches the cache on when a process makes its first state (never at import), in
    `$XDG_CACHE_HOME/treadle/xla` (`~/.cache/treadle/xla`), so that the second start of a script
    reads its programs instead of compiling them. Settings of your own win: where
    `jax_compilation_cache_dir` is set (by `jax.config` or `JAX_COMPILATION_CACHE_DIR`), treadle
    leaves everything as it is. `TREADLE_CACHE=off` in the environment stops it, and
    `TREADLE_CACHE=/a/folder` moves it.

    JAX stores only what took a second to compile; treadle sets the thresholds so that small
    programs are stored too. The folder is kept under 2 GiB: the programs that were written longest
    ago go first, once at the start of a process.

    Args:
        path: A folder, which is made when needed; `None` switches the cache off.
    """
    global _switched_on
    _switched_on = True
    if path is None:
        jax.config.update("jax_compilation_cache_dir", None)
        _jax_cache.reset_cache()
        _cache_hits.count_hits_in(None)
        return
    folder = pathlib.Path(path).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    _prune(folder, _MAX_BYTES)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # Whether there is a cache is decided once, at the first compilation of the process.
    _jax_cache.reset_cache()
    _cache_hits.count_hits_in(folder)


def ensure_compilation_cache() -> None:
    """Switches the cache on, unless that was done, or the user has settings of their own."""
    global _switched_on
    if _switched_on:
        return
    _switched_on = True
    config: Any = jax.config  # Its options are not in JAX's type stubs.
    choice = os.environ.get("TREADLE_CACHE", "").strip()
    if choice.lower() in _OFF or config.jax_compilation_cache_dir:
        return
    folder: Any = choice
    try:
        if choice.lower() in _ON:
            folder = _default_folder()
        compilation_cache(folder)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home directory.
        warnings.warn(
            f"The compilation cache cannot be kept in {str(folder)!r} ({error}), so every start "
            f"compiles anew. Choose a folder with `treadle.compilation_cache(path)` or the "
            f"environment variable TREADLE_CACHE, or say TREADLE_CACHE=off.",
            stacklevel=2,
        )


def _default_folder() -> pathlib.Path:
    root = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(root) / "treadle" / "xla"


def _prune(folder: pathlib.Path, limit: int) -> None:
    """Removes what was written longest ago until the folder is under `limit` bytes."""
    found = []
    for entry in os.scandir(folder):
        if entry.is_file() and entry.name != _cache_hits.FILE:
            status = entry.stat()
            found.append((status.st_mtime, status.st_size, entry.path))
    excess = sum(size for _, size, _ in found) - limit
    for _, size, path in sorted(found):
        if excess <= 0:
            return
        # Another process may be pruning the same folder.
        pathlib.Path(path).unlink(missing_ok=True)
        excess -= size
