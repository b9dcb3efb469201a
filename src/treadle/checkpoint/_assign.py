"""Which leaf of a checkpoint goes where in a tree."""

import logging
import pathlib
from collections.abc import Sequence

from .._errors import CheckpointError
from ._fitting import Fitting, Options
from ._manifest import Record
from ._storage import quoted
from ._way_out import way_out

_log = logging.getLogger("treadle")


def assigned(fitting: Fitting, options: Options) -> dict[str, Record]:
    """The record of each leaf that is to be loaded, by its path in the tree.

    Raises:
        CheckpointError: If they do not fit, with every leaf that does not.
        TreeError: If a glob matches nothing.
        ArgumentTypeError, ArgumentValueError: If `rename` or `only` cannot be used.
    """
    fit = fitting.lay(options)
    if not fit.found.lines:
        return {path: fit.records[path] for path in fit.wanted}
    if options.strict:
        asked = "" if options.cast else "; nothing is cast or reshaped"
        raise CheckpointError(
            f"The checkpoint {str(fitting.folder)!r} does not fit `like`: it has "
            f"{len(fit.saved)} leaves, `like` has {len(fit.wanted)}, and these differ:\n  "
            + "\n  ".join(fit.found.lines)
            + f"\nBuild `like` as the tree was built that was saved{asked}. "
            f"{way_out(fitting, options, fit)}"
        )
    _require_values(fitting.folder, fit.without)
    _log.warning(
        "%s: %d of %d leaves are loaded; of the others `like` keeps its own:\n  %s",
        fitting.folder,
        len(fit.found.fitting),
        len(fit.wanted),
        "\n  ".join(fit.found.lines),
    )
    return {path: fit.records[path] for path in fit.found.fitting}


def _require_values(folder: pathlib.Path, without: Sequence[str]) -> None:
    """Refuses a `like` without values where the checkpoint has none either."""
    if without:
        more = f" and {len(without) - 1} more" if len(without) > 1 else ""
        raise CheckpointError(
            f"The checkpoint {str(folder)!r} has nothing that fits {quoted(without[0])}{more}, and "
            "`like` has no values there, only `jax.ShapeDtypeStruct`s: give a `like` of arrays to "
            "load a part."
        )
