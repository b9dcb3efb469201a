"""Pure functions on pytrees: names for leaves, choices of them, and what they amount to."""

from ._paths import paths as paths
from ._select import Selector as Selector
from ._select import select as select
from ._size import count as count
from ._size import nbytes as nbytes
from ._stack import stack as stack
from ._stack import unstack as unstack
from ._summary import Summary as Summary
from ._summary import SummaryRow as SummaryRow
from ._summary import summary as summary
