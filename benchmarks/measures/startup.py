"""How long a script takes to its first step: the imports, then building, compiling, stepping."""

import tempfile

from rich.console import Console

from .._options import Options
from .._process import Worker
from .._statistics import Spread, ratio, spread
from .._table import Goal, Table, with_range

TITLE = "Start-up"

_CHILD = "benchmarks.measures._startup_child"
_IMPORTS = {"import treadle": ("treadle",), "import equinox, optax": ("equinox", "optax")}
_WITH_BYTECODE = {"PYTHONDONTWRITEBYTECODE": ""}
_FIRST_STEPS = ("treadle-step", "equinox", "floor")


def measure(options: Options, console: Console) -> dict:
    """Fresh processes throughout: imports in turn, then each contender twice on one cache folder.

    The cache is JAX's persistent compilation cache, in a folder that is new in every round; for
    treadle by way of `TREADLE_CACHE`, for the others by JAX's own settings, with the thresholds
    that let it store small programs.
    """
    imports: dict[str, list[float]] = {name: [] for name in _IMPORTS}
    steps: dict[str, dict[str, list[float]]] = {
        name: {"cold": [], "warm": []} for name in _FIRST_STEPS
    }
    config = "tiny" if options.smoke else "ref"
    # An installed package has its bytecode, a checkout may not: everybody's is there at the start.
    with Worker(_WITH_BYTECODE) as worker:
        worker.call(f"{_CHILD}:import_time", modules=("treadle", "equinox", "optax"))
    for number in range(options.rounds):
        console.print(f"start-up: round {number + 1} of {options.rounds}", style="dim")
        for name, modules in _IMPORTS.items():
            with Worker(_WITH_BYTECODE) as worker:
                imports[name].append(worker.call(f"{_CHILD}:import_time", modules=modules))
        for name in _FIRST_STEPS[: 1 if options.smoke else None]:
            with tempfile.TemporaryDirectory() as folder:
                for temperature in ("cold", "warm"):
                    seconds = _first_step(name, config, folder)
                    steps[name][temperature].append(seconds)
    return {"imports": imports, "first_steps": steps, "config": config}


def _first_step(name: str, config: str, folder: str) -> float:
    environment = {"TREADLE_CACHE": folder}
    if not name.startswith("treadle"):
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": folder,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    with Worker(environment) as worker:
        return worker.call(f"{_CHILD}:first_step_time", name=name, config=config)


def _against(values: list[float], reference: list[float]) -> Spread:
    return ratio([[value] for value in values], [[value] for value in reference])


def _import_ratio(data: dict) -> Spread:
    ours, theirs = (data["imports"][name] for name in _IMPORTS)
    return _against(ours, theirs)


def tables(data: dict) -> list[Table]:
    imports = [(name, with_range(spread(taken))) for name, taken in data["imports"].items()]
    imports.append(("ratio", with_range(_import_ratio(data))))
    steps = [
        (
            name,
            with_range(spread(taken["cold"])),
            with_range(spread(taken["warm"])),
            with_range(_against(taken["warm"], taken["cold"])),
        )
        for name, taken in data["first_steps"].items()
        if taken["cold"]
    ]
    columns = ("contender", "first start, s", "second start, s", "second ÷ first")
    return [
        Table("Imports, fresh processes", ("", "seconds"), imports),
        Table(f"After the imports, to the first step: {data['config']}", columns, steps),
    ]


def goals(data: dict) -> list[Goal]:
    taken = data["first_steps"]["treadle-step"]
    warm = _against(taken["warm"], taken["cold"]).median
    return [
        Goal("`import treadle` ÷ `import equinox, optax`", _import_ratio(data).median, 1.15, False),
        Goal("second start ÷ first, to the first step", warm, 0.45, False),
    ]
