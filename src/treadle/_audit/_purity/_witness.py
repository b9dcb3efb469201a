"""A trace that is watched line by line: which line changes what, reads the host, calls back.

It takes several times as long as a trace, so it is made only of what something was found in.
"""

import os
import random
import sys
import types
from collections.abc import Sequence
from typing import Any, NamedTuple

from .._source import TRACER, Place, library_of
from ._contents import Generators, content_of, is_other
from ._host import fingerprint, position_of, state_of
from ._reach import Holder

_CLOCKS = frozenset(
    {
        *("time", "time_ns", "perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns"),
        *("process_time", "process_time_ns", "thread_time", "thread_time_ns"),
        *("localtime", "gmtime", "ctime", "urandom", "getrandom", "getpid", "now", "utcnow"),
        *("today", "random", "getrandbits", "generate_time_safe"),
    }
)
"""What Python's own C code is called that gives another answer each time."""

_OF = frozenset({"time", "posix", "nt", "_uuid", "datetime", "date", "Random"})
"""The modules and classes of these."""

_CALLBACKS = ("debugging.py", "callback.py", os.path.join("debugger", "core.py"))


class Read(NamedTuple):
    """The host was asked for something that is another each time.

    Attributes:
        place: The user's line.
        what: What was called: `"Random.gauss"`; empty if it was NumPy.
        way: The user's calls on the way there, outermost first: pairs of a file and a line.
    """

    place: Place
    what: str
    way: tuple[tuple[str, int], ...]


class Changed(NamedTuple):
    """A line changed a holder.

    Attributes:
        holder: Its number.
        key: What in it.
        place: The line.
    """

    holder: int
    key: Any
    place: Place | None


