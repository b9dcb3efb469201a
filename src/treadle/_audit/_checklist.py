"""What people ask of a step before it goes into production, line by line."""

from typing import NamedTuple

LINES = {
    "pure": "pure: no side effects, the same program whenever it is traced",
    "compiled": "everything hot is compiled",
    "vmap": "`vmap`, not Python loops, for batches",
    "keys": "keys are split before each use, and never reused",
    "mutation": "nothing is mutated in place",
    "donated": "the state is donated, and nothing large is held twice",
    "dtypes": "in the formats that were meant, and everything learns",
    "cost": "what it costs to compile is known",
    "recompilation": "no recompilation by surprise",
    "cache": "the persistent compilation cache is on",
    "checkpoints": "checkpoints are in place",
}
"""The lines by their names; a rule says which one it belongs to."""


class Tick(NamedTuple):
    """One line of the checklist.

    Attributes:
        name: The line's name.
        text: What is asked.
        ticked: Whether it holds; `None` where nothing looked.
        evidence: What that was seen by.
    """

    name: str
    text: str
    ticked: bool | None
    evidence: str
