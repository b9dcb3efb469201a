import gzip
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treadle._cli._extra import MissingExtraError, require_demo
from treadle._cli._images import load_images
from treadle._cli._prepare import prepare, stratified_fifth
from treadle._errors import DataError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (20, 4, 3)).astype(np.uint8)
LABELS = np.arange(20, dtype=np.int32) % 3


def idx_bytes(array):
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def write_idx(folder, names=("train-{}-idx{}-ubyte",), pack=bytes, suffix=""):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / (name.format("images", 3) + suffix)).write_bytes(pack(idx_bytes(IMAGES)))
        (folder / (name.format("labels", 1) + suffix)).write_bytes(
            pack(idx_bytes(LABELS.astype(np.uint8)))
        )
    return folder


def write_npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_digits_are_split_four_to_one_by_class():
    images = load_images(None, seed=0)
    assert (images.x_train.shape, images.x_test.shape) == ((1437, 64), (360, 64))
    assert (images.shape, images.num_classes) == ((8, 8), 10)
    assert (images.x_train.min(), images.x_train.max()) == (0, 1)
    assert images.x_train.dtype == np.float32
    shares = np.bincount(images.y_test) / (np.bincount(images.y_train) + np.bincount(images.y_test))
    np.testing.assert_allclose(shares, 0.2, atol=0.01)


@given(
    labels=st.lists(st.integers(0, 3), min_size=2, max_size=40).map(np.array),
    seed=st.integers(0, 3),
)
def test_the_split_takes_each_example_once_and_each_class_by_its_share(labels, seed):
    train, test = stratified_fifth(labels, seed)
    assert sorted([*train, *test]) == list(range(len(labels)))
    assert len(test) == -(-len(labels) // 5)
    for label in set(labels):
        assert abs(np.sum(labels[test] == label) - np.sum(labels == label) / 5) < 1


def test_the_split_follows_the_seed():
    first, again, other = (stratified_fifth(LABELS, seed)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("pack", "suffix", "name"),
    [
        (bytes, "", "train-{}-idx{}-ubyte"),
        (gzip.compress, ".gz", "train-{}-idx{}-ubyte"),
        (bytes, "", "train-{}.idx{}-ubyte"),
    ],
)
def test_idx_folders_without_a_test_set(tmp_path, pack, suffix, name):
    images = load_images(write_idx(tmp_path, (name,), pack, suffix), seed=0)
    assert (images.x_train.shape, images.x_test.shape) == ((16, 12), (4, 12))
    train, _ = stratified_fifth(LABELS, 0)
    np.testing.assert_array_equal(images.y_train, LABELS[train])
    np.testing.assert_allclose(images.x_train[0], IMAGES[train[0]].reshape(-1) / 255, rtol=1e-6)


def test_idx_folders_with_a_test_set(tmp_path):
    names = ("train-{}-idx{}-ubyte", "t10k-{}-idx{}-ubyte")
    images = load_images(write_idx(tmp_path, names), seed=0)
    assert len(images.x_train) == len(images.x_test) == 20
    np.testing.assert_array_equal(images.y_test, LABELS)


@pytest.mark.parametrize("names", [("x_train", "y_train"), ("images", "labels"), ("x", "y")])
def test_npz(tmp_path, names):
    path = write_npz(tmp_path / "data.npz", **dict(zip(names, (IMAGES, LABELS), strict=True)))
    assert load_images(path, seed=0).x_train.shape == (16, 12)


def test_npz_with_a_test_set(tmp_path):
    arrays = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[:3], "y_test": LABELS[:3]}
    images = load_images(write_npz(tmp_path / "data.npz", **arrays), seed=0)
    assert (len(images.x_train), len(images.x_test)) == (20, 3)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (np.array([0, 128, 255], np.uint8), [0, 128 / 255, 1]),
        (np.array([0, 0.5, 0.9]), [0, 0.5, 0.9]),
        (np.array([0, 8, 16]), [0, 0.5, 1]),
        (np.array([-1.0, 0, 1]), [0, 0.5, 1]),
        (np.array([7.0, 7, 7]), [0, 0, 0]),
    ],
)
def test_images_are_scaled(images, expected):
    arrays = {"x_train": images.reshape(3, 1, 1), "y_train": np.arange(3)}
    scaled = prepare("data", {**arrays, "x_test": arrays["x_train"], "y_test": np.arange(3)}, 0)
    np.testing.assert_allclose(scaled.x_train[:, 0], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "seen"), [((20, 49), (7, 7)), ((20, 5, 4, 1), (5, 4)), ((20, 5, 4, 3), (5, 4, 3))]
)
def test_what_counts_as_images(shape, seen):
    assert prepare("data", {"x_train": np.zeros(shape), "y_train": LABELS}, 0).shape == seen


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": LABELS[:19]}, "data: there are 20 train images but 19 train labels"),
        ({"x_train": np.zeros((20, 5))}, r"train images have shape \(20, 5\), where \(images, hei"),
        ({"x_train": np.zeros((20, 0, 4))}, r"train images have shape \(20, 0, 4\)"),
        ({"x_train": np.full((20, 2, 2), np.nan)}, "the train images hold NaN"),
        ({"x_train": np.full((20, 2, 2), "a")}, "the train images are of dtype <U1, not numbers"),
        ({"y_train": np.eye(20)}, r"labels have shape \(20, 20\), .*`labels.argmax\(axis=1\)`"),
        ({"y_train": np.zeros(20)}, "train labels are of dtype float64, not integers"),
        ({"y_train": np.arange(20) - 1}, "train labels go from -1 to 18, where class numbers"),
        ({"y_train": np.arange(20) * 1000}, "train labels go from 0 to 19000"),
        ({"x_test": IMAGES}, "has test images but no test labels"),
        ({"y_test": LABELS}, "has test labels but no test images"),
        (
            {"x_test": np.zeros((20, 2, 2)), "y_test": LABELS},
            r"test images are \(2, 2\), but the training images \(4, 3\)",
        ),
        ({"x_test": IMAGES[:0], "y_test": LABELS[:0]}, "there are 0 test images, too few"),
        ({"x_train": IMAGES[:1], "y_train": LABELS[:1]}, "there are 1 train images, too few"),
    ],
)
def test_arrays_that_do_not_fit_are_told(changes, message):
    with pytest.raises(DataError, match=message):
        prepare("data", {"x_train": IMAGES, "y_train": LABELS, **changes}, 0)


