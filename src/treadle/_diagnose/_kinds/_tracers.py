"""A traced array where Python or NumPy wants its value."""

import ast

from jax.errors import (
    ConcretizationTypeError,
    NonConcreteBooleanIndexError,
    TracerArrayConversionError,
    TracerBoolConversionError,
    TracerIntegerConversionError,
)

from .._note import Explanation
from .._raised import Raised, causes
from ._static import formatted

_NO_VALUE = (
    "and while JAX traces a function (for `jit`, `vmap`, `grad`, `scan`) an array has a shape and "
    "a dtype, but no value."
)
_MANY = "The truth value of an array with more than one element is ambiguous"
_IN_NUMPY = "setting an array element with a sequence"


def explain_tracers(raised: Raised) -> Explanation | None:
    """Where a value is wanted of what has none while it is traced."""
    error = raised.error
    if isinstance(error, ValueError) and raised.message.startswith(_MANY):
        return _many(raised)
    if isinstance(error, TracerBoolConversionError):
        return Explanation(*_condition(raised), "tracerboolconversionerror")
    if isinstance(error, TracerIntegerConversionError):
        return Explanation(*_integer(raised), "tracerintegerconversionerror")
    if isinstance(error, TracerArrayConversionError):
        return Explanation(*_numpy(raised), "tracerarrayconversionerror")
    if isinstance(error, NonConcreteBooleanIndexError):
        return Explanation(*_mask(raised), "nonconcretebooleanindexerror")
    if isinstance(error, ConcretizationTypeError) and _is_formatting(raised.node):
        return formatted()
    if isinstance(error, ConcretizationTypeError):
        return Explanation(*_value(raised), "concretizationtypeerror")
    unvalued = any(isinstance(cause, ConcretizationTypeError) for cause in causes(error))
    if _IN_NUMPY in raised.message and unvalued:
        return Explanation(*_into_numpy(raised), "tracerarrayconversionerror")
    return None


def _many(raised: Raised) -> Explanation | None:
    if raised.by_user:
        return None
    both = "`jnp.all(...)` and `jnp.any(...)` make one of several"
    found = _decision(raised)
    if found is not None:
        return Explanation(
            f"{found[0]} needs one True or False, and gets an array of several.",
            f"{found[1]} {both}.",
            "the-truth-value-of-an-array",
        )
    return Explanation(
        "One True or False is needed, and there is an array of several.",
        f"`jnp.where(condition, a, b)` chooses element by element; {both}.",
        "the-truth-value-of-an-array",
    )


# -- `if`, `while`, `and` ---------------------------------------------------------------------

_SYMBOLS = {ast.And: "&", ast.Or: "|"}
_EXTREMES = {"max": "maximum", "min": "minimum"}


def _condition(raised: Raised) -> tuple[str, str]:
    found = _decision(raised)
    if found is not None:
        return f"{found[0]} needs a value, {_NO_VALUE}", found[1]
    return (
        f"Python's `if`, `while`, `and`, `or` and `not` need a value, {_NO_VALUE}",
        (
            "`jnp.where(condition, a, b)`; `jax.lax.cond(condition, f, g, x)` where only one may "
            "run; `&`, `|` and `~` for `and`, `or` and `not`."
        ),
    )


def _decision(raised: Raised) -> tuple[str, str] | None:
    """Which of Python's decisions the user's line takes, and what to write instead."""
    node = raised.node
    if raised.is_call:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            return _condition_in_call(raised, node, node.func.id)
        return None
    if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
        item, values = raised.text(node.left), raised.text(node.comparators[0])
        fix = f"jnp.any({item} == jnp.asarray({values}))"
        return "Python's `in`", f"`{fix if isinstance(node.ops[0], ast.In) else f'~{fix}'}`."
    if not raised.decides:
        return None
    for outer, inner in zip(raised.nodes, [None, *raised.nodes], strict=False):
        found = _condition_in(raised, outer, inner)
        if found is not None:
            return found
    return None


