"""The same examples through every source of batches that people have.

The packages, JAX and treadle among them, are imported where a source is made: the measures' names
are known in every child process, and those begin with a fresh interpreter.
"""

import importlib.util
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from .._configs import NUM_CLASSES, Config, Pair


class Source(NamedTuple):
    """A way to batches.

    Args:
        make: Takes the examples, the size of a batch and a folder; gives an iterable.
        requires: The packages it needs.
        about: What it is, for the docs.
    """

    make: Callable[[Pair, int, pathlib.Path], Iterable[Any]]
    requires: tuple[str, ...]
    about: str

    def missing(self) -> str | None:
        """The first package that is not installed."""
        missing = (name for name in self.requires if importlib.util.find_spec(name) is None)
        return next(missing, None)


def examples(config: Config, count: int) -> Pair:
    """Random inputs and labels: nothing is to be learned here."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(count, *config.input_shape)).astype(np.float32)
    return inputs, rng.integers(0, NUM_CLASSES, size=count).astype(np.int32)


class Rows:
    """A source as Grain and PyTorch take it: a length, and an example for each number."""

    def __init__(self, pair: Pair):
        self.inputs, self.labels = pair

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> Pair:
        return self.inputs[index], self.labels[index]

    def __repr__(self) -> str:
        return "Rows()"


def _arrays(pair: Pair, size: int, folder: pathlib.Path) -> Iterable[Any]:
    import jax

    import treadle

    return treadle.data.arrays(pair, size, key=jax.random.key(0))


def _saved(pair: Pair, folder: pathlib.Path) -> Any:
    """A data set of Hugging Face in a folder, its inputs as flat lists."""
    import datasets

    inputs, labels = pair
    flat = inputs.reshape(len(inputs), -1)
    features = datasets.Features(
        {
            "inputs": datasets.Sequence(datasets.Value("float32"), length=flat.shape[1]),
            "labels": datasets.Value("int32"),
        }
    )
    place = str(folder / "arrow")
    datasets.Dataset.from_dict({"inputs": flat, "labels": labels}, features).save_to_disk(place)
    return datasets.load_from_disk(place)


class Shaped:
    """Batches of flat inputs, in the shape that the model takes."""

    def __init__(self, batches: Iterable[Any], shape: tuple[int, ...]):
        self.batches, self.shape = batches, shape

    def __iter__(self) -> Any:
        for batch in self.batches:
            yield batch["inputs"].reshape(-1, *self.shape), batch["labels"]


def _huggingface(pair: Pair, size: int, folder: pathlib.Path) -> Iterable[Any]:
    import jax

    import treadle

    dataset = _saved(pair, folder)
    batches = treadle.data.huggingface(dataset, size, key=jax.random.key(0))
    return Shaped(batches, pair[0].shape[1:])


def _huggingface_stream(pair: Pair, size: int, folder: pathlib.Path) -> Iterable[Any]:
    import treadle

    dataset = _saved(pair, folder).to_iterable_dataset()
    batches = treadle.data.huggingface(dataset, size, key=None, shuffle=False)
    return Shaped(batches, pair[0].shape[1:])


def _grain_of(source: Any) -> Any:
    import grain

    return grain.MapDataset.source(source).seed(0).shuffle().repeat()


def _options() -> Any:
    """By default 16 threads read 500 batches ahead, which keeps two cores busy for seconds."""
    import grain

    return grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)


def _grain(pair: Pair, size: int, folder: pathlib.Path) -> Iterable[Any]:
    return _grain_of(Rows(pair)).batch(size).to_iter_dataset(_options())


def _grain_whole(pair: Pair, size: int, folder: pathlib.Path) -> Iterable[Any]:
    rows, count = Rows(pair), len(pair[1]) // size * size

    # One element of the pipeline is a batch: its numbers are drawn, and its rows taken, at once.
    def batch_of(number: int, rng: np.random.Generator) -> Pair:
        return rows[rng.integers(0, count, size=size)]

    import grain

    numbers = grain.MapDataset.range(count // size).seed(0).repeat()
    return numbers.random_map(batch_of).to_iter_dataset(_options())


def _grain_workers(pair: Pair, size: int, folder: pathlib.Path) -> Iterable[Any]:
    import grain
    from absl import flags

    # As `absl.app.run` would do: the workers are told Grain's flags.
    flags.FLAGS.mark_as_parsed()
    options = grain.MultiprocessingOptions(num_workers=2)
    rows = _grain_of(Rows(pair)).batch(size)
    return rows.to_iter_dataset(_options()).mp_prefetch(options)


def _grain_loader(pair: Pair, size: int, folder: pathlib.Path) -> Iterable[Any]:
    import grain

    return grain.DataLoader(
        data_source=Rows(pair),
        sampler=grain.samplers.IndexSampler(len(pair[1]), shuffle=True, seed=0),
        operations=[grain.transforms.Batch(size, drop_remainder=True)],
        read_options=_options(),
    )


def _tfds(pair: Pair, size: int, folder: pathlib.Path) -> Iterable[Any]:
    import tensorflow_datasets as tfds

    inputs, labels = pair
    tfds.disable_progress_bar()

    class BenchmarkRows(tfds.core.GeneratorBasedBuilder):
        """The examples, written by the package's own builder."""

        __module__ = "benchmark_rows"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> Any:
            label = tfds.features.ClassLabel(num_classes=NUM_CLASSES)
            tensor = tfds.features.Tensor(shape=inputs.shape[1:], dtype=np.float32)
            features = tfds.features.FeaturesDict({"inputs": tensor, "labels": label})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Any:
            for index, label in enumerate(labels):
                yield index, {"inputs": inputs[index], "labels": int(label)}

    builder = BenchmarkRows(data_dir=str(folder / "tfds"), file_format="array_record")
    builder.download_and_prepare()
    rows = _grain_of(builder.as_data_source("train"))
    pairs = rows.map(lambda row: (row["inputs"], np.int32(row["labels"])))
    return pairs.batch(size).to_iter_dataset(_options())


