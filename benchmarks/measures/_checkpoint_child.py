"""In the worker: saving, restoring, and what the loop and the memory notice of it."""

import hashlib
import pathlib
import shutil
import tempfile
import time
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import xxhash

from . import _checkpoint_writers as writers


def _tree(leaves, nbytes):
    """Numbers that no disk could make smaller."""
    generator = np.random.default_rng(0)
    size = nbytes // 4
    return {
        f"layer_{index:04d}": jax.block_until_ready(
            jnp.array(generator.standard_normal(size).astype(np.float32), copy=True)
        )
        for index in range(leaves)
    }


def throughput(leaves, nbytes, names, rounds, where=None):
    """Seconds to save and to restore, one writer after the other in each round.

    Returns:
        For each writer its seconds, `save` and `load`; and which are not installed.
    """
    tree = _tree(leaves, nbytes)
    like = jax.tree.map(jnp.zeros_like, tree)
    kinds = {name: writers.WRITERS[name] for name in names}
    missing = [name for name, kind in kinds.items() if not writers.is_installed(kind)]
    ways = {name: kind() for name, kind in kinds.items() if name not in missing}
    seconds = {name: {"save": [], "load": []} for name in ways}
    for way in ways.values():
        if hasattr(way, "prepare"):
            way.prepare(tree)
    with tempfile.TemporaryDirectory(dir=where) as folder:
        for number in range(rounds + 1):
            for name, way in ways.items():
                path = pathlib.Path(folder) / f"{name}-{number}.eqx"  # Equinox adds it.
                start = time.perf_counter()
                way.save(path, tree)
                if name != "raw" and not name.startswith("treadle"):
                    writers.synced(path)
                saved = time.perf_counter()
                read = jax.block_until_ready(way.load(path, like))
                loaded = time.perf_counter()
                if name not in ("torch.save",):
                    last = max(tree)
                    assert np.array_equal(np.asarray(read[last]), np.asarray(tree[last])), name
                del read
                if number:  # The first round warms up.
                    seconds[name]["save"].append(saved - start)
                    seconds[name]["load"].append(loaded - saved)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    return {"seconds": seconds, "missing": missing}


def blocked(leaves, nbytes, names, rounds, where=None):
    """How much longer a donated step takes with a save before it: the call, and call and step."""
    kinds = {name: writers.ASYNCHRONOUS[name] for name in names}
    missing = [name for name, kind in kinds.items() if not writers.is_installed(kind)]
    step = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 0.999, tree), donate_argnums=0)
    tree = jax.block_until_ready(step(_tree(leaves, nbytes)))
    found = {}
    with tempfile.TemporaryDirectory(dir=where) as folder:
        ways = {
            name: kind(pathlib.Path(folder) / name)
            for name, kind in kinds.items()
            if name not in missing
        }
        found = {name: {"call": [], "step": [], "plain": []} for name in ways}
        for number in range(rounds + 1):
            for name, way in ways.items():
                start = time.perf_counter()
                tree = jax.block_until_ready(step(tree))
                plain = time.perf_counter()
                way.save(number, tree)
                called = time.perf_counter()
                tree = jax.block_until_ready(step(tree))
                stepped = time.perf_counter()
                way.wait()
                # The step after it finds memory as it was.
                tree = jax.block_until_ready(step(tree))
                if number:
                    found[name]["plain"].append(plain - start)
                    found[name]["call"].append(called - plain)
                    found[name]["step"].append(stepped - called)
    return {"seconds": found, "missing": missing}


def digests(nbytes, rounds):
    """Seconds that digests of as many bytes take, in pieces as a checkpoint has them."""
    data = memoryview(np.random.default_rng(0).bytes(nbytes))
    piece = 1 << 20
    kinds = {
        "XXH3, 128 bits": lambda: xxhash.xxh3_128().update,
        "CRC-32": _Crc,
        "SHA-256": lambda: hashlib.sha256().update,
    }
    seconds = {name: [] for name in kinds}
    for number in range(rounds + 1):
        for name, kind in kinds.items():
            update = kind()
            start = time.perf_counter()
            for at in range(0, nbytes, piece):
                update(data[at : at + piece])
            if number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


class _Crc:
    def __init__(self):
        self._value = 0

    def __call__(self, data):
        self._value = zlib.crc32(data, self._value)


def _status(field):
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def memory(leaves, nbytes, name, where=None):
    """How much host memory a save takes at most, beside the tree; a fresh process for each."""
    kinds = writers.WRITERS | {f"{key} async": kind for key, kind in writers.ASYNCHRONOUS.items()}
    if not writers.is_installed(kinds[name]):
        return None
    tree = _tree(leaves, nbytes)
    with tempfile.TemporaryDirectory(dir=where) as folder:
        path = pathlib.Path(folder)
        if name.endswith(" async"):
            way = kinds[name](path / "some")
            way.save(0, {"w": jnp.ones(3)})  # What is loaded and made once.
            way.wait()
        else:
            way = kinds[name]()
            if hasattr(way, "prepare"):
                way.prepare(tree)
            else:
                way.save(path / "first", {"w": jnp.ones(3)})
        before = _status("VmRSS")
        pathlib.Path("/proc/self/clear_refs").write_text("5")
        if name.endswith(" async"):
            way.save(1, tree)
            way.wait()
        else:
            way.save(path / "second", tree)
        return _status("VmHWM") - before
