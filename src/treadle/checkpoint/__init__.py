"""Checkpoints: complete or not there, checked byte for byte, read by plain Equinox too."""

from ._checkpointer import Checkpointer as Checkpointer
from ._load import load as load
from ._load import read_metadata as read_metadata
from ._open import Checkpoint as Checkpoint
from ._open import open as open
from ._save import save as save
from ._storage import storage_like as storage_like
