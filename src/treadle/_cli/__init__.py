"""The command line: `treadle demo`, `treadle inspect`."""

from ._main import main as main