def _condition_in(raised: Raised, node: ast.AST, inner: ast.AST | None) -> tuple[str, str] | None:
    # A bare name as a test has no place of its own: then the statement is the innermost.
    text = raised.text
    if isinstance(node, ast.BoolOp):
        symbol = _SYMBOLS[type(node.op)]
        word = "and" if symbol == "&" else "or"
        fix = f" {symbol} ".join(_grouped(value) for value in node.values)
        return f"Python's `{word}`", f"`{fix}`, which goes element by element."
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return "Python's `not`", f"`~{_grouped(node.operand)}`, or `jnp.logical_not(...)`."
    if isinstance(node, ast.Compare) and len(node.ops) > 1:
        sides = [node.left, *node.comparators]
        pairs = [
            text(ast.Compare(left, [op], [right]))
            for left, op, right in zip(sides, node.ops, sides[1:], strict=False)
        ]
        fix = " & ".join(f"({pair})" for pair in pairs)
        return "A chain of comparisons is Python's `and`, which", f"`{fix}`."
    if isinstance(node, ast.IfExp) and inner in (None, node.test):
        test, one, other = text(node.test), text(node.body), text(node.orelse)
        return "Python's `if`", f"`jnp.where({test}, {one}, {other})`.{_flag(node.test)}"
    if isinstance(node, ast.If) and inner in (None, node.test):
        test = text(node.test)
        made = _both_ways(raised, node) or f"jnp.where({test}, a, b)"
        fix = (
            f"`{made}`, which computes both ways; or `jax.lax.cond({test}, f, g, x)`, where only "
            f"one of the functions runs.{_flag(node.test)}"
        )
        return "Python's `if`", fix
    if isinstance(node, ast.While) and inner in (None, node.test):
        names = {one.id for one in ast.walk(node.test) if isinstance(one, ast.Name)}
        state = names.pop() if len(names) == 1 else "state"
        fix = (
            f"`jax.lax.while_loop(lambda {state}: {text(node.test)}, body, {state})`, with all "
            f"that changes in `{state}`."
        )
        return "Python's `while`", fix
    if isinstance(node, ast.Assert) and inner in (None, node.test):
        fix = (
            f'`x = eqx.error_if(x, ~{_grouped(node.test)}, "what is wrong")`, with an `x` that is '
            f"used afterwards; what shapes and dtypes must be can be asserted as it is."
        )
        return "Python's `assert`", fix
    if isinstance(node, ast.ListComp | ast.GeneratorExp | ast.SetComp):
        tests = [test for generator in node.generators for test in generator.ifs]
        if inner in tests:
            made = f"jnp.where({text(inner)}, {text(node.elt)}, 0)"
            return "Python's `if`", f"keep the number of elements: `{made}` for each."
    return None


def _both_ways(raised: Raised, node: ast.If) -> str:
    """An `if` that chooses a value, as one line; nothing where it does more."""
    test, one, other = raised.text(node.test), node.body, node.orelse or _after(raised, node)
    if len(one) != 1:
        return ""
    if isinstance(one[0], ast.Return) and other and isinstance(other[0], ast.Return):
        values = [raised.text(one[0].value), raised.text(other[0].value)]
        return f"return jnp.where({test}, {', '.join(values)})" if all(values) else ""
    if not isinstance(one[0], ast.Assign) or len(one[0].targets) != 1:
        return ""
    target = raised.text(one[0].targets[0])
    if not node.orelse:
        return f"{target} = jnp.where({test}, {raised.text(one[0].value)}, {target})"
    last = node.orelse[0]
    if len(node.orelse) != 1 or not isinstance(last, ast.Assign):
        return ""
    if [raised.text(name) for name in last.targets] != [target]:
        return ""
    return f"{target} = jnp.where({test}, {raised.text(one[0].value)}, {raised.text(last.value)})"


