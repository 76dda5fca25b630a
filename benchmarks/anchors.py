"""K-means of image vectors against scikit-learn's Lloyd from the same start, or matrix products without it.

Both do 20 iterations in float32 on the same matrix, in memory for the other way and in a memory map for ours.
"""

from __future__ import annotations

import importlib.util
import tempfile
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.harness import Result, compare
from selection.anchors import ITERATIONS, cluster, initial_rows, library_seed

_GTA5 = 24966  # images
_IMAGES = 6000  # measured; both ways take time in proportion
_CLASSES, _CHANNELS, _ANCHORS, _SEED = 19, 256, 10, 31


def run() -> list[Result]:
    """Aim: at most 1.5 times as long as scikit-learn (ratio above 0.67), memory that does not grow with N."""
    with tempfile.TemporaryDirectory() as folder:
        vectors = _drawn(Path(folder) / "vectors.npy")
        start = np.array(vectors[initial_rows(_IMAGES, _ANCHORS, library_seed(_SEED))]).reshape(_ANCHORS, -1)
        rows = np.array(vectors).reshape(_IMAGES, -1)
        found: dict[str, np.ndarray] = {}

        def ours() -> None:
            found["ours"] = cluster(vectors, _ANCHORS, seed=_SEED).centroids.reshape(_ANCHORS, -1)

        def plain() -> None:
            found["plain"] = other(rows, start)

        has_library = importlib.util.find_spec("sklearn") is not None
        name, other = ("scikit-learn", _library) if has_library else ("matrix products", _products)
        memory = _traced_mib(ours)
        result = compare("", plain, ours, repeats=3)
        np.testing.assert_allclose(found["ours"], found["plain"], atol=1e-3)
        note = (
            f"against {name}, from a memory map of {rows.nbytes / 2**20:.0f} MiB; allocates {memory:.0f} MiB"
            f"; aim > 0.67; GTA5 has {_GTA5} images"
        )
        return [Result(f"anchors, {_IMAGES} x {rows.shape[1]}", result.plain_s, result.fast_s, note)]


def _drawn(path: Path) -> np.ndarray:
    """Vectors of images that show different classes, as a read-only memory map (N, C, D)."""
    shape = (_IMAGES, _CLASSES, _CHANNELS)
    vectors = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    random = np.random.default_rng(0)
    kinds = random.standard_normal((_ANCHORS, *shape[1:]), dtype=np.float32)
    for vector, kind in zip(vectors, random.integers(0, _ANCHORS, _IMAGES), strict=True):
        vector[:] = 0.8 * kinds[kind] + random.standard_normal(shape[1:], dtype=np.float32)
        vector[random.random(_CLASSES) > 0.65] = 0
    vectors.flush()
    return np.load(path, mmap_mode="r")


def _library(rows: np.ndarray, start: np.ndarray) -> np.ndarray:
    from sklearn.cluster import KMeans

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it did not converge
        means = KMeans(
            len(start), init=start, n_init=1, max_iter=ITERATIONS, tol=0, algorithm="lloyd", copy_x=False
        )
        return means.fit(rows).cluster_centers_


def _products(rows: np.ndarray, start: np.ndarray) -> np.ndarray:
    centroids = start.copy()
    for _ in range(ITERATIONS):
        nearest = (np.square(centroids).sum(axis=1) - 2 * rows @ centroids.T).argmin(axis=1)
        member = np.eye(len(start), dtype=np.float32)[nearest]
        centroids = member.T @ rows / member.sum(axis=0)[:, None]
    return centroids


def _traced_mib(call: Callable[[], object]) -> float:
    """What numpy allocates at most during one call; pages of a memory map are the system's to take back."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 2**20
