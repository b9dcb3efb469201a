"""What the tests of migration as a whole do not tell apart."""

import jax
import numpy as np

from treadle.tree._owners import _kinds_if_grown


def test_every_axis_grows_by_one_and_a_state_of_other_leaves_tells_nothing():
    params = {"w": np.zeros((2, 3), np.float32), "b": np.zeros(1, np.float16), "s": np.zeros(())}
    kinds = _kinds_if_grown(lambda grown: grown, params, 3)
    assert [(kind.shape, str(kind.dtype)) for kind in kinds] == [
        ((2,), "float16"),
        ((), "float32"),
        ((3, 4), "float32"),
    ]

    def small_ones(grown):
        return [leaf for leaf in jax.tree.leaves(grown) if leaf.size < 12]

    assert _kinds_if_grown(small_ones, params, 3) is None
    assert len(_kinds_if_grown(small_ones, params, 2)) == 2
    assert _kinds_if_grown(small_ones, {"s": np.zeros(())}, 1) is None
