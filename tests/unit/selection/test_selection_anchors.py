"""K-means of image vectors: worked by hand, starts, empty clusters, reading in pieces, bad input."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from selection import vector_folder
from selection.anchors import cluster, initial_rows, library_seed
from utils.errors import UserError


def drawn(count: int, *, classes: int = 3, channels: int = 5, kinds: int = 4, seed: int = 0) -> np.ndarray:
    """(N, C, D) float32 vectors around a few places, with absent classes."""
    random = np.random.default_rng(seed)
    places = 3 * random.standard_normal((kinds, classes, channels))
    vectors = places[random.integers(0, kinds, count)] + random.standard_normal((count, classes, channels))
    return (vectors * (random.random((count, classes, 1)) > 0.3)).astype(np.float32)


def nearest(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The plain way: all differences in float64."""
    differences = vectors[:, None].astype(np.float64) - centroids[None]
    return np.square(differences).sum(axis=(2, 3)).argmin(axis=1)


def test_two_groups_worked_by_hand() -> None:
    vectors = np.array([0, 1, 2, 10, 11, 12], np.float32).reshape(6, 1, 1)
    found = cluster(vectors, 2, iterations=5)
    assert sorted(found.centroids.ravel().tolist()) == [1, 11]
    assert found.objective[-1] == pytest.approx(4)  # 1 + 0 + 1 in each group
    assert found.refilled == (0, 0, 0, 0, 0)
    assert sorted(found.sizes.tolist()) == [3, 3]
    assert found.centroids[found.labels].ravel().tolist() == [1, 1, 1, 11, 11, 11]


def test_the_result_is_a_plain_lloyd_s() -> None:
    vectors = drawn(300)
    found = cluster(vectors, 5, iterations=7)
    centroids = vectors[found.initial].astype(np.float64)
    for iteration in range(7):
        labels = nearest(vectors, centroids)
        distance = np.square(vectors.astype(np.float64) - centroids[labels]).sum()
        assert found.objective[iteration] == pytest.approx(distance, rel=1e-5)
        centroids = np.stack(
            [vectors[labels == anchor].mean(axis=0, dtype=np.float64) for anchor in range(5)]
        )
    np.testing.assert_allclose(found.centroids, centroids, atol=1e-5)
    np.testing.assert_array_equal(found.labels, nearest(vectors, found.centroids))
    assert found.centroids.dtype == np.float32
    assert found.centroids.shape == (5, *vectors.shape[1:])


def test_the_start_is_a_shuffle_by_the_mersenne_twister() -> None:
    bits = np.random.RandomState(723)
    order = list(range(50))
    for place in range(49):
        other = place + int(bits.randint(0, 2**32, dtype=np.uint32)) % (50 - place)
        order[place], order[other] = order[other], order[place]
    assert initial_rows(50, 8, 722).tolist() == order[:8]
    assert len(set(initial_rows(11, 10, 5).tolist())) == 10


def test_the_library_s_seed_comes_from_numpy_s() -> None:
    assert library_seed(31) == 722


def test_as_many_images_as_anchors_are_the_anchors() -> None:
    vectors = drawn(6)
    found = cluster(vectors, 6)
    np.testing.assert_array_equal(found.centroids, vectors)
    assert found.labels.tolist() == found.initial.tolist() == [0, 1, 2, 3, 4, 5]
    assert (found.objective, found.refilled) == ((), ())


def test_equal_vectors_have_the_first_of_equal_anchors() -> None:
    found = cluster(np.ones((4, 2, 3), np.float32), 4)
    assert found.labels.tolist() == [0, 0, 0, 0]


def test_one_anchor_is_the_mean() -> None:
    vectors = drawn(100)
    found = cluster(vectors, 1)
    np.testing.assert_allclose(found.centroids[0], vectors.mean(axis=0, dtype=np.float64), atol=1e-5)
    assert not found.labels.any()


def test_an_empty_cluster_gets_half_of_another() -> None:
    """Twenty equal vectors and two anchors: the second is always empty, and lies beside the first."""
    vectors = np.full((20, 1, 2), 4, np.float32)
    found = cluster(vectors, 2, iterations=1)
    assert found.refilled == (1,)
    apart = 4 / 1024
    np.testing.assert_allclose(found.centroids[1].ravel(), [4 + apart, 4 - apart])
    np.testing.assert_allclose(found.centroids[0].ravel(), [4 - apart, 4 + apart])


def test_images_without_any_class_are_clustered_too() -> None:
    vectors = drawn(80)
    vectors[::2] = 0
    found = cluster(vectors, 6)
    assert np.isfinite(found.centroids).all()
    assert found.sizes.sum() == 80
    assert len(set(found.labels[::2].tolist())) == 1


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_pieces_of_any_size_give_the_same_bits(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = drawn(211, classes=4, channels=33, kinds=9)
    expected = cluster(vectors, 9)
    monkeypatch.setattr(vector_folder, "_ROWS_AT_ONCE", rows)
    found = cluster(vectors, 9)
    np.testing.assert_array_equal(found.centroids, expected.centroids)
    np.testing.assert_array_equal(found.labels, expected.labels)


def test_near_ties_are_decided_by_differences() -> None:
    """Far from zero a product of float32 loses what tells the two anchors apart."""
    vectors = np.array([[4096.0, 0], [4096.25, 0], [4096.5, 0], [4096.75, 0]], np.float32).reshape(4, 1, 2)
    found = cluster(vectors, 2, iterations=3)
    np.testing.assert_array_equal(found.labels, nearest(vectors, found.centroids))
    assert found.objective[-1] == pytest.approx(0.0625)  # pairs a quarter apart
    assert sorted(found.sizes.tolist()) == [2, 2]


def test_a_memory_map_is_read_in_pieces(tmp_path: Path) -> None:
    vectors = drawn(150)
    np.save(tmp_path / "vectors.npy", vectors)
    found = cluster(np.load(tmp_path / "vectors.npy", mmap_mode="r"), 4)
    np.testing.assert_array_equal(found.centroids, cluster(vectors, 4).centroids)


def test_float64_is_computed_in_float32() -> None:
    vectors = drawn(150)
    found = cluster(vectors.astype(np.float64), 4)
    np.testing.assert_array_equal(found.centroids, cluster(vectors, 4).centroids)


def test_more_anchors_than_images_are_refused() -> None:
    with pytest.raises(UserError, match="10 anchors need at least as many images, but there are 9"):
        cluster(drawn(9), 10)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_are_refused(value: float) -> None:
    vectors = drawn(40)
    vectors[17, 1, 2] = value
    with pytest.raises(UserError, match="1 of 40 image vectors are not finite, the first is number 17"):
        cluster(vectors, 4)


def test_few_images_per_anchor_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        cluster(drawn(39 * 2), 2)
        assert not caplog.text
        cluster(drawn(39 * 2 - 1), 2)
    assert "2 anchors from 77 images" in caplog.text
