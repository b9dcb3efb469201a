"""The contenders by name, in the order of the tables."""

from ._base import Contender as Contender
from ._base import Run as Run
from ._registry import CONTENDERS as CONTENDERS
