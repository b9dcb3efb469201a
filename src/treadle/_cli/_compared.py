"""What `treadle inspect --diff` finds out about two checkpoints."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..checkpoint import Checkpoint
from ..checkpoint._storage import Spec
from ..tree._values import deviation
from ._inspected import chosen


@dataclasses.dataclass(frozen=True)
class Row:
    """A leaf that differs.

    Attributes:
        path: Its name.
        kind: What differs: "only in A", "only in B", "shape", "dtype" or "value".
        a: What it is in A, without its values; None where it is not there.
        b: What it is in B.
        count: How many of its numbers differ.
        size: How many it has.
        max_abs: The largest absolute difference; None for what is no number.
        nans: How many are NaN in only one of the two, or in both with other bits.
    """

    path: str
    kind: str
    a: str | None
    b: str | None
    count: int | None = None
    size: int | None = None
    max_abs: float | None = None
    nans: int = 0


@dataclasses.dataclass(frozen=True)
class Compared:
    """Two checkpoints beside each other.

    Attributes:
        rows: The leaves that differ.
        same: How many are the same, bit for bit.
        static: The static fields that differ, as A and B have them; None where one does not.
        metadata: Likewise.
        metrics: Likewise.
        versions: Likewise.
    """

    rows: tuple[Row, ...]
    same: int
    static: dict[str, tuple[Any, Any]]
    metadata: dict[str, tuple[Any, Any]]
    metrics: dict[str, tuple[Any, Any]]
    versions: dict[str, tuple[Any, Any]]

    def __bool__(self) -> bool:
        return bool(self.rows or self.static or self.metadata or self.metrics or self.versions)


def compare(a: Checkpoint, b: Checkpoint, globs: Sequence[str] = ()) -> Compared:
    """Where two checkpoints differ.

    Leaves whose digests are the same are not read, for neither are their bytes others.

    Args:
        a: One of them.
        b: The other.
        globs: Which leaves to compare; none of them means all.

    Raises:
        CheckpointError: If a leaf that is compared is damaged.
        TreeError: If a glob matches nothing.
    """
    specs, others = a.specs, b.specs
    paths = chosen(list(dict.fromkeys([*specs, *others])), globs)
    digests = a.digests, b.digests
    rows = []
    for path in paths:
        row = _differing(path, specs.get(path), others.get(path))
        if row is None and digests[0][path] != digests[1][path]:
            row = _values(path, specs[path], a, b)
        if row is not None:
            rows.append(row)
    return Compared(
        tuple(rows),
        len(paths) - len(rows),
        *(
            _unlike(getattr(a, name), getattr(b, name))
            for name in ("static", "metadata", "metrics", "versions")
        ),
    )


def _differing(path: str, one: Spec | None, two: Spec | None) -> Row | None:
    if one is None or two is None:
        kind = "only in B" if one is None else "only in A"
        return Row(path, kind, _told(one), _told(two))
    if one.shape != two.shape:
        return Row(path, "shape", _told(one), _told(two))
    # How it is stored is no difference in itself.
    if (one.dtype, one.key_implementation) != (two.dtype, two.key_implementation):
        return Row(path, "dtype", _told(one), _told(two))
    return None


def _told(spec: Spec | None) -> str | None:
    return None if spec is None else str(spec)


def _values(path: str, spec: Spec, a: Checkpoint, b: Checkpoint) -> Row | None:
    one, two = a[path], b[path]
    if isinstance(one, int) and not isinstance(one, bool):  # NumPy knows 64 bits only.
        return _row(path, spec, 1, 1, _as_float(abs(one - two))) if one != two else None
    if spec.dtype != "key":
        one, two = np.asarray(one), np.asarray(two)
    found = deviation(one, two)
    if found is None:
        return None
    return _row(path, spec, found.count, found.size, found.max_abs, found.nan_count)


def _as_float(number: int) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf


def _row(path: str, spec: Spec, count: int, size: int, max_abs: float | None, nans: int = 0) -> Row:
    return Row(path, "value", str(spec), str(spec), count, size, max_abs, nans)


def _unlike(one: dict[str, Any], two: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What differs, by name. As text, for which NaN is NaN."""
    return {
        name: (one.get(name), two.get(name))
        for name in dict.fromkeys([*one, *two])
        if repr(one.get(name)) != repr(two.get(name))
    }
