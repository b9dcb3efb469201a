"""Flax modules, Linen's and NNX's, as Equinox modules, and their variables back."""

from ._checkpoint import read_checkpoint as read_checkpoint
from ._linen import LinenModule as LinenModule
from ._linen import LinenModuleWithState as LinenModuleWithState
from ._linen import from_linen as from_linen
from ._linen import to_linen as to_linen
from ._nnx import NNXModule as NNXModule
from ._nnx import NNXModuleWithState as NNXModuleWithState
from ._nnx import from_nnx as from_nnx
from ._nnx import to_nnx as to_nnx
