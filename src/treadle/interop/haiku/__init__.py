"""Haiku transforms as Equinox modules, and their parameters back."""

from ._haiku import HaikuModule as HaikuModule
from ._haiku import HaikuModuleWithState as HaikuModuleWithState
from ._haiku import from_haiku as from_haiku
from ._haiku import to_haiku as to_haiku
