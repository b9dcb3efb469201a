"""Loss, aux and gradient of a batch, over any number of microbatches."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ._batch import microbatch, num_examples
from ._custom_types import Args, Batch, LossFn
from ._diagnose import slow_in_a_loop
from ._errors import ArgumentValueError
from ._loss import loss_totals
from ._weighted import Total, figure, inverse_weight


class LossSpec(NamedTuple):
    """How the user's loss is to be called."""

    loss_fn: LossFn
    batched: bool
    accumulate: int
    unroll: bool | int | None
    axis_name: str


class Gradient(NamedTuple):
    """What one pass over a batch gives.

    `empty` says whether some figure had a total weight of 0; `None` where none has weights.
    """

    grads: PyTree
    loss: jax.Array
    figures: dict[str, jax.Array]
    empty: jax.Array | None


class LossOfBatch(NamedTuple):
    """The loss of one batch as a function of the trainable leaves, with its random draws fixed."""

    spec: LossSpec
    frozen: PyTree
    batch: Batch
    key: jax.Array
    args: Args | None

    def totals(self, trainable: PyTree, index: Any) -> dict[str, Total]:
        """Loss and aux of microbatch `index`, added up."""
        spec = self.spec
        model = eqx.combine(trainable, self.frozen)
        part = microbatch(self.batch, index, spec.accumulate)
        if spec.batched:
            key, indices = jax.random.fold_in(self.key, index), None
        else:
            # The place in the global batch: the draws do not depend on `accumulate`.
            key = self.key
            indices = jnp.arange(num_examples(part), dtype=jnp.int32) * spec.accumulate + index
        return loss_totals(spec.loss_fn, model, part, key, indices, self.args, spec.axis_name)

    def value(self, trainable: PyTree) -> jax.Array:
        """The loss over all microbatches: what a line search evaluates."""
        return figure(self._over_microbatches(lambda i: self.totals(trainable, i)["loss"]))

    def gradient(self, trainable: PyTree) -> Gradient:
        """Loss, aux and gradient over all microbatches."""
        scale = 1.0 / self._num_losses()

        def objective(trainable: PyTree, index: Any) -> tuple[jax.Array, dict[str, Total]]:
            totals = self.totals(trainable, index)
            loss = totals["loss"]
            if loss.weighted and self.spec.accumulate == 1:
                return figure(loss), totals
            return loss.numerator * jnp.asarray(scale, loss.numerator.dtype), totals

        def one(index: Any) -> tuple[PyTree, dict[str, Total]]:
            (_, totals), grads = eqx.filter_value_and_grad(objective, has_aux=True)(
                trainable, index
            )
            return grads, totals

        grads, totals = self._over_microbatches(one)
        return self._finish(grads, totals)

    def _finish(self, grads: PyTree, totals: dict[str, Total]) -> Gradient:
        loss = totals.pop("loss")
        assert loss.denominator is not None
        # The gradient was scaled by the number of losses, because no microbatch knows the weights
        # of the others. For bare scalars that is the total weight.
        factor = None
        if loss.weighted and self.spec.accumulate > 1:
            factor = inverse_weight(loss.denominator) * self._num_losses()

        def correct(grad: jax.Array) -> jax.Array:
            # JAX gives the conjugate of the direction in which a real loss ascends.
            grad = jnp.conj(grad) if jnp.iscomplexobj(grad) else grad
            if factor is None:
                return grad
            # In the factor's precision: it overflows float16 where the weights are small.
            wide = jnp.float32 if _is_narrow(grad) else grad.dtype
            return (grad.astype(wide) * factor.astype(wide)).astype(grad.dtype)

        empty = [
            jnp.any(total.denominator == 0) for total in (loss, *totals.values()) if total.weighted
        ]
        return Gradient(
            grads=jax.tree.map(correct, grads),
            loss=figure(loss),
            figures={name: figure(total) for name, total in totals.items()},
            empty=jnp.any(jnp.stack(empty)) if empty else None,
        )

    def _num_losses(self) -> int:
        return self.spec.accumulate if self.spec.batched else num_examples(self.batch)

    def _over_microbatches(self, one: Callable[[Any], PyTree]) -> PyTree:
        """The sum of `one(index)` over the microbatches, in order."""
        accumulate = self.spec.accumulate
        if accumulate == 1:
            return one(0)
        traced, shapes = jax.make_jaxpr(one, return_shape=True)(jnp.int32(0))
        unroll = self.spec.unroll
        if unroll is None:
            unroll = slow_in_a_loop(traced.jaxpr)
        start = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

        def body(carry: PyTree, index: jax.Array) -> tuple[PyTree, None]:
            return jax.tree.map(jnp.add, carry, one(index)), None

        total, _ = jax.lax.scan(body, start, jnp.arange(accumulate, dtype=jnp.int32), unroll=unroll)
        return total


def _is_narrow(grad: jax.Array) -> bool:
    return grad.dtype in (jnp.float16, jnp.bfloat16)


def require_divisible(batch: Batch, accumulate: int) -> None:
    """Refuses a batch that cannot be cut into equal microbatches.

    Raises:
        ArgumentValueError: If `accumulate` does not divide the batch size.
        BatchError: If it is not a batch.
    """
    size = num_examples(batch)
    if size % accumulate:
        divisors = [n for n in range(1, size + 1) if size % n == 0]
        near = sorted(divisors, key=lambda n: abs(n - accumulate))[:3]
        raise ArgumentValueError(
            f"`accumulate` (={accumulate}) must divide the batch size (={size}): choose one of "
            f"{', '.join(map(str, sorted(near)))}, or make batches of a multiple of {accumulate}, "
            f"such as `treadle.data.arrays(..., drop_remainder=True)` does."
        )
