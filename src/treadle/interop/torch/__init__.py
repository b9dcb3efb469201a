"""Weights of PyTorch models, in and out. PyTorch itself is never imported."""

from ._convert import from_torch as from_torch
from ._convert import to_torch as to_torch
from ._table import Split as Split
from ._table import Transposed as Transposed
