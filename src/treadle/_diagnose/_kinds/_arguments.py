"""Things handed to JAX's transformations that they do not take."""

import re

from .._note import Explanation
from .._raised import Raised

_ARGUMENT = re.compile(
    r"Error interpreting argument to .* as an abstract array\. The problematic value is of type "
    r"<class '(.+?)'> and was passed to the function at path (.+?)\.(?:\s|$)"
)
_NO_TYPE = re.compile(
    r"Argument '?.*'? of type '?<class '(.+?)'>'? is not a valid JAX type", re.DOTALL
)
_RETURNED = re.compile(r"returned a value of type <class '(.+?)'>, which is not a valid JAX type")
_MAPPED = re.compile(
    r"Output from batched function .* with type '?<class '(.+?)'>'? is not a valid JAX type",
    re.DOTALL,
)
_STATIC = re.compile(r"an object of type <class '(.+?)'>")
_UNHASHABLE = re.compile(r"unhashable type: '([\w.]*(?:ArrayImpl|Tracer)|numpy\.ndarray)'")
_AXIS = re.compile(r"[Uu]nbound axis name: ?'?([^\s.']+)'?")


def explain_arguments(raised: Raised) -> Explanation | None:
    """Where a function got, or gave, what a transformation cannot take."""
    if raised.by_user:
        return None
    for kind in (_not_an_array, _not_hashable, _gradient, _axis_name, _types_differ, _labels):
        explanation = kind(raised)
        if explanation is not None:
            return explanation
    return None


def _not_an_array(raised: Raised) -> Explanation | None:
    if not isinstance(raised.error, TypeError):
        return None
    anchor = "not-a-valid-jax-type"
    returned = _RETURNED.search(raised.message) or _MAPPED.search(raised.message)
    if returned:
        return Explanation(
            f"A function that JAX transforms returned {_kind(returned[1])}, and it can return "
            f"arrays, numbers and containers of those.",
            "return arrays only; or `eqx.filter_jit` and `eqx.filter_vmap`, which hand the rest "
            "through.",
            anchor,
        )
    found = _ARGUMENT.search(raised.message)
    if found:
        return Explanation(
            f"The argument `{found[2]}` is {_kind(found[1])}, and `jax.jit` takes arrays, numbers "
            f"and containers of those.",
            "`eqx.filter_jit` instead of `jax.jit`: arrays are traced, and all else (the functions "
            "and sizes inside a model) is static.",
            anchor,
        )
    found = _NO_TYPE.search(raised.message)
    # What the error is raised from says the same of a whole tuple.
    if found and not raised.message.startswith("Gradient only defined"):
        return Explanation(
            f"A transformation of JAX (`jax.jit`, `jax.grad`, `jax.vmap`) met {_kind(found[1])}, "
            f"and takes arrays, numbers and containers of those.",
            "Equinox's of the same name leave what is not an array alone: `eqx.filter_jit`, "
            "`eqx.filter_grad`, `eqx.filter_value_and_grad`, `eqx.filter_vmap`.",
            anchor,
        )
    return None


def _not_hashable(raised: Raised) -> Explanation | None:
    if raised.message.startswith("Non-hashable static arguments are not supported"):
        found = _STATIC.search(raised.message)
        kind = found[1].rsplit(".", 1)[-1] if found else ""
        if kind.endswith(("Tracer", "ArrayImpl", "ndarray")):
            return Explanation(
                "An array was handed over as a static argument: those are compared by value, and "
                "become a part of the program.",
                "take it out of `static_argnums`/`static_argnames` (for a field of a module, out "
                "of `eqx.field(static=True)`), so that it is traced.",
                "non-hashable-static-arguments",
            )
        return Explanation(
            f"A static argument of type `{kind}` has no hash, by which JAX finds the program that "
            f"it compiled for it.",
            "hand over what cannot change: `tuple(values)` for a list, `frozenset`, a frozen "
            "dataclass.",
            "non-hashable-static-arguments",
        )
    found = _UNHASHABLE.search(raised.message) if isinstance(raised.error, TypeError) else None
    if found:
        traced = found[1].endswith("Tracer")
        return Explanation(
            f"{'A traced' if traced else 'An'} array is a key of a dictionary, a member of a set, "
            f"an argument of a cached function or a static field, all of which want a hash, and "
            f"arrays have none.",
            "`table[i]` with a `table` that is an array looks values up; `x.item()` is a plain "
            "number that has a hash, outside of compiled functions.",
            "unhashable-type",
        )
    return None