def _after(raised: Raised, node: ast.stmt) -> list[ast.stmt]:
    """The statements behind one, in the same block."""
    for outer in raised.nodes:
        for block in (getattr(outer, "body", None), getattr(outer, "orelse", None)):
            if isinstance(block, list) and node in block:
                return block[block.index(node) + 1 :]
    return []


def _condition_in_call(raised: Raised, node: ast.Call, name: str) -> tuple[str, str] | None:
    text = raised.text
    arguments = ", ".join(text(argument) for argument in node.args)
    if name in _EXTREMES and len(node.args) == 2:
        return f"Python's `{name}`", f"`jnp.{_EXTREMES[name]}({arguments})`."
    if name in (*_EXTREMES, "any", "all", "sorted") and len(node.args) == 1:
        function = "sort" if name == "sorted" else name
        return f"Python's `{name}`", f"`jnp.{function}(jnp.asarray({arguments}))`."
    if name == "bool":
        return "`bool`", f"keep it as an array, `{arguments}`, or `({arguments}).astype(bool)`."
    return None


def _grouped(node: ast.AST) -> str:
    text = ast.unparse(node)
    simple = isinstance(node, ast.Name | ast.Attribute | ast.Call | ast.Subscript | ast.Constant)
    return text if simple else f"({text})"


def _flag(test: ast.AST) -> str:
    """A bare name may be a setting that was handed over like data."""
    if isinstance(test, ast.UnaryOp):
        test = test.operand
    if not isinstance(test, ast.Name):
        return ""
    return (
        f' If `{test.id}` is a setting, and not data: `jax.jit(..., static_argnames="{test.id}")`, '
        f"or `eqx.filter_jit`, to which a Python bool is static."
    )


# -- whole numbers ----------------------------------------------------------------------------


def _integer(raised: Raised) -> tuple[str, str]:
    node = raised.node
    function = node.func if isinstance(node, ast.Call) else None
    if isinstance(node, ast.Call) and isinstance(function, ast.Name) and function.id == "range":
        bounds = [raised.text(argument) for argument in node.args]
        start, stop = ("0", bounds[0]) if len(bounds) == 1 else (bounds[0], bounds[1])
        return (
            f"`range` needs the value of a Python integer, {_NO_VALUE}",
            (
                f"`jax.lax.fori_loop({start}, {stop}, lambda i, state: ..., state)`; or make the "
                f"number static (`static_argnames`, a field `eqx.field(static=True)`)."
            ),
        )
    if isinstance(node, ast.Subscript):
        values, index = raised.text(node.value), raised.index(node)
        return (
            (
                f"A Python sequence (a list, a tuple) is indexed with the value of an integer, "
                f"{_NO_VALUE}"
            ),
            (
                f"`jnp.asarray({values})[{index}]` for numbers or arrays of one shape; "
                f"`jax.lax.switch({index}, functions, x)` for functions or layers."
            ),
        )
    return (
        f"A Python integer is wanted, {_NO_VALUE}",
        (
            "make the number static (`static_argnames`, or a field `eqx.field(static=True)`), or "
            "take it from a shape (`x.shape[0]`), which is known."
        ),
    )


# -- NumPy ------------------------------------------------------------------------------------

_NUMPY = ("np", "numpy", "onp")


def _numpy(raised: Raised) -> tuple[str, str]:
    node = raised.node
    if isinstance(node, ast.Subscript):
        values, index = raised.text(node.value), raised.index(node)
        return (
            (
                f"A NumPy array is indexed with a traced one, of which NumPy wants the value, "
                f"{_NO_VALUE}"
            ),
            f"`jnp.asarray({values})[{index}]`.",
        )
    if isinstance(node, ast.Call):
        function = raised.text(node.func)
        package, _, rest = function.partition(".")
        cause = f"`{function}` computes with NumPy's values, {_NO_VALUE}"
        if package in _NUMPY:
            arguments = ", ".join(raised.text(argument) for argument in node.args)
            return cause, f"`jnp.{rest}({arguments})`."
        if package == "scipy":
            return cause, f"`jax.{function}`, where JAX has it."
    return (
        f"A NumPy function wants the value of a traced array, {_NO_VALUE}",
        (
            "the function of the same name in `jax.numpy`; or move it out of the traced function; "
            "or `jax.pure_callback`, which calls NumPy while the program runs."
        ),
    )


