"""Making the state before the first step."""

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Key

from ._average import Average
from ._custom_types import Door, Model, PRNGKey
from ._errors import ArgumentTypeError, ArgumentValueError, TreeError
from ._hyperparams import with_hyperparams
from ._model_state import require_state_of
from ._precision import cast
from ._program import StepSpec, optax_promotion, optimized
from ._random import model_key, training_key
from ._scaling import initial_scale
from ._state import Parts, RawKey, TrainState, copy_leaf, init_faults, memberwise
from ._trainable import trainable_mask
from .tree._stack import stack

# An NNX module is a tree whose statistics would be trained, a Linen module looks like a function.
_WAYS_IN = {
    "flax.linen.Module": "flax.from_linen(module, variables)",
    "flax.nnx.Module": "flax.from_nnx(module)",
    "haiku.Transformed": "haiku.from_haiku(transformed, params)",
    "haiku.TransformedWithState": "haiku.from_haiku(transformed, params, state)",
}


def _require_brought_in(model: Any) -> None:
    """Refuses modules of other systems as they are.

    Raises:
        ArgumentTypeError: With the function that brings them in.
    """
    for kind in type(model).__mro__:
        for full, way in _WAYS_IN.items():
            package, _, name = full.rpartition(".")
            if kind.__name__ == name and f"{kind.__module__}.".startswith(f"{package}."):
                raise ArgumentTypeError(
                    f"`model` is a {type(model).__name__}, a `{full}`, which has to be brought in: "
                    f"`step.init(treadle.interop.{way}, key=key)`."
                )


