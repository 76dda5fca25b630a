"""Anchors of a domain: K-means of the vectors that describe its images, MADA's way.

The result depends on the vectors and their order only, not on processes, threads or the size of the pieces in
which the matrix is read: centroids are sums in row order, and where two centroids are about equally far the
distances are taken again from differences. Memory is a few MiB beside the matrix, which may be a memory map.

Source: the authors' released code (Ning et al., ICCV 2021), which calls the library faiss: its seeds, its 20
iterations and its rule for empty clusters, written anew from a description;
`tests/goldens/test_mada_kmeans.py`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from selection.vector_folder import in_rows
from utils.errors import UserError

logger = logging.getLogger(__name__)

ITERATIONS = 20
SEED = 31  # of numpy, in the released scripts
FEW_IMAGES = 39  # per anchor: the library warns below

_LARGEST_SEED = 1234  # the scripts draw the library's seed below it
_REFILL_SEED = 1234  # the library's, anew in each iteration
_SHIFT = np.float32(1 / 1024)  # how far the halves of a split cluster move apart, relative
# Float32 products leave an error of about 1e-6 of the squared norms in a distance.
_DOUBT = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class Clusters:
    """Anchors and how they came about.

    Attributes:
        centroids: (V, C, D) float32, the anchors.
        labels: (N,) int64, nearest anchor of each vector, the lowest on ties.
        initial: (V,) int64, rows that the iterations began with.
        objective: per iteration the sum of squared distances to the centroids before they move; empty where
            there are as many vectors as anchors.
        refilled: per iteration the number of clusters that had become empty.
    """

    centroids: np.ndarray
    labels: np.ndarray
    initial: np.ndarray
    objective: tuple[float, ...]
    refilled: tuple[int, ...]

    @property
    def sizes(self) -> np.ndarray:
        """(V,) vectors per anchor."""
        return np.bincount(self.labels, minlength=len(self.centroids))


def cluster(
    vectors: np.ndarray, num_anchors: int, *, iterations: int = ITERATIONS, seed: int = SEED
) -> Clusters:
    """K-means with squared Euclidean distances; absent classes are zeros and count like any other value.

    As many vectors as anchors are the anchors themselves, in their order.

    Args:
        vectors: (N, C, D) of any float type, one row per image; a memory map is read in pieces. Computed in
            float32.
        num_anchors: V.
        iterations: always all of them.
        seed: of the released scripts, from which the library's own seed is drawn.

    Raises:
        UserError: fewer vectors than anchors, or a vector that is not finite.
    """
    assert vectors.ndim == 3, f"vectors are (N, C, D), not {vectors.shape}"
    assert num_anchors > 0
    assert iterations > 0
    _check_count(len(vectors), num_anchors)
    rows = vectors.reshape(len(vectors), -1)
    squares = _squared_norms(rows)
    initial = initial_rows(len(rows), num_anchors, library_seed(seed))
    centroids = np.array(rows[initial], np.float32)
    objective, refilled = [], []
    for _ in range(iterations if len(rows) > num_anchors else 0):
        labels, distance, sums = _assign(rows, squares, centroids)
        objective.append(distance)
        counts = np.bincount(labels, minlength=num_anchors).astype(np.float32)
        occupied = counts > 0
        centroids = sums
        centroids[occupied] *= (1 / counts[occupied])[:, None]
        refilled.append(_fill_empty(centroids, counts, len(rows)))
    labels, _, _ = _assign(rows, squares, centroids)
    shape = (num_anchors, *vectors.shape[1:])
    return Clusters(centroids.reshape(shape), labels, initial, tuple(objective), tuple(refilled))


def library_seed(seed: int) -> int:
    """The seed that the released scripts draw for the library after seeding numpy; 722 for their 31."""
    return int(np.random.RandomState(seed).randint(_LARGEST_SEED))


def initial_rows(count: int, num_anchors: int, seed: int) -> np.ndarray:
    """(V,) int64: the first V of a random permutation of `count` rows; all rows in order where V is `count`.

    Args:
        count: N, at least `num_anchors`.
        num_anchors: V.
        seed: the library's.
    """
    order = np.arange(count)
    if count == num_anchors:
        return order
    draws = _random_words(seed + 1, num_anchors)
    for place, draw in enumerate(draws.tolist()):
        other = place + draw % (count - place)
        order[[place, other]] = order[[other, place]]
    return order[:num_anchors].copy()


def _check_count(count: int, num_anchors: int) -> None:
    if count < num_anchors:
        raise UserError(
            f"{num_anchors} anchors need at least as many images, but there are {count}; give fewer anchors "
            "or more images."
        )
    if count < FEW_IMAGES * num_anchors:
        logger.warning(
            "%d anchors from %d images: fewer than %d images per anchor, the anchors may be poor",
            num_anchors,
            count,
            FEW_IMAGES,
        )


def _pieces(rows: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Slices of the rows and their values in float32."""
    for part, values in in_rows(rows):
        yield part, np.asarray(values, np.float32)


