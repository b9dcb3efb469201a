"""An optimizer's state, gradients and parameters that do not fit each other."""

import re
from collections.abc import Iterator
from typing import Any

from jaxtyping import PyTree

from ...tree._paths import flatten_with_paths
from .._note import Explanation
from .._raised import Call, Raised, is_array, shown

_TREES = re.compile(
    r"^pytree structure error|^Dict key mismatch|^Custom node type mismatch|"
    r"^Mismatch custom node data|^Expected .+, got|arity mismatch|"
    r"got incompatible shapes for broadcasting|^Incompatible shapes for broadcasting",
    re.IGNORECASE,
)
_OTHER_STATE = re.compile(r"'(\w*State|tuple|dict)' object has no attribute '(\w+)'")
_CHAIN = "The number of updates and states has to be the same in chain"
_NO_LENGTH = re.compile(r"object of type '(\w+)' has no len\(\)")
_NEEDS_PARAMS = re.compile(
    r"requires the current value of parameters|"
    r"\.update_fn\(\) missing 1 required positional argument: 'params'"
)
_NOT_LIKE = re.compile(r"zeros_like requires ndarray or scalar arguments, got <class '(.+?)'>")
_FIT = "an-optimizers-state-that-does-not-fit"
_INIT = "`opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))`"
_AGAIN = (
    f"{_INIT} after the model was changed; `TrainStep.migrate` and `treadle.tree.migrate` keep "
    f"what still fits."
)


def explain_optimizer(raised: Raised) -> Explanation | None:
    """What goes wrong inside of optax."""
    calls = [call for call in raised.calls if call.library == "optax"]
    if _NEEDS_PARAMS.search(raised.message) and not raised.by_user:
        return _without_params()
    # A loss or a schedule of the user's that optax called is the user's.
    if not raised.in_library("optax") or raised.by_user:
        return None
    applied = [call for call in calls if call.name == "apply_updates"]
    if applied:
        return _applied(raised, applied[-1])
    if any(call.name.startswith("init") for call in calls):
        return _initial(raised)
    return _updated(raised, calls)


def _without_params() -> Explanation:
    return Explanation(
        "Part of the optimizer (weight decay is one) reads the parameters, and `update` was "
        "called without them.",
        "`updates, opt_state = optimizer.update(grads, opt_state, params)`; of a model, "
        "`eqx.filter(model, eqx.is_inexact_array)`.",
        "update-without-params",
        ("guides/optimizers/",),
    )


def _applied(raised: Raised, call: Call) -> Explanation | None:
    if "unsupported operand type(s)" in raised.message and "NoneType" in raised.message:
        return Explanation(
            "A leaf of the model has no update (it is a function or a size, or was left out of the "
            "gradient), and `optax.apply_updates` adds leaf by leaf.",
            "`model = eqx.apply_updates(model, updates)`.",
            "optax-on-a-whole-model",
            ("guides/optimizers/",),
        )
    trees = call.names.get("params"), call.names.get("updates")
    if not isinstance(raised.error, ValueError) or not _TREES.search(raised.message):
        return None
    difference = _difference(*trees, "the parameters", "the updates")
    if not difference:
        return None
    return Explanation(
        f"The updates are not those of these parameters: {difference}.",
        "filter both alike: `eqx.apply_updates(model, updates)` with the updates of a gradient of "
        "this very model.",
        _FIT,
        ("guides/optimizers/",),
    )


def _initial(raised: Raised) -> Explanation | None:
    found = _NOT_LIKE.search(raised.message)
    if not found:
        return None
    return Explanation(
        f"The optimizer was given a leaf of type `{found[1].rsplit('.', 1)[-1]}`: a model holds "
        f"functions and sizes too, and optax makes an array for every leaf.",
        f"{_INIT}.",
        "optax-on-a-whole-model",
        ("guides/optimizers/",),
    )


def _updated(raised: Raised, calls: list[Call]) -> Explanation | None:
    message, error = raised.message, raised.error
    call = next((call for call in reversed(calls) if _is_update(call)), None)
    if call is None:
        return None
    other = isinstance(error, AttributeError) and _OTHER_STATE.search(message)
    lacking = isinstance(error, TypeError) and _NO_LENGTH.search(message)
    if other or _CHAIN in message or (lacking and not isinstance(call.names["state"], tuple)):
        return Explanation(
            "The state that `update` was given was not made by this optimizer: another one made "
            "it, or the arguments stand in another order.",
            "`opt_state = optimizer.init(params)` with this very optimizer, and `updates, "
            "opt_state = optimizer.update(grads, opt_state, params)`, in this order.",
            _FIT,
            ("guides/optimizers/",),
        )
    if isinstance(error, ValueError | TypeError) and _TREES.search(message):
        return _misfit(call)
    return None


def _is_update(call: Call) -> bool:
    return call.name.startswith("update") and {"updates", "state"} <= call.names.keys()


def _misfit(call: Call) -> Explanation | None:
    updates, state = call.names["updates"], call.names["state"]
    for name, part in _parts(state):
        difference = _difference(part, updates, f"`{name}` of the state", "the gradient")
        if difference:
            return Explanation(
                f"The optimizer's state was made for another model: {difference}.",
                _AGAIN,
                _FIT,
                ("guides/optimizers/",),
            )
    params = call.names.get("params")
    difference = params is not None and _difference(
        params, updates, "the parameters", "the gradient"
    )
    if difference:
        return Explanation(
            f"`update` was given parameters that are not those of the gradient: {difference}.",
            "filter both alike: `optimizer.update(grads, opt_state, eqx.filter(model, "
            "eqx.is_inexact_array))`.",
            _FIT,
            ("guides/optimizers/",),
        )
    return None


# Fields of optax's states that have a leaf of the same shape for each of the model's.
_LIKE_THE_MODEL = frozenset(
    ("acc_grads", "e_g", "e_x", "ema", "mu", "nu", "nu_max", "sum_of_squares", "trace")
)


def _parts(state: Any) -> Iterator[tuple[str, PyTree]]:
    """The trees in a state that have the model's form: moments, averages."""
    names = getattr(state, "_fields", None)
    if names is not None:
        for name, part in zip(names, state, strict=True):
            if name in _LIKE_THE_MODEL and part is not None:
                yield name, part
            elif isinstance(part, tuple):
                yield from _parts(part)
    elif isinstance(state, tuple):
        for part in state:
            yield from _parts(part)


def _difference(one: PyTree, two: PyTree, first: str, second: str) -> str:
    """The first leaf in which two trees differ, in words; none where they fit."""
    mine, yours = dict(flatten_with_paths(one)[0]), dict(flatten_with_paths(two)[0])
    for path, leaf in yours.items():
        if path not in mine:
            return f"`{path}` is a leaf of {second}, and not of {first}"
        if not is_array(leaf) or not is_array(mine[path]) or not mine[path].shape:
            continue  # Some optimizers keep one number for each leaf.
        if leaf.shape != mine[path].shape:
            return f"`{path}` is {shown(mine[path])} in {first}, and {shown(leaf)} in {second}"
    for path in mine:
        if path not in yours:
            return f"`{path}` is a leaf of {first}, and not of {second}"
    return ""
