"""Checkpoints as somebody would forge them: every digest is right, and what they say is not."""

import dataclasses
import math
import os
import pathlib
import pickle
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

from .forge import LEAVES, MANIFEST, leaf, manifest, raw, read, text
from .reading import READERS


@dataclasses.dataclass(frozen=True)
class Case:
    """A forgery.

    Attributes:
        name: What it does.
        forge: Does it to the checkpoint in a folder; there is a folder `outside` beside it.
        refused_by: The readers that must refuse it. What only does not fit the tree is loaded by
            nobody, and can be looked at; what is no array though its digest is right can be
            verified, for `verify` reads bytes.
    """

    name: str
    forge: Callable[[pathlib.Path], None]
    refused_by: tuple[str, ...] = tuple(READERS)


_LOAD = ("load",)
_ARRAYS = ("load", "each leaf")
# Of no type that any member has, and each of them of another one.
_WRONG: dict[str, Any] = {
    "null": None,
    "true": True,
    "-1": -1,
    "1.5": 1.5,
    "NaN": math.nan,
    "Infinity": math.inf,
    "a string": "x",
    "an array": [],
    "an array of arrays": [[[]]],
    "an object": {},
    "2**63": 2**63,
    "10**400": 10**400,
}
_DTYPES = (
    *("O", "|O", "object", "O8", "V", "V8", "V99999999999", "|V4", "void", "S99999999999", "U1"),
    *("f4,f4", "(1000000000,)f4", "4f4", "[('a', 'f4')]", "{'names': ['a']}", "str", "bytes"),
    *("M8[99999999999s]", "python object", "python list", "python ", "key", "T", "float32\0", ""),
    *(
        "../float32",
        "float32\n",
        "FLOAT32",
        "f4",
        "<f4",
        ">f4",
        "a5",
        "datetime64[s]",
        "x" * 100_000,
    ),
)


def _cases() -> Iterator[Case]:
    yield from _files_named()
    yield from _members()
    yield from _records()
    yield from _texts()
    yield from _arrays()
    yield from _replaced()


def _set(member: str, value: Any) -> Callable[[pathlib.Path], None]:
    return manifest(lambda fields: fields.__setitem__(member, value))


def _files_named() -> Iterator[Case]:
    names = ("../outside/" + LEAVES, "/etc/passwd", "/dev/zero", "./" + LEAVES, "a/../" + LEAVES)
    for name in (*names, "", ".", "..", LEAVES + "\0", LEAVES + "\n", MANIFEST, "~/" + LEAVES):
        yield Case(f"file is {name!r}", _set("file", name))

    def absolute(folder: pathlib.Path) -> None:
        _set("file", str(folder.parent / "outside" / LEAVES))(folder)

    yield Case("file is an absolute path outside", absolute)
    for name in ("../../secret", "/etc/passwd", "weight\0", "~root", "C:\\weight"):
        yield Case(f"a leaf's path is {name!r}", leaf("weight", path=name), _LOAD)


def _members() -> Iterator[Case]:
    right = {"versions": dict, "metadata": dict, "metrics": dict, "static": dict, "leaves": list}
    names = ("format", "version", "versions", "metadata", "metrics", "static", "file", "nbytes")
    for member in (*names, "leaves"):
        for name, value in _WRONG.items():
            if not isinstance(value, right.get(member, ())) or member == "leaves":
                yield Case(f"{member} is {name}", _set(member, value))
        yield Case(f"{member} is missing", manifest(lambda fields, m=member: fields.pop(m)))
    for name, value in _WRONG.items():
        yield Case(f"a leaf is {name}", _set("leaves", [value]))
        if not isinstance(value, float) and value not in (-1, 2**63):
            yield Case(f"a metric is {name}", _set("metrics", {"loss": value}))
        if not isinstance(value, str):
            yield Case(f"a static field is {name}", _set("static", {"model/width": value}))
        if not isinstance(value, str | None):
            yield Case(f"a version is {name}", _set("versions", {"jax": value}))