def _squared_norms(rows: np.ndarray) -> np.ndarray:
    """(N,) float64; refuses rows that are not finite."""
    squares = np.empty(len(rows))
    for part, values in _pieces(rows):
        squares[part] = np.square(values, dtype=np.float64).sum(axis=1)
    broken = np.flatnonzero(~np.isfinite(squares))
    if len(broken):
        raise UserError(
            f"{len(broken)} of {len(rows)} image vectors are not finite, the first is number {broken[0]}; "
            "describe the images again, from another snapshot if it repeats."
        )
    return squares


def _assign(
    rows: np.ndarray, squares: np.ndarray, centroids: np.ndarray
) -> tuple[np.ndarray, float, np.ndarray]:
    """One pass over the matrix.

    Returns:
        (N,) nearest centroids; the sum of squared distances to them; (V, C * D) float32 sums of the rows of
        each centroid, added in row order.
    """
    labels = np.empty(len(rows), np.int64)
    distance = 0.0
    sums = np.zeros_like(centroids)
    sum_of = list(sums)
    for part, values in _pieces(rows):
        distances = _distances(values, squares[part], centroids)
        labels[part] = distances.argmin(axis=1)
        distance += float(distances.min(axis=1).sum())
        for label, row in zip(labels[part].tolist(), values, strict=True):
            sum_of[label] += row
    return labels, distance, sums


def _distances(values: np.ndarray, squares: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """(n, V) squared distances, >= 0: by a matrix product, and from differences where its error matters."""
    lengths = np.square(centroids, dtype=np.float64).sum(axis=1)
    distances = squares[:, None] + lengths - 2 * (values @ centroids.T)
    nearest = np.sort(distances, axis=1)[:, :2]
    lead = nearest[:, 1] - nearest[:, 0] if len(centroids) > 1 else nearest[:, 0]
    doubtful = np.minimum(nearest[:, 0], lead) <= _DOUBT * (squares + lengths.max())
    if doubtful.any():
        chosen = values[doubtful]
        for column, centroid in enumerate(centroids):
            distances[doubtful, column] = np.square(chosen - centroid, dtype=np.float64).sum(axis=1)
    return distances.clip(min=0)


def _fill_empty(centroids: np.ndarray, counts: np.ndarray, total: int) -> int:
    """Gives every empty cluster half of another one, in place; returns how many were empty.

    The other one is drawn with a chance that grows with its size. Both halves start beside its centroid.
    """
    words = np.random.RandomState(_REFILL_SEED)
    empty = np.flatnonzero(counts == 0)
    spare = total - len(counts)
    for index in empty:
        other = 0
        while not _share(words) < np.float32((float(counts[other]) - 1) / spare):
            other = (other + 1) % len(counts)
        counts[index] = counts[other] / 2
        counts[other] -= counts[index]
        centroids[index] = centroids[other]
        for moved, direction in ((index, 1), (other, -1)):
            centroids[moved, 0::2] *= 1 + direction * _SHIFT
            centroids[moved, 1::2] *= 1 - direction * _SHIFT
    return len(empty)


def _share(words: np.random.RandomState) -> np.float32:
    """One draw in [0, 1]."""
    word = words.randint(0, 2**32, dtype=np.uint32)
    return np.float32(word) / np.float32(2**32 - 1)


def _random_words(seed: int, count: int) -> np.ndarray:
    """The first 32-bit outputs of the Mersenne Twister."""
    return np.random.RandomState(seed).randint(0, 2**32, size=count, dtype=np.uint32)
