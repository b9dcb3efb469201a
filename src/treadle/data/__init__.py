"""Batches: what fits in memory, and any iterator that can say where it is."""

from ._arrays import ArrayBatches as ArrayBatches
from ._arrays import ArrayIterator as ArrayIterator
from ._arrays import arrays as arrays
from ._prefetch import PrefetchedBatches as PrefetchedBatches
from ._prefetch import PrefetchIterator as PrefetchIterator
from ._prefetch import prefetch as prefetch
from ._protocol import BatchIterator as BatchIterator
from ._protocol import decode_position as decode_position
from ._protocol import encode_position as encode_position
from ._protocol import is_positioned as is_positioned
