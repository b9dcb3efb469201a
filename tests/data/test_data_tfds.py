"""TensorFlow Datasets through `tfds.data_source` and Grain, without TensorFlow."""

import sys

import numpy as np
import pytest
from tests.data.sources import BATCH, check_fit, check_positions

tfds = pytest.importorskip("tensorflow_datasets")
grain = pytest.importorskip("grain")
datasets = pytest.importorskip("sklearn.datasets")

SIZE = 40
READ = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)


class SmallDigits(tfds.core.GeneratorBasedBuilder):
    """Real images of digits, written by the package's own builder."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        image = tfds.features.Tensor(shape=(8, 8), dtype=np.uint8)
        features = {"image": image, "label": tfds.features.ClassLabel(num_classes=10)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        digits = datasets.load_digits()
        pairs = zip(digits.images[:SIZE], digits.target[:SIZE], strict=True)
        for index, (image, label) in enumerate(pairs):
            yield index, {"image": image.astype(np.uint8), "label": int(label)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tfds")
    tfds.disable_progress_bar()
    SmallDigits(data_dir=path, file_format="array_record").download_and_prepare()
    return path


def as_pair(row):
    # Six of the pixels, so that these batches look like those of the other sources.
    return row["image"][2, 1:7].astype(np.float32), np.int32(row["label"] % 3)


def test_fit_trains_on_a_data_source_and_resumes(folder, tmp_path):
    def make():
        source = tfds.data_source("small_digits", split="train", data_dir=folder)
        rows = grain.MapDataset.source(source).seed(0).shuffle().map(as_pair)
        return rows.repeat().batch(BATCH).to_iter_dataset(READ)

    check_positions(make, cuts=(0, 3, 11), count=12)
    check_fit(make, tmp_path / "run")


def test_the_images_are_those_that_were_written_and_no_tensorflow_is_loaded(folder):
    source = tfds.data_source("small_digits", split="train", data_dir=folder)
    digits = datasets.load_digits()
    assert len(source) == SIZE
    wanted = sorted(image.astype(np.uint8).tobytes() for image in digits.images[:SIZE])
    assert sorted(row["image"].tobytes() for row in source) == wanted
    assert "tensorflow" not in sys.modules


def test_a_grain_loader_takes_a_data_source(folder, tmp_path):
    class Pairs(grain.transforms.Map):
        def map(self, element):
            return as_pair(element)

    def make():
        source = tfds.data_source("small_digits", split="train", data_dir=folder)
        sampler = grain.samplers.IndexSampler(SIZE, shuffle=True, seed=0)
        operations = [Pairs(), grain.transforms.Batch(BATCH, drop_remainder=True)]
        return grain.DataLoader(
            data_source=source, sampler=sampler, operations=operations, read_options=READ
        )

    check_fit(make, tmp_path / "run")
