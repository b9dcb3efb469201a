"""Saving and restoring, against the disk itself and what people use instead."""

from rich.console import Console

from .._options import Options
from .._process import Worker
from .._statistics import Spread, spread
from .._table import Goal, Table, with_range

TITLE = "Checkpoints"

_CHILD = "benchmarks.measures._checkpoint_child"
_MEGABYTE = 1 << 20
# Half a gigabyte, and as many small leaves as a model has that is made of many.
_TREES = {"0.5 GB": (64, 8 * _MEGABYTE), "2,000 leaves of 1 kB": (2_000, 1_024)}
_SMALL_TREES = {"8 MB": (8, _MEGABYTE), "50 leaves of 1 kB": (50, 1_024)}
# Gigabytes, below which times say more than rates.
_RATES = 0.1
_WRITERS = (
    "raw",
    "treadle",
    "treadle, synced at the end",
    "equinox",
    "orbax",
    "torch.save",
    "safetensors",
)
_OURS = ("raw", "treadle")
_ASYNCHRONOUS = ("treadle", "treadle, copied first", "orbax")
_MEMORY = ("treadle", "treadle async", "equinox", "orbax", "orbax async", "safetensors")


def measure(options: Options, console: Console) -> dict:
    """In a fresh process for each tree, one writer after the other in every round."""
    trees = _SMALL_TREES if options.smoke else _TREES
    writers = _OURS if options.smoke else _WRITERS
    result: dict = {"trees": {name: list(shape) for name, shape in trees.items()}}
    for name, (leaves, nbytes) in trees.items():
        console.print(f"{name}: saving and restoring", style="dim")
        shape = {"leaves": leaves, "nbytes": nbytes}
        with Worker() as worker:
            result[name] = worker.call(
                f"{_CHILD}:throughput", **shape, names=writers, rounds=options.rounds
            )
        names = ("treadle",) if options.smoke else _ASYNCHRONOUS
        console.print(f"{name}: the loop while it is saved", style="dim")
        with Worker() as worker:
            result[name]["blocked"] = worker.call(
                f"{_CHILD}:blocked", **shape, names=names, rounds=options.rounds
            )
    with Worker() as worker:
        size = (1 if options.smoke else 256) * _MEGABYTE
        seconds = worker.call(f"{_CHILD}:digests", nbytes=size, rounds=options.rounds)
    result["digests"] = {"nbytes": size, "seconds": seconds}
    large, (leaves, nbytes) = next(iter(trees.items()))
    result[large]["memory"] = {}
    for name in ("treadle", "treadle async") if options.smoke else _MEMORY:
        console.print(f"{large}: memory of {name}", style="dim")
        with Worker() as worker:
            found = worker.call(f"{_CHILD}:memory", leaves=leaves, nbytes=nbytes, name=name)
        if found is not None:
            result[large]["memory"][name] = found
    return result


def tables(data: dict) -> list[Table]:
    found = []
    for name, (leaves, nbytes) in data["trees"].items():
        gigabytes = leaves * nbytes / 1e9
        seconds = data[name]["seconds"]
        large = gigabytes > _RATES
        rows = [
            (
                writer,
                *(
                    with_range(
                        spread(gigabytes / each if large else 1e3 * each for each in times[do])
                    )
                    for do in ("save", "load")
                ),
            )
            for writer, times in seconds.items()
        ]
        title = f"{name}: {'GB/s' if large else 'ms'}, synced"
        found.append(Table(title, ("", "save", "restore"), rows))
        blocked = data[name]["blocked"]["seconds"]
        rows = [
            (
                writer,
                with_range(spread(1e3 * each for each in times["call"])),
                with_range(spread(1e3 * each for each in _held_up(times))),
            )
            for writer, times in blocked.items()
        ]
        columns = ("", "the call", "the call, and what the next step takes longer")
        found.append(Table(f"{name}: the loop held up by a save beside it, ms", columns, rows))
        if "memory" in data[name]:
            leaf = nbytes / 1e6
            rows = [
                (writer, f"{used / 1e6:,.1f}", f"{used / nbytes:.2f}")
                for writer, used in data[name]["memory"].items()
            ]
            columns = ("", "MB", f"leaves of {leaf:.1f} MB")
            found.append(Table(f"{name}: host memory beside the tree", columns, rows))
    return [*found, _digests(data["digests"])]


def _digests(data: dict) -> Table:
    gigabytes = data["nbytes"] / 1e9
    rows = [
        (name, with_range(spread(gigabytes / each for each in times)))
        for name, times in data["seconds"].items()
    ]
    return Table("Digests, GB/s", ("", "digested"), rows)


def _times(seconds: list[float], others: list[float]) -> Spread:
    """How often the second goes into the first, round by round."""
    return spread(one / other for one, other in zip(seconds, others, strict=True))


def _held_up(times: dict) -> list[float]:
    pairs = zip(times["call"], times["step"], times["plain"], strict=True)
    return [call + step - plain for call, step, plain in pairs]


def goals(data: dict) -> list[Goal]:
    large, small = data["trees"]
    found = []

    def faster(name: str, do: str, than: str, goal: float) -> None:
        seconds = data[name]["seconds"]
        if than in seconds:
            value = _times(seconds[than][do], seconds["treadle"][do]).median
            verb = "saved" if do == "save" else "restored"
            found.append(Goal(f"{name} {verb}, times {than}", value, goal))

    faster(large, "save", "orbax", 3.0)
    faster(large, "save", "raw", 0.8)
    faster(large, "load", "orbax", 3.0)
    faster(small, "save", "orbax", 10.0)
    faster(small, "load", "orbax", 10.0)
    for name in data["trees"]:
        blocked = data[name]["blocked"]["seconds"]
        if "orbax" in blocked:
            for what, held_up in (("call", lambda each: each["call"]), ("all", _held_up)):
                times = _times(held_up(blocked["treadle"]), held_up(blocked["orbax"]))
                found.append(Goal(f"{name} held up ({what}), of orbax's", times.median, 1.0, False))
    leaf = data["trees"][large][1]
    used = data[large]["memory"]["treadle"] / leaf
    return [*found, Goal(f"{large} saved, leaves in memory", used, 2.0, False)]
