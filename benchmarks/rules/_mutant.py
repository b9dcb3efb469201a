"""One small change to the source of a rule."""

import pathlib
import shutil
from typing import NamedTuple

PACKAGE = pathlib.Path(__file__).resolve().parent.parent.parent / "src" / "treadle"


class Mutant(NamedTuple):
    """A rule that is broken a little.

    Attributes:
        rule: Its name, `"key-reuse"`.
        name: What is broken, in a few words.
        file: Where, from `src/treadle/_audit`.
        old: What stands there, once.
        new: What stands there instead.
        step: The step of the corpus that is tried first, because it should notice; the rule's, or
            where it has none of the name another rule's.
    """

    rule: str
    name: str
    file: str
    old: str
    new: str
    step: str


def changed(mutant: Mutant) -> str:
    """The source with the change.

    Raises:
        ValueError: The place is not there once, because the rule was rewritten.
    """
    text = (PACKAGE / "_audit" / mutant.file).read_text()
    count = text.count(mutant.old)
    if count != 1:
        raise ValueError(
            f"{mutant.rule}, {mutant.name}: {mutant.old!r} is {count} times in {mutant.file}. Say "
            f"in `benchmarks/rules/_mutants.py` what to change there now."
        )
    return text.replace(mutant.old, mutant.new)


def mutated_copy(mutant: Mutant | None, folder: pathlib.Path) -> None:
    """Puts a copy of the package into a folder, with the change if there is one."""
    shutil.copytree(PACKAGE, folder / "treadle", ignore=shutil.ignore_patterns("__pycache__"))
    if mutant is not None:
        (folder / "treadle" / "_audit" / mutant.file).write_text(changed(mutant))