def _records() -> Iterator[Case]:
    for member in ("path", "shape", "dtype", "storage", "offset", "nbytes", "digest"):
        for name, value in _WRONG.items():
            # A name that is another one than the tree's, and nothing worse.
            readers = _LOAD if (member, value) == ("path", "x") else tuple(READERS)
            if (member, value) != ("shape", []):
                case = f"a leaf's {member} is {name}"
                yield Case(case, leaf("weight", **{member: value}), readers)
        yield Case(f"a leaf's {member} is missing", leaf("weight", **{member: ...}))
    for name in _DTYPES:
        shown = name if len(name) < 60 else f"{name[:3]}..."
        yield Case(f"a leaf's dtype is {shown!r}", leaf("weight", dtype=name))
        yield Case(f"a leaf's storage is {shown!r}", leaf("weight", storage=name))
        both = leaf("weight", dtype=name, storage=name)
        readers = _ARRAYS if name == ">f4" else tuple(READERS)  # There is that, but not here.
        yield Case(f"its dtype and storage are {shown!r}", both, readers)
    shapes: dict[str, Any] = {
        "[2**62]": [2**62],
        "[2**40, 2**40]": [2**40, 2**40],
        "[2**63]": [2**63],
        "[10**400]": [10**400],
        "[-1]": [-1],
        "[-2, -3]": [-2, -3],
        "[1.5]": [1.5],
        "[true, 6]": [True, 6],
        "['6']": ["6"],
        "[NaN]": [math.nan],
        "[null]": [None],
        "of 10,000 axes": [1] * 10_000,
        "of a few more": [2, 4],
        "of none": [],
    }
    for name, value in shapes.items():
        yield Case(f"a shape is {name}", leaf("weight", shape=value))
    for path, dtype, storage in (
        ("weight", "float32", "uint8"),
        ("weight", "int32", "float32"),
        ("weight", "float8_e4m3fn", "float32"),
        ("float8", "float8_e4m3fn", "int8"),
        ("float8", "float32", "uint8"),
        ("bfloat16", "bfloat16", "uint8"),
        ("rate", "python int", "float64"),
        ("count", "python bool", "int64"),
        ("key", "key", "uint64"),
        ("key", "key", "float32"),
    ):
        name = f"{path} is {dtype} stored as {storage}"
        yield Case(name, leaf(path, dtype=dtype, storage=storage))
    yield Case("a number is an array", leaf("count", shape=[1]))
    yield Case("an array has a key implementation", leaf("weight", key_implementation="rbg"))
    for name in (..., 5, None, []):
        yield Case(f"a key's implementation is {name!r}", leaf("key", key_implementation=name))
    yield Case("a key's implementation is 'os'", leaf("key", key_implementation="os"), _ARRAYS)
    yield Case("a key's implementation is 'rbg'", leaf("key", key_implementation="rbg"), _ARRAYS)
    for name in ("", "0x", "1e5", "__import__('os')", "0X10", "0x1_0", " 0x1", "0x1\n", 5, None):
        yield Case(f"an integer is {name!r}", leaf("large", value=name))
    yield Case("an array is an integer", leaf("weight", value="0x1", storage=...))
    yield Case("an integer is an array", leaf("large", value=..., storage="int64"))
    yield Case("an integer has bytes", leaf("large", nbytes=8))
    yield from _places()