def test_files_that_are_missing_are_told(tmp_path):
    with pytest.raises(DataError, match=r"`--data` \(=.*/nowhere\) does not exist\. Give a folder"):
        load_images(tmp_path / "nowhere", 0)
    with pytest.raises(DataError, match=r"has no train-images-idx3-ubyte .*it holds nothing\."):
        load_images(tmp_path, 0)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(IMAGES))
    with pytest.raises(DataError, match=r"has no train-labels-.* it holds train-images-idx3-ubyte"):
        load_images(tmp_path, 0)


def test_what_is_no_npz_is_told(tmp_path):
    text = tmp_path / "data.txt"
    text.write_text("1 2 3")
    with pytest.raises(DataError, match=r"is neither a folder nor an \.npz file"):
        load_images(text, 0)
    with pytest.raises(DataError, match=r"is not an \.npz file"):
        load_images(text.rename(tmp_path / "data.npz"), 0)
    with pytest.raises(DataError, match="has no y_train or y or labels; it holds x_train"):
        load_images(write_npz(tmp_path / "x.npz", x_train=IMAGES), 0)
    objects = np.array([{}, {}], dtype=object)
    with pytest.raises(DataError, match=r"cannot be read as an \.npz file: .*allow_pickle"):
        load_images(write_npz(tmp_path / "o.npz", x_train=objects), 0)


def test_a_missing_package_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingExtraError, match=r"needs sklearn, .*pip install 'treadle\[demo\]'"):
        require_demo("sklearn.datasets")
