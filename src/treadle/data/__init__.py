"""Batches: of arrays, files and other people's data sets, by iterators that know where they are."""

from ._arrays import ArrayBatches as ArrayBatches
from ._arrays import ArrayIterator as ArrayIterator
from ._arrays import arrays as arrays
from ._huggingface import huggingface as huggingface
from ._idx import idx as idx
from ._npz import npz as npz
from ._parquet import parquet as parquet
from ._prefetch import PrefetchedBatches as PrefetchedBatches
from ._prefetch import PrefetchIterator as PrefetchIterator
from ._prefetch import prefetch as prefetch
from ._protocol import BatchIterator as BatchIterator
from ._protocol import decode_position as decode_position
from ._protocol import encode_position as encode_position
from ._protocol import is_positioned as is_positioned
from ._stream import StreamBatches as StreamBatches
from ._stream import StreamIterator as StreamIterator
from ._torch import TorchBatches as TorchBatches
from ._torch import TorchIterator as TorchIterator
from ._torch import torch as torch