def _made(model: Any, key: PRNGKey) -> Model:
    """The model itself, or what a function makes: a module can be called too, and is no leaf."""
    _require_brought_in(model)
    if not callable(model) or not jax.tree_util.all_leaves([model]):
        return model
    parameters = inspect.signature(model).parameters.values()
    required = [
        parameter
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if not required and any(p.kind is p.VAR_KEYWORD for p in parameters):
        # As what `eqx.nn.make_with_state` makes, which hides the signature of what it calls.
        return _made_by_key(model, model_key(key))
    if not required:
        return model()
    if len(required) > 1:
        raise ArgumentTypeError(
            f"`model` (={model!r}) is a function with the parameters "
            f"{', '.join(parameter.name for parameter in required)}: it is called with a key "
            f"alone, or with nothing. Fix the others with `functools.partial`."
        )
    (parameter,) = required
    if parameter.kind is parameter.KEYWORD_ONLY:
        return model(**{parameter.name: model_key(key)})
    return model(model_key(key))


def _made_by_key(make: Any, key: PRNGKey) -> Model:
    try:
        return make(key=key)
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise ArgumentTypeError(
            f"`model` is a function that does not tell what it takes, as those of "
            f"`eqx.nn.make_with_state` do, so it was called with `key=...`; but {error}. Hand over "
            f"a function of the key: `lambda key: eqx.nn.make_with_state(Net)(...)`."
        ) from error


def _as_array(leaf: Any, copy: bool) -> Any:
    if isinstance(leaf, (np.ndarray, np.generic)) or (copy and eqx.is_array(leaf)):
        return copy_leaf(leaf)
    if getattr(leaf, "weak_type", False):
        return copy_leaf(leaf)
    return leaf


def _as_optimizer_array(leaf: Any) -> Any:
    """Optimizers may start their state from Python numbers; the update turns them into arrays."""
    return copy_leaf(leaf) if eqx.is_array_like(leaf) else leaf


def _without_aliases(parts: Parts) -> Parts:
    """No buffer twice: donation would hand out the same memory to two leaves."""
    seen: set[int] = set()

    def own(leaf: Any) -> Any:
        if not eqx.is_array(leaf):
            return leaf
        name = _buffer(leaf)
        if name in seen:
            leaf = copy_leaf(leaf)
            name = _buffer(leaf)
        seen.add(name)
        return leaf

    return jax.tree.map(own, parts)


def _buffer(leaf: jax.Array) -> int:
    if isinstance(leaf, Tracer) or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return id(leaf)
    if len(leaf.devices()) == 1 and leaf.size:
        return leaf.unsafe_buffer_pointer()
    return id(leaf)


def initial_state(
    spec: StepSpec,
    model: Any,
    key: PRNGKey,
    copy: bool,
    model_state: Any,
    hyperparams: Door[Mapping[str, Any] | None],
) -> TrainState:
    """The state before the first step: nothing in it is shared with anything outside.

    Raises:
        ArgumentTypeError: `model` is a function that cannot be called with a key alone, or a module
            of another system; or the model's state is missing or not wanted.
        ArgumentValueError: The optimizer has no such hyperparameters, or they are not numbers.
        TreeError: The model has nothing to train.
    """
    parts = _initial_parts(spec, _made(model, key), model_state, key, copy)
    if hyperparams is not None:
        parts = parts._replace(opt_state=with_hyperparams(parts.opt_state, _numbers(hyperparams)))
    return TrainState.from_parts(_without_aliases(parts))


def initial_members(
    spec: StepSpec,
    model: Any,
    keys: Key[Array, " members"],
    model_state: Any,
    hyperparams: Door[Mapping[str, Any] | None],
) -> TrainState:
    """The state of an ensemble before the first step, each member from a key of its own.

    Raises:
        As `initial_state`; and TreeError where the members do not fit each other.
    """
    size = keys.shape[0]
    if isinstance(model, (list, tuple)) and not _is_pair(model, model_state):
        model, model_state = _stacked_models(model, model_state, size)
        axes: Any = (eqx.if_array(0), eqx.if_array(0), 0)
    else:
        axes = (None, None, 0)

    def one(model: Any, model_state: Any, key: PRNGKey) -> Parts:
        # In the order of a single run, so that a member begins as one with its key would.
        return _initial_parts(spec, _made(model, key), model_state, key, copy=True)

    parts = eqx.filter_vmap(one, in_axes=axes, out_axes=memberwise())(model, model_state, keys)
    stops = spec.nonfinite == "stop"
    parts = parts._replace(
        active=jnp.ones(size, bool) if stops else None, members=size, faults=init_faults(size)
    )
    if hyperparams is not None:
        values = _numbers(hyperparams, size)
        parts = parts._replace(opt_state=with_hyperparams(parts.opt_state, values))
    return TrainState.from_parts(_without_aliases(parts))


def _is_pair(model: Any, model_state: Any) -> bool:
    """Whether there is one model for all, with a state of its own."""
    pair = isinstance(model, tuple) and len(model) == 2 and isinstance(model[1], eqx.nn.State)
    return pair or isinstance(model_state, eqx.nn.State)


def _stacked_models(models: Any, model_state: Any, size: int) -> tuple[Any, Any]:
    if len(models) != size:
        raise TreeError(
            f"`model` is a sequence of {len(models)} models, for an ensemble of {size}: give one "
            f"for each member, or a function that makes one from a key."
        )
    if model_state is not None and len(model_state) != size:
        raise TreeError(
            f"`model_state` has {len(model_state)} states, for an ensemble of {size}: give one "
            f"for each member."
        )
    try:
        return stack(list(models)), None if model_state is None else stack(list(model_state))
    except TreeError as error:
        raise TreeError(
            f"The members of an ensemble go through one program, so they must have one structure. "
            f"{error}"
        ) from error


def _numbers(hyperparams: Any, size: int | None = None) -> dict[str, Any]:
    """Hyperparameters as float arrays: one number, or one for each member.

    Raises:
        ArgumentTypeError: It is not a dictionary.
        ArgumentValueError: A value has another shape.
    """
    if not isinstance(hyperparams, Mapping):
        raise ArgumentTypeError(
            f"`hyperparams` (={hyperparams!r}) must be a dictionary of names to numbers, such as "
            f"{{'learning_rate': 1e-3}}."
        )
    found = {}
    for name, value in hyperparams.items():
        array = np.asarray(value)
        if array.dtype.kind not in "iufV" or array.shape not in ((), (size,)):
            wanted = "a number" if size is None else f"a number, or one for each of {size} members"
            raise ArgumentValueError(
                f"`hyperparams[{name!r}]` has dtype {array.dtype} and shape {array.shape}: it must "
                f"be {wanted}."
            )
        found[name] = array if size is None else np.broadcast_to(array, (size,))
    return found


def _initial_parts(spec: StepSpec, made: Any, model_state: Any, key: PRNGKey, copy: bool) -> Parts:
    _require_brought_in(made)
    model, model_state = _with_state(spec, made, model_state)
    to_array = functools.partial(_as_array, copy=copy)
    model = jax.tree.map(to_array, model)
    # Always: a model's state is made once, and a second run begins from it as well.
    model_state = jax.tree.map(copy_leaf, model_state)
    if spec.precision is not None:
        model = cast(model, spec.precision.params)
    mask = trainable_mask(spec.trainable, model)
    trained = eqx.filter(model, mask)
    with optax_promotion():
        leaves, treedef = jax.tree.flatten(spec.optimizer.init(optimized(spec, trained)))
    for index in range(len(leaves)):
        # One by one, so that each original is freed before the next copy. They are copied
        # because an optimizer may hand out an array that it holds, such as its random key.
        leaves[index] = _as_optimizer_array(leaves[index])
    policy = None if spec.precision is None else spec.precision.loss_scale
    return Parts(
        model=model,
        opt_state=jax.tree.unflatten(treedef, leaves),
        model_state=model_state,
        ema_model=None if spec.ema is None else jax.tree.map(copy_leaf, Average.of(trained)),
        ema_updates=None if spec.ema is None else jnp.zeros((), jnp.int32),
        loss_scale=None if policy is None else initial_scale(policy),
        skipped=jnp.zeros((), jnp.int32) if spec.counts_skipped else None,
        active=None,
        members=None,
        key=RawKey.of(training_key(key)),
        step=jnp.zeros((), jnp.int32),
        faults=init_faults(),
    )


def _with_state(spec: StepSpec, made: Any, model_state: Any) -> tuple[Any, Any]:
    """The model and its state, wherever the state came from.

    Raises:
        ArgumentTypeError: There is none and the loss wants one, or the reverse.
        ArgumentValueError, TreeError: It is no longer valid, or another model's.
    """
    pair = _is_pair(made, None)
    if pair and model_state is not None:
        raise ArgumentTypeError(
            "`model_state` was given, and `model` brought a state of its own (it is a pair, or "
            "makes one): give one of them."
        )
    if pair:
        made, model_state = made
    if spec.loss.call.stateful and model_state is None:
        raise ArgumentTypeError(
            "`model_state` is missing: with `stateful=True` the model's layers keep a state. Write "
            "`model, model_state = eqx.nn.make_with_state(Net)(..., key=key)` and "
            "`step.init(model, key=key, model_state=model_state)`, or hand over the function that "
            "makes both, `step.init(eqx.nn.make_with_state(Net), key=key)`. A model without "
            "such layers needs no `stateful`."
        )
    if not spec.loss.call.stateful and model_state is not None:
        raise ArgumentTypeError(
            "`model_state` was given, but the step's loss takes none: write the loss as "
            "`loss_fn(model, model_state, example, key)`, returning `loss, model_state`, and "
            "say `TrainStep(..., stateful=True)`."
        )
    require_state_of(made, model_state)
    return made, model_state
