"""`treadle doctor`: the machine, the versions, the cache and the environment."""

from ._command import add_parser as add_parser
