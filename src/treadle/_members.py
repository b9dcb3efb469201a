"""One step of a single run, or of all members of an ensemble at once."""

from typing import Any

import equinox as eqx

from ._batch import num_examples
from ._custom_types import Args, Batch, Metrics
from ._errors import BatchError, TreeError
from ._program import StepSpec, advance
from ._state import Parts, memberwise


def advance_all(
    spec: StepSpec, parts: Parts, batch: Batch, args: Args | None
) -> tuple[Parts, Metrics]:
    """One step of whatever the state is of.

    Returns:
        The next parts and the metrics, which have a leading axis of members for an ensemble.

    Raises:
        TreeError: The state is of a single run and the step of an ensemble, or the reverse, or
            their sizes differ.
        BatchError: Each member is to get a batch of its own, and the leading axis is not theirs.
    """
    _require_kind(spec, parts)
    if spec.members is None:
        return advance(spec, parts, batch, args)
    if not spec.shared_batches and num_examples(batch) != spec.members:
        raise BatchError(
            f"`batch` has a leading size of {num_examples(batch)}, but each of the {spec.members} "
            f"members gets a batch of its own: every leaf is (members, batch size, ...). One batch "
            f"for all is `treadle.ensemble(step, {spec.members})`, without `shared_batches=False`."
        )

    def one(parts: Parts, batch: Batch, args: Any) -> tuple[Parts, Metrics]:
        return advance(spec, parts, batch, args)

    axes = memberwise()
    mapped = eqx.filter_vmap(
        one,
        in_axes=(axes, None if spec.shared_batches else 0, None),
        out_axes=(axes, eqx.if_array(0)),
    )
    return mapped(parts, batch, args)


def _require_kind(spec: StepSpec, parts: Parts) -> None:
    if parts.members != spec.members:
        raise TreeError(
            f"The state is that of {_told(parts.members)}, and the step that of "
            f"{_told(spec.members)}: use a state with the step that made it. "
            f"`treadle.tree.unstack(state)` gives the members' own states, for the step that the "
            f"ensemble was made of; `treadle.tree.stack(states)` the reverse."
        )
    scaled = spec.precision is not None and spec.precision.loss_scale is not None
    kept = {
        "an averaged model (`ema`)": (spec.ema is not None, parts.ema_model),
        "a loss scale (`precision='fp16'`)": (scaled, parts.loss_scale),
        "a count of skipped steps (`nonfinite='skip'`, or a loss scale)": (
            spec.counts_skipped,
            parts.skipped,
        ),
        "a model state (`stateful=True`)": (spec.loss.call.stateful, parts.model_state),
    }
    for what, (wanted, there) in kept.items():
        if wanted != (there is not None):
            raise TreeError(
                f"The step {'keeps' if wanted else 'does not keep'} {what}, and the state "
                f"{'lacks' if wanted else 'has'} one: it was made by a step with other options. "
                f"Use a state with the step that made it, or start one with `step.init`."
            )
    if spec.nonfinite == "stop" and parts.active is None:
        raise TreeError(
            "The step stops members that are not finite (`nonfinite='stop'`), and the state keeps "
            "no bool for each member: give it one, "
            f"`state.replace(active=np.ones({spec.members}, bool))`."
        )


def _told(members: int | None) -> str:
    return "a single run" if members is None else f"an ensemble of {members}"
