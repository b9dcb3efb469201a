"""A checkpoint and a tree beside each other."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from .._custom_types import Door
from .._errors import TreeError
from ..tree import select
from ._manifest import Manifest, Record
from ._mismatch import Mismatch, mismatches
from ._rename import renamed
from ._storage import Spec, spec_of


@dataclasses.dataclass(frozen=True)
class Options:
    """How `load` was asked to fit a checkpoint to a tree; see there."""

    strict: bool = True
    rename: Door[Mapping[str, str] | None] = None
    only: Sequence[str] | None = None
    cast: bool = False


@dataclasses.dataclass(frozen=True)
class Fit:
    """A checkpoint beside a tree.

    Attributes:
        records: The leaves of the checkpoint by the names that `rename` gives.
        saved: What they are; only those that count.
        wanted: The leaves of the tree that are to be loaded.
        found: What does not fit.
        without: The leaves that would stay those of the tree, and have no values there.
    """

    records: dict[str, Record]
    saved: dict[str, Spec]
    wanted: dict[str, Spec]
    found: Mismatch
    without: list[str]


class Fitting:
    """A checkpoint and a tree, to be laid beside each other in one way or another.

    Args:
        folder: The checkpoint, for messages.
        manifest: Its manifest.
        named: The leaves of the tree with their paths.
        statics: Its static fields.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        manifest: Manifest,
        named: Sequence[tuple[str, Any]],
        statics: Mapping[str, str],
    ):
        self.folder = folder
        self._manifest = manifest
        self._statics = statics
        specs = {path: spec_of(path, leaf) for path, leaf in named}
        self._wanted = {path: spec for path, spec in specs.items() if spec is not None}
        self._structs = {path for path, leaf in named if isinstance(leaf, jax.ShapeDtypeStruct)}

    def lay(self, options: Options, *, hints: bool = True) -> Fit:
        """What fits, and what does not.

        Args:
            options: How to lay them beside each other.
            hints: Whether to look for the nearest names, which takes long.

        Raises:
            TreeError: If a glob matches nothing.
            ArgumentTypeError, ArgumentValueError: If `rename` or `only` cannot be used.
        """
        records = self._named_anew(options.rename)
        saved = {path: record.spec for path, record in records.items()}
        wanted, beside = self._wanted, {}
        if options.only is not None:
            wanted = self._chosen(options.only)
            beside = {path: spec for path, spec in saved.items() if path not in self._wanted}
            saved = {path: spec for path, spec in saved.items() if path in wanted}
        # Static fields go by the names of modules, which globs over leaves do not match.
        part = bool(options.rename) or options.only is not None
        statics = ({}, {}) if part else (self._manifest.statics, self._statics)
        found = mismatches(saved, wanted, statics, cast=options.cast, beside=beside, hints=hints)
        fitting = set(found.fitting)
        without = [path for path in wanted if path not in fitting and path in self._structs]
        return Fit(records, saved, wanted, found, without)

    def _named_anew(self, rename: Door[Mapping[str, str] | None]) -> dict[str, Record]:
        records = {record.path: record for record in self._manifest.records}
        try:
            names = renamed(list(records), rename)
        except TreeError as error:
            raise TreeError(
                f"`rename` goes by the names in the checkpoint {str(self.folder)!r}. {error}"
            ) from error
        return {names[path]: record for path, record in records.items()}

    def _chosen(self, only: Sequence[str]) -> dict[str, Spec]:
        try:
            hits = select(*only).matches(list(self._wanted))
        except TreeError as error:
            raise TreeError(f"`only` goes by the names in `like`. {error}") from error
        pairs = zip(self._wanted.items(), hits, strict=True)
        return {path: spec for (path, spec), hit in pairs if hit}
