"""`python -m benchmarks`: the command line."""

import argparse
import json
import pathlib
import sys

from rich.console import Console

from . import _machine
from ._options import Options
from ._process import WorkerError
from ._report import into_docs, markdown, print_report
from .measures import MEASURES

# The load above which a machine is not idle.
_QUIET = 0.7
# Of these the tests run a short form already, so that `all --smoke` need not.
_IN_TESTS = ("audit", "corruption", "kills", "rules")
# Of tables that are written to a file or a pipe.
_WIDTH = 140


def main(arguments: list[str] | None = None) -> int:
    """Measures and reports, or turns an earlier result into tables for the docs."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    if parsed.command == "table":
        result = json.loads(parsed.file.read_text())
        if parsed.into is None:
            print(markdown(result))
        else:
            into_docs(result, parsed.into)
        return 0
    names = (parsed.command,)
    if parsed.command == "all":
        left_out = _IN_TESTS if parsed.smoke else ()
        names = tuple(name for name in MEASURES if name not in left_out)
    try:
        result = _measure(names, _options(parsed), console)
    except (ValueError, WorkerError) as error:
        console.print(str(error), style="red", markup=False)
        return 1
    if parsed.json is not None:
        parsed.json.parent.mkdir(parents=True, exist_ok=True)
        parsed.json.write_text(json.dumps(result, indent=1) + "\n")
        console.print(f"Written to {parsed.json}.")
    return 0


def _measure(names: tuple[str, ...], options: Options, console: Console) -> dict:
    result = {**_machine.describe(), "smoke": options.smoke, "benchmarks": {}}
    load = result["machine"]["load_before"]
    if load > _QUIET and not options.smoke:
        console.print(f"The load is {load}: something else is running, and ratios will be off.")
    for name in names:
        result["benchmarks"][name] = MEASURES[name].measure(options, console)
        print_report(name, result, console)
    return result


def _options(parsed: argparse.Namespace) -> Options:
    smallest = Options(smoke=True, rounds=1, turns=1, seconds=0.0)
    chosen = smallest if parsed.smoke else Options()
    return Options(
        smoke=chosen.smoke,
        rounds=parsed.rounds or chosen.rounds,
        only=_names(parsed.only),
        configs=_names(parsed.config),
        turns=parsed.turns or chosen.turns,
        seconds=chosen.seconds if parsed.seconds is None else parsed.seconds,
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures treadle beside the floors and the loops people use instead.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in [(n, m.__doc__) for n, m in MEASURES.items()] + [("all", "Every one.")]:
        command = commands.add_parser(name, help=about)
        command.add_argument(
            "--smoke", action="store_true", help="treadle and the floors, one round, few steps"
        )
        command.add_argument("--rounds", type=_positive, help="fresh processes of each, default 5")
        command.add_argument("--turns", type=_positive, help="runs in each process, default 3")
        command.add_argument("--seconds", type=float, help="length of a run, default 1")
        command.add_argument("--json", type=pathlib.Path, metavar="FILE", help="where to write")
        command.add_argument("--only", default="", metavar="PEER,...", help="these contenders")
        command.add_argument(
            "--config", default="", metavar="NAME,...", help="these configurations"
        )
    table = commands.add_parser("table", help="tables for the docs, from a result")
    table.add_argument("file", type=pathlib.Path, metavar="FILE")
    table.add_argument(
        "--into", type=pathlib.Path, metavar="PAGE", help="a page whose marked parts are renewed"
    )
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not a whole number of at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
