"""Draws in the body of a scan that JAX has moved out of it: they are the same in every turn."""

from collections.abc import Sequence
from typing import Any

from ..._jaxpr import ancestors
from .._source import frames


def moved_out(jaxpr: Any, scan: Any, equations: Sequence[Any]) -> list[Any]:
    """Those of some equations before a scan that were traced in its body.

    A derivative of a scan computes what its turns have in common before it. Each such equation has
    the body as its outermost call, where its neighbours have the function around the scan.

    Args:
        jaxpr: The program that all of them stand in.
        scan: The scan.
        equations: Equations that stand before it.
    """
    if scan.params["length"] < 2:
        return []
    body = {_root(each) for each in scan.params["jaxpr"].jaxpr.eqns} - {None, _root(scan)}
    found = [each for each in equations if _root(each) in body]
    if not found:
        return []
    makers = {var: equation for equation in jaxpr.eqns for var in equation.outvars}
    feeding = ancestors(makers, scan.invars[: scan.params["num_consts"]])
    return [each for each in found if id(each) in feeding]


def _root(equation: Any) -> Any:
    """The code of the outermost call."""
    return next((frame.code for frame in frames(equation)), None)
