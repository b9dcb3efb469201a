"""`dtype-promotion`: low precision that JAX widens, and a product that is computed wide."""

from collections.abc import Iterator

from .._audited import Audited
from .._dtypes._widening import Widened, widened
from .._finding import Finding
from .._source import Place
from ._base import Rule


class DtypePromotion(Rule):
    """Values of low precision are widened without a cast, and products are computed wide."""

    slug = "dtype-promotion"
    line = "dtypes"

    def check(self, audited: Audited) -> Iterator[Finding]:
        """One finding for each line that widens."""
        found: dict[Place, Widened] = {}
        for each in widened(audited.program.jaxpr):
            known = found.setdefault(each.event.place, each)
            if known is not each:
                known.products.extend(p for p in each.products if p not in known.products)
        for place, each in found.items():
            yield Finding(self.slug, "warning", _message(each), place, _FIX)

    def evidence(self, audited: Audited) -> str:
        """That there are none."""
        return "no matrix product is widened silently"


_FIX = (
    "Cast what is wide to the narrow dtype where it comes in, or the result back; if it is meant "
    'to be wide, say so with `astype`. `jax.numpy_dtype_promotion("strict")` makes it an error.'
)


def _message(found: Widened) -> str:
    event = found.event
    others = [place for place in found.products if place != event.place]
    if len(others) == len(found.products):
        where = _listed(others)
    else:
        where = "here" + (f", and {_listed(others)}" if others else "")
    how = "inside of the product" if found.mixed else "by what it meets"
    return (
        f"{event.low} is widened to {event.wide} {how}, without a cast: matrix products and "
        f"convolutions {where} compute in {event.wide}"
    )


def _listed(places: list[Place]) -> str:
    shown = ", ".join(place.short for place in places[:3])
    return f"at {shown}" + (f" and {len(places) - 3} more lines" if len(places) > 3 else "")
