"""`pkg.module:function`: a function of the user's, imported and called."""

import contextlib
import difflib
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from .._errors import ArgumentValueError


class TargetError(ArgumentValueError):
    """There is no function of that name, or it returns something else."""


_WANTED = "a function without arguments that returns `(step, *args)`"


def call_target(target: str) -> tuple[Any, ...]:
    """What the function that a target names returns.

    Args:
        target: `package.module:function`, as it would be imported from the current folder, or
            `path/to/file.py:function`.

    Returns:
        The step, and what it is called with.

    Raises:
        TargetError: There is no such function, it wants arguments, or it returns something else.
    """
    module_name, colon, name = target.rpartition(":")
    if not (colon and module_name and name):
        raise TargetError(
            f"`TARGET` (={target!r}) has no function: write `module:function`, where the function "
            f"takes no arguments and returns `(step, *args)`."
        )
    make = _attribute(_imported(module_name, target), name, target)
    return _called(make, target)


def _imported(name: str, target: str) -> ModuleType:
    if name.endswith(".py"):
        return _from_file(Path(name), target)
    # As `python -m` has it.
    sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # One that the user's module imports is the user's error, and is told as Python does.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise TargetError(
            f"`TARGET` (={target!r}): there is no module {error.name!r}, neither in {Path.cwd()} "
            f"nor among the installed ones. Run it where the module lies, or give its file: "
            f"`treadle audit path/to/{name.rpartition('.')[2]}.py:function`."
        ) from None
    except TypeError as error:
        if not name.startswith("."):
            raise
        raise TargetError(
            f"`TARGET` (={target!r}) is relative: give the module's whole name, without a dot in "
            f"front."
        ) from error


def _from_file(path: Path, target: str) -> ModuleType:
    if not path.is_file():
        raise TargetError(f"`TARGET` (={target!r}): there is no file {path}.")
    # As `python path/to/file.py` has it.
    sys.path.insert(0, str(path.resolve().parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise TargetError(f"`TARGET` (={target!r}): {path} cannot be imported.")
    module = importlib.util.module_from_spec(spec)
    # What pickles, or looks up annotations, finds the module by its name.
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module


def _attribute(module: ModuleType, name: str, target: str) -> Any:
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            names = [each for each in dir(found) if callable(getattr(found, each, None))]
            near = difflib.get_close_matches(part, names, 1, 0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise TargetError(f"`TARGET` (={target!r}): {_of(found)} has no {part!r}.{hint}")
        found = getattr(found, part)
    return found


def _of(owner: Any) -> str:
    if isinstance(owner, ModuleType):
        return f"the module {owner.__name__!r} ({owner.__file__})"
    return repr(getattr(owner, "__name__", type(owner).__name__))


def _called(make: Any, target: str) -> tuple[Any, ...]:
    if not callable(make):
        raise TargetError(
            f"`TARGET` (={target!r}) is of the type {type(make).__name__}: name {_WANTED}, "
            f"such as `def make(): return step, state, batch`."
        )
    wanted = _required(make)
    if wanted:
        raise TargetError(
            f"`TARGET` (={target!r}) takes arguments ({', '.join(wanted)}): name {_WANTED}, such "
            f"as `def make(): return step, state, batch`."
        )
    made = make()
    if not isinstance(made, tuple):
        raise TargetError(
            f"`TARGET` (={target!r}) returned a value of the type {type(made).__name__}: it has to "
            f"return a tuple, the step and what it is called with, `return step, state, batch`."
        )
    if not made:
        raise TargetError(
            f"`TARGET` (={target!r}) returned an empty tuple: `return step, state, batch`."
        )
    if not callable(made[0]):
        raise TargetError(
            f"`TARGET` (={target!r}) returned a tuple whose first entry is not a step, but of the "
            f"type {type(made[0]).__name__}: `return step, state, batch`."
        )
    return made


def _required(make: Any) -> list[str]:
    with contextlib.suppress(TypeError, ValueError):  # It has no signature: it is called.
        empty = inspect.Parameter.empty
        skipped = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        parameters = inspect.signature(make).parameters.values()
        return [
            each.name for each in parameters if each.default is empty and each.kind not in skipped
        ]
    return []
