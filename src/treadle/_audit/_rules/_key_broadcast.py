"""`key-broadcast`: one draw serves every example of a batch."""

from collections.abc import Iterator

from .._audited import Audited
from .._finding import Finding
from .._keys._lineage import Use, equations_of
from .._keys._sites import use_label
from .._sharing._shared_draws import SharedDraw, shared_draws
from .._source import Place, user_place
from ._base import Rule


class KeyBroadcast(Rule):
    """A mask or noise is drawn once, and every example of the batch gets the same."""

    slug = "key-broadcast"
    line = "keys"

    def check(self, audited: Audited) -> Iterator[Finding]:
        """One finding for each line that draws, at that line."""
        told: dict[Place, SharedDraw] = {}
        for shared in shared_draws(audited):
            place = user_place(equations_of(shared.path)) or user_place(
                equations_of(shared.meeting)
            )
            if place is not None:
                told.setdefault(place, shared)
        for place, shared in told.items():
            yield Finding(self.slug, "warning", _message(place, shared), place, _fix(shared))

    def evidence(self, audited: Audited) -> str | None:
        """That every example has its own draws."""
        return "no draw serves a whole batch" if audited.lineage.draws else None


_FIX = (
    "Draw for the whole batch, `jax.random.normal(key, x.shape)`; or give each example a key, "
    "`keys = jax.random.split(key, x.shape[0])` and `jax.vmap(model)(x, keys)`."
)
_FIX_OVER_DEVICES = (
    "Give each device a key: `key = jax.random.fold_in(key, jax.lax.axis_index({axis!r}))`."
)

_FIX_OF_MEMBERS = (
    "Give each member a key: `keys = jax.random.split(key, members)`, mapped over with the "
    "parameters, `jax.vmap(step, in_axes=(0, None, 0))(params, x, keys)`."
)


def _fix(shared: SharedDraw) -> str:
    if shared.of_members:
        return _FIX_OF_MEMBERS
    return _FIX if shared.mesh is None else _FIX_OVER_DEVICES.format(axis=shared.mesh)


def _message(place: Place, shared: SharedDraw) -> str:
    what = use_label(Use("draw", shared.path, "", False))
    where = user_place(equations_of(shared.meeting))
    at = "" if where is None or where == place else f" at {where.short}"
    shape = "(" + ", ".join(map(str, shared.shape)) + ")"
    if shared.mesh is not None:
        return (
            f"one draw ({what}) serves every device: along the axis {shared.mesh!r} of the mesh "
            f"each draws the same numbers, and they meet its part of the batch{at}"
        )
    whom = "member of the ensemble" if shared.of_members else "example of the batch"
    return (
        f"one draw ({what}) serves every {whom}: it is the same along axis {shared.axis} of the "
        f"data of shape {shape} that it meets{at}"
    )
