"""What draws and keys are to the axes of data."""

from collections.abc import Sequence
from typing import Any

from .._keys._lineage import Path
from .._private import key_words
from ._spread import DIFFERS, NONE, Spread, over_of, random, spread_of
from ._walk import Rule, Walk


def _bits(walk: Walk, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
    shape = equation.outvars[0].aval.shape
    keys = values[0]
    along = [level > 0 for level in keys.varies] + [True] * (len(shape) - len(keys.shape))
    return [random(walk.source(path), along, shape, keys.over)]


def _gamma(walk: Walk, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
    keys, alpha = values
    (drawn,) = _bits(walk, equation, [keys], path)
    return [walk.elementwise([drawn, alpha], drawn.shape, path)]


def _counted(walk: Walk, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
    """Bits from the raw words of keys and counts, or from a generator's state."""
    found = []
    for out in equation.outvars:
        drawn = random(walk.source(path), [True] * len(out.aval.shape), out.aval.shape, NONE)
        found.append(drawn._replace(over=over_of(values)))
    return found


def _split(walk: Walk, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
    return [
        _keys(
            values,
            [*values[0].varies, *([DIFFERS] * len(equation.params["shape"]))],
            equation.outvars[0].aval.shape,
        )
    ]


def _wrap(walk: Walk, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
    shape = equation.outvars[0].aval.shape
    return [_keys(values, values[0].varies[: len(shape)], shape)]


def _unwrap(walk: Walk, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
    shape = equation.outvars[0].aval.shape
    words = len(key_words(equation.invars[0].aval))
    return [_keys(values, [*values[0].varies, *([DIFFERS] * words)], shape)]


def _same_keys(walk: Walk, equation: Any, values: list[Spread], path: Path) -> list[Spread]:
    """Seeds, folds: a key for each element of what it is made from."""
    shape = equation.outvars[0].aval.shape
    levels = [
        max((v.varies[at] for v in values if len(v.shape) == len(shape)), default=0)
        for at in range(len(shape))
    ]
    return [_keys(values, levels, shape)]


def _keys(values: Sequence[Spread], varies: Sequence[int], shape: Sequence[int]) -> Spread:
    """Keys: which of them differ is all that counts."""
    return spread_of(shape, list(varies))._replace(over=over_of(values))


RULES: dict[str, Rule] = {
    "random_bits": _bits,
    "random_gamma": _gamma,
    "random_split": _split,
    "random_wrap": _wrap,
    "random_unwrap": _unwrap,
    "random_seed": _same_keys,
    "random_fold_in": _same_keys,
    "random_clone": _same_keys,
    **dict.fromkeys(("threefry2x32", "rng_bit_generator", "rng_uniform"), _counted),
}