def _gradient(raised: Raised) -> Explanation | None:
    message = raised.message
    if not isinstance(raised.error, TypeError):
        return None
    if "requires real- or complex-valued inputs" in message:
        return Explanation(
            "A gradient is asked for with respect to integers or bools, which have none.",
            "for numbers, hand over floats: `1.0`, `x.astype(jnp.float32)`; for a model with "
            "counters or masks in it, `eqx.filter_grad`, or `jax.grad(..., argnums=...)` for the "
            "argument that is meant.",
            "grad-requires-real-or-complex-valued-inputs",
        )
    if message.startswith("Gradient only defined for scalar-output functions"):
        shape = re.search(r"Output had shape: (\(.*?\))", message)
        if shape:
            return Explanation(
                f"A gradient is taken of what has shape {shape[1]}: there is one of a single "
                f"number.",
                "reduce the loss, `jnp.mean(losses)`; `jax.jacrev` gives the derivatives of each.",
                "gradient-only-defined-for-scalar-output-functions",
            )
        if re.search(r"Output was \(", message):
            return Explanation(
                "A gradient is taken of a function that returns a tuple: the loss must be all that "
                "it returns, unless JAX is told of the rest.",
                "`jax.value_and_grad(loss_fn, has_aux=True)`, for `return loss, aux`.",
                "gradient-only-defined-for-scalar-output-functions",
            )
    return None


def _axis_name(raised: Raised) -> Explanation | None:
    found = _AXIS.search(raised.message)
    if not isinstance(raised.error, NameError) or not found:
        return None
    name = found[1]
    return Explanation(
        f"A collective (`psum`, `pmean`, `axis_index`; a batch norm has one) is over the axis "
        f"{name!r}, and no `vmap` or `shard_map` around it has an axis of that name.",
        f'`jax.vmap(f, axis_name="{name}")`, the same name as the layer\'s '
        f'(`eqx.nn.BatchNorm(..., axis_name="{name}")`); to call such a model on one example, '
        f"`eqx.nn.inference_mode(model)` first.",
        "unbound-axis-name",
        ("guides/stateful/",),
    )


_CARRY = "carry input and carry output must have equal types"
_BRANCHES = "branches must have equal output types"


def _types_differ(raised: Raised) -> Explanation | None:
    if not isinstance(raised.error, TypeError):
        return None
    if _CARRY in raised.message or "body_fun output and input must have identical types" in (
        raised.message
    ):
        return Explanation(
            "The body of a loop returns a carry of another type than it was given (shape, dtype, "
            "structure), and one program runs every turn.",
            "begin with what the body returns: `jnp.zeros((), jnp.float32)` and not `0`; or cast "
            "in the body: `carry.astype(old.dtype)`.",
            "carry-input-and-carry-output-must-have-equal-types",
        )
    if _BRANCHES in raised.message:
        return Explanation(
            "The branches of a `cond` or `switch` return different types (shape, dtype, "
            "structure), and what follows is one program for both.",
            "return the same from each: `jnp.zeros_like(x)` for a branch that has nothing to give, "
            "`y.astype(x.dtype)` where the dtypes differ.",
            "branches-must-have-equal-output-types",
        )
    return None


_DTYPE = re.compile(
    r"Expected the input to have a dtype that is a subdtype of .*integer.*got (\w+)"
    # Optax 0.2.5, of which it is an `AssertionError`.
    r"|input \d+ has type (\w+) but expected <class 'int'>"
)


def _labels(raised: Raised) -> Explanation | None:
    is_refusal = isinstance(raised.error, TypeError | AssertionError)
    found = _DTYPE.search(raised.message) if is_refusal else None
    if not found:
        return None
    return Explanation(
        f"Labels are wanted as whole numbers, and are {found[1] or found[2]}.",
        "`labels.astype(jnp.int32)` for the numbers of classes; "
        "`optax.softmax_cross_entropy(logits, labels)` for one-hot ones.",
        "expected-the-input-to-have-a-dtype",
    )


def _kind(name: str) -> str:
    """What a class is, as a user would say it."""
    short = name.rsplit(".", 1)[-1]
    if short in ("function", "builtin_function_or_method", "method", "partial"):
        return "a function"
    if short in ("custom_jvp", "custom_vjp", "PjitFunction"):
        return f"a function (`{short}`, such as `jax.nn.relu`)"
    if short == "str":
        return "a text"
    return f"of type `{short}`" if short == "NoneType" else f"a `{short}`"
