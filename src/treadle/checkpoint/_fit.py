"""Which leaf of a checkpoint goes where in a tree."""

import logging
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from .._errors import CheckpointError
from ..tree import select
from ._manifest import Manifest, Record
from ._mismatch import Mismatch, mismatches
from ._rename import renamed
from ._storage import Spec, quoted, spec_of

_log = logging.getLogger("treadle")


def _shown(names: Mapping[str, Any], rename: Mapping[str, str] | None) -> dict[str, Any]:
    """A mapping by the names that `rename` gives."""
    if not rename:
        return dict(names)
    new = renamed(list(names), rename)
    return {new[path]: value for path, value in names.items()}


def fitted(
    folder: pathlib.Path,
    manifest: Manifest,
    named: Sequence[tuple[str, Any]],
    statics: Mapping[str, str],
    *,
    strict: bool,
    rename: Mapping[str, str] | None,
    only: Sequence[str] | None,
    cast: bool,
) -> dict[str, Record]:
    """The record of each leaf that is to be loaded, by its path in `like`.

    Args:
        folder: The checkpoint, for messages.
        manifest: Its manifest.
        named: The leaves of `like` with their paths.
        statics: Its static fields.
        strict: See `load`, as the rest.
        rename: See `load`.
        only: See `load`.
        cast: See `load`.

    Raises:
        CheckpointError: If they do not fit, with every leaf that does not.
        TreeError: If a glob matches nothing.
    """
    records: dict[str, Record] = _shown({r.path: r for r in manifest.records}, rename)
    specs = {path: spec_of(path, leaf) for path, leaf in named}
    wanted = {path: spec for path, spec in specs.items() if spec is not None}
    saved = {path: record.spec for path, record in records.items()}
    if only is not None:
        hits = select(*only).matches(list(wanted))
        wanted = {path: wanted[path] for path, hit in zip(list(wanted), hits, strict=True) if hit}
        saved = {path: spec for path, spec in saved.items() if path in wanted}
    # Static fields go by the names of modules, which globs over leaves do not match.
    both = ({}, {}) if rename or only is not None else (manifest.statics, statics)
    found = mismatches(saved, wanted, both, cast=cast)
    if not found.lines:
        return {path: records[path] for path in wanted}
    if strict:
        raise CheckpointError(_refusal(folder, saved, wanted, found))
    _require_values(folder, found, wanted, dict(named))
    _log.warning(
        "%s: %d of %d leaves are loaded; of the others `like` keeps its own:\n  %s",
        folder,
        len(found.fitting),
        len(wanted),
        "\n  ".join(found.lines),
    )
    return {path: records[path] for path in found.fitting}


def _require_values(
    folder: pathlib.Path, found: Mismatch, wanted: Mapping[str, Spec], leaves: Mapping[str, Any]
) -> None:
    """Refuses a `like` without values where the checkpoint has none either."""
    fitting = set(found.fitting)
    without = [
        path
        for path in wanted
        if path not in fitting and isinstance(leaves[path], jax.ShapeDtypeStruct)
    ]
    if without:
        raise CheckpointError(
            f"The checkpoint {str(folder)!r} has nothing that fits {quoted(without[0])}"
            f"{f' and {len(without) - 1} more' if len(without) > 1 else ''}, and `like` has no "
            "values there, only `jax.ShapeDtypeStruct`s: give a `like` of arrays to load a part."
        )


def _refusal(
    folder: pathlib.Path, saved: Mapping[str, Spec], wanted: Mapping[str, Spec], found: Mismatch
) -> str:
    return (
        f"The checkpoint {str(folder)!r} does not fit `like`: it has {len(saved)} leaves, "
        f"`like` has {len(wanted)}, and these differ:\n  "
        + "\n  ".join(found.lines)
        + f"\nBuild `like` as the tree was built that was saved; nothing is cast or reshaped. "
        f"{_way_out(folder, saved, wanted, found)}"
    )


def _way_out(
    folder: pathlib.Path, saved: Mapping[str, Spec], wanted: Mapping[str, Spec], found: Mismatch
) -> str:
    """The call that loads what can be loaded."""
    call = f"treadle.load({str(folder)!r}, like, "
    prefix = _prefix(saved, wanted)
    if prefix is not None:
        inside = f"{call}rename={{'{prefix}/**': '**'}}, strict=False)"
        return f"`like` is what the checkpoint has under {prefix!r}: `{inside}`."
    casts = _would_fit(saved, wanted)
    if casts:
        return f"Only the precision differs, so `{call}cast=True)` converts the numbers."
    if found.renames and len(found.renames) == len(found.missing) == len(found.unexpected):
        pairs = ", ".join(f"{old!r}: {new!r}" for old, new in found.renames.items())
        return f"If only names have changed: `{call}rename={{{pairs}}})`."
    if not found.fitting:
        return "No leaf of it fits."
    return (
        f"To load the {len(found.fitting)} that fit and keep the rest of `like`: "
        f"`{call}strict=False)`."
    )


def _prefix(saved: Mapping[str, Spec], wanted: Mapping[str, Spec]) -> str | None:
    """The node of the checkpoint that is the whole of `like`."""
    first = next(iter(wanted), None)
    if first is None or first in saved:
        return None
    for path in saved:
        if path.endswith(f"/{first}"):
            prefix = path.removesuffix(f"/{first}")
            if all(saved.get(f"{prefix}/{name}") == spec for name, spec in wanted.items()):
                return prefix
    return None


def _would_fit(saved: Mapping[str, Spec], wanted: Mapping[str, Spec]) -> bool:
    return not mismatches(saved, wanted, cast=True).lines
