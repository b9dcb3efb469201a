"""Assignments into what cannot be changed: arrays and modules."""

import ast
import dataclasses
import re

from .._note import Explanation
from .._raised import Raised

_ARRAY = re.compile(
    r"JAX arrays are immutable|"
    r"'(?:\w*Tracer|[\w.]*ArrayImpl|DeviceArray)' object does not support item assignment"
)
_METHODS = {
    ast.Add: "add",
    ast.Sub: "subtract",
    ast.Mult: "multiply",
    ast.Div: "divide",
    ast.Pow: "power",
}


def explain_mutation(raised: Raised) -> Explanation | None:
    """Where an array or a module is assigned into."""
    if isinstance(raised.error, TypeError) and _ARRAY.search(raised.message):
        return Explanation(
            "An array is assigned into, and JAX's arrays never change: a new one is made, which "
            "costs nothing inside of a compiled function.",
            _array_fix(raised),
            "jax-arrays-are-immutable",
        )
    frozen = isinstance(raised.error, dataclasses.FrozenInstanceError)
    if frozen and raised.calls and raised.calls[-1].library == "equinox":
        return Explanation(
            "A field of a module is assigned, and modules never change once they are made.",
            _module_fix(raised),
            "cannot-assign-to-field",
            ("guides/surgery/",),
        )
    return None


def _array_fix(raised: Raised) -> str:
    statement = next(
        (node for node in raised.nodes if isinstance(node, ast.Assign | ast.AugAssign)), None
    )
    target = None
    if isinstance(statement, ast.AugAssign):
        target = statement.target
    elif isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target = statement.targets[0]
    # Of another node on the line, the assignment is none of the array's.
    if statement is None or not isinstance(target, ast.Subscript) or target is not raised.node:
        return "`x = x.at[i].set(value)`; there are `.add`, `.multiply`, `.min`, `.max` too."
    array, index = raised.text(target.value), raised.index(target)
    value = raised.text(statement.value)
    method = "set"
    if isinstance(statement, ast.AugAssign):
        if type(statement.op) not in _METHODS:
            return f"`{array} = {array}.at[{index}].set(...)`."
        method = _METHODS[type(statement.op)]
    made = f"{array}.at[{index}].{method}({value})"
    if isinstance(target.value, ast.Name):
        return f"`{array} = {made}`."
    if isinstance(target.value, ast.Attribute):
        return (
            f"`{target.value.attr} = {made}`, and hand that on; of a module, "
            f"`eqx.tree_at(lambda m: m.{target.value.attr}, {raised.text(target.value.value)}, "
            f"{target.value.attr})` is a copy that has it."
        )
    return f"`{made}` is the new array; bind that to a name."


def _module_fix(raised: Raised) -> str:
    for node in raised.nodes:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
            target = node.targets[0]
            if target is not raised.node:
                break
            owner, value = raised.text(target.value), raised.text(node.value)
            if owner == "self":
                break
            return f"`{owner} = eqx.tree_at(lambda m: m.{target.attr}, {owner}, {value})`."
    return (
        "make another with `eqx.tree_at(lambda m: m.weight, model, new)`. What a layer remembers "
        "between calls (running means, counters) goes into an `eqx.nn.State`."
    )
