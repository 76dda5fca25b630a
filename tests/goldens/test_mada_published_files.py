"""The released anchors, clusters and selection of MADA, and facts about them (published_files.npz)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_files import NO_CASES, REPOSITORY, golden_path, has_golden, load_npz
from matching_cases import matching_cases
from torch import Tensor

from losses.alignment import soft_alignment
from selection import anchor_files
from selection.anchor_files import Domain
from selection.image_distance import anchor_distances, image_scores

ARCHIVE = "published_files.npz"
LIST = "published_stage1_cac_list_0.05.txt"
ANCHORS = "published_cluster_centroids_full*_*.pkl"
SEEDS = REPOSITORY.parent / "shared" / "data" / "seed_outputs"  # re-saved without pickles
SEED_ARCHIVES = {"source": "mada_source_gta5_k10.npz", "target": "mada_target_cityscapes_k10.npz"}
NUM_ANCHORS, SHAPE = 10, {"num_classes": 19, "channels": 256}
IMAGES = 2975  # the training list of Cityscapes
DOUBLE_RTOL, FLOAT32_RTOL = 1e-12, 1e-6


def published_anchor_files() -> list[str]:
    """Names of the released anchor files among the goldens; placeholders as `golden_files.cases`."""
    if not has_golden("mada", ARCHIVE):
        return ["missing-goldens"]
    found = golden_path("mada", ARCHIVE).parent.glob(ANCHORS)
    return sorted(path.name for path in found) or [NO_CASES]


def seed(domain: Domain) -> dict[str, np.ndarray]:
    """The domain's arrays in the data folder."""
    if not SEEDS.is_dir():
        pytest.skip(f"no published anchors: {SEEDS} does not exist")
    with np.load(SEEDS / SEED_ARCHIVES[domain]) as archive:
        return {key: archive[key] for key in archive.files}


def published_anchors(domain: Domain) -> Tensor:
    """(V, C, D) float32, from the released file or, where it is not here, from the data folder."""
    name = f"published_{anchor_files.centroids_name(domain, NUM_ANCHORS)}"
    if not has_golden("mada", name):
        return torch.from_numpy(seed(domain)["centroids"])
    path = golden_path("mada", name)
    return torch.from_numpy(anchor_files.read_centroids(path, num_anchors=NUM_ANCHORS, **SHAPE))


def class_norms(domain: Domain) -> np.ndarray:
    return published_anchors(domain).norm(dim=2).numpy()


def distances(domain: Domain, to: Domain) -> Tensor:
    return anchor_distances(published_anchors(domain), published_anchors(to))


def alignment(domain: Domain, to: Domain) -> tuple[np.ndarray, np.ndarray]:
    """Loss of every anchor taken as a vector, and the anchor that is nearest to it."""
    found = [soft_alignment(vector, published_anchors(to)) for vector in published_anchors(domain)]
    return np.array([loss.item() for loss, _ in found]), np.array([int(d.argmin()) for _, d in found])


FLOATS: dict[str, tuple[Callable[[], np.ndarray], float]] = {
    "source_class_norm": (lambda: class_norms("source"), FLOAT32_RTOL),
    "target_class_norm": (lambda: class_norms("target"), FLOAT32_RTOL),
    "source_self_distance": (lambda: distances("source", "source").numpy(), DOUBLE_RTOL),
    "target_self_distance": (lambda: distances("target", "target").numpy(), DOUBLE_RTOL),
    "target_to_source_distance": (lambda: distances("target", "source").numpy(), DOUBLE_RTOL),
    "target_min_distance": (
        lambda: image_scores(published_anchors("target").numpy(), published_anchors("source")).values,
        DOUBLE_RTOL,
    ),
    "source_min_distance_to_target": (
        lambda: image_scores(published_anchors("source").numpy(), published_anchors("target")).values,
        DOUBLE_RTOL,
    ),
    "soft_loss_source_vs_target": (lambda: alignment("source", "target")[0], FLOAT32_RTOL),
}


@pytest.mark.parametrize("key", matching_cases("mada", ARCHIVE, f"({'|'.join(FLOATS)})"))
def test_facts_about_the_anchors(key: str) -> None:
    golden = load_npz("mada", ARCHIVE)
    compute, rtol = FLOATS[key]
    np.testing.assert_allclose(compute(), golden[key], rtol=rtol, atol=0)


