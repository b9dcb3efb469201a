"""`fit` and what it is made of."""

from ._fit import fit as fit
from ._history import History as History
from ._replay import Replayed as Replayed
from ._replay import replay as replay
