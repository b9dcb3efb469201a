"""Where a key is consumed, and where one that was consumed is consumed again."""

import dataclasses
from typing import Any, NamedTuple


class Stop(NamedTuple):
    """One equation on the way to another: in which program, and in which turn of its loop."""

    equation: Any
    jaxpr: Any
    turn: int


Path = tuple[Stop, ...]


def equations_of(path: Path) -> list[Any]:
    """The equations on a way."""
    return [stop.equation for stop in path]


@dataclasses.dataclass(eq=False)
class Use:
    """A key is consumed.

    Attributes:
        kind: `"draw"`, `"split"` or `"fold"`.
        path: Where: the equation behind all that enclose it.
        signature: What is drawn: the primitive, its parameters.
        again: Whether it is under a transformation that computes something for the second time.
        source: Where the key came from, another `Use`.
        live: Whether anything is drawn from it, or from what comes of it.
        recomputed: The ways to where it is made again for a derivative, the last call first.
    """

    kind: str
    path: Path
    signature: str
    again: bool
    source: "Use | None" = None
    live: bool = False
    recomputed: list[Path] = dataclasses.field(default_factory=list)

    def draws(self) -> None:
        """Notes that something is drawn from what comes of it."""
        use: Use | None = self
        while use is not None and not use.live:
            use.live = True
            use = use.source

    @property
    def equations(self) -> list[Any]:
        """The equation behind all that enclose it."""
        return equations_of(self.path)


class Loop(NamedTuple):
    """A scan that an equation was moved out of, and how far on the way to that it stands."""

    equation: Any
    depth: int


class Reuse(NamedTuple):
    """A key that was consumed is consumed again, or goes out to be.

    Attributes:
        first: Where it is consumed.
        second: Where it is consumed again; `None` where it goes out.
        loop: The scan in each turn of which it is consumed, where JAX has moved that out of it.
    """

    first: Use
    second: Use | None
    loop: Loop | None = None


class Constant(NamedTuple):
    """A draw with a key that is the same in every call.

    Attributes:
        use: The draw.
        origin: Where the key was made, the way to the equation; or a `Captured`.
    """

    use: Use
    origin: Any


class Captured:
    """A constant of the program.

    Attributes:
        path: The way to the equation that first consumes it as a key.
    """

    def __init__(self) -> None:
        self.path: Path = ()
