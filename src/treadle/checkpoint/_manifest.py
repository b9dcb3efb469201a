"""The manifest of a checkpoint: what each leaf is and where, and what else was kept with it."""

import dataclasses
import importlib.metadata
import json
import pathlib
import re
from typing import Any

from .._errors import CheckpointError, DamagedCheckpointError
from ._digest import WIDTH, digest_of
from ._regular import read_regular
from ._schema import Malformed, integer, mapping, member, number, sequence, shape, short, text
from ._storage import Spec, is_possible, nbytes_of

MANIFEST = "manifest.json"
LEAVES = "leaves-00000.eqx"

_FORMAT = "treadle-checkpoint"
_VERSION = 2
# Enough for a million leaves; metadata as large as that belongs in the tree.
_LARGEST = 1 << 28
# How long the header of an array can be: NumPy fills it up, so that what follows is aligned.
_HEADER = range(64, 10 + (1 << 16), 64)
_BLANK = "0" * WIDTH
_DIGEST = re.compile(rb'\A\{\n"digest": "(xxh3_128:([0-9a-f]{%d}))",\n' % WIDTH)
# Of version 1, which no release wrote.
_EARLIER = re.compile(rb'\A\{\n"digest": "sha256:[0-9a-f]{64}",\n')


@dataclasses.dataclass(frozen=True)
class Record:
    """A leaf in a checkpoint.

    Attributes:
        path: Its name in the tree.
        spec: Its shape, dtype and the like.
        offset: Where in the file it begins, in bytes.
        nbytes: How many bytes it has there.
        digest: Of those bytes, with the name of the algorithm before it.
        value: An integer of more than 64 bits, in hexadecimal.
    """

    path: str
    spec: Spec
    offset: int
    nbytes: int
    digest: str
    value: str | None = None


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Everything about a checkpoint but the values of its leaves.

    Attributes:
        records: The leaves, in the order in which they lie in the file, one behind the other.
        statics: The static fields that are plain values, printed, by path.
        metadata: What the user kept with the tree.
        metrics: What `keep_best` judges by.
        versions: Of the packages that wrote it.
    """

    records: list[Record]
    statics: dict[str, str]
    metadata: dict[str, Any]
    metrics: dict[str, float]
    versions: dict[str, str | None] = dataclasses.field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """How long the file of leaves is."""
        return sum(record.nbytes for record in self.records)


def write_manifest(manifest: Manifest) -> bytes:
    """The bytes of the manifest: JSON, a line for each leaf, its own digest first.

    Raises:
        CheckpointError: If they are more than any reader takes.
    """
    names = ("treadle", "jax", "equinox", "numpy")
    head = {
        "format": _FORMAT,
        "version": _VERSION,
        "versions": {name: _version(name) for name in names},
        "metadata": manifest.metadata,
        "metrics": manifest.metrics,
        "static": manifest.statics,
        "file": LEAVES,
        "nbytes": manifest.nbytes,
    }
    lines = [f'"digest": "xxh3_128:{_BLANK}"']
    lines += [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
    leaves = ",\n".join(json.dumps(_to_json(record)) for record in manifest.records)
    lines.append(f'"leaves": [\n{leaves}\n]')
    blank = ("{\n" + ",\n".join(lines) + "\n}\n").encode()
    if len(blank) > _LARGEST:
        raise CheckpointError(
            f"The {MANIFEST} would have {len(blank)} bytes, and at most {_LARGEST} are read: keep "
            "what is large in the tree, as arrays, and not in `metadata`."
        )
    digest = digest_of(blank).removeprefix("xxh3_128:")
    return blank.replace(_BLANK.encode(), digest.encode(), 1)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # Run from a checkout, not installed.
        return None


def _to_json(record: Record) -> dict[str, Any]:
    spec = record.spec
    fields = {
        "path": record.path,
        "shape": spec.shape,
        "dtype": spec.dtype,
        "storage": spec.storage,
        "key_implementation": spec.key_implementation,
        "offset": record.offset,
        "nbytes": record.nbytes,
        "digest": record.digest,
        "value": record.value,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _from_json(fields: Any) -> Record:
    fields = mapping(fields)
    spec = Spec(
        shape=shape(fields),
        dtype=text(fields, "dtype"),
        storage=member(fields, "storage", str, optional=True),
        key_implementation=member(fields, "key_implementation", str, optional=True),
    )
    if not is_possible(spec):
        raise Malformed(f"there is no leaf of {short(dataclasses.astuple(spec))}")
    value = member(fields, "value", str, optional=True)
    if (spec.storage is None) != (value is not None):
        raise Malformed("a leaf has either a `storage` in the file or a `value`")
    if value is not None and not re.fullmatch(r"-?0x[0-9a-f]+", value):
        raise Malformed(f"`value` (={short(value)}) is no integer in hexadecimal")
    place = (integer(fields, "offset"), integer(fields, "nbytes"), text(fields, "digest"))
    record = Record(text(fields, "path"), spec, *place, value=value)
    _require_size(record)
    return record


def _require_size(record: Record) -> None:
    """Refuses a length that is not that of the leaf's shape."""
    values = nbytes_of(record.spec)
    if record.value is not None:
        fits = record.nbytes == 0
    elif record.spec.dtype == "key":
        fits = values is not None and record.nbytes > values
    else:
        fits = values is None or record.nbytes - values in _HEADER
    if not fits:
        raise Malformed(
            f"the leaf {short(record.path)} has {record.nbytes} bytes, which are not those of "
            f"{short(str(record.spec))}"
        )


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; of two members of one name, each reader would take another."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise Malformed("a name stands twice in an object")
    return fields


