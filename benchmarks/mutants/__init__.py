"""Broken transformations for each law to find, and right ones for it to pass: one file each."""

import importlib

from ._subject import Subject as Subject

LAWS = (
    "roundtrip",
    "idempotent",
    "structure",
    "partition",
    "lens",
    "linear",
    "monoid",
    "commutes",
    "jit",
    "vmap",
    "grad",
    "serialisation",
    "sharding",
    "resume",
    "audited",
)
"""The names of the laws, without `check_` and `assert_`."""


def subjects(law: str) -> tuple[Subject, ...]:
    """What there is for a law. Imports JAX, which only the process that tries them needs."""
    return importlib.import_module(f"{__name__}.{law}").SUBJECTS
