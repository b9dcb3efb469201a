"""`Raised`: an error with the user's line, and what stands on it."""

import ast
import copy
import dis
import functools
import inspect
import linecache
import sys
import textwrap
import traceback
from collections.abc import Iterable, Iterator, Sequence
from types import CodeType, FrameType, TracebackType
from typing import Any, NamedTuple

import jax
import numpy as np

from ._frames import Place, library_of
from ._private import source_of_operation


class Call(NamedTuple):
    """One call on the way to an error.

    Attributes:
        frame: The call itself.
        line: The line in it.
        at: The instruction in it.
    """

    frame: FrameType
    line: int
    at: int

    @property
    def library(self) -> str | None:
        """Whose code it is; `None` for the user's own."""
        return library_of(self.frame.f_code.co_filename)

    @property
    def name(self) -> str:
        """The function's name."""
        return self.frame.f_code.co_name

    @property
    def place(self) -> Place:
        code = self.frame.f_code
        return Place(code.co_filename, self.line, code.co_qualname)

    @property
    def names(self) -> dict[str, Any]:
        """The values of its local names."""
        return self.frame.f_locals


class Raised:
    """An error, with what can be known of how it came about.

    Args:
        error: The error.
        program: A function that gives the traced program that was called, where that is known.
    """

    def __init__(self, error: BaseException, program: Any = None):
        self.error = error
        self.message = _message(error)
        self.program = program
        self.calls = _calls(source_of_operation(error)) + _calls(error.__traceback__)
        self.user = self._user()

    def _user(self) -> Call | None:
        source = _innermost(_calls(source_of_operation(self.error)))
        inner = _innermost(_calls(self.error.__traceback__))
        return source or inner or _outside(self.error.__traceback__)

    @property
    def where(self) -> str:
        """The user's line: ``model.py:31, in `Net.__call__`: `if x.sum() > 0:` ``."""
        if self.user is None:
            return ""
        function = function_name(self.user.frame.f_code.co_qualname)
        inside = f", in {function}" if function else ""
        return f"{self.user.place.short}{inside}{_quoted(source_line(self.user.place))}"

    @functools.cached_property
    def nodes(self) -> list[ast.AST]:
        """The syntax at fault on the user's line, from the innermost outwards; none if unknown."""
        return [] if self.user is None else _nodes_at(self.user)

    @property
    def node(self) -> ast.AST | None:
        """The innermost syntax at fault."""
        return self.nodes[0] if self.nodes else None

    @functools.cached_property
    def instruction(self) -> str:
        """What Python was about on the user's line: `"CALL"`, `"POP_JUMP_IF_FALSE"`."""
        if self.user is None:
            return ""
        code = self.user.frame.f_code.co_code
        return dis.opname[code[self.user.at]] if 0 <= self.user.at < len(code) else ""

    @property
    def decides(self) -> bool:
        """Whether the user's own line asked for the truth of something."""
        return "JUMP" in self.instruction or self.instruction in ("UNARY_NOT", "TO_BOOL")

    @property
    def is_call(self) -> bool:
        """Whether the user's own line called something."""
        return "CALL" in self.instruction

    @property
    def by_user(self) -> bool:
        """Whether the user's own code raised it."""
        return any(isinstance(node, ast.Raise) for node in self.nodes)

    def in_library(self, library: str) -> bool:
        """Whether a library that the user's line called was at work."""
        for call in reversed(self.calls):
            if call.library in (None, library):
                return call.library == library
        return False

    def text(self, node: ast.AST | None) -> str:
        """Syntax as it stands in the file, on one line."""
        if node is None:
            return ""
        return " ".join(ast.unparse(node).split())

    def index(self, node: ast.Subscript) -> str:
        """What stands in the brackets."""
        if isinstance(node.slice, ast.Tuple):
            return ", ".join(map(self.text, node.slice.elts))
        return self.text(node.slice)

    def value(self, node: ast.AST) -> Any:
        """What a name, or attributes of one, stood for; `MISSING` where code would have to run."""
        if self.user is None:
            return MISSING
        return _looked_up(node, self.user.frame)

    def arrays(self) -> list[tuple[str, Any]]:
        """The arrays that are named where the error came from, each with its value."""
        found: dict[str, Any] = {}
        for node in _operands(self.nodes[0]) if self.nodes else ():
            value = self.value(node)
            if is_array(value):
                found[self.text(node)] = value
        return list(found.items())


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # Somebody's own class, which is none of the known ones.
        return ""


MISSING = object()


def is_array(value: Any) -> bool:
    """Whether a value has a shape and a dtype."""
    return isinstance(value, (jax.Array, np.ndarray))


def shown(value: Any) -> str:
    """`float32[32,64]`."""
    return f"{value.dtype}[{','.join(map(str, value.shape))}]"