def _places() -> Iterator[Case]:
    for name, value in {"-1": -1, "1": 1, "2**62": 2**62, "2**63-1": 2**63 - 1, "0": 0}.items():
        yield Case(f"a leaf begins at {name}", leaf("weight", offset=value))
        yield Case(f"a leaf has {name} bytes", leaf("weight", nbytes=value))

    def claims(fields: dict[str, Any], nbytes: int) -> None:
        last = fields["leaves"][-1]
        fields["nbytes"] += nbytes - last["nbytes"]
        last |= {"nbytes": nbytes, "shape": [nbytes // 4 - 32]}

    for size in (2**33, 2**40, 2**61):
        name = f"the last leaf claims {size} bytes"
        yield Case(name, manifest(lambda fields, size=size: claims(fields, size)))

    def twice(fields: dict[str, Any]) -> None:
        fields["leaves"].append(dict(fields["leaves"][-1]))

    def same(fields: dict[str, Any]) -> None:
        fields["leaves"][1]["path"] = fields["leaves"][0]["path"]

    def overlapping(fields: dict[str, Any]) -> None:
        twice(fields)
        fields["leaves"][-1]["path"] = "other"

    def reversed_(fields: dict[str, Any]) -> None:
        fields["leaves"].reverse()

    def missing(fields: dict[str, Any]) -> None:
        del fields["leaves"][3]

    def cut(fields: dict[str, Any]) -> None:
        fields["nbytes"] -= fields["leaves"].pop()["nbytes"]

    yield Case("a leaf stands there twice", manifest(twice))
    yield Case("two leaves of one name", manifest(same))
    yield Case("two leaves in one place", manifest(overlapping))
    yield Case("leaves in another order", manifest(reversed_))
    yield Case("a leaf is missing, and leaves a gap", manifest(missing))
    yield Case("the last leaf is missing, its bytes are not", manifest(cut))
    for name in ("", "sha256:" + "0" * 64, "xxh3_128:" + "0" * 32, "xxh3_128:", "none"):
        yield Case(f"a leaf's digest is {name[:20]!r}", leaf("weight", digest=name))


def _texts() -> Iterator[Case]:
    deep = "[" * 100_000 + "]" * 100_000
    objects = '{"a":' * 100_000 + "1" + "}" * 100_000
    for name, value in {"arrays": deep, "objects": objects, "open arrays": "[" * 100_000}.items():
        yield Case(f"100,000 {name} in the metadata", text('"lr": 0.1', f'"lr": {value}'))
        yield Case(f"100,000 {name} for a shape", text('"shape": [4]', f'"shape": {value}'))
    yield Case("a size of 10,000 digits", text('"nbytes": ', f'"nbytes": 1{"0" * 10_000}'))
    yield Case("a size that is NaN", text('"offset": 0', '"offset": NaN'))
    yield Case("a size that is 1e999", text('"offset": 0', '"offset": 1e999'))
    yield Case("a size that is 0.0", text('"offset": 0', '"offset": 0.0'))
    yield Case("a size that is -0.0", text('"offset": 0', '"offset": -0.0'))
    yield Case("a member twice", text('"version": ', '"version": 9, "version": '))
    yield Case("a leaf's member twice", text('"offset": 0', '"offset": 9, "offset": 0'))
    yield Case("a comment", text('"file": ', '/* */ "file": '))
    yield Case("single quotes", text('"file": ', "'file': "))
    yield Case("something behind the end", text('"leaves": ', '"x": 1}, {"leaves": '))
    yield Case("no UTF-8", _not_utf8)


def _not_utf8(folder: pathlib.Path) -> None:
    from .forge import digest, printed

    start = b'{\n"digest": "%s",\n'
    rest = printed(read(folder)).encode().replace(b'"lr"', b'"\xff\xfe"')
    right = digest(start % (b"xxh3_128:" + b"0" * 32) + rest).encode()
    (folder / MANIFEST).write_bytes(start % right + rest)


def _header(shown: str, *, version: bytes = b"\1\0", data: bytes = b"\0" * 24) -> bytes:
    width = "<I" if version[0] > 1 else "<H"
    # Of a length that the manifest's own check lets pass.
    before = len(b"\x93NUMPY" + version) + struct.calcsize(width)
    text = (shown + " " * (-(before + len(shown) + 1) % 64) + "\n").encode()
    return b"\x93NUMPY" + version + struct.pack(width, len(text)) + text + data


def _shown(dtype: str = "'<f4'", fortran: str = "False", shape: str = "(2, 3)") -> str:
    return f"{{'descr': {dtype}, 'fortran_order': {fortran}, 'shape': {shape}, }}"


class Evil:
    """What an object's dtype would unpickle."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("false",))


def _arrays() -> Iterator[Case]:
    bombs = pickle.dumps([Evil()] * 6)
    headers: dict[str, bytes] = {
        "of pickled objects": _header(_shown("'|O'"), data=bombs),
        "a pickle": bombs,
        "empty": b"",
        "of version 2": _header(_shown(), version=b"\2\0"),
        "of version 3": _header(_shown(), version=b"\3\0"),
        "of version 255": _header(_shown(), version=b"\xff\xff"),
        "a call": _header("__import__('os').system('false')"),
        "of 60,000 brackets": _header("(" * 60_000),
        "of 60,000 minuses": _header("-" * 60_000 + "1"),
        "of a structure": _header(_shown("[('a', '<f4')]")),
        "of raw bytes": _header(_shown("'|V99999999999'")),
        "of no bytes": _header(_shown("'|V0'")),
        "of long text": _header(_shown("'<U2147483647'")),
        "of a subarray": _header(_shown("('<f4', (1000000000,))")),
        "of integers": _header(_shown("'<i4'")),
        "of another order of bytes": _header(_shown("'>f4'")),
        "of a huge shape": _header(_shown(shape="(4611686018427387904, 3)")),
        "of an endless shape": _header(_shown(shape=f"({'9' * 5000},)")),
        "of a shape of nothing": _header(_shown(shape="(0, 9223372036854775807)"), data=b""),
        "of a negative shape": _header(_shown(shape="(-1, 3)")),
        "of a shape of booleans": _header(_shown(shape="(True, 6)")),
        "of a shape of floats": _header(_shown(shape="(2., 3)")),
        "of the transposed shape": _header(_shown(shape="(3, 2)")),
        "in an order that is no boolean": _header(_shown(fortran="1")),
        "too long": _header(_shown(), data=b"\0" * 28),
        "too short": _header(_shown(), data=b"\0" * 20),
        "longer than it is": _header(_shown())[:8] + b"\xff\xff" + _header(_shown())[10:],
    }
    for name, content in headers.items():
        yield Case(f"an array {name}", raw("weight", lambda _, new=content: new), _ARRAYS)
    claims = _header(_shown("'<f8'", shape="(1000000000, 3)"), data=b"")
    yield Case("an array of a huge shape, without data", raw("empty", lambda _: claims), _ARRAYS)
    for shape in ("()", "(1,)", "(3,)", "(2, 1)"):
        size = 4 * math.prod(int(part) for part in shape.strip("()").split(",") if part.strip())
        content = _header(_shown("'<u4'", shape=shape), data=b"\1" * size)
        yield Case(f"a key of shape {shape}", raw("key", lambda _, new=content: new), _ARRAYS)


def _replaced() -> Iterator[Case]:
    for file in (MANIFEST, LEAVES):
        for name, put in _PUT.items():
            yield Case(f"{file} is {name}", lambda folder, f=file, p=put: _replace(folder, f, p))
    yield Case("the manifest has capitals", lambda folder: _rename(folder, "Manifest.json"))
    yield Case("the manifest has another end", lambda folder: _rename(folder, "manifest.json~"))
    yield Case(
        "the manifest has a hole of 1 TB", lambda folder: os.truncate(folder / MANIFEST, 1 << 40)
    )
    yield Case(
        "the leaves have a hole of 1 TB", lambda folder: os.truncate(folder / LEAVES, 1 << 40)
    )


def _rename(folder: pathlib.Path, name: str) -> None:
    os.rename(folder / MANIFEST, folder / name)


def _replace(folder: pathlib.Path, file: str, put: Callable[[pathlib.Path, bytes], None]) -> None:
    content = (folder / file).read_bytes()
    (folder / file).unlink()
    put(folder / file, content)


def _link_outside(path: pathlib.Path, content: bytes) -> None:
    target = path.parent.parent / "outside" / path.name
    target.write_bytes(content)
    path.symlink_to(target)


def _link_inside(path: pathlib.Path, content: bytes) -> None:
    path.with_name("other").write_bytes(content)
    path.symlink_to("other")


def _socket(path: pathlib.Path, content: bytes) -> None:
    # Names of sockets may be about a hundred letters long.
    here = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


_PUT: dict[str, Callable[[pathlib.Path, bytes], None]] = {
    "missing": lambda path, content: None,
    "empty": lambda path, content: path.touch(),
    "a link to outside": _link_outside,
    "a link inside": _link_inside,
    "a link to itself": lambda path, content: path.symlink_to(path.name),
    "a link to /dev/zero": lambda path, content: path.symlink_to("/dev/zero"),
    "a pipe": lambda path, content: os.mkfifo(path),
    "a folder": lambda path, content: path.mkdir(),
    "a socket": _socket,
}


CASES: list[Case] = list(_cases())
