"""Mutants of the functions of `treadle.tree`: how many of them their own tests find.

    python tools/mutants.py                 # of all functions
    python tools/mutants.py diff paths      # of some

It wants `mutmut` 3.8 beside `treadle[dev]`, best in an environment of their own, and works on a
copy of the project in a temporary folder.

mutmut makes the mutants, all of a file in one, and picks the one to call when it is called. It
would run the tests of each in a new process, where JAX starts and compiles anew; here one process
imports the library once and runs the tests of one mutant after the other.
"""

import difflib
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time
from typing import Any, NamedTuple

import pytest
from _pytest.runner import runtestprotocol
from mutmut.mutation import file_mutation
from mutmut.state import state as mutmut_state

ROOT = pathlib.Path(__file__).resolve().parent.parent


class Target(NamedTuple):
    """The modules that make up a function, and the files that hold its tests."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]


TARGETS = {
    "paths": Target(("_paths", "_remember"), ("test_paths",)),
    "replace": Target(("_replace",), ("test_replace",)),
    "stack": Target(("_stack", "_match"), ("test_stack", "test_match")),
    "diff": Target(("_diff", "_difference", "_values"), ("test_diff", "test_values")),
    "migrate": Target(("_migrate", "_owners", "_unchanged"), ("test_migrate",)),
}

CHOSEN = "MUTANT_UNDER_TEST"
"""The variable in which mutmut looks for the mutant to call."""

LIMIT_S = 20


class _TooLongError(BaseException):
    """Not an `Exception`, which a test may expect."""


def _stop(*_: Any) -> None:
    raise _TooLongError


class Mutants:
    """A pytest plugin: in place of running the tests once, it runs them for each mutant."""

    def __init__(self, names: dict[str, list[str]], told: dict[str, str]):
        self.names = names
        """The mutants of each target, `treadle.tree._diff.x__walk__mutmut_3`."""
        self.told = told
        """How each differs from the original."""

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Finds which tests call which functions, then runs these for each mutant of those."""
        signal.signal(signal.SIGALRM, _stop)
        calls = {item: _calls(item) for item in session.items}
        for target, names in self.names.items():
            files = {f"{name}.py" for name in TARGETS[target].tests}
            own = [item for item in session.items if item.path.name in files]
            own.sort(key=lambda item: calls[item][1])
            begun, survivors = time.perf_counter(), 0
            for name in names:
                function = name.rpartition("__mutmut_")[0]
                tests = [item for item in own if function in calls[item][0]]
                if not any(_fails(item, name) for item in tests):
                    survivors += 1
                    print(f"{name} survives\n{self.told[name]}\n", flush=True)
            seconds, killed = time.perf_counter() - begun, len(names) - survivors
            share = killed / len(names)
            print(f"{target}: {killed} of {len(names)} killed ({share:.1%}), {seconds:.0f} s\n")
        return True


def _calls(item: pytest.Item) -> tuple[set[str], float]:
    """The functions that a test calls, and how long it takes."""
    mutmut_state()._stats.clear()
    begun = time.perf_counter()
    if _fails(item, "stats"):
        raise SystemExit(f"{item.nodeid} fails without a mutant.")
    return set(mutmut_state()._stats), time.perf_counter() - begun


def _fails(item: pytest.Item, mutant: str) -> bool:
    from treadle.tree import _remember  # The copy, which is found once `main` has made it.

    _remember._answers.clear()
    os.environ[CHOSEN] = mutant
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        reports = runtestprotocol(item, log=False, nextitem=None)
    except _TooLongError:
        return True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.environ[CHOSEN] = ""
    return any(report.failed for report in reports)


def _mutate(folder: pathlib.Path, module: str) -> dict[str, str]:
    """Puts the mutants of a module in its place; says by name how each differs."""
    path = folder / "src" / "treadle" / "tree" / f"{module}.py"
    mutated = file_mutation.mutate_file_contents(str(path), path.read_text())
    path.write_text(mutated.code)
    lines = mutated.code.splitlines()
    told = {}
    for name in mutated.mutant_names:
        plain = name.rpartition("__mutmut_")[0]
        bodies = []
        for body in (f"{plain}__mutmut_orig", name):
            span = mutated.line_span_by_function_name[body]
            bodies.append([line.replace(body, plain) for line in lines[span.start - 1 : span.end]])
        changes = list(difflib.unified_diff(*bodies, lineterm="", n=0))[2:]
        changed = "\n".join(line for line in changes if line[0] in "+-")
        told[f"treadle.tree.{module}.{name}"] = changed
    return told


def main() -> None:
    """Runs the targets that are named on the command line."""
    wanted = sys.argv[1:] or list(TARGETS)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        for name in ("src", "tests"):
            shutil.copytree(ROOT / name, folder / name)
        shutil.copy(ROOT / "pyproject.toml", folder)
        os.chdir(folder)
        sys.path.insert(0, str(folder / "src"))
        names: dict[str, list[str]] = {}
        told: dict[str, str] = {}
        for target in wanted:
            found = [_mutate(folder, module) for module in TARGETS[target].modules]
            names[target] = [name for mutants in found for name in mutants]
            for mutants in found:
                told |= mutants
        files = [f"tests/tree/{test}.py" for target in wanted for test in TARGETS[target].tests]
        options = ["-q", "-s", "-p", "no:cacheprovider", "-p", "no:xdist"]
        pytest.main([*options, *files], plugins=[Mutants(names, told)])


if __name__ == "__main__":
    main()
