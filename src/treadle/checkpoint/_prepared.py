"""What is to be written, before it is: leaves by path, still where they are or on the host."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ..tree._paths import flatten_with_paths
from ._json import checked_metadata, checked_metrics
from ._statics import statics_of
from ._storage import Spec, another_name, check_saveable, spec_of, to_storage


class Entry:
    """A leaf on its way to disk; to Equinox, a leaf of a type of our own."""

    def __init__(self, path: str, leaf: Any, spec: Spec):
        self.path = path
        self.spec = spec
        self._leaf: Any = leaf
        self._sent: jax.Array | None = None
        self._stored: np.ndarray | None = None

    @property
    def value(self) -> str | None:
        """What stands in the manifest instead of in the file."""
        # In hexadecimal, for Python refuses to write long integers in decimal.
        return hex(self._leaf) if self.spec.storage is None else None

    def send(self) -> None:
        """Begins to copy the leaf to the host, where it is not there."""
        if isinstance(self._leaf, jax.Array) and self.spec.dtype != "key":
            self._sent = another_name(self._leaf)
            self._sent.copy_to_host_async()

    def hold(self) -> None:
        """Makes the leaf stay what it is now, whatever becomes of its memory."""
        if self.spec.storage is None:
            return
        leaf = self._leaf if self._sent is None else np.asarray(self._sent)
        stored = to_storage(leaf, self.spec)
        # A NumPy array is its owner's to write to. What a JAX array shows of its memory is not: as
        # long as somebody looks at it, no step writes there, even one that it was donated to.
        is_numpy = isinstance(self._leaf, np.ndarray)
        self._stored = stored.copy(order="K") if is_numpy else stored
        self._leaf = self._sent = None

    def take(self) -> np.ndarray:
        """What goes into the file; kept here no longer."""
        stored, self._stored = self._stored, None
        return to_storage(self._leaf, self.spec) if stored is None else stored


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A checkpoint that only wants writing.

    Attributes:
        entries: What there is to save, in the order of the leaves.
        statics: See `statics_of`.
        metadata: As JSON gives it back.
        metrics: Plain numbers.
    """

    entries: list[Entry]
    statics: dict[str, str]
    metadata: dict[str, Any]
    metrics: dict[str, float]

    def hold(self) -> None:
        """Makes the leaves stay what they are now, so that they can be written later.

        What is on other devices is copied to the host. On the host itself nothing is copied: the
        arrays are looked at (see `Entry.hold`), and let go one by one as they are written.
        """
        if jax.default_backend() != "cpu":
            for entry in self.entries:
                entry.send()
        for entry in self.entries:
            entry.hold()


def prepare(tree: PyTree, metadata: Any, metrics: Mapping[str, Any] | None) -> Prepared:
    """Checks that a tree can be saved.

    Raises:
        CheckpointError: If a leaf cannot be saved.
        ArgumentTypeError: If `metadata` is not JSON, or a metric not a number.
    """
    checked = checked_metadata(metadata), checked_metrics(metrics)
    named, _ = flatten_with_paths(tree)
    entries = []
    for path, leaf in named:
        spec = spec_of(path, leaf)
        if spec is not None:
            check_saveable(path, leaf)
            entries.append(Entry(path, leaf, spec))
    return Prepared(entries, statics_of(tree), *checked)
