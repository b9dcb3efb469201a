"""What `st.composite` hands to a function that draws."""

from typing import TypeAlias

import hypothesis.strategies as st

from ..._custom_types import Door

# Hypothesis's protocol cannot be checked at run time.
Draw: TypeAlias = Door[st.DrawFn]