def _into_numpy(raised: Raised) -> tuple[str, str]:
    node = raised.node
    cause = f"A NumPy array takes the value of what is put into it, {_NO_VALUE}"
    if not isinstance(node, ast.Subscript):
        return cause, "build the array with `jax.numpy`: `jnp.stack`, or `x = x.at[i].set(value)`."
    array, index = raised.text(node.value), raised.index(node)
    return (
        cause,
        (
            f"make `{array}` with `jnp` instead of `np`, and write `{array} = "
            f"{array}.at[{index}].set(...)`."
        ),
    )


# -- masks, and everything else ---------------------------------------------------------------


def _mask(raised: Raised) -> tuple[str, str]:
    cause = (
        "How many elements a mask selects depends on its values, and every array in a traced "
        "program has a shape that is known before."
    )
    for node in raised.nodes:
        if isinstance(node, ast.Subscript):
            array, mask = raised.text(node.value), raised.index(node)
            return (
                cause,
                (
                    f"keep the shape: `jnp.where({mask}, {array}, 0)`, or in reductions "
                    f"`jnp.sum({array}, where={mask})`, `jnp.mean({array}, where={mask})`."
                ),
            )
    return cause, "keep the shape: `jnp.where(mask, x, 0)`, `jnp.sum(x, where=mask)`."


def _is_formatting(node: ast.AST | None) -> bool:
    """Whether it is `"%.3f" % x`."""
    return (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Mod)
        and isinstance(node.left, ast.Constant)
        and isinstance(node.left.value, str)
    )


def _value(raised: Raised) -> tuple[str, str]:
    message = raised.message
    call = raised.node if isinstance(raised.node, ast.Call) else None
    function = raised.text(call.func) if call is not None else ""
    if function.startswith("math."):
        arguments = ", ".join(map(raised.text, call.args)) if call is not None else ""
        return (
            f"`{function}` computes with Python's numbers, {_NO_VALUE}",
            f"`jnp.{function.removeprefix('math.')}({arguments})`.",
        )
    for name in ("float", "int", "complex"):
        if f"`{name}` function" in message:
            given = raised.text(call.args[0]) if call is not None and function == name else "x"
            return (
                f"`{name}` needs a value, {_NO_VALUE}",
                (
                    f"leave it an array: `{given}`, or `jnp.asarray({given}, {name})` for the "
                    f"dtype. To see it, return it (as aux of the loss) and take `{name}(...)` of "
                    f"the result."
                ),
            )
    for name in ("item", "tolist"):
        if f"{name}() method" in message:
            given = "x"
            if call is not None and isinstance(call.func, ast.Attribute) and call.func.attr == name:
                given = raised.text(call.func.value)
            return (
                f"`.{name}()` needs a value, {_NO_VALUE}",
                (
                    f"leave it an array, `{given}`, return it, and take `.{name}()` of what the "
                    f"compiled function returns; `jax.debug.print` shows it while it runs."
                ),
            )
    if "size argument" in message:
        return (
            (
                "How many elements come out depends on values, and every array in a traced program "
                "has a shape that is known before."
            ),
            (
                "say how many: `size=n, fill_value=0`; or keep the shape, with `jnp.where(mask, x, "
                "0)` (three arguments) instead of the places."
            ),
        )
    return (
        (
            f"{f'`{function}`' if function else 'The call'} needs the value of an argument, since "
            f"a shape or an option depends on it, {_NO_VALUE}"
        ),
        (
            "make that argument static (`jax.jit(..., static_argnames=...)`, a field "
            "`eqx.field(static=True)`), or take it from a shape (`x.shape[0]`), which is known."
        ),
    )
