"""`export` and `load_exported`: a model as a program that needs none of the code that made it."""

from ._export import export as export
from ._exported import Exported as Exported
from ._exported import load_exported as load_exported
