"""From the images of a domain to its anchors, and the files that are written on the way."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_loaders.samples import Sample
from selection.anchor_files import read_centroids, read_clusters, read_vectors, write_vectors
from selection.anchors import cluster
from selection.vector_folder import VectorFolder
from tests.toy_active import SPACE, DrawnImages, small_network
from tests.toy_training import WORLD
from trainers.domain_anchors import ClusterSettings, DomainAnchors, anchors_from_vectors
from utils.errors import UserError

IMAGES, ANCHORS, CHANNELS = 6, 3, 16
SHAPE = {"num_classes": SPACE.num_classes, "channels": CHANNELS}
NAMES = SPACE.class_names


def anchors_of(folder: Path, **changes: Any) -> DomainAnchors:
    """Anchors of drawn target images, unless told otherwise."""
    options: dict[str, Any] = {"network": small_network(), "samples": DrawnImages(IMAGES)}
    options |= {"labelled": False, "fingerprint": "drawn"}
    own = {name: changes.pop(name) for name in list(changes) if name in ClusterSettings.__dataclass_fields__}
    clusters = settings(folder, **{"domain": "target", **own})
    return DomainAnchors(clusters=clusters, world=WORLD, num_workers=0, **{**options, **changes})


def settings(folder: Path, **changes: Any) -> ClusterSettings:
    options: dict[str, Any] = {"domain": "source", "num_anchors": ANCHORS, "class_names": NAMES}
    return ClusterSettings(folder=folder, **{**options, **changes})


def drawn_vectors(*, absent: int | None = None) -> np.ndarray:
    vectors = np.random.default_rng(1).random((IMAGES, SPACE.num_classes, CHANNELS), np.float32)
    if absent is not None:
        vectors[:, absent] = 0
    return vectors


class TestFromImages:
    def test_are_the_clusters_of_the_vectors(self, tmp_path: Path) -> None:
        anchors = anchors_of(tmp_path)()
        assert anchors is not None
        assert (anchors.dtype, anchors.device.type) == (torch.float32, "cpu")
        vectors = VectorFolder(tmp_path / "target_vectors").vectors()
        clusters = cluster(vectors, ANCHORS)
        np.testing.assert_array_equal(anchors.numpy(), clusters.centroids)
        centroids = tmp_path / "cluster_centroids_full_target_3.pkl"
        np.testing.assert_array_equal(
            read_centroids(centroids, num_anchors=ANCHORS, **SHAPE), anchors.numpy()
        )
        index = tmp_path / "cluster_index_full_target_3.pkl"
        np.testing.assert_array_equal(read_clusters(index, num_anchors=ANCHORS), clusters.labels)
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "cluster_centroids_full_target_3.pkl", "cluster_index_full_target_3.pkl", "target_vectors"
        ]  # fmt: skip

    def test_published_vectors_are_written_on_request(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO):
            anchors_of(tmp_path, published_vectors=True)()
        found = read_vectors(tmp_path / "target_full_dataset_objective_vectors.pkl", **SHAPE)
        np.testing.assert_array_equal(found, VectorFolder(tmp_path / "target_vectors").vectors())
        name = "target_full_dataset_objective_vectors.pkl"
        assert f"vectors of {IMAGES} target images: {tmp_path / name}" in caplog.messages

    def test_stopped_and_called_again(self, tmp_path: Path) -> None:
        seen: list[int] = []

        class Counted(DrawnImages):
            def sample(self, index: int, generator: np.random.Generator | None = None) -> Sample:
                seen.append(index)
                return super().sample(index, generator)

        samples = Counted(IMAGES)
        assert anchors_of(tmp_path, samples=samples, stop=lambda: len(seen) > 2)() is None
        seen.clear()
        anchors = anchors_of(tmp_path, samples=samples)()
        assert seen == [2, 3, 4, 5]
        again = anchors_of(tmp_path, samples=samples)()
        assert len(seen) == 4
        assert torch.equal(anchors, again)
        assert torch.equal(anchors, anchors_of(tmp_path / "other")())

    def test_sizes_and_objective_are_logged(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            anchors_of(tmp_path)()
        sizes = cluster(VectorFolder(tmp_path / "target_vectors").vectors(), ANCHORS).sizes
        text = caplog.text
        assert f"3 target anchors, images of each: {', '.join(map(str, sizes))}; K-means objective" in text
        assert f"in 20 iterations; {tmp_path / 'cluster_centroids_full_target_3.pkl'}\n" in text

    def test_more_anchors_than_images_are_refused_before_anything_is_done(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="--num-anchors 7 is more than the 6 target images") as error:
            anchors_of(tmp_path, num_anchors=7)()
        assert error.value.everywhere
        assert list(tmp_path.iterdir()) == []

    def test_as_many_anchors_as_images_are_the_images(self, tmp_path: Path) -> None:
        anchors = anchors_of(tmp_path, num_anchors=IMAGES)()
        np.testing.assert_array_equal(anchors.numpy(), VectorFolder(tmp_path / "target_vectors").vectors())


class TestAbsentClasses:
    def test_of_the_source_are_refused_and_the_vectors_kept(self, tmp_path: Path) -> None:
        source = anchors_of(tmp_path, domain="source", labelled=True)
        source.samples.labels[:] = 255
        with pytest.raises(UserError) as error:
            source()
        message = str(error.value)
        assert "none of the 6 source images shows road, sidewalk" in message
        assert "that are also predicted as such" in message
        assert "--classes" in message
        assert "--allow-absent-classes" in message
        assert "\n" not in message
        assert VectorFolder(tmp_path / "source_vectors").vectors().shape == (IMAGES, 19, CHANNELS)
        assert not list(tmp_path.glob("*.pkl"))

    def test_of_the_source_are_rows_of_zeros_on_request(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        anchors = anchors_of(tmp_path, domain="source", allow_absent=True)()
        absent = ~VectorFolder(tmp_path / "source_vectors").vectors().any(axis=(0, 2))
        assert 0 < absent.sum() < 19
        assert not anchors[:, absent].any()
        assert "these rows of the anchors are zeros" in caplog.text

    def test_of_the_target_are_a_warning(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        assert anchors_of(tmp_path)() is not None
        assert sum("these rows of the anchors are zeros" in line for line in caplog.messages) == 1


class TestFromVectors:
    def make(self, path: Path, **changes: Any) -> torch.Tensor:
        channels = changes.pop("channels", CHANNELS)
        return anchors_from_vectors(path, settings(path.parent / "anchors", **changes), channels=channels)

    @pytest.mark.parametrize("kind", ["published", "ours"])
    def test_are_their_clusters(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / ("vectors.pkl" if kind == "published" else "vectors.npy")
        if kind == "published":
            write_vectors(path, drawn_vectors())
        else:
            np.save(path, drawn_vectors())
        anchors = self.make(path)
        np.testing.assert_array_equal(anchors.numpy(), cluster(drawn_vectors(), ANCHORS).centroids)
        centroids = tmp_path / "anchors" / "cluster_centroids_full_3.pkl"
        np.testing.assert_array_equal(
            read_centroids(centroids, num_anchors=ANCHORS, **SHAPE), anchors.numpy()
        )
        assert (tmp_path / "anchors" / "cluster_index_full_3.pkl").is_file()

    def test_absent_class(self, tmp_path: Path) -> None:
        path = tmp_path / "vectors.pkl"
        write_vectors(path, drawn_vectors(absent=16))
        with pytest.raises(UserError, match="shows train on 10 pixels"):
            self.make(path)
        assert not self.make(path, allow_absent=True)[:, 16].any()

    def test_more_anchors_than_vectors(self, tmp_path: Path) -> None:
        path = tmp_path / "vectors.pkl"
        write_vectors(path, drawn_vectors())
        with pytest.raises(UserError, match="--num-anchors 7 is more than the 6 vectors"):
            self.make(path, num_anchors=7)

    def test_other_channels(self, tmp_path: Path) -> None:
        path = tmp_path / "vectors.pkl"
        write_vectors(path, drawn_vectors())
        with pytest.raises(UserError, match=r"not \(images, 19, 8\)"):
            self.make(path, channels=8)
