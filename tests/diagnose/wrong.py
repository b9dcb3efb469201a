"""Code as people write it that JAX refuses, and what its note says.

The line at fault is marked `# here`. The module is no test itself: pytest would rewrite its
asserts.
"""

import dataclasses
import functools
import inspect
import math
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from beartype import beartype
from jax import errors
from jaxtyping import Array, Float, jaxtyped


class Case(NamedTuple):
    """Code that raises an error, and what is to be said of it.

    Attributes:
        run: The code.
        error: The class of the error.
        anchor: The section of the page that has it.
        said: What the note says, in pieces.
    """

    run: Callable[[], Any]
    error: type[Exception]
    anchor: str
    said: tuple[str, ...]

    @property
    def line(self) -> int:
        """The line at fault."""
        lines, first = inspect.getsourcelines(self.run)
        (place,) = [at for at, line in enumerate(lines) if "# here" in line]
        return first + place


CASES: dict[str, Case] = {}

# JAX 0.6 and Optax 0.2.5 say less, and so does the note; later ones are to be restated in full.
TERSE = jax.__version_info__ < (0, 7)
OLD_OPTAX = tuple(map(int, optax.__version__.split(".")[:3])) < (0, 2, 6)


def raises(error: type[Exception], anchor: str, *said: str) -> Callable[..., Any]:
    def take(run: Callable[[], Any]) -> Callable[[], Any]:
        CASES[run.__name__] = Case(run, error, anchor, said)
        return run

    return take