class Witness:
    """Watches what is traced inside of `with`.

    Args:
        holders: What is changed by the function.
        generators: What it can draw from.
        iterators: What it can ask for the next thing.

    Attributes:
        changes: What was changed, in order.
        reads: Where the host was read, in order.
        callbacks: The lines that ask JAX to call back, in order.
    """

    def __init__(
        self, holders: Sequence[Holder], generators: Sequence[Any], iterators: Sequence[Any] = ()
    ):
        self.changes: list[Changed] = []
        self.reads: list[Read] = []
        self.callbacks: list[Place] = []
        self._holders = holders
        self._contents = [content_of(holder.value) or {} for holder in holders]
        self._generators = list(generators)
        self._iterators = list(iterators)
        self._positions = self._asked_so_far()
        self._local: dict[int, tuple[Any, str]] = {}
        self._print = fingerprint(self._generators, pythons=False)
        self._at: tuple[Any, int] | None = None
        self._old: tuple[Any, Any] = (None, None)

    def __enter__(self) -> "Witness":
        self._old = sys.gettrace(), sys.getprofile()
        sys.settrace(self._call)
        if self._may_profile:
            sys.setprofile(self._profile)
        return self

    @property
    def _may_profile(self) -> bool:
        """Whether the profiler that runs, if one does, could be put back: not `cProfile`."""
        return self._old[1] is None or callable(self._old[1])

    def __exit__(self, *error: object) -> None:
        if self._may_profile:
            sys.setprofile(self._old[1])
        sys.settrace(self._old[0])
        self._look()

    # -- lines ---------------------------------------------------------------------------------

    def _call(self, frame: Any, event: str, arg: Any) -> Any:
        if library_of(frame.f_code.co_filename) is not None:
            return None
        self._look()
        self._at = frame, frame.f_lineno
        return self._line

    def _line(self, frame: Any, event: str, arg: Any) -> Any:
        self._look()
        if event == "return":
            caller = _users(frame.f_back)
            self._at = None if caller is None else (caller, caller.f_lineno)
        else:
            self._at = frame, frame.f_lineno
        return self._line

    def _look(self) -> None:
        """What the line did that was run last."""
        place = None if self._at is None else _place(*self._at)
        for at, holder in enumerate(self._holders):
            now, before = content_of(holder.value) or {}, self._contents[at]
            keys = [key for key in now if key not in before or is_other(now[key], before[key])]
            keys += [key for key in before if key not in now]
            self.changes.extend(Changed(at, key, place) for key in keys)
            self._contents[at] = now
        if self._at is None or place is None:
            return
        print_ = fingerprint(self._generators, pythons=False)
        if print_ != self._print or self._drawn_locally(self._at[0]):
            self._print = print_
            self._read(*self._at, "")
        positions = self._asked_so_far()
        if positions != self._positions:
            self._positions = positions
            self._read(*self._at, "next")

    def _asked_so_far(self) -> list[Any]:
        return [position_of(each) for each in self._iterators]

    def _drawn_locally(self, frame: Any) -> bool:
        """Whether a generator was drawn from that the function made itself."""
        drawn = False
        for value in [each for each in frame.f_locals.values() if isinstance(each, Generators)]:
            if isinstance(value, random.SystemRandom):
                continue
            state = repr(state_of(value))
            known = self._local.get(id(value))
            drawn |= known is not None and known[1] != state
            self._local[id(value)] = value, state
        return drawn

    def _read(self, frame: Any, line: int, what: str) -> None:
        way = [(frame.f_code.co_filename, line)]
        outer = _users(frame.f_back)
        while outer is not None:
            way.append((outer.f_code.co_filename, outer.f_lineno))
            outer = _users(outer.f_back)
        self.reads.append(Read(_place(frame, line), what, tuple(reversed(way))))

    # -- calls ---------------------------------------------------------------------------------

    def _profile(self, frame: Any, event: str, arg: Any) -> None:
        if event == "c_call":
            if arg.__name__ in _CLOCKS and _owner(arg) in _OF:
                self._asked(frame, arg)
        elif event == "call" and frame.f_code.co_filename.endswith(_CALLBACKS):
            caller = frame.f_back
            while caller is not None and library_of(caller.f_code.co_filename) == "python":
                caller = caller.f_back
            if caller is not None and library_of(caller.f_code.co_filename) is None:
                self.callbacks.append(_place(caller, caller.f_lineno))

    def _asked(self, frame: Any, called: Any) -> None:
        """A clock or the like was asked: by the user, perhaps through Python's own functions."""
        name = called.__qualname__
        while frame is not None and library_of(frame.f_code.co_filename) in ("python", "numpy"):
            if frame.f_code.co_filename.startswith("<@"):
                return  # A type checker, which looks at one element of many.
            name = frame.f_code.co_qualname
            frame = frame.f_back
        if frame is not None and library_of(frame.f_code.co_filename) is None:
            self._read(frame, frame.f_lineno, name)


def _owner(called: Any) -> str:
    owner = called.__self__
    if isinstance(owner, types.ModuleType):
        return owner.__name__
    kind = owner if isinstance(owner, type) else type(owner)
    return next((each.__name__ for each in kind.__mro__ if each.__name__ in _OF), "")


def _users(frame: Any) -> Any:
    """The innermost call of a function of the user's; `None` outside of the audit."""
    while frame is not None:
        if frame.f_code.co_filename == TRACER:
            return None
        if library_of(frame.f_code.co_filename) is None:
            return frame
        frame = frame.f_back
    return None


def _place(frame: Any, line: int) -> Place:
    return Place(frame.f_code.co_filename, line, frame.f_code.co_qualname)


def read_for(reads: Sequence[Read], place: Place | None) -> Read | None:
    """What was read for an operation at a line.

    Read on that line, or in a function that it calls; else before it in the same function; else
    the last thing that was read, if nothing is known of the operation, or the only one.
    """
    if place is None:
        return reads[-1] if reads else None
    here = (place.file, place.line)
    during = [read for read in reads if here in read.way]
    if during:
        return during[-1]
    before = [
        read
        for read in reads
        if read.place.file == place.file
        and read.place.function == place.function
        and read.place.line <= place.line
    ]
    if before:
        return max(before, key=lambda read: read.place.line)
    places = {str(read.place) for read in reads}
    return reads[0] if len(places) == 1 else None