def _from_fields(fields: Any) -> Manifest:
    """The manifest, of which nothing is believed that was not checked.

    Raises:
        Malformed: If it is not one that `write_manifest` could have written.
    """
    fields = mapping(fields)
    if text(fields, "file") != LEAVES:
        raise Malformed(f"`file` (={short(fields['file'])}) is not {LEAVES!r}")
    records = [_from_json(leaf) for leaf in sequence(fields, "leaves")]
    offset = 0
    seen: set[str] = set()
    for record in records:
        if record.path in seen:
            raise Malformed(f"the path {short(record.path)} stands there twice")
        seen.add(record.path)
        # One behind the other, so that no byte is without a digest, and none has two.
        if record.offset != offset:
            raise Malformed(
                f"the leaf {short(record.path)} begins at {record.offset}, and the one before it "
                f"ends at {offset}"
            )
        offset += record.nbytes
    if integer(fields, "nbytes") != offset:
        raise Malformed(f"`nbytes` (={fields['nbytes']}) is not that of all leaves ({offset})")
    statics = member(fields, "static", dict)
    metrics = {name: number(value, name) for name, value in member(fields, "metrics", dict).items()}
    for name, value in statics.items():
        if not isinstance(value, str):
            raise Malformed(f"`static` has {short(value)} for {short(name)}, which is no text")
    metadata = mapping(member(fields, "metadata", dict))
    versions = member(fields, "versions", dict)
    for name, value in versions.items():
        if not isinstance(value, str | None):
            raise Malformed(f"`versions` has {short(value)} for {short(name)}, which is no text")
    return Manifest(records, statics, metadata, metrics, versions)


def read_manifest(folder: pathlib.Path) -> Manifest:
    """The manifest of the checkpoint in a folder.

    Raises:
        CheckpointError: If there is none, if it is damaged, or if another version wrote it.
    """
    file = folder / MANIFEST
    try:
        raw = read_regular(file, _LARGEST)
    except FileNotFoundError:
        raise CheckpointError(
            f"{str(folder)!r} is not a checkpoint: it has no {MANIFEST}. Give the folder that "
            "`treadle.save` wrote."
        ) from None
    found = _DIGEST.match(raw)
    blank = b"" if found is None else raw[: found.start(2)] + _BLANK.encode() + raw[found.end(2) :]
    if found is None and _EARLIER.match(raw):
        raise _of_another_version(folder, _FORMAT, 1)
    if found is None or digest_of(blank).encode() != found[1]:
        raise DamagedCheckpointError(
            f"The {MANIFEST} of the checkpoint {str(folder)!r} is damaged: it is not what was "
            "written. Go back to an earlier checkpoint."
        )
    try:
        # Of deep nesting, Python's reader says so by a `RecursionError`.
        fields = mapping(json.loads(raw, object_pairs_hook=_distinct))
        format_, version = text(fields, "format"), integer(fields, "version")
        if (format_, version) == (_FORMAT, _VERSION):
            return _from_fields(fields)
    except (Malformed, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"The {MANIFEST} of the checkpoint {str(folder)!r} was not written by treadle, though "
            f"its digest is right: {error}. Do not use what else lies there."
        ) from error
    raise _of_another_version(folder, format_, version)


def _of_another_version(folder: pathlib.Path, format_: str, version: int) -> CheckpointError:
    return CheckpointError(
        f"The checkpoint {str(folder)!r} has format {format_!r}, version {version}, and this "
        f"treadle reads {_FORMAT!r}, version {_VERSION}: read it with the treadle that wrote it, "
        "or with a newer one."
    )
