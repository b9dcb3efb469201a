"""Pure functions on pytrees: names for leaves, choices of them, and what they amount to."""

from ._cast import cast as cast
from ._dict import from_dict as from_dict
from ._dict import to_dict as to_dict
from ._diff import diff as diff
from ._difference import Diff as Diff
from ._difference import Difference as Difference
from ._ema import ema as ema
from ._lora import lora as lora
from ._lora import lora_filter as lora_filter
from ._lora import merge_lora as merge_lora
from ._migrate import migrate as migrate
from ._paths import paths as paths
from ._replace import replace as replace
from ._select import Selector as Selector
from ._select import select as select
from ._shapes import shapes as shapes
from ._size import count as count
from ._size import nbytes as nbytes
from ._stack import stack as stack
from ._stack import unstack as unstack
from ._summary import Summary as Summary
from ._summary import SummaryRow as SummaryRow
from ._summary import summary as summary
from ._values import Deviation as Deviation
