"""Operations in words: what was called, and what happened to the numbers."""

import ast
import functools
import linecache
from typing import Any

from .._diagnose import RawFrame
from ._interpret import Birth
from ._search import Origin

_SYMBOLS = {
    "add": "+",
    "add_any": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "rem": "%",
    "pow": "**",
}
_LONGEST = 40


def called(raw: RawFrame) -> str:
    """What a line of code calls at the place of a frame, as it is written: `jnp.sqrt`, `/`."""
    end = (raw.end_line, raw.end_column)
    for node in ast.walk(_tree("".join(linecache.getlines(raw.code.co_filename)))):
        if isinstance(node, ast.expr) and (node.lineno, node.col_offset) == (raw.line, raw.column):
            if (node.end_lineno, node.end_col_offset) != end:
                continue
            if isinstance(node, ast.Call):
                text = ast.unparse(node.func)
                return text if len(text) <= _LONGEST else ""
            if isinstance(node, ast.BinOp):
                return _OPERATORS.get(type(node.op), "")
    return ""


_OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.Mod: "%",
    ast.Pow: "**",
    ast.MatMult: "@",
}


@functools.lru_cache(maxsize=16)
def _tree(text: str) -> ast.AST:
    try:
        return ast.parse(text)
    except SyntaxError:  # A cell of a notebook with a magic command in it.
        return ast.Module([], [])


def values(origin: Origin) -> str:
    """What happened at the first number that is not finite."""
    name, birth = origin.event.instruction.name, origin.birth
    if birth is None:
        kind = "a NaN" if origin.kind == "nan" else "an infinity"
        return f"{kind} came of it, as a whole"
    share = _share(origin, birth)
    if origin.from_constant:
        return f"it reads a number that is {_number(birth.value)} in the program{share}"
    if birth.elements is None:
        return f"{_whole(origin, birth)}{share}"
    numbers = list(map(_number, birth.elements))
    symbol = _SYMBOLS.get(name)
    if name == "integer_pow":
        text = f"{numbers[0]} ** {origin.event.instruction.equation.params['y']}"
    elif name == "convert_element_type":
        dtype = origin.event.instruction.equation.outvars[0].aval.dtype
        text = f"{numbers[0]} as {dtype}"
    elif symbol is None or len(numbers) != 2:
        text = f"{name}({', '.join(numbers)})"
    else:
        text = f"{numbers[0]} {symbol} {numbers[1]}"
    return f"{text} = {_number(birth.value)}{share}"


def _share(origin: Origin, birth: Birth) -> str:
    count = birth.result.nan if origin.kind == "nan" else birth.result.inf
    size = 1
    for length in birth.result.shape:
        size *= length
    return "" if size == 1 else f", for {count} of {size} numbers"


def _whole(origin: Origin, birth: Birth) -> str:
    if origin.kind == "inf":
        return f"it overflows {birth.result.dtype}"
    if any(each.inf for _, each in birth.operands):
        return "infinities in it cancel, or meet a 0"
    return "it gives NaN"


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
