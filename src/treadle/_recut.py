"""Batches of one size, cut across the boundaries of any others."""

from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._batch import num_examples
from ._checks import whole_number
from ._custom_types import Batch
from ._errors import BatchError


def recut(
    batches: Iterable[Batch], batch_size: int | None, *, pad: bool
) -> Iterator[tuple[Batch, int]]:
    """Batches of one size across the boundaries of the given ones.

    Args:
        batches: Batches of any sizes.
        batch_size: The size; the first batch's when `None`.
        pad: Whether the last batch is filled up by repeating its last row.

    Yields:
        A batch, and how many of its rows count.
    """
    if batch_size is not None:
        whole_number("batch_size", batch_size, otherwise=", or None for the first batch's")
    held: list[Batch] = []
    available = 0
    first = None
    for batch in batches:
        size = num_examples(batch)
        structure = jax.tree.structure(batch)
        first = structure if first is None else first
        if structure != first:
            raise BatchError(
                f"`batches` changes its structure on the way, from {first} to {structure}: every "
                f"batch must have the same."
            )
        batch_size = size if batch_size is None else batch_size
        if not held and size == batch_size:
            yield batch, size
            continue
        held.append(batch)
        available += size
        if available >= batch_size:
            whole = _concatenate(held)
            start = 0
            while available - start >= batch_size:
                yield rows_of(whole, start, start + batch_size), batch_size
                start += batch_size
            available -= start
            held = [rows_of(whole, start, start + available)] if available else []
    if available:
        tail = _concatenate(held)
        yield (padded(tail, available, batch_size or available) if pad else tail), available


def _concatenate(batches: list[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    return jax.tree.map(lambda *leaves: _join(leaves), *batches)


def _join(leaves: tuple[Any, ...]) -> Any:
    shapes = list(dict.fromkeys(jnp.shape(leaf) for leaf in leaves))
    if len({shape[1:] for shape in shapes}) > 1:
        raise BatchError(
            f"`batches` have arrays of the shapes {', '.join(map(str, shapes))}, which must be "
            f"joined to cut batches of one size, and differ behind the leading axis: pad them to "
            f"one length; or give every batch the same number of examples and leave out "
            f"`batch_size`, so that none is cut."
        )
    if any(isinstance(leaf, jax.Array) for leaf in leaves):
        return jnp.concatenate(leaves)
    return np.concatenate(leaves)


def rows_of(batch: Batch, start: int, stop: int) -> Batch:
    """The examples from one place to another."""
    return jax.tree.map(lambda leaf: leaf[start:stop], batch)


def padded(batch: Batch, count: int, size: int) -> Batch:
    """A batch of `size` rows: those that count, and the last of them again."""
    places = np.minimum(np.arange(size), count - 1)
    return jax.tree.map(lambda leaf: leaf[places], batch)