def function_name(qualname: str) -> str:
    """A function's name in backticks, without what it was defined in; none for a module."""
    name = qualname.rsplit("<locals>.", 1)[-1]
    if name == "<lambda>":
        return "a lambda"
    return "" if name.startswith("<") else f"`{name}`"


def source_line(place: Place) -> str:
    """A line as it stands in its file; none where there is no file."""
    line = linecache.getline(place.file, place.line).strip()
    return line if len(line) <= 100 else f"{line[:97]}..."


def _quoted(line: str) -> str:
    return f": `{line}`" if line else ""


def _calls(found: TracebackType | None) -> list[Call]:
    """The calls of a traceback, from the outermost inwards."""
    calls = []
    while found is not None:
        calls.append(Call(found.tb_frame, found.tb_lineno, found.tb_lasti))
        found = found.tb_next
    return calls


def _innermost(calls: Sequence[Call]) -> Call | None:
    for call in reversed(calls):
        if call.library is None:
            return call
    return None


def _outside(found: TracebackType | None) -> Call | None:
    """The user's line that called what failed: above a traceback that ends where it is caught."""
    frame = sys._getframe() if found is None else found.tb_frame
    for outer, line in traceback.walk_stack(frame):
        call = Call(outer, line, outer.f_lasti)
        if call.library is None:
            return call
    return None


@functools.lru_cache(maxsize=16)
def _tree(text: str) -> ast.Module | None:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError):
        return None


def _nodes_at(call: Call) -> list[ast.AST]:
    """The syntax that an instruction belongs to, from the innermost outwards."""
    code = call.frame.f_code
    positions = list(code.co_positions())
    if not 0 <= call.at // 2 < len(positions):
        return []
    line, end_line, column, end_column = positions[call.at // 2]
    if line is None or end_line is None or column is None or end_column is None:
        return []
    tree, shift = _tree("".join(linecache.getlines(code.co_filename))), 0
    if tree is None:
        tree, shift = _tree_of_function(code)
    start, end = (line, column - shift), (end_line, end_column - shift)
    found = [
        node
        for node in (ast.walk(tree) if tree is not None else ())
        if hasattr(node, "lineno") and _span(node)[0] <= start and end <= _span(node)[1]
    ]
    # The walk goes from outside inwards.
    return found[::-1]


def _tree_of_function(code: CodeType) -> tuple[ast.Module | None, int]:
    """The syntax of one function where the file as a whole is not Python, and its indentation."""
    try:
        lines, first = inspect.getsourcelines(code)
    except OSError:
        return None, 0
    tree = _tree(textwrap.dedent("".join(lines)))
    # Counted anew for each call, since a tree is changed in place.
    if tree is not None:
        tree = ast.increment_lineno(copy.deepcopy(tree), max(first, 1) - 1)
    return tree, len(lines[0]) - len(lines[0].lstrip())


def _span(node: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


_HOLDERS = (ast.BinOp, ast.UnaryOp, ast.Compare, ast.List, ast.Tuple, ast.Starred, ast.keyword)


def _operands(node: ast.AST) -> Iterator[ast.AST]:
    """The names, and attributes of names, that an operation or a call takes; not those of those."""
    parts: list[ast.AST] = [node]
    if isinstance(node, ast.Call):
        method = [node.func.value] if isinstance(node.func, ast.Attribute) else []
        parts = [*method, *node.args, *node.keywords]
    elif isinstance(node, ast.Subscript):
        parts = [node.value, node.slice]
    for part in parts:
        if isinstance(part, ast.Name) or (isinstance(part, ast.Attribute) and _root(part)):
            yield part
        elif isinstance(part, _HOLDERS):
            for child in ast.iter_child_nodes(part):
                if not isinstance(child, ast.Call | ast.Subscript):
                    yield from _operands(child)


def _root(node: ast.AST) -> ast.Name | None:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node if isinstance(node, ast.Name) else None


def _looked_up(node: ast.AST, frame: FrameType) -> Any:
    """Without running code of anybody's."""
    if isinstance(node, ast.Name):
        for scope in (frame.f_locals, frame.f_globals):
            if node.id in scope:
                return scope[node.id]
        return MISSING
    if isinstance(node, ast.Attribute):
        owner = _looked_up(node.value, frame)
        if owner is MISSING:
            return MISSING
        try:
            value = inspect.getattr_static(owner, node.attr)
        except AttributeError:
            return MISSING
        return MISSING if hasattr(type(value), "__get__") and not callable(value) else value
    return MISSING


def causes(error: BaseException) -> Iterator[BaseException]:
    """What an error was raised from, and what that was."""
    seen = {id(error)}
    while error.__cause__ is not None and id(error.__cause__) not in seen:
        error = error.__cause__
        seen.add(id(error))
        yield error


def values_in(calls: Iterable[Call]) -> Iterator[Any]:
    """The values that calls hold in names, and in lists and tuples of those."""
    for call in calls:
        for value in list(call.names.values()):
            yield value
            if isinstance(value, (list, tuple)):
                yield from value
