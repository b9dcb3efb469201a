"""Looks for where the first NaN or infinity of a step comes from."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .._audit._private import is_backward, own_tracebacks
from .._batch import num_examples
from .._custom_types import Args, Batch, Metrics
from .._diagnose import Place, RawFrame, library_of, raw_frames
from .._flops import MARKS
from .._state import NO_FAULT, TrainState, pack_args
from .._step import TrainStep
from .._trainable import trainable_mask
from ..tree._paths import flatten_with_paths, join
from ._code import code_of
from ._interpret import Event, Interpreter, Value
from ._report import BadInput, NonFinite, Operand, Operation
from ._search import Found, Origin, search
from ._traced import axis_of_examples, doubled, equation_at, named
from ._values import KINDS, Range, mask_of, on_host
from ._words import called, values


class _Program(NamedTuple):
    """A step, traced.

    Attributes:
        step: The step itself.
        twin: The one that was traced.
        jaxpr: Its program.
        names: The modules that its marks stand for.
        notes: What went wrong on the way.
    """

    step: TrainStep
    twin: TrainStep
    jaxpr: Any
    names: dict[int, str]
    out: Any
    notes: list[str]


def run(step: TrainStep, state: TrainState, batch: Batch, args: Args | None) -> NonFinite:
    """What `explain_nonfinite` gives, of arguments that were checked."""
    # They would stop at the first NaN, wherever it leads.
    with jax.debug_nans(False), jax.debug_infs(False):
        return _explained(step, state, batch, args)


def _explained(step: TrainStep, state: TrainState, batch: Batch, args: Args | None) -> NonFinite:
    packed = None if args is None else pack_args(args)
    program = _trace(step, state, batch, packed)
    inputs = _inputs(program.jaxpr, state, batch, packed)
    interpreter = Interpreter()
    outputs = interpreter.run(code_of(program.jaxpr), inputs)
    new, metrics, faults = jax.tree.unflatten(program.out, outputs)
    paths = state.leaf_paths()
    number = int(np.asarray(state.step))
    figures = {name: _plain(value.array) for name, value in metrics.items()}
    report = NonFinite(
        number, None, figures, members=_members(step, metrics), notes=tuple(program.notes)
    )
    after = list(zip(paths, new.leaves, strict=True))
    leaves = tuple(
        path for path, value in after if value.is_bad and (value.event or value.name != path)
    )
    report = _with(report, leaves=leaves)
    finder = _Finder(program, interpreter, state, batch, packed)
    for reaches, roots in _roots(metrics, after):
        found = finder.search(roots)
        if found.sources or found.origins:
            report = finder.told(_with(report, reaches=reaches), found)
            return _noted(report, step, state, faults, number)
    if finder.norm_overflows:
        report = _with(report, notes=(*report.notes, _NORM))
    return _compiled(report, step, state, batch, args)


_NORM = (
    "the norm of the gradient (`grad_norm`) overflows, but each of its elements is finite, which "
    "is no fault."
)


def _with(report: NonFinite, **changes: Any) -> NonFinite:
    return NonFinite(**{**vars(report), **changes})


def _trace(step: TrainStep, state: TrainState, batch: Batch, packed: Any) -> _Program:
    """Traces the step with its modules marked; where that fails, as it is."""
    twin, names = named(step)
    notes = []
    try:
        with own_tracebacks():
            traced = twin._step.trace(state, batch, packed)
    except Exception as error:
        # Whatever a model makes of modules whose classes are not quite its own: then without.
        traced = _trace_plainly(step, state, batch, packed)
        notes.append(f"no modules are named, because marking them failed: {error!r}")
        twin, names = step, {}
    return _Program(step, twin, traced.jaxpr, names, jax.tree.structure(traced.out_info), notes)


def _trace_plainly(step: TrainStep, *arguments: Any) -> Any:
    known = len(step._log.entries)
    try:
        with own_tracebacks():
            return step._step.trace(*arguments)
    finally:
        step._log.forget(known)


def _inputs(jaxpr: Any, state: TrainState, batch: Batch, packed: Any) -> list[Value]:
    unpacked = None if packed is None else packed.unpack()
    named_leaves = [
        *zip(state.leaf_paths(), state.leaves, strict=True),
        *((join("batch", path), leaf) for path, leaf in flatten_with_paths(batch)[0]),
        *((join("args", path), leaf) for path, leaf in flatten_with_paths(unpacked)[0]),
    ]
    arrays = [(path, leaf) for path, leaf in named_leaves if _is_array(leaf)]
    return [
        Value(_as(leaf, aval), name=path)
        for (path, leaf), aval in zip(arrays, jaxpr.in_avals, strict=True)
    ]


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic))


def _as(leaf: Any, aval: Any) -> Any:
    return leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf, aval.dtype)


def _plain(array: Any) -> Any:
    host = np.asarray(array)
    return host.item() if host.ndim == 0 else host


def _members(step: TrainStep, metrics: Metrics) -> tuple[int, ...]:
    """Which members of an ensemble have a loss or a gradient that is not finite."""
    if step.members is None:
        return ()
    bad = np.zeros(step.members, bool)
    for name in ("loss", "grad_norm"):
        bad |= ~np.isfinite(on_host(metrics[name].array))
    return tuple(np.flatnonzero(bad).tolist())


def _roots(
    metrics: dict[str, Value], after: list[tuple[str, Value]]
) -> Iterator[tuple[str, list[Value]]]:
    """What a step is judged by, in the order in which it is computed."""
    of_layers = [value for path, value in after if path.split("/")[0] == "model_state"]
    yield "loss", [metrics["loss"]]
    yield "model_state", of_layers
    yield "gradient", [metrics["grad_norm"]]
    yield "update", [value for _, value in after]
    yield "aux", list(metrics.values())


_WHERE = {
    "loss": "forward",
    "model_state": "forward",
    "gradient": "gradient",
    "update": "update",
    "aux": "aux",
}


class _Finder:
    """Searches, and tells what it finds."""

    def __init__(
        self,
        program: _Program,
        interpreter: Interpreter,
        state: TrainState,
        batch: Batch,
        packed: Any,
    ):
        self._program = program
        self._interpreter = interpreter
        self._arguments = (state, batch, packed)
        self._spec = program.step._spec
        model = state.model
        mask = jax.tree.leaves(trainable_mask(self._spec.trainable, model))
        paths = [path for path, _ in flatten_with_paths(model)[0]]
        # A buffer may hold a mask of infinities.
        self._buffers = {
            join("model", path) for path, trained in zip(paths, mask, strict=True) if not trained
        }
        self.norm_overflows = False

    def search(self, roots: list[Value]) -> Found:
        """Where what is not finite in some results began."""
        wanted = [(value, kind) for value in roots for kind in KINDS if value.has(kind)]
        found = search(self._interpreter, wanted)
        origins = [each for each in found.origins if not _is_of_norm(each)]
        if len(origins) < len(found.origins):
            self.norm_overflows = True
        sources = [each for each in found.sources if each.value.name not in self._buffers]
        return Found(origins, sources)

    def told(self, report: NonFinite, found: Found) -> NonFinite:
        """The report of what was found."""
        assert report.reaches is not None
        where = _WHERE[report.reaches]
        if found.sources:
            inputs = {each.value.name: self._bad_input(each.value) for each in found.sources}
            rows = [row for each in inputs.values() for row in each.rows]
            ordered = sorted(inputs.values(), key=lambda each: _ORDER.index(_first(each.path)))
            return _with(
                report,
                where="inputs",
                inputs=tuple(ordered),
                examples=tuple(sorted(set(rows))),
            )
        here = _together(found.origins)
        told = [self._examples(each) for each in here]
        notes = dict.fromkeys(note for _, each in told for note in each)
        then = next((each.then for each in here if each.then is not None), None)
        return _with(
            report,
            where=where,
            operation=self._operation(here, where),
            then=None if then is None else self._operation([then], where),
            examples=tuple(sorted({row for rows, _ in told for row in rows})),
            notes=(*report.notes, *notes),
        )

    def _bad_input(self, value: Value) -> BadInput:
        host = on_host(value.array)
        nan, inf = (int(mask_of(host, kind).sum()) for kind in KINDS)
        rows: tuple[int, ...] = ()
        if _first(value.name) == "batch":
            axis = self._axis()
            bad = ~np.isfinite(host)
            others = tuple(at for at in range(bad.ndim) if at != axis)
            rows = tuple(np.flatnonzero(bad.any(axis=others)).tolist())
        return BadInput(value.name, nan, inf, rows)

    def _axis(self) -> int:
        return 0 if self._spec.shared_batches else 1

    def _operation(self, origins: list[Origin], where: str) -> Operation:
        """What one operation made."""
        origin = origins[0]
        event, birth = origin.event, origin.birth
        frame = _frame(event, where)
        place = None
        if frame is not None:
            place = Place(frame.code.co_filename, frame.line, frame.code.co_qualname)
        equation = event.instruction.equation
        result = Range(
            str(equation.outvars[origin.index].aval.dtype),
            tuple(equation.outvars[origin.index].aval.shape),
            None,
            None,
            0,
            0,
        )
        operands: list[tuple[str, Range]] = []
        if birth is not None:
            result, operands = birth.result, birth.operands
        return Operation(
            primitive=event.instruction.name,
            called="" if frame is None else called(frame),
            kind=origin.kind,
            backward=where == "gradient" or any(map(is_backward, event.instruction.path)),
            module=self._module(event),
            place=place,
            values="; ".join(map(values, origins)),
            operands=tuple(_operand(name, each) for name, each in operands),
            result=_operand("", result),
            turns=event.turns,
            from_constant=origin.from_constant,
        )

    def _module(self, event: Event) -> str:
        """The innermost module whose call an operation is part of."""
        for equation in reversed(event.instruction.path):
            marks = MARKS.findall(str(equation.source_info.name_stack))
            if marks:
                return self._program.names.get(int(marks[-1]), "")
        # Not in a call of any: whose parameter it reads.
        for value in event.inputs:
            if value.name.startswith("model/"):
                return value.name.removeprefix("model/").rpartition("/")[0]
        return ""

    def _examples(self, origin: Origin) -> tuple[tuple[int, ...], list[str]]:
        """Which examples of the batch an operation met, by the axis that grows with the batch."""
        birth, event = origin.birth, origin.event
        if birth is None:
            return (), []
        state, batch, packed = self._arguments
        try:
            other = _trace_plainly(
                self._program.twin, state, doubled(batch, self._axis()), packed
            ).jaxpr
        except Exception as error:
            # Whatever a loss says of a batch of another size: then nobody knows.
            return (), [f"which example it was is not known: for twice as many, {error!r}"]
        instruction = event.instruction
        twin = equation_at(other, instruction.position, instruction.path)
        if twin is None:
            return (), ["which example it was is not known: a larger batch is another program"]
        mine = instruction.equation
        sides = [(mine.outvars[origin.index], twin.outvars[origin.index], birth.along)]
        sides += list(zip(mine.invars, twin.invars, birth.operands_along, strict=True))
        for one, two, along in sides:
            axis = axis_of_examples(tuple(one.aval.shape), tuple(two.aval.shape))
            if axis is not None and along:
                return self._numbered(along[axis], event), []
        return (), []

    def _numbered(self, bad: np.ndarray, event: Event) -> tuple[int, ...]:
        accumulate = self._spec.loss.accumulate
        size = num_examples(self._arguments[1])
        if self._axis():
            size = np.shape(jax.tree.leaves(self._arguments[1])[0])[1]
        each = size // accumulate
        if bad.size % each:
            return ()
        # Where examples and another axis became one, those of an example are next to each other.
        rows = np.unique(np.flatnonzero(bad) // (bad.size // each))
        if accumulate > 1:
            microbatch = _microbatch(event)
            if microbatch is None:
                return ()
            rows = rows * accumulate + microbatch
        return tuple(rows.tolist())


def _together(origins: list[Origin]) -> list[Origin]:
    """The first operation: it may give NaN of one number, and an infinity of another.

    In a sum of both only the NaN is left, which hides where the other came from.
    """
    same = [each for each in origins if each.event is origins[0].event]
    here = list({each.kind: each for each in reversed(same)}.values())[::-1]
    event, index = here[0].event, here[0].index
    for kind in KINDS:
        trace = event.traces.get((index, kind))
        if trace is not None and trace.born and all(each.kind != kind for each in here):
            here.append(Origin(event, index, event.births[index, kind], kind))
    return here


_ORDER = ("batch", "args", "model", "model_state", "opt_state", "ema_model")


def _first(path: str) -> str:
    first = path.split("/")[0]
    return first if first in _ORDER else "ema_model"


def _operand(name: str, found: Range) -> Operand:
    return Operand(name, found.dtype, found.shape, found.low, found.high, found.nan, found.inf)


def _frame(event: Event, where: str) -> RawFrame | None:
    """The user's innermost line; of an optimizer its own."""
    raw = _raw_frames(event)
    own = next((each for each in raw if library_of(each.code.co_filename) is None), None)
    if own is None and where == "update":
        own = next((each for each in raw if library_of(each.code.co_filename) == "optax"), None)
    return own


