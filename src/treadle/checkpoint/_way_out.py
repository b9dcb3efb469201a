"""The call that loads what can be loaded, for who was told that not everything can."""

import collections
import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator

from .._errors import ArgumentValueError, TreeError
from ._fitting import Fit, Fitting, Options

# Enough to tell the model of a state from its average and the optimizer's moments.
_PREFIXES = 4
_NAMES = 16
_WILD = re.compile(r"[*?]")


def way_out(fitting: Fitting, options: Options, refused: Fit) -> str:
    """A sentence with a call that was tried here and fits; or why there is none."""
    whole = len(refused.found.fitting) == len(refused.wanted)
    for way, said in () if whole else _ways(options, refused):
        fit = _tried(fitting, way)
        if fit is not None and len(fit.found.fitting) == len(fit.wanted):
            return f"{said}: `{_call(fitting, way)}`."
    # Of what loads a part, or leaves a part of the checkpoint out, the one that loads most.
    best, most, without = None, 0, []
    for way in _parts(options, refused):
        fit = _tried(fitting, dataclasses.replace(way, strict=False))
        if fit is not None and len(fit.found.fitting) > most:
            best, most, without = way, len(fit.found.fitting), fit.without
    if best is None:
        return "No leaf of it fits."
    call = _call(fitting, dataclasses.replace(best, strict=False))
    part = f"{most} of {len(refused.wanted)} leaves"
    if without:
        return (
            "`like` has no values for what does not fit, only `jax.ShapeDtypeStruct`s: with a "
            f"`like` of arrays, `{call}` loads {part} and keeps the rest."
        )
    return f"To load {part} and keep the rest of `like`: `{call}`."


def _tried(fitting: Fitting, options: Options) -> Fit | None:
    try:
        fit = fitting.lay(options, hints=False)
    except (TreeError, ArgumentValueError):  # Two leaves of one name; or signs in names.
        return None
    return None if options.strict and fit.found.lines else fit


def _ways(options: Options, refused: Fit) -> Iterator[tuple[Options, str]]:
    """What may load all of `like`, and what is said of it."""
    for way, said in _renamed(options, refused):
        yield way, said
        yield dataclasses.replace(way, cast=True), said
    yield dataclasses.replace(options, cast=True), "Only the precision differs, and can be cast"


def _parts(options: Options, refused: Fit) -> Iterator[Options]:
    """What may load a part of `like`."""
    ways = [options, *(way for way, _ in _renamed(options, refused))]
    for cast, way in itertools.product(dict.fromkeys((options.cast, True)), ways):
        yield dataclasses.replace(way, cast=cast)


def _renamed(options: Options, refused: Fit) -> Iterator[tuple[Options, str]]:
    saved = {path: record.path for path, record in refused.records.items()}
    if not options.rename:
        for prefix in _prefixes(saved, refused.wanted):
            way = dataclasses.replace(options, rename={f"{prefix}/**": "**"})
            said = f"`like` is what the checkpoint has under {prefix!r}"
            yield way, said
            yield dataclasses.replace(way, strict=False), said
            # Where a leaf beside it has the name of one inside.
            rename = {f"{prefix}/**": "**", "**": "aside/**"}
            yield dataclasses.replace(way, rename=rename, strict=False), said
        for prefix in _prefixes(refused.wanted, saved):
            way = dataclasses.replace(options, rename={"**": f"{prefix}/**"})
            yield way, f"The checkpoint is what `like` has under {prefix!r}"
    renames = {saved[near]: path for near, path in refused.found.renames.items()}
    if renames and not any(map(_WILD.search, itertools.chain(*renames.items()))):
        before = {old: new for old, new in (options.rename or {}).items() if old not in renames}
        way = dataclasses.replace(options, rename=renames | before)
        yield way, "If only names have changed"


def _prefixes(whole: Iterable[str], part: Iterable[str]) -> list[str]:
    """The nodes of `whole` that have leaves of the names of `part`, the likeliest first."""
    ends = [f"/{path}" for path in itertools.islice(part, _NAMES) if path]
    counts = collections.Counter(
        path.removesuffix(end) for path in whole for end in ends if path.endswith(end)
    )
    # The model of a state before its average and the moments, which have the same names.
    order = sorted(counts, key=lambda prefix: (-counts[prefix], prefix.count("/")))
    return order[:_PREFIXES]


def _call(fitting: Fitting, options: Options) -> str:
    words = [repr(str(fitting.folder)), "like"]
    if options.rename:
        words.append(f"rename={dict(options.rename)!r}")
    if options.only is not None:
        words.append(f"only={list(options.only)!r}")
    if options.cast:
        words.append("cast=True")
    if not options.strict:
        words.append("strict=False")
    return f"treadle.load({', '.join(words)})"
