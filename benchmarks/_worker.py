"""The child's side: a process that calls what it is told to, and answers in JSON.

It imports next to nothing, so that what it measures starts from a fresh interpreter.
"""

import importlib
import json
import os
import sys
import traceback


def main() -> None:
    """Serves calls on the first file descriptor, answers on the second, until the first closes."""
    commands, answers = (int(argument) for argument in sys.argv[1:3])
    with os.fdopen(commands) as source, os.fdopen(answers, "w") as sink:
        for line in source:
            sink.write(json.dumps(_serve(json.loads(line))) + "\n")
            sink.flush()


def _serve(command: dict) -> dict:
    module, _, function = command["function"].partition(":")
    try:
        return {"result": getattr(importlib.import_module(module), function)(**command["with"])}
    except BaseException:
        return {"error": traceback.format_exc()}


if __name__ == "__main__":
    main()
