"""Pure functions on pytrees: names for leaves, and choices of them."""

from ._paths import paths as paths
from ._select import Selector as Selector
from ._select import select as select
