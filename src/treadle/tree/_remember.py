"""What follows from a tree's structure alone, found once for each structure."""

import collections
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from jaxtyping import PyTree

_T = TypeVar("_T")

# A structure keeps its static fields alive, and the paths of 10,000 leaves are a megabyte.
_KEPT = 32

_answers: "collections.OrderedDict[tuple[Any, Any], Any]" = collections.OrderedDict()
_lock = threading.RLock()  # Comparing structures runs what users wrote, which may come back here.


def remembered(find: Callable[[PyTree], _T], treedef: Any, tree: PyTree) -> _T:
    """What `find` gives, from memory where it was asked about an equal structure.

    Args:
        find: Gives an answer, which nobody may change, and which follows from the structure.
        treedef: The structure of `tree`. One that cannot be hashed or compared (it has an array for
            a static field) is asked about anew each time.
        tree: What `find` is asked about.
    """
    asked = (find, treedef)
    try:
        with _lock:
            if asked in _answers:
                _answers.move_to_end(asked)
                return _answers[asked]
    except (TypeError, ValueError):
        return find(tree)
    answer = find(tree)
    with _lock:
        _answers[asked] = answer
        while len(_answers) > _KEPT:
            _answers.popitem(last=False)
    return answer
