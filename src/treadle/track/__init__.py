"""Where the rows of a training go."""

from ._base import Tracker as Tracker
from ._csv import CSV as CSV
from ._jsonl import JSONL as JSONL
from ._jsonl import read_jsonl as read_jsonl
