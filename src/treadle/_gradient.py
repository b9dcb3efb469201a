"""Loss, aux and gradient of a batch, over any number of microbatches."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._batch import microbatch, num_examples
from ._custom_types import Args, Batch
from ._errors import ArgumentValueError
from ._jaxpr import slow_in_a_loop
from ._loss import LossCall
from ._precision import widened
from ._weighted import Total, figure, inverse_weight


class LossSpec(NamedTuple):
    """The user's loss, and how a batch goes through it."""

    call: LossCall
    accumulate: int
    unroll: bool | int | None


class Gradient(NamedTuple):
    """What one pass over a batch gives.

    `empty` says whether some figure had a total weight of 0; `None` where none has weights.
    """

    grads: PyTree
    loss: jax.Array
    figures: dict[str, jax.Array]
    empty: jax.Array | None
    model_state: PyTree


class LossOfBatch(NamedTuple):
    """The loss of one batch as a function of the trainable leaves, with its random draws fixed."""

    spec: LossSpec
    frozen: PyTree
    model_state: PyTree
    batch: Batch
    key: jax.Array
    args: Args | None

    def totals(
        self, trainable: PyTree, index: Any, model_state: PyTree
    ) -> tuple[dict[str, Total], PyTree]:
        """Loss and aux of microbatch `index`, added up; and the next state of the model."""
        accumulate = self.spec.accumulate
        model = eqx.combine(trainable, self.frozen)
        part = microbatch(self.batch, index, accumulate)
        key = jax.random.fold_in(self.key, index) if self.spec.call.batched else self.key
        # The place in the global batch: the draws do not depend on `accumulate`.
        indices = jnp.arange(num_examples(part), dtype=jnp.int32) * accumulate + index
        return self.spec.call.totals(model, model_state, part, key, indices, self.args)

    def value(self, trainable: PyTree) -> jax.Array:
        """The loss over all microbatches: what a line search evaluates.

        Each evaluation draws the same random numbers, and begins with the same model state.
        """

        def one(index: Any, model_state: PyTree) -> tuple[Total, PyTree]:
            totals, model_state = self.totals(trainable, index, model_state)
            return totals["loss"], model_state

        return figure(self._over_microbatches(one)[0])

    def gradient(self, trainable: PyTree, loss_scale: Float[Array, ""] | None) -> Gradient:
        """Loss, aux and gradient over all microbatches.

        Args:
            trainable: Where to.
            loss_scale: What the loss is multiplied by while it is differentiated; what comes back
                is not.
        """
        scale = 1.0 / self._num_losses()

        def objective(
            trainable: PyTree, index: Any, model_state: PyTree
        ) -> tuple[jax.Array, tuple[dict[str, Total], PyTree]]:
            totals, model_state = self.totals(trainable, index, model_state)
            loss = totals["loss"]
            if loss.weighted and self.spec.accumulate == 1:
                value = figure(loss)
            else:
                value = loss.numerator * jnp.asarray(scale, loss.numerator.dtype)
            if loss_scale is not None:
                value = value * loss_scale.astype(value.dtype)
            return value, (totals, model_state)

        def one(index: Any, model_state: PyTree) -> tuple[tuple[PyTree, dict[str, Total]], PyTree]:
            (_, (totals, model_state)), grads = eqx.filter_value_and_grad(objective, has_aux=True)(
                trainable, index, model_state
            )
            # Added up, and handed to the optimizer, in float32 where a precision was chosen.
            grads = grads if self.spec.call.precision is None else widened(grads)
            return (grads, totals), model_state

        (grads, totals), model_state = self._over_microbatches(one)
        return self._finish(grads, totals, model_state, loss_scale)

    def _finish(
        self,
        grads: PyTree,
        totals: dict[str, Total],
        model_state: PyTree,
        loss_scale: Float[Array, ""] | None,
    ) -> Gradient:
        loss = totals.pop("loss")
        assert loss.denominator is not None
        # The gradient was scaled by the number of losses, because no microbatch knows the weights
        # of the others. For bare scalars that is the total weight.
        factor = None
        if loss.weighted and self.spec.accumulate > 1:
            factor = inverse_weight(loss.denominator) * self._num_losses()
        if loss_scale is not None:
            unscaled = 1 / loss_scale
            factor = unscaled if factor is None else factor * unscaled.astype(factor.dtype)

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
            model_state=model_state,
        )

    def _num_losses(self) -> int:
        return self.spec.accumulate if self.spec.call.batched else num_examples(self.batch)

    def _over_microbatches(
        self, one: Callable[[Any, PyTree], tuple[PyTree, PyTree]]
    ) -> tuple[PyTree, PyTree]:
        """The sum of what `one` gives over the microbatches, the model's state handed along."""
        accumulate = self.spec.accumulate
        if accumulate == 1:
            return one(0, self.model_state)
        traced, shapes = jax.make_jaxpr(one, return_shape=True)(jnp.int32(0), self.model_state)
        unroll = self.spec.unroll
        if unroll is None:
            unroll = slow_in_a_loop(traced.jaxpr)
        start = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes[0])

        def body(carry: PyTree, index: jax.Array) -> tuple[PyTree, None]:
            total, model_state = carry
            more, model_state = one(index, model_state)
            return (jax.tree.map(jnp.add, total, more), model_state), None

        indices = jnp.arange(accumulate, dtype=jnp.int32)
        carry, _ = jax.lax.scan(body, (start, self.model_state), indices, unroll=unroll)
        return carry


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
