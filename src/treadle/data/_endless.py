"""Which batches never end: an evaluation would go on for ever."""

from collections.abc import Sized
from typing import Any

from ._arrays import ArrayBatches
from ._prefetch import PrefetchedBatches
from ._stream import StreamBatches
from ._torch import TorchBatches

_MORE_THAN_ANY = 2**40
_ONCE = "key=None, shuffle=False, epochs=1, drop_remainder=False"


def how_to_end(batches: Any) -> str | None:
    """What to write instead of batches that never end; None where that is not known of them."""
    if isinstance(batches, PrefetchedBatches):
        return how_to_end(batches._batches)
    if isinstance(batches, (ArrayBatches, StreamBatches)) and batches.epochs is None:
        return f"`treadle.data.arrays` and `huggingface` end with `{_ONCE}`"
    if isinstance(batches, TorchBatches) and batches.epochs is None:
        return "`treadle.data.torch` ends with `epochs=1`"
    # Grain's `repeat()` has all but endless a length; a pipeline without a length is not known.
    if type(batches).__module__.startswith("grain.") and isinstance(batches, Sized):
        return "leave out Grain's `.repeat()`" if len(batches) > _MORE_THAN_ANY else None
    return None
