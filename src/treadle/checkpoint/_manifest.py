"""The manifest of a checkpoint: what each leaf is and where, and what else was kept with it."""

import dataclasses
import hashlib
import importlib.metadata
import json
import pathlib
import re
from typing import Any

from .._errors import CheckpointError
from ._storage import Spec

MANIFEST = "manifest.json"
LEAVES = "leaves-00000.eqx"

_FORMAT = "treadle-checkpoint"
_VERSION = 1
_BLANK = "0" * 64
_DIGEST = re.compile(rb'\A\{\n"digest": "sha256:([0-9a-f]{64})",\n')


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
    """Everything about a checkpoint but the values of its leaves."""

    records: list[Record]
    metadata: dict[str, Any]
    metrics: dict[str, float]


def write_manifest(manifest: Manifest) -> bytes:
    """The bytes of the manifest: JSON, a line for each leaf, its own digest first."""
    names = ("treadle", "jax", "equinox", "numpy")
    head = {
        "format": _FORMAT,
        "version": _VERSION,
        "versions": {name: _version(name) for name in names},
        "metadata": manifest.metadata,
        "metrics": manifest.metrics,
        "file": LEAVES,
    }
    lines = [f'"digest": "sha256:{_BLANK}"']
    lines += [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
    leaves = ",\n".join(json.dumps(_to_json(record)) for record in manifest.records)
    lines.append(f'"leaves": [\n{leaves}\n]')
    blank = ("{\n" + ",\n".join(lines) + "\n}\n").encode()
    digest = hashlib.sha256(blank).hexdigest()
    return blank.replace(_BLANK.encode(), digest.encode(), 1)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # Run from a checkout, not installed.
        return None


def _to_json(record: Record) -> dict[str, Any]:
    fields = dataclasses.asdict(record)
    fields = {"path": fields.pop("path"), **fields.pop("spec"), **fields}
    return {name: value for name, value in fields.items() if value is not None}


def _from_json(fields: dict[str, Any]) -> Record:
    spec = Spec(
        shape=tuple(fields["shape"]),
        dtype=fields["dtype"],
        storage=fields.get("storage"),
        key_implementation=fields.get("key_implementation"),
    )
    place = (fields["offset"], fields["nbytes"], fields["digest"])
    return Record(fields["path"], spec, *place, value=fields.get("value"))


def read_manifest(folder: pathlib.Path) -> Manifest:
    """The manifest of the checkpoint in a folder.

    Raises:
        CheckpointError: If there is none, if it is damaged, or if a newer treadle wrote it.
    """
    try:
        raw = (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        raise CheckpointError(
            f"{str(folder)!r} is not a checkpoint: it has no {MANIFEST}. Give the folder that "
            "`treadle.save` wrote."
        ) from None
    found = _DIGEST.match(raw)
    blank = b"" if found is None else raw[: found.start(1)] + _BLANK.encode() + raw[found.end(1) :]
    if found is None or hashlib.sha256(blank).hexdigest().encode() != found[1]:
        raise CheckpointError(
            f"The {MANIFEST} of the checkpoint {str(folder)!r} is damaged: it is not what was "
            "written. Go back to an earlier checkpoint."
        )
    fields = json.loads(raw)
    if (fields["format"], fields["version"]) != (_FORMAT, _VERSION):
        raise CheckpointError(
            f"The checkpoint {str(folder)!r} has format {fields['format']!r}, version "
            f"{fields['version']}, and this treadle reads {_FORMAT!r}, version {_VERSION}: read it "
            "with the treadle that wrote it, or with a newer one."
        )
    records = [_from_json(leaf) for leaf in fields["leaves"]]
    return Manifest(records, fields["metadata"], fields["metrics"])
