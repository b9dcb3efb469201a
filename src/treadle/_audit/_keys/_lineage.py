"""Where keys come from and what consumes them, by abstract interpretation of a traced program.

Every key has a number that says how it came about (see `_values`); two keys with one number are the
same key. Loops are run for two turns, with what the first hands on; each branch of a `cond` starts
from what was consumed before it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.extend import core as jex_core

from ..._jaxpr import inner_jaxprs
from .._private import is_array_of_keys, is_backward, is_recomputation, key_words, splits_are_folds
from ._elements import SAME, fitted, has_shape, known_from, plain, retyped, row, selected, stable
from ._moved import moved_out
from ._uses import Captured as Captured
from ._uses import Constant as Constant
from ._uses import Loop as Loop
from ._uses import Path as Path
from ._uses import Reuse as Reuse
from ._uses import Stop as Stop
from ._uses import Use as Use
from ._uses import equations_of as equations_of
from ._values import (
    Value,
    child,
    fresh,
    is_followed,
    mixed,
    numbers,
    of_integers,
    salt,
    unknown,
)
from ._words import constant_value, words_of, wrapped, wrapped_words

_MOST = 4096
"""Elements of an array of keys of which it is noted that they are consumed."""


def has_keys(jaxpr: Any, known: dict[int, bool]) -> bool:
    """Whether a program, or one inside of it, does anything with keys."""
    if id(jaxpr) not in known:
        known[id(jaxpr)] = any(
            equation.primitive.name.startswith("random_")
            or any(is_array_of_keys(v.aval) for v in equation.outvars if hasattr(v.aval, "dtype"))
            or any(
                has_keys(inner, known)
                for value in equation.params.values()
                for inner in inner_jaxprs(value)
            )
            for equation in jaxpr.eqns
        )
    return known[id(jaxpr)]


class Lineage:
    """Follows the keys of a program.

    Args:
        closed: The program.

    Attributes:
        reuses: Keys that are consumed again, each with where it was and is.
        constants: Draws with keys that are the same in every call.
        draws: How many equations draw.
        keys: How many keys are drawn from.
    """

    def __init__(self, closed: Any):
        self.reuses: list[Reuse] = []
        self.constants: list[Constant] = []
        self.draws = 0
        self.keys = 0
        self._ledger: dict[int, tuple[Use, ...]] = {}
        self._told: set[int] = set()
        self._uses: list[Use] = []
        self._seen: set[tuple[int, ...]] = set()
        self._with_keys: dict[int, bool] = {}
        self._child = child if splits_are_folds() else self._other_child
        if not has_keys(closed.jaxpr, self._with_keys):
            return
        jaxpr = closed.jaxpr
        consts = [
            constant_value(each, var.aval)._replace(origin=Captured())
            for each, var in zip(closed.consts, jaxpr.constvars, strict=True)
        ]
        args = [unknown(var.aval, fresh(False)) for var in jaxpr.invars]
        outs = self._run(jaxpr, consts, args, ())
        self._going_out(jaxpr, outs)

    @staticmethod
    def _other_child(keys: Any, data: Any) -> Any:
        return mixed(salt("split"), keys, data)

    # -- programs -----------------------------------------------------------------------------

    def _run(
        self, jaxpr: Any, consts: Sequence[Value], args: Sequence[Value], path: Path, turn: int = 0
    ) -> list[Value]:
        values: dict[Any, Value] = {}
        values.update(zip(jaxpr.constvars, consts, strict=False))
        values.update(zip(jaxpr.invars, args, strict=True))

        def read(atom: Any) -> Value:
            if isinstance(atom, jex_core.Literal):
                return constant_value(atom.val, atom.aval)
            return values[atom]

        consuming: dict[int, tuple[Any, list[Use]]] = {}
        for equation in jaxpr.eqns:
            inputs = [read(atom) for atom in equation.invars]
            before = len(self._uses)
            outputs = self._equation(equation, inputs, (*path, Stop(equation, jaxpr, turn)))
            values.update(zip(equation.outvars, outputs, strict=True))
            if len(self._uses) > before:
                consuming[id(equation)] = equation, self._uses[before:]
            if equation.primitive.name == "scan" and consuming:
                self._in_each_turn(jaxpr, equation, consuming, len(path))
        return [read(atom) for atom in jaxpr.outvars]

    def _in_each_turn(
        self, jaxpr: Any, scan: Any, consuming: dict[int, tuple[Any, list[Use]]], depth: int
    ) -> None:
        """What was moved out of a scan is the same in each turn, and so are its draws."""
        equations = [equation for equation, _ in consuming.values()]
        told: list[Use] = []
        for equation in moved_out(jaxpr, scan, equations):
            for use in consuming[id(equation)][1]:
                if use.kind == "fold" or use.again:
                    continue
                if use.source not in told:
                    self._note(Reuse(use, use, Loop(scan, depth)))
                told.append(use)

    def _closed(
        self, program: Any, inputs: Sequence[Value], path: Path, turn: int = 0
    ) -> list[Value]:
        jaxpr = getattr(program, "jaxpr", program)
        consts = [
            constant_value(each, var.aval)._replace(origin=Captured())
            for each, var in zip(getattr(program, "consts", ()), jaxpr.constvars, strict=False)
        ]
        return self._run(jaxpr, consts, inputs, path, turn)

    def _equation(self, equation: Any, inputs: list[Value], path: Path) -> list[Value]:
        name = equation.primitive.name
        if name in _RULES:
            return _RULES[name](self, equation, inputs, path)
        if name in SAME and len(inputs) == len(equation.outvars):
            return [
                retyped(value, out.aval)
                for value, out in zip(inputs, equation.outvars, strict=True)
            ]
        inner = [each for value in equation.params.values() for each in inner_jaxprs(value)]
        if inner:
            return self._call(equation, inner, inputs, path)
        return plain(equation, inputs)

    # -- keys ---------------------------------------------------------------------------------

    def _random_seed(self, equation: Any, inputs: list[Value], path: Path) -> list[Value]:
        aval = equation.outvars[0].aval
        seeds = inputs[0]
        ids = seeds.ids if seeds.ids is not None else unknown(aval, seeds.number).ids
        return [Value(np.asarray(mixed(salt("seed"), ids)).reshape(aval.shape), origin=path)]

    def _random_wrap(self, equation: Any, inputs: list[Value], path: Path) -> list[Value]:
        aval = equation.outvars[0].aval
        words = inputs[0]
        if words.ids is None:
            return [unknown(aval, mixed(salt("wrap"), words.number))]
        return [Value(wrapped(words.ids, aval)).like(words)]

    def _random_unwrap(self, equation: Any, inputs: list[Value], path: Path) -> list[Value]:
        keys = inputs[0].ids
        count = int(np.prod(key_words(equation.invars[0].aval)))
        words = words_of(keys, count)
        return [Value(words.reshape(equation.outvars[0].aval.shape)).like(inputs[0])]

    def _random_clone(self, equation: Any, inputs: list[Value], path: Path) -> list[Value]:
        return [unknown(equation.outvars[0].aval, fresh(inputs[0].constant))]

    def _random_split(self, equation: Any, inputs: list[Value], path: Path) -> list[Value]:
        keys = inputs[0]
        shape = tuple(equation.params["shape"])
        use, conflict = self._consume("split", equation, keys, path)
        count = int(np.prod(shape))
        at = of_integers(np.arange(count)).ids if count <= _MOST else np.arange(count) * 2 + 1
        ids = np.asarray(self._child(keys.ids[..., None], at)).reshape(keys.ids.shape + shape)
        self._hand_down(conflict, keys.ids, ids)
        return [Value(ids, origin=keys.origin, maker=use)]

    def _random_fold_in(self, equation: Any, inputs: list[Value], path: Path) -> list[Value]:
        keys, data = inputs
        use, conflict = self._consume("fold", equation, keys, path)
        aval = equation.outvars[0].aval
        folded = data.ids if data.ids is not None else unknown(aval, data.number).ids
        ids = np.broadcast_to(np.asarray(child(keys.ids, folded)), aval.shape)
        self._hand_down(conflict, keys.ids, ids)
        return [Value(ids, origin=keys.origin, maker=use)]

    def _draw(self, equation: Any, inputs: list[Value], path: Path) -> list[Value]:
        keys = inputs[0]
        self._consume("draw", equation, keys, path)
        return [unknown(out.aval, fresh(keys.constant)) for out in equation.outvars]

    def _hand_down(self, conflict: bool, keys: Any, children: Any) -> None:
        """What comes of a key that is reused is not told again."""
        if conflict or self._told.intersection(keys.ravel()[:_MOST].tolist()):
            self._told.update(children.ravel()[: 4 * _MOST].tolist())

    def _consume(self, kind: str, equation: Any, keys: Value, path: Path) -> tuple[Use, bool]:
        """Notes that keys are consumed; tells whether they were before."""
        signature = f"{equation.primitive.name} {stable(equation.params)}"
        again = any(_is_again(stop.equation) for stop in path)
        use = Use(kind, path, signature, again, keys.maker)
        self._uses.append(use)
        if kind == "draw":
            use.draws()
        if isinstance(keys.origin, Captured) and not keys.origin.path:
            keys.origin.path = path
        if kind == "draw" and all(stop.turn == 0 for stop in path) and not again:
            self.draws += 1
            self.keys += keys.ids.size
        found = False
        for number in dict.fromkeys(keys.ids.ravel()[:_MOST].tolist()):
            earlier = self._ledger.get(number, ())
            made = [old for old in earlier if use.signature == old.signature]
            if again and made:
                made[0].recomputed.append(path)
                continue  # A draw that is made again for its derivative.
            conflicts = [old for old in earlier if _conflict(old, use)]
            if conflicts:
                found = True
                if number not in self._told:
                    self._note(Reuse(conflicts[0], use))
            if len(earlier) < 8 and not any(
                old.kind == kind and old.path == path for old in earlier
            ):
                self._ledger[number] = (*earlier, use)
        if kind == "draw" and not again and keys.ids.size and bool(np.all(keys.ids & np.uint64(1))):
            self.constants.append(Constant(use, keys.origin))
        return use, found

    def _note(self, reuse: Reuse) -> None:
        seen = tuple(id(stop.equation) for stop in reuse.first.path) + (
            tuple(id(stop.equation) for stop in reuse.second.path) if reuse.second else ()
        )
        if seen not in self._seen:
            self._seen.add(seen)
            self.reuses.append(reuse)

    def _going_out(self, jaxpr: Any, outs: list[Value]) -> None:
        """Keys that were consumed and go out: the next call consumes them again."""
        for out, var in zip(outs, jaxpr.outvars, strict=True):
            if out.maker is not None:
                out.maker.draws()  # Somebody will.
            if out.ids is None or out.ids.size == 0:
                continue
            if is_array_of_keys(var.aval):
                found = [out.ids]
            elif var.aval.dtype == np.uint32 and var.aval.shape and var.aval.shape[-1] in (2, 4):
                found = [wrapped_words(out.ids)]
            else:
                continue
            for number in found[0].ravel()[:_MOST].tolist():
                uses = [use for use in self._ledger.get(number, ()) if use.kind != "fold"]
                if uses and number not in self._told:
                    self._note(Reuse(uses[0], None))

    # -- loops and branches -------------------------------------------------------------------

    def _call(
        self, equation: Any, inner: list[Any], inputs: list[Value], path: Path
    ) -> list[Value]:
        """A call of one program, whatever its name."""
        jaxpr = inner[0]
        fits = len(inner) == 1 and len(jaxpr.invars) == len(inputs)
        if not fits or len(jaxpr.outvars) != len(equation.outvars):
            return plain(equation, inputs)
        if not has_keys(jaxpr, self._with_keys) and not any(
            is_followed(out.aval) for out in equation.outvars
        ):
            return plain(equation, inputs)
        closed = next(
            (p for p in equation.params.values() if isinstance(p, jex_core.ClosedJaxpr)), jaxpr
        )
        given = [fitted(value, var.aval) for value, var in zip(inputs, jaxpr.invars, strict=True)]
        outs = self._closed(closed, given, path)
        return [
            value if has_shape(value, out.aval) else unknown(out.aval, value.number).like(value)
            for value, out in zip(outs, equation.outvars, strict=True)
        ]

    def _cond(self, equation: Any, inputs: list[Value], path: Path) -> list[Value]:
        which, *operands = inputs
        before, told = self._ledger, self._told
        ledgers, results = [], []
        for at, branch in enumerate(equation.params["branches"]):
            self._ledger, self._told = dict(before), set(told)
            results.append(self._closed(branch, operands, path, at))
            ledgers.append((self._ledger, self._told))
        merged: dict[int, tuple[Use, ...]] = dict(ledgers[0][0])
        for ledger, _ in ledgers[1:]:
            for number, uses in ledger.items():
                known = merged.get(number, ())
                merged[number] = known + tuple(use for use in uses if use not in known)
        self._ledger = merged
        self._told = set().union(*(each for _, each in ledgers))
        return [
            self._either(which, list(cases), out.aval)
            for cases, out in zip(zip(*results, strict=True), equation.outvars, strict=True)
        ]

    def _either(self, which: Value, cases: list[Value], aval: Any) -> Value:
        if all(case.ids is not None for case in cases):
            found = selected([Value(None, which.number), *cases], aval)
            if found is not None:
                return found.like(known_from(cases))
        other = unknown(aval, mixed(salt("cond"), which.number, *numbers(cases)))
        return other.like(known_from(cases))

    def _scan(self, equation: Any, inputs: list[Value], path: Path) -> list[Value]:
        params = equation.params
        body, length = params["jaxpr"], params["length"]
        first, carried = params["num_consts"], params["num_carry"]
        consts, carry = inputs[:first], inputs[first : first + carried]
        stacked = inputs[first + carried :]
        if not has_keys(body.jaxpr, self._with_keys) or length == 0:
            return plain(equation, inputs)
        variables = body.jaxpr.invars[first + carried :]
        turns = []
        for turn in range(min(length, 2)):
            at = length - 1 - turn if params["reverse"] else turn
            rows = [row(each, var.aval, at) for each, var in zip(stacked, variables, strict=True)]
            outs = self._closed(body, [*consts, *carry, *rows], path, turn)
            turns.append((carry, outs))
            carry = outs[:carried]
        constant = all(value.constant for value in inputs)
        ends = equation.outvars
        result = [
            self._handed_on(turns, at, ends[at].aval, length <= 2, constant)
            for at in range(carried)
        ]
        for at in range(carried, len(ends)):
            rows = [outs[at] for _, outs in turns]
            aval = ends[at].aval
            if rows[0].ids is not None and all(np.array_equal(rows[0].ids, r.ids) for r in rows):
                result.append(Value(np.broadcast_to(rows[0].ids, aval.shape)).like(rows[0]))
            else:
                result.append(unknown(aval, fresh(constant)).like(rows[0]))
        return result

    def _handed_on(
        self, turns: list[Any], at: int, aval: Any, short: bool, constant: bool
    ) -> Value:
        """What a loop ends with: what it began with, where no turn changes it."""
        given, outs = turns[-1]
        same = given[at].ids is not None and np.array_equal(given[at].ids, outs[at].ids)
        if same or short:
            return outs[at]
        return unknown(aval, fresh(constant)).like(outs[at])

    def _while(self, equation: Any, inputs: list[Value], path: Path) -> list[Value]:
        params = equation.params
        body, test = params["body_jaxpr"], params["cond_jaxpr"]
        if not any(has_keys(each.jaxpr, self._with_keys) for each in (body, test)):
            return plain(equation, inputs)
        tested, held = params["cond_nconsts"], params["body_nconsts"]
        of_test, of_body = inputs[:tested], inputs[tested : tested + held]
        carry = inputs[tested + held :]
        turns = []
        for turn in range(2):
            self._closed(test, [*of_test, *carry], path, turn)
            outs = self._closed(body, [*of_body, *carry], path, turn)
            turns.append((carry, outs))
            carry = outs
        constant = all(value.constant for value in inputs)
        return [
            self._handed_on(turns, at, out.aval, False, constant)
            for at, out in enumerate(equation.outvars)
        ]


_RULES: dict[str, Callable[[Lineage, Any, list[Value], Path], list[Value]]] = {
    "random_seed": Lineage._random_seed,
    "random_wrap": Lineage._random_wrap,
    "random_unwrap": Lineage._random_unwrap,
    "random_clone": Lineage._random_clone,
    "random_split": Lineage._random_split,
    "random_fold_in": Lineage._random_fold_in,
    "random_bits": Lineage._draw,
    "random_gamma": Lineage._draw,
    "cond": Lineage._cond,
    "scan": Lineage._scan,
    "while": Lineage._while,
}


def _is_again(equation: Any) -> bool:
    """Whether an equation computes for the backward pass: derivatives, or what was not kept."""
    return is_backward(equation) or is_recomputation(equation)


def _conflict(old: Use, new: Use) -> bool:
    return not (old.kind == new.kind == "fold")
