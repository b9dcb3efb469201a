"""Values, where a strategy for them may have been given."""

import hypothesis.strategies as st
from jaxtyping import PyTree

from .._errors import ArgumentTypeError
from ..tree._paths import flatten_with_paths


def require_drawn(name: str, tree: PyTree) -> None:
    """Refuses a strategy that stands where something drawn from one should.

    Args:
        name: The argument.
        tree: What was given for it.

    Raises:
        ArgumentTypeError: It is a strategy, or holds one.
    """
    for path, leaf in flatten_with_paths(tree)[0]:
        if isinstance(leaf, st.SearchStrategy):
            raise ArgumentTypeError(
                f"{name} has a strategy at {path!r}, where a value must be: draw it first, by "
                "`@given(...)` or, where it hangs on what was drawn before, with `data.draw(...)` "
                "of `hypothesis.strategies.data()`."
            )
