"""Digests of what is on disk: XXH3, 128 bits."""

from typing import Any

import xxhash

# XXH3 reads memory as fast as memory is, ten times as fast as SHA-256 (`python -m benchmarks
# checkpoint`), so that checking every byte costs next to nothing. It finds damage, as CRC-32 does
# but with 128 bits; it is no signature: who can write the files can write their digests too.
_NAME = "xxh3_128"
WIDTH = 32


class Digest:
    """The digest of bytes that come piece by piece."""

    def __init__(self) -> None:
        self._state = xxhash.xxh3_128()

    def update(self, data: Any) -> None:
        """Takes the next piece: anything with a buffer, contiguous."""
        self._state.update(data)

    def __str__(self) -> str:
        return f"{_NAME}:{self._state.hexdigest()}"


def digest_of(data: Any) -> str:
    """The digest of some bytes, after the name of its algorithm."""
    return f"{_NAME}:{xxhash.xxh3_128_hexdigest(data)}"
