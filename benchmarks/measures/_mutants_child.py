"""The process of `mutants`: transformations of one law under hypothesis."""

from ..mutants import subjects
from ..mutants._run import run


def outcomes(law: str, rights: int | None, wrongs: int | None, **options: int) -> list[dict]:
    """What became of the transformations of a law.

    Args:
        law: Its name, without `check_` and `assert_`.
        rights: How many of those that keep it are tried; all if `None`.
        wrongs: How many of those that break it.
        options: As `run` takes them.
    """
    every = subjects(law)
    chosen = [s for s in every if s.right][:rights] + [s for s in every if not s.right][:wrongs]
    return [run(subject, **options) for subject in chosen]
