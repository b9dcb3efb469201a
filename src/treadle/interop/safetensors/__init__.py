"""Weights in safetensors files: one file of named arrays that everybody reads."""

from ._load import load as load
from ._load import read_metadata as read_metadata
from ._save import save as save
