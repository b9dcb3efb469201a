"""Where a new value is computed."""

from typing import Any

from jax.extend import core as jex_core

from ..._jaxpr import inner_jaxprs

_PASSES = frozenset(
    {
        "convert_element_type",
        "copy",
        "copy_p",
        "device_put",
        "name",
        "pcast",
        "pvary",
        "reduce_precision",
        "reshape",
        "reshard",
        "sharding_constraint",
        "transpose",
    }
)
"""What hands a value on."""


class Updates:
    """Looks for what computes the outputs of a program.

    Args:
        closed: The program.
    """

    def __init__(self, closed: Any):
        self._jaxpr = closed.jaxpr
        self._makers: dict[int, tuple[dict[Any, Any], dict[Any, int]]] = {}

    def path(self, output: int) -> list[Any]:
        """The equation that computes an output, behind all that enclose it.

        What chooses between a new value and the old one, or hands it on, computes nothing. Empty
        where the output is an input.
        """
        return self._path(self._jaxpr, self._jaxpr.outvars[output])[0]

    def _path(self, jaxpr: Any, var: Any) -> tuple[list[Any], int | None]:
        """The way to the equation; where there is none, the input that the variable is."""
        if isinstance(var, jex_core.Literal):
            return [], None
        if id(jaxpr) not in self._makers:
            makers = {out: equation for equation in jaxpr.eqns for out in equation.outvars}
            self._makers[id(jaxpr)] = makers, {each: at for at, each in enumerate(jaxpr.invars)}
        makers, inputs = self._makers[id(jaxpr)]
        equation = makers.get(var)
        if equation is None:
            return [], inputs.get(var)
        at = next(at for at, out in enumerate(equation.outvars) if out is var)
        name = equation.primitive.name
        if name in _PASSES:
            return self._path(jaxpr, equation.invars[0])
        if name == "optimization_barrier":
            return self._path(jaxpr, equation.invars[at])
        if name == "select_n":
            cases = [self._path(jaxpr, case) for case in equation.invars[1:]]
            return next((case for case in cases if case[0]), cases[0])
        return self._inside(jaxpr, equation, at)

    def _inside(self, jaxpr: Any, equation: Any, at: int) -> tuple[list[Any], int | None]:
        """The same of one of the things that come out of an equation, which may hold programs."""
        came: tuple[list[Any], int | None] | None = None
        for value in equation.params.values():
            for program in inner_jaxprs(value):
                if len(program.outvars) != len(equation.outvars):
                    continue
                path, passed = self._path(program, program.outvars[at])
                if path:
                    return [equation, *path], None
                first = len(equation.invars) - len(program.invars)
                if passed is not None and first >= 0:
                    came = self._path(jaxpr, equation.invars[first + passed])
        return ([equation], None) if came is None else came
