"""`load_exported`: a program that was exported, ready to be called."""

import os
import pathlib
from typing import Any

import jax
from jax import export as jax_export
from jax.core import Tracer
from jaxtyping import PyTree
from packaging.version import InvalidVersion, Version

from .._custom_types import Batch, Door
from .._errors import ArgumentTypeError, ExportError
from ._export import require_flatbuffers
from ._format import Content, unpacked
from ._spec import require_batch


class Exported:
    """A program that was exported: called on a batch, it returns what the model says of it.

    It can be compiled into other programs, under `jax.jit`. JAX differentiates no exported program,
    nor maps it: `jax.grad` and `jax.vmap` need the model.

    Attributes:
        example: The shapes and dtypes of one example.
        output: Those of what comes out for one example.
        batch: The name of the size of a batch, or the one size that it was exported for.
        platforms: Where it may run.
        name: Of the model that was exported.
        versions: Of what exported it.
    """

    def __init__(self, program: Any, told: dict[str, Any]):
        self._program = program
        self._call = jax.jit(program.call)
        self.batch: str | int = told["batch"]
        self.platforms: tuple[str, ...] = tuple(program.platforms)
        self.name: str = told["name"]
        self.versions: dict[str, str] = told["versions"]
        (inputs,), _ = jax.tree.unflatten(program.in_tree, program.in_avals)
        self.example: PyTree = jax.tree.map(_one, inputs)
        self.output: PyTree = jax.tree.map(
            _one, jax.tree.unflatten(program.out_tree, program.out_avals)
        )

    def __call__(self, batch: Door[Batch]) -> PyTree:
        """The outputs for a batch, along a leading axis.

        Args:
            batch: Examples, stacked along a leading axis.

        Raises:
            BatchError: The batch is of another structure, shape or dtype than was exported.
            ExportError: The program was not exported for the platform of the arrays, or is of a
                newer JAX and has something in it that this one cannot run.
        """
        require_batch(batch, self.example, self.batch if isinstance(self.batch, int) else None)
        platform = _platform_of(batch)
        if platform not in self.platforms:
            raise ExportError(
                f"The program was exported for {', '.join(self.platforms)}, and this is "
                f"{platform!r}: export it with `platforms=[{platform!r}]`."
            )
        try:
            return self._call(batch)
        except Exception as error:
            # JAX looks into the program only here.
            exporter = self.versions["jax"]
            if not _is_newer(exporter):
                raise
            raise ExportError(
                f"The program was exported with jax {exporter}, and could not be run with the "
                f"older jax {jax.__version__}: `pip install -U jax`, or export it with this one. "
                f"{error}"
            ) from error

    def __repr__(self) -> str:
        return f"Exported({self.name!r}, batch={self.batch!r}, platforms={self.platforms})"


def _is_newer(exporter: str) -> bool:
    """Whether the version is above the one that is installed; what is none is not."""
    try:
        return Version(exporter) > Version(jax.__version__)
    except InvalidVersion:
        return False


def _one(aval: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(aval.shape[1:], aval.dtype)


def _platform_of(batch: PyTree) -> str:
    for leaf in jax.tree.leaves(batch):
        if isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer):
            return _named(next(iter(leaf.devices())).platform)
    return _named(jax.default_backend())


def _named(platform: str) -> str:
    """As `jax.export` names it."""
    return "cuda" if platform == "gpu" else platform


def load_exported(source: Door[str | os.PathLike[str] | bytes]) -> Exported:
    """Reads what `treadle.export` gave, without the code of the model.

    Nothing in it is executed by Python or unpickled, and every byte is checked against a digest
    before JAX reads it.

    Args:
        source: The path of a file, or its bytes.

    Returns:
        The program, which is called on a batch.

    Raises:
        ExportError: It was not written by `treadle.export`, is damaged, cannot be read, or is of a
            newer version of treadle or JAX.
        FileNotFoundError: There is no such file.
        MissingExtraError: `flatbuffers` is not installed, with which JAX reads programs.

    Example:
        >>> predict = treadle.load_exported("digits.bin")
        >>> logits = predict(images)
    """
    require_flatbuffers()
    if isinstance(source, (bytes, bytearray, memoryview)):
        data, name = bytes(source), "`source`"
    elif isinstance(source, (str, os.PathLike)):
        name = repr(os.fspath(source))
        try:
            data = pathlib.Path(source).read_bytes()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ExportError(f"{name} cannot be read: {error.strerror or error}.") from error
    else:
        raise ArgumentTypeError(
            f"`source` is a {type(source).__name__}: give the path of a file, or its bytes."
        )
    content = unpacked(data, name)
    return Exported(_program(content, name), content.told)


def _program(content: Content, name: str) -> Any:
    """What JAX makes of it; the digest says that it is as it was written."""
    exporter = f"{name} was exported with jax {content.told['versions']['jax']}"
    try:
        program = jax_export.deserialize(bytearray(content.program))
    # Whatever it meets: a version, a dtype, a layout that it does not know.
    except Exception as error:
        raise ExportError(
            f"{exporter}, and jax {jax.__version__} cannot read it: {error!r}. "
            f"`pip install -U jax`, or export it with this one."
        ) from error
    newest = jax_export.maximum_supported_calling_convention_version
    if program.calling_convention_version > newest:
        raise ExportError(
            f"{exporter}, whose programs are called in a way (version "
            f"{program.calling_convention_version}) that jax {jax.__version__} does not know yet "
            f"(version {newest}): `pip install -U jax`, or export it with this one."
        )
    return program
