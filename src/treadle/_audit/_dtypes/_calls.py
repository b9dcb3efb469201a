"""The call of a line, as it is written."""

import ast
import functools
import linecache
from typing import NamedTuple

from .._source import Frame


class Layer(NamedTuple):
    """A layer that is made and called at once: `nn.Dense(8, use_bias=False)(x)`.

    Attributes:
        name: `"Dense"`.
        keywords: What it is made with by name, `"**"` for what is not spelled out.
    """

    name: str
    keywords: frozenset[str]


def in_call(frame: Frame) -> Layer | None:
    """The layer that a frame is in a call of, if it is made there."""
    text = "".join(linecache.getlines(frame.code.co_filename))
    return _layers(text).get((frame.line, frame.column))


@functools.lru_cache(maxsize=64)
def _layers(text: str) -> dict[tuple[int, int], Layer]:
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return {}
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Call):
            made = node.func
            name = getattr(made.func, "attr", getattr(made.func, "id", ""))
            keywords = frozenset(each.arg or "**" for each in made.keywords)
            found[node.lineno, node.col_offset] = Layer(name, keywords)
    return found
