"""`key-reuse`: a key is consumed twice."""

from collections.abc import Iterator

from .._audited import Audited
from .._finding import Finding
from .._keys._lineage import Reuse
from .._keys._sites import Sites, sites_of
from ._base import Rule


class KeyReuse(Rule):
    """A key is consumed twice, or split and consumed, or consumed in each turn of a loop."""

    slug = "key-reuse"
    line = "keys"

    def check(self, audited: Audited) -> Iterator[Finding]:
        """One finding for each line that consumes a key which was consumed before."""
        told = set()
        for reuse in audited.lineage.reuses:
            sites = sites_of(reuse)
            if sites is None or (sites.first, sites.second) in told:
                continue
            told.add((sites.first, sites.second))
            yield Finding(self.slug, _severity(reuse), _message(reuse, sites), sites.second, _FIX)

    def evidence(self, audited: Audited) -> str:
        """How many keys were followed."""
        lineage = audited.lineage
        if not lineage.draws:
            return "nothing is drawn"
        return f"{lineage.draws} draws, {lineage.keys} keys: none is consumed twice"


_FIX = (
    "Split the key before each use, `key, sub = jax.random.split(key)`, or fold in what differs, "
    "`jax.random.fold_in(key, step)`; then use each key once."
)


def _is_folded(reuse: Reuse) -> bool:
    return reuse.second is not None and "fold" in (reuse.first.kind, reuse.second.kind)


def _severity(reuse: Reuse) -> str:
    return "warning" if _is_folded(reuse) else "error"


def _message(reuse: Reuse, sites: Sites) -> str:
    first = f"{sites.first.short} ({sites.first_label})"
    if reuse.second is None:
        return (
            f"key consumed at {first} and returned as it is: whoever uses it next, the next step "
            f"at the latest, draws the same numbers again"
        )
    if sites.repeated:
        again = "and again at the same line: each turn of a loop, or each call, draws the same"
        return f"key consumed at {first} {again}"
    second = f"{sites.second.short} ({sites.second_label})"
    if _is_folded(reuse):
        return (
            f"key consumed at {first} and again at {second}: `split(key, n)[i]` is "
            f"`fold_in(key, i)`, so the two can give the same key"
        )
    return f"key consumed at {first} and again at {second}"
