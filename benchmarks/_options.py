"""What the command line may choose."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Options:
    """How much to measure.

    Args:
        smoke: The smallest form: treadle and the floors, one round, a handful of steps.
        rounds: How many fresh processes each contender gets.
        only: Names of contenders to keep; empty for all.
        configs: Names of configurations to keep; empty for all.
        turns: How often each contender runs within a round.
        seconds: How long one such run should take.
    """

    smoke: bool = False
    rounds: int = 5
    only: tuple[str, ...] = ()
    configs: tuple[str, ...] = ()
    turns: int = 3
    seconds: float = 1.0
