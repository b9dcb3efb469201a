"""What follows from a tree's structure alone, found once for each structure."""

import collections
import threading
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")

# A structure keeps its static fields alive, and the paths of 10,000 leaves are a megabyte.
_KEPT = 32

_answers: "collections.OrderedDict[tuple[Any, Any], Any]" = collections.OrderedDict()
_lock = threading.RLock()  # Comparing structures runs what users wrote, which may come back here.


def remembered(question: Any, treedef: Any, find: Callable[[], _T]) -> _T:
    """What `find` gives, from memory where the question was answered for an equal structure.

    Args:
        question: What is asked, hashable.
        treedef: The structure that the answer follows from. One that cannot be hashed or compared
            (it has an array for a static field) is asked anew each time.
        find: Gives the answer, which nobody may change.
    """
    asked = (question, treedef)
    try:
        with _lock:
            if asked in _answers:
                _answers.move_to_end(asked)
                return _answers[asked]
    except (TypeError, ValueError):
        return find()
    answer = find()
    with _lock:
        _answers[asked] = answer
        while len(_answers) > _KEPT:
            _answers.popitem(last=False)
    return answer
