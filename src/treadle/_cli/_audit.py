"""`treadle audit`: is a step ready for production?"""

import argparse
import contextlib
import json
import sys
from typing import Any

from .._audit import Report, audit
from .._errors import ArgumentTypeError, ArgumentValueError
from ._console import make_console
from ._target import call_target

_DESCRIPTION = """Reads the program that JAX traces and compiles for a step, and says what is wrong
with it, and where. The step never runs. What the function prints goes to standard error."""

_STATUS = """exit status: 0 where nothing is wrong, 1 for errors (with --strict for warnings too), 2
where there was nothing to audit."""

CANNOT = 2
"""The exit status where nothing was audited, as for a misspelt option."""


def add_parser(commands: Any) -> None:
    """Adds `audit` to the subcommands."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "audit", help="audit a step", description=_DESCRIPTION, epilog=_STATUS
    )
    parser.add_argument(
        "target",
        metavar="TARGET",
        help="`package.module:function` or `path/to/file.py:function`; the function takes no "
        "arguments and returns `(step, *args)`",
    )
    parser.add_argument("--strict", action="store_true", help="warnings count as errors do")
    parser.add_argument(
        "--ignore",
        action="append",
        default=[],
        metavar="RULE",
        help="a rule that does not count; may be given several times",
    )
    parser.add_argument("--json", action="store_true", help="tell it as JSON, and all of it")
    parser.set_defaults(command=run_audit)


def run_audit(arguments: argparse.Namespace) -> int:
    """Audits a step.

    Returns:
        The exit status.
    """
    try:
        # Standard output has the report and nothing else.
        with contextlib.redirect_stdout(sys.stderr):
            fn, *args = call_target(arguments.target)
            report = audit(fn, *args, ignore=arguments.ignore)
    except (ArgumentTypeError, ArgumentValueError) as error:
        print(f"treadle: {error}", file=sys.stderr)
        return CANNOT
    console = make_console()
    if arguments.json:
        console.out(json.dumps(report.to_json(), indent=2), highlight=False)
    else:
        console.print(report)
    return int(_is_bad(report, strict=arguments.strict))


def _is_bad(report: Report, *, strict: bool) -> bool:
    return not report.ok if strict else bool(report.errors)
