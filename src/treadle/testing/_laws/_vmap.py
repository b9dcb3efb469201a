"""What is the same for one as for many at once."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

from ..._errors import TreeError
from ...tree._paths import flatten_with_paths
from ...tree._stack import stack
from ._law import Law, on_device
from ._law import __tracebackhide__ as __tracebackhide__
from ._traced import Attempt


def check_vmap(f: Callable[..., Any], *args: Any, rtol: float = 0.0, atol: float = 0.0) -> None:
    """Mapped by `vmap` it is as in a loop: `vmap(f)(X)[i] = f(X[i])`.

    Mapped with `eqx.filter_vmap` over the leading axis of every array of the arguments, which
    `treadle.tree.stack` makes; other leaves are the same for all. NumPy arrays among the arguments
    become JAX's first. Products and sums of a batch may be rounded otherwise than those of one;
    give a tolerance where `f` computes. Keys of `"rbg"` draw other numbers under `vmap`, by JAX's
    own design: what draws from them breaks the law.

    Args:
        f: A function of one element.
        args: Its arguments, stacked.
        rtol: Arrays of floats may differ by `atol + rtol * |f(x)|`; by default not in a single bit.
        atol: See there.

    Raises:
        LawError: It cannot be mapped, or gives something else; or it remembers something of an
            earlier call.
        TreeError: The arrays of the arguments do not share a leading axis of at least 1.

    Example:
        >>> check_vmap(normalise, treadle.tree.stack([model, other]))
    """
    law = Law("check_vmap", rtol, atol)
    args = on_device(args)
    size = _size(args)
    attempt = Attempt(law, eqx.filter_vmap(f), *args)
    singles = [attempt.common(f, *_element(args, index)) for index in range(size)]
    attempt.require("f cannot be mapped")
    try:
        looped = stack([on_device(single) for single in singles])
    except TreeError as error:
        raise law.broken(f"f gives results of several structures: {error}") from error
    law.require_same(
        attempt.result, looped, ("vmap(f)(*args)", "stack([f(*args[i]) for i in ...])")
    )


def _element(args: Any, index: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[index] if eqx.is_array(leaf) else leaf, args)


def _size(args: Any) -> int:
    sizes = {
        path: leaf.shape[0] if leaf.ndim else None
        for path, leaf in flatten_with_paths(args)[0]
        if eqx.is_array(leaf)
    }
    found = set(sizes.values())
    size = found.pop() if len(found) == 1 else None
    if not size:
        listed = ", ".join(f"{path!r}: {size}" for path, size in list(sizes.items())[:5])
        raise TreeError(
            "`args` must have arrays that share a leading axis of at least 1, over which f is "
            f"mapped; the leading axes are {listed or 'none, as there are no arrays'}. "
            "`treadle.tree.stack` makes one. What is the same for all is no argument: let f close "
            "over it."
        )
    return size
