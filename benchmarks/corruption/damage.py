"""What disks and networks do to files: a bit is flipped, the end is missing, there is more."""

import dataclasses
import random
from collections.abc import Iterator
from typing import Any

KINDS = ("bit flipped", "cut short", "made longer")


@dataclasses.dataclass(frozen=True)
class Damage:
    """One change to one file.

    Attributes:
        kind: One of `KINDS`.
        file: The name of the file.
        at: The byte from which on it is another file.
        content: All of it afterwards.
    """

    kind: str
    file: str
    at: int
    content: bytes

    def leaf(self, leaves: list[dict[str, Any]]) -> str:
        """The leaf that it hits, by what the manifest says of them; the last, behind them all."""
        for leaf in leaves:
            if self.at < leaf["offset"] + leaf["nbytes"]:
                return leaf["path"]
        return leaves[-1]["path"]


def _flipped(content: bytes, chance: random.Random) -> tuple[int, bytes]:
    at = chance.randrange(len(content))
    other = bytes([content[at] ^ (1 << chance.randrange(8))])
    return at, content[:at] + other + content[at + 1 :]


def _cut(content: bytes, chance: random.Random) -> tuple[int, bytes]:
    at = chance.randrange(len(content))
    return at, content[:at]


def _longer(content: bytes, chance: random.Random) -> tuple[int, bytes]:
    more = chance.choice([1, 2, 64, 4096])
    tails = [chance.randbytes(more), bytes(more), content[:more], b"\n"]
    return len(content), content + chance.choice(tails)


_CHANGES = dict(zip(KINDS, (_flipped, _cut, _longer), strict=True))


def drawn(files: dict[str, bytes], kind: str, count: int, seed: int) -> Iterator[Damage]:
    """Damages of one kind, each file as often as the others, anywhere in it.

    Args:
        files: What the files contain, by name.
        kind: One of `KINDS`.
        count: How many.
        seed: Which ones.
    """
    chance = random.Random(f"{kind} {seed}")
    for number in range(count):
        file = list(files)[number % len(files)]
        at, content = _CHANGES[kind](files[file], chance)
        yield Damage(kind, file, at, content)
