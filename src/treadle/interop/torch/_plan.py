"""A state dict beside the arrays of a model: what goes where, and what does not fit."""

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .._leaves import form_of, is_read_as
from .._names import nearest
from ._table import Part, Route
from ._tensors import Known

# Looking for the nearest of thousands of names, for thousands of names, would take minutes.
_NEAR = 24
_AMONG = 300
_CANDIDATES = 3


class Plan(NamedTuple):
    """What goes where.

    Attributes:
        routes: Of the names of theirs that fit.
        lines: A line for each name that does not, on either side.
        unexpected: Places that arrays of theirs would go to, and that there are not.
        castable: Whether numbers of another precision are all that is wrong with one.
    """

    routes: dict[str, Route]
    lines: list[str]
    unexpected: list[str]
    castable: bool


def planned(
    theirs: Mapping[str, Known],
    ours: Mapping[str, Any],
    routes: Mapping[str, Route],
    cast: bool,
    tied: Callable[[str, str], bool],
    mirrored: Collection[str] = (),
) -> Plan:
    """What goes where.

    Args:
        theirs: The arrays of the state dict, but for their numbers.
        ours: The arrays of the model.
        routes: Where the names of theirs go.
        cast: Whether numbers of another precision fit.
        tied: Whether two arrays of theirs that go to one of ours are the same.
        mirrored: Arrays of ours that are none of theirs unless the table says how they lie.
    """
    givers: dict[str, list[str]] = {}
    for name, route in routes.items():
        for part in route.parts:
            givers.setdefault(part.path, []).append(name)
    missing = [path for path in ours if path not in givers]
    strays = {
        name: absent
        for name, route in routes.items()
        if (absent := [part.path for part in route.parts if part.path not in ours])
    }
    lines = []
    for at, path in enumerate(missing):
        near = _like(path, _squeezed(ours[path].shape), {n: theirs[n] for n in strays}, at)
        lines.append(f"missing     `{path}` {form_of(ours[path])} is given by no name{near}")
    for at, (name, absent) in enumerate(strays.items()):
        near = _like(name, _squeezed(theirs[name].shape), {p: ours[p] for p in missing}, at)
        where = " and ".join(f"`{path}`" for path in absent)
        lines.append(f"unexpected  `{name}` {theirs[name]} goes to {where}, not in the model{near}")
    good, castable = {}, False
    for name, route in routes.items():
        firsts = {givers[part.path][0]: part.path for part in route.parts}
        # A weight that two modules share is there under both names.
        twice = [
            (first, path)
            for first, path in firsts.items()
            if first != name
            and not (routes[first] == route and theirs[first] == theirs[name] and tied(first, name))
        ]
        if twice:
            first, path = twice[0]
            lines.append(
                f"twice       `{path}` is given by `{first}` already, and by `{name}`, "
                "which differs"
            )
        elif name not in strays:
            wrong = _plain_kernel(route, ours, mirrored) or _unlike(theirs[name], route, ours, cast)
            if wrong is None:
                good[name] = route
            else:
                lines.append(f"unlike      `{name}` {theirs[name]} goes to {wrong}")
                castable |= _unlike(theirs[name], route, ours, cast=True) is None
    unexpected = [path for absent in strays.values() for path in absent]
    return Plan(good, lines, unexpected, castable)


def _squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _like(name: str, shape: tuple[int, ...], others: Mapping[str, Any], at: int) -> str:
    """The names that are most like one, those of arrays of its size if there are any."""
    if at >= _NEAR:
        return ""
    same = [
        other for other, array in others.items() if sorted(_squeezed(array.shape)) == sorted(shape)
    ]
    if not same:
        near = nearest(name, others, _CANDIDATES)
        return f"; of a like name {_joined(near)}" if near else ""
    plain = name.replace(".", "/")
    ranked = sorted(
        same[:_AMONG],
        key=lambda other: -difflib.SequenceMatcher(None, plain, other.replace(".", "/")).ratio(),
    )
    return f"; of its shape {_joined(ranked[:_CANDIDATES])}"


