"""Changing a checkpoint so that every digest is right again."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import xxhash

MANIFEST, LEAVES = "manifest.json", "leaves-00000.eqx"


def digest(content: bytes) -> str:
    """As it stands in a manifest."""
    return f"xxh3_128:{xxhash.xxh3_128_hexdigest(content)}"


def signed(body: str) -> bytes:
    """A manifest of a right digest around members of an object."""
    text = '{{\n"digest": "{}",\n{}'
    right = digest(text.format(f"xxh3_128:{'0' * 32}", body).encode())
    return text.format(right, body).encode()


def printed(fields: dict[str, Any]) -> str:
    """The members of an object, digest aside, and its end."""
    return json.dumps({k: v for k, v in fields.items() if k != "digest"})[1:]


def read(folder: pathlib.Path) -> dict[str, Any]:
    """The manifest of a checkpoint."""
    return json.loads((folder / MANIFEST).read_text())


def write_body(folder: pathlib.Path, body: str) -> None:
    """Puts another manifest there, of the right digest."""
    (folder / MANIFEST).write_bytes(signed(body))


def manifest(change: Callable[[dict[str, Any]], Any]) -> Callable[[pathlib.Path], None]:
    """A forgery that changes the manifest's members."""

    def forge(folder: pathlib.Path) -> None:
        fields = read(folder)
        change(fields)
        write_body(folder, printed(fields))

    return forge


def text(old: str, new: str) -> Callable[[pathlib.Path], None]:
    """A forgery that changes the manifest's text."""

    def forge(folder: pathlib.Path) -> None:
        body = printed(read(folder))
        assert old in body, (old, body)
        write_body(folder, body.replace(old, new, 1))

    return forge


def raw(path: str, content: Callable[[bytes], bytes]) -> Callable[[pathlib.Path], None]:
    """A forgery that changes the bytes of a leaf, which the manifest then says are right."""

    def forge(folder: pathlib.Path) -> None:
        fields, old = read(folder), (folder / LEAVES).read_bytes()
        pieces, offset = [], 0
        for leaf in fields["leaves"]:
            piece = old[leaf["offset"] : leaf["offset"] + leaf["nbytes"]]
            if leaf["path"] == path:
                piece = content(piece)
            pieces.append(piece)
            leaf |= {"offset": offset, "nbytes": len(piece), "digest": digest(piece)}
            offset += len(piece)
        fields["nbytes"] = offset
        (folder / LEAVES).write_bytes(b"".join(pieces))
        write_body(folder, printed(fields))

    return forge


def leaf(path: str, /, **members: Any) -> Callable[[pathlib.Path], None]:
    """A forgery that changes members of a leaf's record; `...` removes one."""

    def change(fields: dict[str, Any]) -> None:
        record = next(leaf for leaf in fields["leaves"] if leaf["path"] == path)
        record |= members
        for name in [name for name, value in members.items() if value is ...]:
            del record[name]

    return manifest(change)