def filled(layer, *sizes):
    """A layer of zeros, for which nothing is compiled."""
    like = eqx.filter_eval_shape(functools.partial(layer, *sizes), key=jax.random.key(0))
    shapes, rest = eqx.partition(like, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
    zeros = jax.tree.map(lambda leaf: jnp.asarray(np.zeros(leaf.shape, leaf.dtype)), shapes)
    return eqx.combine(zeros, rest)


class Net(eqx.Module):
    weight: Array
    layers: list

    def __init__(self):
        self.weight = jnp.ones((4, 3))
        self.layers = [jnp.tanh, jnp.sin]

    def __call__(self, x):
        return self.weight @ x  # here


# -- values of what is traced -----------------------------------------------------------------


@raises(
    errors.TracerBoolConversionError,
    "tracerboolconversionerror",
    "Python's `if` needs a value",
    "`return jnp.where(x.sum() > 0, x, -x)`",
    "jax.lax.cond(x.sum() > 0, f, g, x)",
)
def if_returns():
    @jax.jit
    def f(x):
        if x.sum() > 0:  # here
            return x
        return -x

    f(jnp.ones(3))


@raises(
    errors.TracerBoolConversionError,
    "tracerboolconversionerror",
    "`y = jnp.where(x > 0, x * 2, -x)`",
)
def if_assigns():
    @jax.jit
    def f(x):
        if x > 0:  # here
            y = x * 2
        else:
            y = -x
        return y

    f(1.0)


@raises(
    errors.TracerBoolConversionError,
    "tracerboolconversionerror",
    "`x = jnp.where(training, x * 2, x)`",
    'static_argnames="training"',
)
def if_of_a_flag():
    @jax.jit
    def f(x, training):
        if training:  # here
            x = x * 2
        return x

    f(1.0, True)


@raises(errors.TracerBoolConversionError, "tracerboolconversionerror", "`jnp.where(x > 0, a, b)`")
def if_that_does_more():
    @jax.jit
    def f(x):
        y = 0.0
        if x > 0:  # here
            x = x * 2
            y = x + 1
        return x + y

    f(1.0)


@raises(errors.TracerBoolConversionError, "tracerboolconversionerror", "`jnp.where(x > 0, 1, 2)`")
def if_expression():
    return jax.vmap(lambda x: 1 if x > 0 else 2)(jnp.ones(3))  # here


@raises(
    errors.TracerBoolConversionError,
    "tracerboolconversionerror",
    "`jax.lax.while_loop(lambda x: x < 3, body, x)`",
)
def while_loop():
    @jax.jit
    def f(x):
        while x < 3:  # here
            x = x + 1
        return x

    f(1.0)


@raises(
    errors.TracerBoolConversionError, "tracerboolconversionerror", "`x = eqx.error_if(x, ~(x > 0)"
)
def assertion():
    @jax.jit
    def f(x):
        assert x > 0  # here
        return x

    f(1.0)


@raises(errors.TracerBoolConversionError, "tracerboolconversionerror", "`(x > 0) & (x < 1)`")
def word_and():
    jax.jit(lambda x: (x > 0) and (x < 1))(1.0)  # here


@raises(errors.TracerBoolConversionError, "tracerboolconversionerror", "`(0 < x) & (x < 1)`")
def chained_comparison():
    jax.jit(lambda x: 0 < x < 1)(1.0)  # here


@raises(errors.TracerBoolConversionError, "tracerboolconversionerror", "`~(x > 0)`")
def word_not():
    jax.jit(lambda x: not (x > 0))(1.0)  # here


@raises(
    errors.TracerBoolConversionError,
    "tracerboolconversionerror",
    "`jnp.any(x == jnp.asarray((1, 2)))`",
)
def word_in():
    jax.jit(lambda x: x in (1, 2))(1)  # here


@raises(errors.TracerBoolConversionError, "tracerboolconversionerror", "`jnp.maximum(x, y)`")
def python_max():
    jax.jit(lambda x, y: max(x, y))(1.0, 2.0)  # here


@raises(
    errors.TracerBoolConversionError,
    "tracerboolconversionerror",
    "`jnp.where(v > 0, v, 0)` for each",
)
def filtered_list():
    jax.jit(lambda x: [v for v in x if v > 0])(jnp.ones(3))  # here


@raises(
    ValueError,
    "the-truth-value-of-an-array",
    "gets an array of several",
    "`jnp.where(x > 0, x, 0.0)`",
    "`jnp.any(...)`",
)
def if_of_many():
    jax.jit(lambda x: x if x > 0 else 0.0)(jnp.ones(3))  # here


@raises(ValueError, "the-truth-value-of-an-array", "One True or False is needed")
def lists_compared():
    # It is the comparison that fails, and not the `if`.
    if [jnp.ones(3)] == [jnp.zeros(3)]:  # here
        pass


@raises(errors.TracerArrayConversionError, "tracerarrayconversionerror", "`jnp.isfinite(x)`")
def if_of_numpy():
    @jax.jit
    def f(x):
        if np.isfinite(x):  # here
            return x
        return 0.0

    f(1.0)


@raises(
    errors.ConcretizationTypeError, "concretizationtypeerror", "`float` needs a value", "`x * 2`"
)
def float_of_tracer():
    jax.jit(lambda x: float(x * 2))(1.0)  # here


@raises(errors.ConcretizationTypeError, "concretizationtypeerror", "`jnp.sqrt(x)`")
def python_math():
    jax.jit(lambda x: math.sqrt(x))(1.0)  # here


@raises(errors.ConcretizationTypeError, "concretizationtypeerror", "`.item()` needs a value")
def item_of_tracer():
    jax.jit(lambda x: x.item())(1.0)  # here


@raises(errors.ConcretizationTypeError, "concretizationtypeerror", "`jnp.arange` needs the value")
def traced_option():
    jax.jit(lambda n: jnp.arange(n))(3)  # here


@raises(errors.ConcretizationTypeError, "concretizationtypeerror", "`size=n, fill_value=0`")
def places_of_a_mask():
    jax.jit(lambda x: jnp.where(x > 0))(jnp.ones(3))  # here


@raises(
    errors.TracerIntegerConversionError,
    "tracerintegerconversionerror",
    "`jax.lax.fori_loop(1, n, lambda i, state: ..., state)`",
)
def range_of_tracer():
    @jax.jit
    def f(n):
        total = 0
        for i in range(1, n):  # here
            total += i
        return total

    f(3)


@raises(
    errors.TracerIntegerConversionError,
    "tracerintegerconversionerror",
    "A Python sequence (a list, a tuple) is indexed",
    "`jax.lax.switch(i, functions, x)`",
)
def layer_by_number():
    jax.jit(lambda net, i: net[i](1.0), static_argnums=0)((jnp.sin, jnp.cos), 1)  # here


@raises(errors.TracerArrayConversionError, "tracerarrayconversionerror", "`jnp.asarray(x)`")
def numpy_function():
    jax.jit(lambda x: np.asarray(x))(jnp.ones(3))  # here


@raises(errors.TracerArrayConversionError, "tracerarrayconversionerror", "`jnp.asarray(table)[i]`")
def numpy_table():
    table = np.arange(3)
    jax.jit(lambda i: table[i])(1)  # here


@raises(ValueError, "tracerarrayconversionerror", "make `y` with `jnp`", "`y = y.at[0].set(...)`")
def into_numpy():
    def f(x):
        y = np.zeros(3)
        y[0] = x  # here
        return y

    jax.jit(f)(1.0)


@raises(
    errors.NonConcreteBooleanIndexError,
    "nonconcretebooleanindexerror",
    "How many elements a mask selects",
    "`jnp.where(x > 0, x, 0)`",
    "`jnp.sum(x, where=x > 0)`",
)
def mask():
    jax.jit(lambda x: x[x > 0])(jnp.ones(3))  # here


@raises(TypeError, "shapes-must-be-1d-sequences-of-concrete-values", "A shape is made of a traced")
def traced_shape():
    jax.jit(lambda n: jnp.zeros(n))(3)  # here


@raises(
    IndexError,
    "slice-entries-must-be-static-integers",
    "`jax.lax.dynamic_slice_in_dim(x, start, size)`",
)
def traced_slice():
    jax.jit(lambda x, n: x[:n])(jnp.ones(3), 2)  # here


@raises(TypeError, "unsupported-format-string-passed-to-a-tracer", "`jax.debug.print(")
def formatted():
    jax.jit(lambda x: f"{x:.3f}")(1.0)  # here


@raises(
    errors.ConcretizationTypeError,
    "unsupported-format-string-passed-to-a-tracer",
    "`jax.debug.print(",
)
def formatted_by_percent():
    jax.jit(lambda x: "%.3f" % x)(1.0)  # here  # noqa: UP031


@raises(
    errors.UnexpectedTracerError,
    "unexpectedtracererror",
    "while JAX traced `f` was kept outside",
    "`return out, value`",
)
def leak():
    held = []

    @jax.jit
    def f(x):
        held.append(x * 2)
        return x

    f(1.0)
    return held[0] + 1  # here


@raises(errors.UnexpectedTracerError, "unexpectedtracererror", "while JAX traced a function")
def leak_from_vmap():
    held = []
    jax.vmap(lambda x: held.append(x) or x)(jnp.ones(3))
    return held[0] + 1  # here


# -- keys -------------------------------------------------------------------------------------


@raises(errors.KeyReuseError, "keyreuseerror", "that was consumed before", "jax.random.split(key)")
def key_twice():
    @jax.jit
    def f(key):
        noise = jax.random.normal(key)
        return noise * jax.random.uniform(key)  # here

    with jax.debug_key_reuse(True):
        f(jax.random.key(0))


@raises(errors.KeyReuseError, "keyreuseerror", "in each turn of a loop")
def key_in_a_loop():
    @jax.jit
    def f(key):
        return jax.lax.scan(lambda c, _: (c, jax.random.normal(key)), 0, None, length=3)  # here

    with jax.debug_key_reuse(True):
        f(jax.random.key(0))


@raises(RuntimeError, "dropout-requires-a-key", "without a key", "`model(x, key=key)`")
def dropout_without_key():
    eqx.filter_jit(eqx.nn.Dropout(0.5))(jnp.ones(3))  # here


@raises(TypeError, "unexpected-prng-key-type", "`None`: no key was handed on")
def no_key():
    jax.random.normal(None)  # pyright: ignore[reportArgumentType]  # here


@raises(TypeError, "unexpected-prng-key-type", "such as a seed", "`key = jax.random.key(0)`")
def seed_for_key():
    jax.random.normal(0)  # here


@raises(ValueError, "accepts-a-single-key", "keys of shape (3,)", "`jax.vmap(lambda key:")
def keys_for_key():
    jax.random.normal(jax.random.split(jax.random.key(0), 3))  # here


# -- what never changes, and what is gone -----------------------------------------------------


@raises(TypeError, "jax-arrays-are-immutable", "never change", "`x = x.at[0].set(1.0)`")
def assigned():
    def f(x):
        x[0] = 1.0  # here
        return x

    jax.jit(f)(jnp.ones(3))


@raises(TypeError, "jax-arrays-are-immutable", "`x = x.at[i, 0].multiply(y)`")
def multiplied():
    def f(x, i, y):
        x[i, 0] *= y  # here
        return x

    f(jnp.ones((3, 3)), 1, 2.0)


@raises(TypeError, "jax-arrays-are-immutable", "`x = x.at[i].set(value)`")
def assigned_by_a_library():
    # Not by the assignment on the line.
    found = {}
    found["order"] = random.shuffle(jnp.arange(3))  # pyright: ignore[reportArgumentType]  # here


@raises(
    TypeError,
    "jax-arrays-are-immutable",
    "`weight = net.weight.at[0].set(0.0)`",
    "`eqx.tree_at(lambda m: m.weight, net, weight)`",
)
def assigned_in_a_module():
    net = Net()
    net.weight[0] = 0.0  # here


@raises(
    dataclasses.FrozenInstanceError,
    "cannot-assign-to-field",
    "modules never change",
    "`net = eqx.tree_at(lambda m: m.weight, net, jnp.zeros(3))`",
)
def field_assigned():
    net = Net()
    net.weight = jnp.zeros(3)  # here


@raises(RuntimeError, "array-has-been-deleted", "`x` was donated", "`state = step(state, batch)`")
def donated_and_used():
    x = jnp.ones(3)
    jax.jit(lambda x: x + 1, donate_argnums=0)(x)
    return x * 2  # here


@raises(ValueError, "array-has-been-deleted", "`x` was donated")
def donated_and_donated():
    f = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = jnp.ones(3)
    f(x)
    f(x)  # here


@raises(
    RuntimeError,
    "attempt-to-donate-the-same-buffer-twice",
    "One array stands in two places",
    "`average = jax.tree.map(jnp.copy, params)`",
)
def donated_twice():
    f = jax.jit(lambda x, y: (x + 1, y + 1), donate_argnums=(0, 1))
    x = jnp.ones(3)
    f(x, x)  # here


# -- shapes and dtypes ------------------------------------------------------------------------


@raises(
    TypeError,
    "shapes-that-do-not-fit",
    "an axis of 3 in the left array and of 5 in the right one",
    "Here `self.weight` is float32[4,3] and `x` is float32[5]",
    "for one of 8 at a time",
)
def product_under_vmap():
    jax.vmap(Net())(jnp.ones((8, 5)))


@raises(
    TypeError,
    "shapes-that-do-not-fit",
    "of one example they are (5,) and (3,)",
    "Here `x` is float32[5] and `y` is float32[3]",
)
def sum_under_vmap():
    y = jnp.ones(3)
    jax.vmap(lambda x: jax.lax.add(x, y))(jnp.ones((8, 5)))  # here


@raises(TypeError, "shapes-that-do-not-fit", "of one example they are (5,) and (3, 3)", "8 x 6")
def concatenate_under_two_vmaps():
    y = jnp.ones((3, 3))
    jax.vmap(jax.vmap(lambda x: jnp.concatenate([x, y])))(jnp.ones((8, 6, 5)))  # here


@raises(
    ValueError,
    "shapes-that-do-not-fit",
    "`x` is float32[5]" if TERSE else "of one example they are (5,) and (3,)",
)
def stack_under_vmap_of_grad():
    y = jnp.ones(3)
    jax.vmap(jax.grad(lambda x: jnp.stack([x, y]).sum()))(jnp.ones((8, 5)))  # here


@raises(ValueError, "shapes-that-do-not-fit", "Shapes are compared", "`y` is float32[3]")
def where_under_vmap():
    y = jnp.ones(3)
    jax.vmap(lambda x: jnp.where(x > 0, x, y))(jnp.ones((8, 5)))  # here


@raises(TypeError, "shapes-that-do-not-fit", "keeps the number of elements", "`x` is float32[5]")
def reshape_with_the_batch():
    jax.vmap(lambda x: x.reshape(8, -1))(jnp.ones((8, 5)))  # here


@raises(IndexError, "shapes-that-do-not-fit", "`x[0]`, and not `x[:, 0]`")
def index_with_the_batch():
    jax.vmap(lambda x: x[:, 0])(jnp.ones((8, 5)))  # here


@raises(TypeError, "shapes-that-do-not-fit", "single number", "for one of 8 at a time")
def unpacked_under_vmap():
    def f(example):
        x, y = example  # here
        return x + y

    jax.vmap(f)(jnp.ones(8))


@raises(ValueError, "shapes-that-do-not-fit", "`j` of the `einsum`", "of 3 in one")
def einsum_under_vmap():
    w = jnp.ones((4, 3))
    jax.vmap(lambda x: jnp.einsum("ij,j->i", w, x))(jnp.ones((8, 5)))  # here


@raises(
    TypeError,
    "shapes-that-do-not-fit",
    "`Linear` takes one vector, shape (3,), and got float32[5]",
    "`eqx.nn.Linear(5, 4, key=key)`",
)
def layer_of_another_size():
    jax.vmap(filled(eqx.nn.Linear, 3, 4))(jnp.ones((8, 5)))  # here


@raises(TypeError, "shapes-that-do-not-fit", "got float32[2,2]", "flatten it first: `x.ravel()`")
def layer_and_an_image():
    jax.vmap(filled(eqx.nn.Linear, 4, 4))(jnp.ones((8, 2, 2)))  # here


@raises(ValueError, "shapes-that-do-not-fit", "got float32[5,5,3]", "`jnp.moveaxis(x, -1, 0)`")
def channels_last():
    conv = filled(eqx.nn.Conv2d, 3, 4, 3)
    jax.vmap(conv)(jnp.ones((8, 5, 5, 3)))  # here


@raises(ValueError, "shapes-that-do-not-fit", "shape (1, height, width)", "`x[None]`")
def no_channels():
    conv = filled(eqx.nn.Conv2d, 1, 4, 3)
    jax.vmap(conv)(jnp.ones((8, 5, 5)))  # here


@raises(
    TypeError,
    "a-layer-got-a-whole-batch",
    "`Linear` in `MLP` takes one vector, shape (3,), and got float32[8,3]",
    "one axis in front is left over",
    "`jax.vmap(model)(x)`",
)
def forgotten_vmap():
    filled(eqx.nn.MLP, 3, 4, 8, 1)(jnp.ones((8, 3)))  # here


@raises(ValueError, "a-layer-got-a-whole-batch", "shape (3,) and got float32[8,3]")
def forgotten_vmap_of_a_norm():
    eqx.nn.LayerNorm(3)(jnp.ones((8, 3)))  # here


@raises(TypeError, "shapes-that-do-not-fit", "Shapes are compared")
def bias_of_another_size():
    # What the layer got is not at fault.
    layer = filled(eqx.nn.Linear, 3, 4)
    eqx.tree_at(lambda one: one.bias, layer, jnp.ones(5))(jnp.ones(3))  # here


@raises(TypeError, "shapes-that-do-not-fit", "an axis of 5 in the left array and of 3")
def weight_of_another_size():
    layer = filled(eqx.nn.Linear, 3, 4)
    eqx.tree_at(lambda one: one.weight, layer, jnp.ones((4, 5)))(jnp.ones(3))  # here


@raises(ValueError, "vmap-got-inconsistent-sizes", "`jax.random.split(key, x.shape[0])`")
def vmap_of_different_lengths():
    jax.vmap(lambda x, y: x + y)(jnp.ones(8), jnp.ones(7))  # here


@raises(ValueError, "vmap-was-requested-to-map-its-argument", "along axis 0", "`in_axes=None`")
def vmap_of_one_key():
    jax.vmap(lambda x, key: x)(jnp.ones(8), jax.random.key(0))  # here


@raises(ValueError, "operands-could-not-be-broadcast-together", "`x` is float32[3]", "`x[None, :]`")
def ranks():
    x, y = jnp.ones(3), jnp.ones((4, 3))
    with jax.numpy_rank_promotion("raise"):
        return x + y  # here


@raises(
    ValueError,
    "no-available-implicit-dtype-promotion-path",
    "`x` is float32[3] and `y` is bfloat16[3]",
    "`x.astype(y.dtype)`",
)
def dtypes():
    x, y = jnp.ones(3), jnp.ones(3, jnp.bfloat16)
    with jax.numpy_dtype_promotion("strict"):
        return x * y  # here


@raises(TypeError, "type-check-error", "The argument `x` is f32[5]", "Float[Array, '3']")
def checked_signature():
    @jaxtyped(typechecker=beartype)
    def f(x: Float[Array, "3"]):
        return x

    jax.vmap(f)(jnp.ones((8, 5)))  # here


# -- optimizers -------------------------------------------------------------------------------


@raises(
    ValueError,
    "an-optimizers-state-that-does-not-fit",
    "`layers/0/weight` is float32[8,3] in `mu` of the state, and float32[9,3] in the gradient",
    "`opt_state = optimizer.init(",
)
def state_of_another_model():
    optimizer = optax.adam(1e-3)
    old = filled(eqx.nn.MLP, 3, 4, 8, 1)
    new = filled(eqx.nn.MLP, 3, 4, 9, 1)
    state = optimizer.init(eqx.filter(old, eqx.is_array))
    optimizer.update(eqx.filter(new, eqx.is_array), state)  # here


@raises(
    ValueError,
    "an-optimizers-state-that-does-not-fit",
    "`b` is a leaf of the gradient, and not of `trace` of the state",
)
def state_without_a_leaf():
    optimizer = optax.sgd(1e-3, momentum=0.9)
    state = optimizer.init({"a": jnp.ones(3)})
    optimizer.update({"a": jnp.ones(3), "b": jnp.ones(3)}, state)  # here


@raises(TypeError, "an-optimizers-state-that-does-not-fit", "`a` is float32[3] in `mu`")
def state_of_another_shape():
    optimizer = optax.adam(1e-3)
    state = optimizer.init({"a": jnp.ones(3)})
    optimizer.update({"a": jnp.ones(4)}, state)  # here


@raises(AttributeError, "an-optimizers-state-that-does-not-fit", "not made by this optimizer")
def state_of_another_optimizer():
    params = {"a": jnp.ones(3)}
    state = optax.sgd(1e-3, momentum=0.9).init(params)
    optax.adam(1e-3).update(params, state, params)  # here


@raises(ValueError, "an-optimizers-state-that-does-not-fit", "stand in another order")
def swapped():
    params = {"a": jnp.ones(3)}
    optimizer = optax.adam(1e-3)
    optimizer.update(optimizer.init(params), params)  # here


@raises(
    ValueError,
    "an-optimizers-state-that-does-not-fit",
    "parameters that are not those of the gradient: `1` is a leaf of the parameters",
)
def other_parameters():
    one, two = [jnp.ones(4)], [jnp.ones(4), jnp.ones(4)]
    optimizer = optax.add_decayed_weights(1e-3)
    optimizer.update(one, optimizer.init(one), two)  # here


@raises(
    ValueError,
    "no-available-implicit-dtype-promotion-path",
    "It is in optax",
    'with jax.numpy_dtype_promotion("standard"):',
)
def dtypes_in_optax():
    params = {"a": jnp.ones(3)}
    optimizer = optax.scale_by_adam()
    with jax.numpy_dtype_promotion("strict"):
        optimizer.update(params, optimizer.init(params))  # here


@raises(TypeError, "optax-on-a-whole-model", "`custom_jvp`", "eqx.filter(model")
def init_of_a_model():
    optax.adam(1e-3).init(filled(eqx.nn.MLP, 3, 4, 8, 1))  # here


@raises(TypeError, "optax-on-a-whole-model", "`model = eqx.apply_updates(model, updates)`")
def updates_of_a_model():
    model = filled(eqx.nn.MLP, 3, 4, 8, 1)
    optax.apply_updates(model, eqx.filter(model, eqx.is_array))  # here


@raises(ValueError, "update-without-params", "optimizer.update(grads, opt_state, params)`")
def no_params():
    params = {"a": jnp.ones(3)}
    optimizer = optax.chain(optax.trace(0.9), optax.add_decayed_weights(1e-3))
    optimizer.update(params, optimizer.init(params))  # here


# -- arguments --------------------------------------------------------------------------------


@raises(TypeError, "not-a-valid-jax-type", "`m.activation` is a function", "`eqx.filter_jit`")
def model_through_jit():
    model = filled(eqx.nn.MLP, 3, 4, 8, 1)
    jax.jit(lambda m, x: m(x))(model, jnp.ones(3))  # here


@raises(TypeError, "not-a-valid-jax-type", "met a function", "`eqx.filter_grad`")
def model_through_grad():
    model = filled(eqx.nn.MLP, 3, 4, 8, 1)
    jax.grad(lambda m, x: m(x).sum())(model, jnp.ones(3))  # here


@raises(TypeError, "not-a-valid-jax-type", "met a text" if TERSE else "returned a text")
def text_returned():
    jax.jit(lambda x: "done")(1.0)  # here


@raises(ValueError, "non-hashable-static-arguments", "An array was handed over as a static")
def static_array():
    jax.jit(lambda x, n: x, static_argnums=1)(1.0, np.ones(3))  # here


@raises(ValueError, "non-hashable-static-arguments", "of type `list`", "`tuple(values)`")
def static_list():
    jax.jit(lambda x, n: x, static_argnums=1)(1.0, [1])  # here


@raises(TypeError, "unhashable-type", "A traced array is a key")
def traced_key_of_a_dictionary():
    jax.jit(lambda x: {1: 2}[x])(1)  # here


@raises(TypeError, "unhashable-type", "An array is a key")
def cached_array():
    functools.lru_cache(lambda x: x)(jnp.ones(3))  # pyright: ignore[reportArgumentType]  # here


@raises(TypeError, "grad-requires-real-or-complex-valued-inputs", "integers or bools")
def gradient_of_integers():
    jax.grad(lambda x: x * 1.0)(1)  # here


@raises(TypeError, "gradient-only-defined-for-scalar-output-functions", "shape (3,)", "jnp.mean")
def gradient_of_many():
    jax.grad(lambda x: x)(jnp.ones(3))  # here


@raises(TypeError, "gradient-only-defined-for-scalar-output-functions", "`has_aux=True`"[1:-1])
def gradient_with_aux():
    jax.grad(lambda x: (x, 1))(1.0)  # here


@raises(
    AssertionError if OLD_OPTAX else TypeError,
    "expected-the-input-to-have-a-dtype",
    "are float32",
    "labels.astype(jnp.int32)",
)
def labels_of_floats():
    loss = optax.softmax_cross_entropy_with_integer_labels
    jax.vmap(loss)(jnp.ones((8, 3)), jnp.ones(8))  # here


@raises(NameError, "unbound-axis-name", "the axis 'batch'", 'axis_name="batch"')
def batch_norm_alone():
    norm, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(3, "batch", mode="batch")
    norm(jnp.ones(3), state)  # here


@raises(TypeError, "carry-input-and-carry-output-must-have-equal-types", "another type")
def carry():
    jax.lax.scan(lambda c, _: (c.astype(float), None), jnp.int32(0), None, length=3)  # here


@raises(TypeError, "branches-must-have-equal-output-types", "`y.astype(x.dtype)`")
def branches():
    jax.lax.cond(True, lambda: jnp.int32(1), lambda: 2.0)  # here


# -- not finite -------------------------------------------------------------------------------


@raises(FloatingPointError, "floatingpointerror", "`log` gave NaN", "`jnp.log(jnp.maximum(")
def debug_nans():
    with jax.debug_nans(True):
        return jnp.log(-1.0)  # here