def _joined(names: Collection[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    verb = "is" if len(quoted) == 1 else "are"
    return f"there {verb} {', '.join(quoted)}"


def _axes(part: Part, ndim: int) -> tuple[int, ...]:
    if part.axes is None:
        return tuple(reversed(range(ndim)))
    return part.axes or tuple(range(ndim))


def _plain_kernel(route: Route, ours: Mapping[str, Any], mirrored: Collection[str]) -> str | None:
    """Why a kernel is not taken as it lies; None if it is none, or the table says how."""
    for part in route.parts:
        if part.path in mirrored and part.axes == ():
            same = tuple(range(len(ours[part.path].shape)))
            turned = f"({part.path!r}, {(1, 0, *same[2:])}, flipped={same[2:]})"
            return (
                f"`{part.path}` {form_of(ours[part.path])}, the kernel of a transposed "
                f"convolution, which PyTorch has mirrored: `Transposed{turned}`, or "
                f"`Transposed({part.path!r}, {same})` for one that lies as ours does"
            )
    return None


def _unlike(theirs: Known, route: Route, ours: Mapping[str, Any], cast: bool) -> str | None:
    """Why an array does not fit where it goes; None if it does."""
    ndim = len(theirs.shape)
    for part in route.parts:
        leaf, told = ours[part.path], f"`{part.path}` {form_of(ours[part.path])}"
        if sorted(_axes(part, ndim)) != list(range(ndim)):
            return f"{told}, and it has {ndim} axes, not those of `axes` (={part.axes})"
        axes = [axis % max(1, len(leaf.shape)) for axis in part.flipped]
        if len(set(axes)) < len(axes) or any(
            not -len(leaf.shape) <= axis < len(leaf.shape) for axis in part.flipped
        ):
            return f"{told}, whose axes are not those of `flipped` (={part.flipped})"
        if not is_read_as(theirs.dtype, np.dtype(leaf.dtype), cast):
            return told
    if not route.parts:
        return None
    return (
        _unlike_part(theirs, route, ours)
        if len(route.parts) == 1
        else _unlike_parts(theirs, route, ours)
    )


def _unlike_part(theirs: Known, route: Route, ours: Mapping[str, Any]) -> str | None:
    (part,) = route.parts
    wanted = _squeezed(ours[part.path].shape)
    if _squeezed(_permuted(theirs.shape, part)) == wanted:
        return None
    hint = "" if part.axes != () else _turned(theirs.shape, wanted, part.path)
    return f"`{part.path}` {form_of(ours[part.path])}{hint}"


def _turned(shape: Sequence[int], wanted: Sequence[int], path: str) -> str:
    """A hint, if an array lies as kernels do whose channels come last; a matrix is turned then."""
    if len(shape) < 2:
        return ""
    # The axes of space, the channels that go in, those that come out.
    *space, enters, leaves = range(len(shape))
    order = (leaves, enters, *space)
    axes = f", {order}" if space else ""
    fits = _squeezed([shape[axis] for axis in order]) == wanted
    return f": `Transposed({path!r}{axes})`?" if fits else ""


def _unlike_parts(theirs: Known, route: Route, ours: Mapping[str, Any]) -> str | None:
    listed = " and ".join(f"`{part.path}` {form_of(ours[part.path])}" for part in route.parts)
    shape, ndim = theirs.shape, len(theirs.shape)
    if not -ndim <= route.axis < ndim:
        return f"{listed}, and it has {ndim} axes, no `axis` {route.axis}"
    axis, total = route.axis % ndim, 0
    for part in route.parts:
        if len(ours[part.path].shape) != ndim:
            return listed
        back = _turned_back(tuple(ours[part.path].shape), part)
        total += back[axis]
        if back[:axis] + back[axis + 1 :] != shape[:axis] + shape[axis + 1 :]:
            return listed
    return None if total == shape[axis] else listed


def _permuted(shape: Sequence[int], part: Part) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in _axes(part, len(shape)))


def _turned_back(shape: Sequence[int], part: Part) -> tuple[int, ...]:
    return tuple(shape[int(at)] for at in np.argsort(_axes(part, len(shape))))


def pieces_of(array: np.ndarray, route: Route, ours: Mapping[str, Any]) -> list[np.ndarray]:
    """An array of theirs as the arrays of ours that it goes to, in memory of their own."""
    whole = [array] * len(route.parts)
    if len(route.parts) > 1:
        axis = route.axis % array.ndim
        sizes = [_turned_back(ours[part.path].shape, part)[axis] for part in route.parts]
        whole = np.split(array, np.cumsum(sizes)[:-1], axis=axis)
    pieces = [
        piece.transpose(_axes(part, array.ndim)).reshape(ours[part.path].shape)
        for piece, part in zip(whole, route.parts, strict=True)
    ]
    return [
        np.array(np.flip(piece, part.flipped), order="C")
        for piece, part in zip(pieces, route.parts, strict=True)
    ]


def joined(arrays: Sequence[np.ndarray], route: Route, shape: tuple[int, ...]) -> np.ndarray:
    """The array of theirs that those of ours are; the inverse of `pieces_of`."""
    # NumPy flips an array without axes into a number that is no array.
    arrays = [
        np.asarray(np.flip(array, part.flipped))
        for array, part in zip(arrays, route.parts, strict=True)
    ]
    if len(arrays) == 1:  # It may differ in axes of length 1.
        (array,), (part,) = arrays, route.parts
        array = array.reshape(_permuted(shape, part))
        return array.transpose(np.argsort(_axes(part, len(shape))))
    pieces = [
        array.transpose(np.argsort(_axes(part, array.ndim)))
        for array, part in zip(arrays, route.parts, strict=True)
    ]
    return np.concatenate(pieces, axis=route.axis)