def _torch_rows(pair: Pair) -> Any:
    import torch

    # More of them take the step's cores, and spin while they wait for one another.
    torch.set_num_threads(1)
    return torch.utils.data.TensorDataset(*map(torch.from_numpy, pair))


def _torch(pair: Pair, size: int, folder: pathlib.Path) -> Iterable[Any]:
    from torch.utils.data import DataLoader

    import treadle

    return treadle.data.torch(DataLoader(_torch_rows(pair), size, shuffle=True, drop_last=True))


def _torch_stateful(pair: Pair, size: int, folder: pathlib.Path) -> Iterable[Any]:
    from torchdata.stateful_dataloader import StatefulDataLoader

    import treadle

    loader = StatefulDataLoader(_torch_rows(pair), size, shuffle=True, drop_last=True)
    return treadle.data.torch(loader)


SOURCES = {
    "arrays": Source(_arrays, (), "`treadle.data.arrays`, in memory"),
    "huggingface": Source(_huggingface, ("datasets",), "`datasets.Dataset` on disk, shuffled"),
    "huggingface-stream": Source(
        _huggingface_stream, ("datasets",), "`datasets.IterableDataset` on disk"
    ),
    "grain": Source(_grain, ("grain",), "`grain.MapDataset` of examples, two threads"),
    "grain-whole": Source(_grain_whole, ("grain",), "`grain.MapDataset` of whole batches"),
    "grain-workers": Source(_grain_workers, ("grain",), "`mp_prefetch` with two workers"),
    "grain-loader": Source(_grain_loader, ("grain",), "`grain.DataLoader` without workers"),
    "tfds": Source(
        _tfds, ("grain", "tensorflow_datasets", "array_record"), "`tfds.data_source` in Grain"
    ),
    "torch": Source(_torch, ("torch",), "PyTorch's `DataLoader` without workers"),
    "torch-stateful": Source(
        _torch_stateful, ("torch", "torchdata"), "torchdata's `StatefulDataLoader`"
    ),
}
