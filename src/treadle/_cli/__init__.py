"""The command line: `treadle demo`."""

from ._main import main as main
