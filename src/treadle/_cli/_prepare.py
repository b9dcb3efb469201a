"""Arrays of images and labels, checked, scaled and split for training."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

from .._errors import DataError

_MOST_CLASSES = 10_000
_FOLDS = 5


@dataclasses.dataclass(frozen=True)
class Images:
    """Images with the numbers of their classes, in two parts.

    Attributes:
        name: Where they come from, for people to read.
        x_train: Images to train on, a row of numbers in [0, 1] each.
        y_train: Their classes.
        x_test: Images held out.
        y_test: Their classes.
        shape: What a row is reshaped to to be looked at.
        num_classes: One more than the largest class.
    """

    name: str
    x_train: Float[np.ndarray, "train size"]
    y_train: Int[np.ndarray, " train"]
    x_test: Float[np.ndarray, "test size"]
    y_test: Int[np.ndarray, " test"]
    shape: tuple[int, ...]
    num_classes: int


def prepare(name: str, arrays: Mapping[str, np.ndarray], seed: int) -> Images:
    """Checks that arrays fit together, scales the images to [0, 1], and splits what is not split.

    Args:
        name: Where they come from, for messages.
        arrays: `x_train` and `y_train`, and both or neither of `x_test` and `y_test`.
        seed: Says which fifth is held out where there is no test set.

    Raises:
        DataError: They do not fit.
    """
    if ("x_test" in arrays) != ("y_test" in arrays):
        there, missing = ("images", "labels") if "x_test" in arrays else ("labels", "images")
        raise DataError(
            f"{name} has test {there} but no test {missing}: add them, or leave both out, and a "
            "fifth is held out."
        )
    x_train, y_train = _pair(name, "train", arrays)
    shape = x_train.shape[1:]
    if "x_test" in arrays:
        x_test, y_test = _pair(name, "test", arrays)
        if x_test.shape[1:] != shape:
            raise DataError(
                f"{name}: the test images are {x_test.shape[1:]}, but the training images {shape}."
            )
    else:
        train, test = stratified_fifth(y_train, seed)
        x_test, y_test = x_train[test], y_train[test]
        x_train, y_train = x_train[train], y_train[train]
    low, high = _range(x_train)
    return Images(
        name=name,
        x_train=_rows(x_train, low, high),
        y_train=y_train,
        x_test=_rows(x_test, low, high),
        y_test=y_test,
        shape=shape,
        num_classes=int(max(y_train.max(), y_test.max())) + 1,
    )


def stratified_fifth(
    labels: Int[np.ndarray, " n"], seed: int
) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " test"]]:
    """Indices of four fifths and of one, each class in both by its share."""
    order = np.random.default_rng(seed).permutation(len(labels))
    # Sorted by class, in random order within one: every fifth then holds each class by its share.
    order = order[np.argsort(labels[order], kind="stable")]
    held_out = np.arange(len(labels)) % _FOLDS == 0
    return np.sort(order[~held_out]), np.sort(order[held_out])


def _pair(name: str, part: str, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    images = _images(name, part, np.asarray(arrays[f"x_{part}"]))
    labels = _labels(name, part, np.asarray(arrays[f"y_{part}"]))
    if len(images) != len(labels):
        raise DataError(
            f"{name}: there are {len(images):,} {part} images but {len(labels):,} {part} labels; "
            "are the files of one set?"
        )
    least = 2 if part == "train" else 1
    if len(images) < least:
        raise DataError(f"{name}: there are {len(images)} {part} images, too few to use.")
    return images, labels


def _images(name: str, part: str, images: np.ndarray) -> np.ndarray:
    if images.dtype.kind not in "biuf":
        raise DataError(f"{name}: the {part} images are of dtype {images.dtype}, not numbers.")
    if images.ndim == 2 and math.isqrt(images.shape[1]) ** 2 == images.shape[1]:
        side = math.isqrt(images.shape[1])
        images = images.reshape(-1, side, side)
    grey = images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 1)
    if not (grey or (images.ndim == 4 and images.shape[3] == 3)) or 0 in images.shape[1:]:
        raise DataError(
            f"{name}: the {part} images have shape {images.shape}, where (images, height, width) "
            "is expected, or (images, height, width, 3) in colour."
        )
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        raise DataError(f"{name}: the {part} images hold NaN or infinite numbers.")
    return images[..., 0] if images.ndim == 4 and images.shape[3] == 1 else images


def _labels(name: str, part: str, labels: np.ndarray) -> np.ndarray:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise DataError(
            f"{name}: the {part} labels have shape {labels.shape}, where one class number an image "
            "is expected (one-hot rows become numbers by `labels.argmax(axis=1)`)."
        )
    if labels.dtype.kind not in "iu":
        raise DataError(f"{name}: the {part} labels are of dtype {labels.dtype}, not integers.")
    if len(labels) and not 0 <= labels.min() <= labels.max() < _MOST_CLASSES:
        raise DataError(
            f"{name}: the {part} labels go from {labels.min()} to {labels.max()}, where class "
            f"numbers from 0 (below {_MOST_CLASSES:,}) are expected."
        )
    return labels.astype(np.int32)


def _range(images: np.ndarray) -> tuple[float, float]:
    """What becomes 0 and 1: bytes by their type, other numbers by the images to train on."""
    if images.dtype == np.uint8:
        return 0.0, 255.0
    low, high = float(images.min()), float(images.max())
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    return low, high if high > low else low + 1


def _rows(images: np.ndarray, low: float, high: float) -> Float[np.ndarray, "n size"]:
    scaled = (images.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    return scaled.reshape(len(images), -1)