def test_the_nearest_target_anchors() -> None:
    golden = load_npz("mada", ARCHIVE)
    if "soft_index" in golden:
        np.testing.assert_array_equal(alignment("source", "target")[1], golden["soft_index"])


@pytest.mark.parametrize("name", published_anchor_files())
def test_released_anchors_are_read_and_written(name: str, tmp_path: Path) -> None:
    path = golden_path("mada", name)
    domain: Domain = "target" if "_target_" in name else "source"
    num_anchors = int(re.search(r"_(\d+)\.pkl$", name)[1])
    assert path.name == f"published_{anchor_files.centroids_name(domain, num_anchors)}"
    anchors = anchor_files.read_centroids(path, num_anchors=num_anchors, **SHAPE)
    assert anchors.shape == (num_anchors, *SHAPE.values())
    assert anchors.dtype == np.float32
    anchor_files.write_centroids(tmp_path / "again.pkl", anchors)
    again = anchor_files.read_centroids(tmp_path / "again.pkl", num_anchors=num_anchors, **SHAPE)
    np.testing.assert_array_equal(again, anchors)
    if SEEDS.is_dir():
        np.testing.assert_array_equal(seed(domain)["centroids"], anchors)


@pytest.mark.parametrize("domain", SEED_ARCHIVES)
def test_released_clusters_are_read_and_written(domain: Domain, tmp_path: Path) -> None:
    labels = seed(domain)["cluster_index"]
    path = tmp_path / anchor_files.clusters_name(domain, NUM_ANCHORS)
    anchor_files.write_clusters(path, labels)
    found = anchor_files.read_clusters(path, num_anchors=NUM_ANCHORS)
    np.testing.assert_array_equal(found, labels)
    sizes = load_npz("mada", ARCHIVE).get(f"{domain}_cluster_sizes")
    if sizes is not None:
        np.testing.assert_array_equal(np.bincount(found, minlength=NUM_ANCHORS), sizes)


def released(name: str) -> Path | None:
    """A released file among the goldens or in the data folder, if it is there."""
    if has_golden("mada", f"published_{name}"):
        return golden_path("mada", f"published_{name}")
    path = SEEDS / f"mada_{name}"
    return path if path.is_file() else None


def sha256_of_released() -> dict[str, str]:
    return dict(str(line).split() for line in load_npz("mada", ARCHIVE).get("sha256", ()))


def test_released_files_have_their_check_sums() -> None:
    checked = [
        (name, hashlib.sha256(path.read_bytes()).hexdigest() == digest)
        for name, digest in sha256_of_released().items()
        if (path := released(name)) is not None
    ]
    assert bool(checked) == bool(sha256_of_released())
    assert all(good for _, good in checked), checked


def test_the_released_selection_is_read_and_written_byte_for_byte(tmp_path: Path) -> None:
    path = released(LIST.removeprefix("published_"))
    if path is None:
        pytest.skip(f"no published selection: neither {LIST} nor {SEEDS} is there")
    chosen = path.read_text().splitlines()
    golden = load_npz("mada", ARCHIVE)
    positions = golden.get("selection_index", np.arange(len(chosen)))
    names = [f"another/{number}.png" for number in range(IMAGES)]
    for position, name in zip(positions, golden.get("selection_list", chosen), strict=True):
        names[position] = str(name)
    found = anchor_files.read_list(path, names)
    np.testing.assert_array_equal(found, positions)
    anchor_files.write_list(tmp_path / "list.txt", [names[position] for position in found])
    assert (tmp_path / "list.txt").read_bytes() == path.read_bytes()


def test_the_released_positions_are_read_and_written_byte_for_byte(tmp_path: Path) -> None:
    golden = load_npz("mada", ARCHIVE)
    if "selection_index" in golden:
        positions = golden["selection_index"]
        anchor_files.write_positions(tmp_path / "index.txt", positions)
        digest = hashlib.sha256((tmp_path / "index.txt").read_bytes()).hexdigest()
        assert sha256_of_released().get(anchor_files.positions_name("0.05"), digest) == digest
        np.testing.assert_array_equal(anchor_files.read_positions(tmp_path / "index.txt", IMAGES), positions)
