"""One transformation under hypothesis."""

import time
import traceback
from typing import Any

import hypothesis
import jax
import numpy as np
from hypothesis import Phase

from treadle.testing import code

from ._subject import Subject


class _Record:
    """What happened on the way."""

    def __init__(self, subject: Subject):
        self._subject = subject
        self._start = time.perf_counter()
        self.tried = 0
        self.found: tuple[int, float] | None = None
        self.example: Any = None
        self.error: AssertionError | None = None

    def check(self, example: Any) -> None:
        """The law on one example."""
        self.tried += 1
        try:
            self._subject.check(example)
        except AssertionError as error:
            if self.found is None:
                self.found = (self.tried, time.perf_counter() - self._start)
            # Hypothesis ends with the smallest one.
            self.example, self.error = example, error
            raise


def run(subject: Subject, *, examples: int = 100, seed: int = 0, shrink: bool = True) -> dict:
    """Tries a transformation on examples until the law breaks, and shrinks what broke it.

    Anything that is raised but an `AssertionError` is an error of the transformation itself.

    Args:
        subject: Which.
        examples: At most so many.
        seed: Of the examples.
        shrink: Whether what broke it is made smaller.

    Returns:
        What is in the tables, as JSON has it.
    """
    record = _Record(subject)
    settings = hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
        # Without explaining, which takes longer than finding, and finds nothing.
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
    )

    @settings
    @hypothesis.seed(seed)
    @hypothesis.given(subject.strategy)
    def holds(example: Any) -> None:
        record.check(example)

    start = time.perf_counter()
    error = None
    try:
        holds()
    except AssertionError:
        pass
    except BaseException:
        error = traceback.format_exc(limit=-8)
    taken = time.perf_counter() - start
    tried, seconds = record.found or (record.tried, taken)
    caught = record.found is not None and error is None
    return {
        "law": subject.law,
        "name": subject.name,
        "right": subject.right,
        "caught": caught,
        "error": error,
        "examples": tried,
        "seconds": seconds,
        "seconds_shrinking": taken - seconds if caught else 0.0,
        "message": str(record.error or ""),
        **(_size(record.example) if caught else {}),
    }


def _size(example: Any) -> dict:
    leaves = jax.tree.leaves(example)
    arrays = [leaf for leaf in leaves if isinstance(leaf, jax.Array | np.ndarray)]
    return {
        "leaves": len(leaves),
        "elements": sum(leaf.size for leaf in arrays),
        "code": code(example),
    }
