"""The process of `kills`: has no threads, so that it can make a training out of itself."""

import pathlib
import random
import shutil
from typing import Any

from ..kills.life import Life, live
from ..kills.outcome import differences

_AGAIN = 0.3
"""How often a training that goes on is killed as well."""
_SLOWER = 1.25
"""One of several at a time, against the one that was timed alone."""


def reference(run: str) -> dict[str, Any]:
    """The training that nothing happens to, and the same script once more, when it is over.

    Returns:
        Its `outcome`; its write points; the seconds until its first step, and all.
    """
    # Once before, for the programs to be in the cache.
    for folder in (run + "-before", run):
        life = live(pathlib.Path(folder), note=True)
        _require_ended(life)
    first, again = life.result, live(pathlib.Path(run))
    _require_ended(again)
    points = first.pop("points")
    told = differences(again.result, {**first, "began": first["newest checkpoint"]})
    if again.stepping is not None or told:
        raise RuntimeError(f"a training that was over did not stay as it was: {told}")
    return {"outcome": first, "points": points, "stepping": life.stepping, "seconds": life.seconds}


def _require_ended(life: Life) -> None:
    if life.killed or "error" in life.result:
        raise RuntimeError(f"a training that nobody kills did not end: {life.result}")


def cut_off(run: str, point: str) -> list[str]:
    """A training that was killed at a write point is left in `run`.

    Returns:
        The write points of the one that goes on from there.
    """
    folder = pathlib.Path(run)
    if not live(folder, point=point).killed:
        raise RuntimeError(f"the training never came to {point!r}")
    copy = folder.with_name(folder.name + "-going-on")
    shutil.copytree(folder, copy)
    life = live(copy, note=True)
    _require_ended(life)
    return life.result["points"]


class _Tally:
    """What became of one training.

    Args:
        name: How it is called in messages.
        run: Its folder.
        expected: The `outcome` that it must have.
    """

    def __init__(self, name: str, run: pathlib.Path, expected: dict[str, Any]):
        self._name = name
        self._run = run
        self._expected = expected
        self.found: dict[str, Any] = {"kills": 0, "saving": 0, "lives": 0, "failures": []}

    def live(self, **how: Any) -> Life:
        """One more life of it."""
        life = live(self._run, **how)
        self.found["lives"] += 1
        if life.killed:
            self.found["kills"] += 1
            self.found["saving"] += any(self._run.glob("checkpoints/.step_*"))
        elif "error" in life.result:
            self.fail(life.result["error"])
        else:
            found = {name: life.result[name] for name in self._expected}
            for told in differences(found, self._expected):
                self.fail(told)
        return life

    def fail(self, why: str) -> None:
        """Something was not as it should be."""
        self.found["failures"].append(f"{self._name}: {why}")


def at_point(
    run: str, name: str, point: str, expected: dict[str, Any], begun: str | None = None
) -> dict[str, Any]:
    """Kills a training at a write point, and lets it go on.

    Args:
        run: Its folder, which is removed.
        name: How it is called in messages.
        point: Where.
        expected: The outcome.
        begun: A folder that it goes on in, from a copy.

    Returns:
        How many lives, how many kills, how many of these during a save, and the failures.
    """
    folder = pathlib.Path(run)
    if begun is not None:
        shutil.copytree(begun, folder)
    tally = _Tally(name, folder, expected)
    if tally.live(point=point).killed:
        tally.live()
    else:
        tally.fail("it was not killed")
    shutil.rmtree(folder)
    return tally.found


def at_moment(
    run: str, seed: int, stepping: float, seconds: float, expected: dict[str, Any]
) -> dict[str, Any]:
    """Kills a training at a random moment, perhaps twice, and lets it go on.

    Half of the moments are drawn from the whole life, half from the time after the first step,
    which is when files are written.

    Args:
        run: Its folder, which is removed.
        seed: Of the moments.
        stepping: The seconds until the first step, where nothing happens.
        seconds: All of them.
        expected: The outcome.

    Returns:
        As `at_point`.
    """
    folder, draw = pathlib.Path(run), random.Random(seed)
    tally = _Tally(f"moment {seed}", folder, expected)
    wanted = 1 + (draw.random() < _AGAIN)
    while tally.found["kills"] < wanted and not tally.found["failures"]:
        if not tally.live(**_moment(draw, stepping, seconds)).killed:
            # It had ended when its moment came, which says nothing, so it begins anew.
            shutil.rmtree(folder)
    tally.live()
    shutil.rmtree(folder)
    return tally.found


def _moment(draw: random.Random, stepping: float, seconds: float) -> dict[str, Any]:
    from_step = draw.random() < 0.5
    length = _SLOWER * (seconds - stepping if from_step else seconds)
    return {"after": draw.uniform(0, length), "from_step": from_step}
