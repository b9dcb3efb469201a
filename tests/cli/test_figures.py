import numpy as np
import pytest
from matplotlib.image import imread

from treadle._cli._curves import _smoothed, plot_curves
from treadle._cli._gallery import Predictions, _sections, plot_predictions


def make_rows(steps, eval_steps):
    rows = [{"step": step, "loss": 1 / step, "accuracy": 1 - 1 / step} for step in steps]
    return rows + [
        {"step": step, "eval/loss": 2 / step, "eval/accuracy": 1 - 2 / step} for step in eval_steps
    ]


def make_predictions(right, certainty, shape=(8, 8)):
    truth = np.arange(len(right)) % 10
    return Predictions(
        images=np.zeros((len(right), *shape), np.float32),
        truth=truth,
        guess=np.where(right, truth, truth + 1),
        certainty=np.asarray(certainty, np.float32),
    )


@pytest.mark.parametrize(
    ("steps", "eval_steps"), [(range(10, 2001, 10), range(100, 2001, 100)), ([10], [10]), ([], [])]
)
def test_curves_are_drawn_of_long_short_and_empty_runs(tmp_path, steps, eval_steps):
    plot_curves(make_rows(steps, eval_steps), tmp_path / "curves.png", "title", "train")
    picture = imread(tmp_path / "curves.png")
    assert picture.shape[:2] == (630, 1650)
    # Something is drawn besides the white ground.
    assert np.mean(picture[..., :3] < 0.9) > 0.005


def test_smoothing_keeps_constants_lines_and_the_first_value():
    np.testing.assert_allclose(_smoothed(np.full(90, 3.0)), 3.0)
    np.testing.assert_allclose(_smoothed(np.arange(90.0))[:-4], np.arange(86.0))
    assert _smoothed(np.array([7.0, 0, 0, 0]))[0] == 7.0
    assert _smoothed(np.array([0.0, 0, 0, 9, 0, 0, 0])).tolist() == [0, 1, 2, 3, 2, 1, 0]


def test_the_gallery_begins_with_what_is_wrong_and_what_is_unsure():
    right = np.array([True] * 60 + [False] * 3)
    certainty = np.concatenate([np.linspace(0.99, 0.4, 60), [0.5, 0.9, 0.7]])
    (wrong, first), (_, unsure), (_, others) = _sections(make_predictions(right, certainty))
    assert wrong == "Wrong: 3 of 63"
    assert first.tolist() == [61, 62, 60]
    assert unsure.tolist() == list(range(59, 39, -1))
    assert len(others) == 20
    assert not set(others) & {*first, *unsure}


def test_a_long_list_of_wrong_ones_is_cut_and_says_so():
    title, shown = _sections(make_predictions(np.zeros(100, bool), np.linspace(0, 1, 100)))[0]
    assert title == "Wrong: 100 of 100, the 30 most certain of them"
    assert shown.tolist() == list(range(99, 69, -1))


def test_nothing_wrong_needs_no_section():
    titles = [title for title, _ in _sections(make_predictions(np.ones(5, bool), np.ones(5)))]
    assert titles == ["Right, but least certain"]


@pytest.mark.parametrize("shape", [(8, 8), (4, 12), (6, 6, 3)])
def test_images_of_any_shape_are_drawn(tmp_path, shape):
    told = make_predictions(np.array([True] * 12 + [False]), np.linspace(0, 1, 13), shape)
    plot_predictions(told, tmp_path / "predictions.png", "title")
    red, green, blue = np.moveaxis(imread(tmp_path / "predictions.png")[..., :3], -1, 0)
    assert np.any((red > 0.6) & (green < 0.3) & (blue < 0.3))
