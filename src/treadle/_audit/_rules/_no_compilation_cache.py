"""`no-compilation-cache`: every start compiles anew."""

from collections.abc import Iterator
from typing import Any

import jax

from .._audited import Audited
from .._finding import Finding
from ._base import Rule


class NoCompilationCache(Rule):
    """JAX's persistent compilation cache is off, or does not store what took so little time."""

    slug = "no-compilation-cache"
    line = "cache"

    def check(self, audited: Audited) -> Iterator[Finding]:
        """One finding, about JAX's configuration."""
        config: Any = jax.config
        seconds = audited.program.seconds[2]
        if not _is_on(config):
            message = (
                f"JAX's persistent compilation cache is off: every start of the script compiles "
                f"anew, which took {seconds:.2f} s for this program"
            )
            yield Finding(self.slug, "info", message, None, _FIX)

    def evidence(self, audited: Audited) -> str:
        """Where it is."""
        config: Any = jax.config
        least = config.jax_persistent_cache_min_compile_time_secs
        kept = f", for what took {least:g} s to compile" if least > 0 else ""
        return f"{config.jax_compilation_cache_dir}{kept}"


_FIX = (
    'Switch it on before the first program: `treadle.compilation_cache("~/.cache/jax")`. treadle '
    "does so by itself when a process makes its first state, unless TREADLE_CACHE=off is set."
)


def _is_on(config: Any) -> bool:
    return bool(config.jax_compilation_cache_dir) and bool(config.jax_enable_compilation_cache)
