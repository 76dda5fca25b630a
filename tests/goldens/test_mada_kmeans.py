"""K-means as the library that the authors' released code calls computes it (kmeans.npz)."""

from __future__ import annotations

import numpy as np
import pytest
from golden_files import cases, load_npz
from matching_cases import matching_cases

from selection.anchors import cluster, initial_rows, library_seed

ARCHIVE = "kmeans.npz"
CENTROID_ATOL = 1e-5  # the goldens README
OBJECTIVE = {"rtol": 1e-5, "atol": 0}
OBJECTIVE_OF_COPIES = {"rtol": 1e-2, "atol": 1e-6}  # next to nothing: vectors lie on their centroids


def drawn_vectors(seed: int, shape: list[int], kind: str) -> np.ndarray:
    """(N, C, D) float32 by the recipe of the goldens README."""
    count, classes, channels, anchors = shape
    random = np.random.default_rng(seed)
    centres = random.standard_normal((anchors, classes * channels))
    chosen = random.integers(0, anchors, size=count)
    vectors = 0.8 * centres[chosen] + random.standard_normal((count, classes * channels))
    if kind == "dup":
        different = max(2, anchors // 2)
        vectors = np.repeat(vectors[:different], -(-count // different), axis=0)[:count]
    vectors = vectors.reshape(count, classes, channels)
    if kind == "presence":
        vectors *= (random.random((count, classes)) > 0.35)[:, :, None]
    return vectors.astype(np.float32)


@pytest.mark.parametrize("case", cases("mada", ARCHIVE, "shape"))
def test_anchors_are_the_reference_s(case: str) -> None:
    golden = load_npz("mada", ARCHIVE)
    shape, kind = golden[f"{case}/shape"].tolist(), str(golden[f"{case}/kind"])
    seed = int(golden[f"{case}/numpy_seed"])
    assert library_seed(seed) == int(golden[f"{case}/faiss_seed"])
    vectors = drawn_vectors(int(golden[f"{case}/seed"]), shape, kind)
    iterations = np.size(golden[f"{case}/objective"])
    count, num_anchors = len(vectors), shape[-1]
    found = cluster(vectors, num_anchors, seed=seed)
    np.testing.assert_allclose(found.centroids, golden[f"{case}/centroids"], rtol=0, atol=CENTROID_ATOL)
    np.testing.assert_array_equal(found.labels, golden[f"{case}/labels"])
    np.testing.assert_array_equal(found.sizes, np.bincount(golden[f"{case}/labels"], minlength=num_anchors))
    if count == num_anchors:  # the other fields of the archive stand for nothing then
        np.testing.assert_array_equal(found.centroids, vectors)
        assert (found.objective, found.refilled) == ((), ())
        return
    assert len(found.objective) == iterations
    np.testing.assert_array_equal(found.initial, golden[f"{case}/init_index"])
    np.testing.assert_array_equal(found.refilled, golden[f"{case}/nsplit"])
    tolerance = OBJECTIVE_OF_COPIES if kind == "dup" else OBJECTIVE
    np.testing.assert_allclose(found.objective, golden[f"{case}/objective"], **tolerance)
    np.testing.assert_allclose(found.objective[-1], golden[f"{case}/final_loss"], **tolerance)


@pytest.mark.parametrize("count", matching_cases("mada", ARCHIVE, r"published_init_index_(\d+)"))
def test_the_published_runs_begin_with_these_rows(count: str) -> None:
    golden = load_npz("mada", ARCHIVE)
    expected = golden[f"published_init_index_{count}"]
    seed = library_seed(int(golden["published_numpy_seed"]))
    assert seed == int(golden["published_faiss_seed"])
    np.testing.assert_array_equal(initial_rows(int(count), len(expected), seed), expected)