def _raw_frames(event: Event) -> list[RawFrame]:
    """The calls on the way to an operation, from the innermost outwards to the step's program."""
    found: list[RawFrame] = []
    for equation in reversed(event.instruction.path):
        for raw in raw_frames(equation):
            if raw.code.co_name == "_traced_step":
                return found
            found.append(raw)
    return found


def _is_of_norm(origin: Origin) -> bool:
    """Whether the norm of the gradient overflows, which is only a figure."""
    return any(raw.code.co_name == "tree_norm" for raw in _raw_frames(origin.event))


def _microbatch(event: Event) -> int | None:
    """Which microbatch an operation belongs to."""
    loops = [each for each in event.instruction.path if each.primitive.name in ("scan", "while")]
    for turn, equation in zip(event.turns, loops, strict=False):
        names = {raw.code.co_name for raw in raw_frames(equation)}
        if "_over_microbatches" in names and equation.primitive.name == "scan":
            return turn
    return None


def _noted(
    report: NonFinite, step: TrainStep, state: TrainState, faults: Value, number: int
) -> NonFinite:
    """With what the step itself makes of it."""
    notes = list(report.notes)
    scaled = step._spec.precision is not None and step._spec.precision.loss_scale is not None
    told = np.asarray(faults.array).reshape(-1, 2)[:, 0]
    if scaled and report.where == "gradient":
        scale = np.asarray(state.loss_scale).max()
        notes.append(
            f"the loss was scaled by {scale:g}. A gradient that overflows is how the scale finds "
            f"its place: the update is dropped and the scale backed off"
            + (", which it cannot be any more." if number in told[told != NO_FAULT] else ".")
        )
    elif step.nonfinite == "skip" and report.where != "update":
        notes.append("the step drops this update (`nonfinite='skip'`).")
    return _with(report, notes=tuple(notes))


def _compiled(
    report: NonFinite, step: TrainStep, state: TrainState, batch: Batch, args: Args | None
) -> NonFinite:
    """What the compiled step says, of which the operations one by one are all finite."""
    new, metrics = step._replayed(state.copy(), batch, args)
    figures = {name: _plain(value) for name, value in metrics.items()}
    bad = not np.isfinite(on_host(metrics["loss"])).all()
    noted = np.asarray(new.parts().faults).reshape(-1, 2)[:, 0]
    bad = bad or report.step in noted[noted != NO_FAULT]
    return _with(report, figures=figures, where="compiled" if bad else None)
