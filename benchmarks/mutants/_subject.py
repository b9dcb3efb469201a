"""What the benchmark is made of: transformations that break a law, and some that keep it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import hypothesis.strategies as st


class Subject(NamedTuple):
    """One transformation.

    Attributes:
        law: The name of the function that must find it out, `"check_roundtrip"`.
        name: What is broken, in a few words; of one that is right what it does.
        strategy: Where its examples come from.
        check: Calls the law on one example.
        right: Whether it keeps the law.
    """

    law: str
    name: str
    strategy: st.SearchStrategy[Any]
    check: Callable[[Any], None]
    right: bool = False
