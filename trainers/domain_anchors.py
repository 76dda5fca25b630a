"""The anchors of a domain: its images described, their vectors clustered, the published files written.

Source: Ning et al., ICCV 2021 (MADA), and the authors' released code, whose file names these are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_loaders.streams import SampleSource
from networks.segmentation import SegmentationNetwork
from selection.anchor_files import (
    Domain,
    centroids_name,
    clusters_name,
    read_vectors,
    vectors_name,
    write_centroids,
    write_clusters,
    write_vectors,
)
from selection.anchors import Clusters, cluster
from selection.vector_folder import VectorFolder, in_rows
from trainers.description import describe
from utils import distributed
from utils.distributed import World
from utils.errors import UserError
from utils.stopping import never

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """How the vectors of a domain become anchors, and where these are written.

    Attributes:
        domain: for names of files and messages.
        folder: of all anchors of the run.
        num_anchors: V.
        class_names: C, for messages.
        allow_absent: a class that no source image shows gets rows of zeros instead of an error.
    """

    domain: Domain
    folder: Path
    num_anchors: int
    class_names: Sequence[str]
    allow_absent: bool = False


@dataclass(slots=True, kw_only=True)
class DomainAnchors:
    """Makes the anchors of a domain, from its images to K-means. Every rank must call it.

    Attributes:
        network: unwrapped, on its device.
        samples: whole images of the domain, without augmentation.
        labelled: whether the vectors are of pixels that are labelled as well as predicted, as the source's.
        fingerprint: changes with the images and the size they are seen at.
        clusters: what follows the description.
        published_vectors: also write all vectors in the published file, which is twice as large as ours.
        num_workers: threads that load images ahead.
        stop: asked before every image; true on any rank ends the work there.
    """

    network: SegmentationNetwork
    samples: SampleSource
    labelled: bool
    fingerprint: str
    clusters: ClusterSettings
    published_vectors: bool = False
    world: World
    num_workers: int = 2
    stop: Callable[[], bool] = never

    def __call__(self) -> Tensor | None:
        """(V, C, D) float32 on the CPU, the same on all ranks; None when a stop signal cut it short.

        Raises:
            UserError: more anchors than images, or a class that no source image shows (the vectors stay on
                disk); and as `describe`.
        """
        what = f"{self.clusters.domain} images"
        check_count(len(self.samples), self.clusters.num_anchors, what)
        vectors = VectorFolder(self.clusters.folder / f"{self.clusters.domain}_vectors")
        finished = describe(
            self.network,
            self.samples,
            vectors,
            what=what,
            labelled=self.labelled,
            fingerprint=self.fingerprint,
            world=self.world,
            num_workers=self.num_workers,
            stop=self.stop,
        )
        if not finished:
            return None
        return torch.from_numpy(distributed.from_rank_zero(lambda: self._from(vectors.vectors())))

    def _from(self, vectors: np.ndarray) -> np.ndarray:
        """Rank 0 only."""
        if self.published_vectors:
            path = self.clusters.folder / vectors_name(self.clusters.domain)
            write_vectors(path, vectors)
            logger.info("vectors of %d %s images: %s", len(vectors), self.clusters.domain, path)
        return clustered(vectors, self.clusters)


def anchors_from_vectors(path: Path, settings: ClusterSettings, *, channels: int) -> Tensor:
    """The anchors of a file of vectors, as `DomainAnchors` makes them. Collective.

    Args:
        path: of the vectors (N, C, D), published or a .npy.
        channels: D of the network.

    Returns:
        (V, C, D) float32 on the CPU, the same on all ranks.

    Raises:
        UserError: the file is unfit for this network, has fewer vectors than anchors, or no source image
            shows a class.
    """

    def make() -> np.ndarray:
        vectors = read_vectors(path, num_classes=len(settings.class_names), channels=channels)
        check_count(len(vectors), settings.num_anchors, f"vectors in {path}")
        return clustered(vectors, settings)

    return torch.from_numpy(distributed.from_rank_zero(make))


def check_count(count: int, num_anchors: int, what: str) -> None:
    """Refuses more anchors than there are vectors or images.

    Raises:
        UserError: on every rank, as all see the same count.
    """
    if num_anchors > count:
        raise UserError(
            f"--num-anchors {num_anchors} is more than the {count} {what}; give at most {count}",
            everywhere=True,
        )


def clustered(vectors: np.ndarray, settings: ClusterSettings) -> np.ndarray:
    """Anchors (V, C, D) of the vectors (N, C, D), also as the published files. Rank 0 only.

    Raises:
        UserError: no source image shows a class.
    """
    domain, count = settings.domain, settings.num_anchors
    _check_classes(vectors, settings)
    clusters = cluster(vectors, count)
    path = settings.folder / centroids_name(domain, count)
    write_centroids(path, clusters.centroids)
    write_clusters(settings.folder / clusters_name(domain, count), clusters.labels)
    logger.info("%d %s anchors, %s; %s", count, domain, _in_words(clusters), path)
    return clusters.centroids


def _check_classes(vectors: np.ndarray, settings: ClusterSettings) -> None:
    """Refuses classes that no source image shows; warns of those of the target."""
    domain, names = settings.domain, settings.class_names
    seen = np.zeros(len(names), bool)
    for _, rows in in_rows(vectors):
        seen |= rows.any(axis=(0, 2))
    absent = [name for name, is_seen in zip(names, seen, strict=True) if not is_seen]
    if not absent:
        return
    found = (
        f"none of the {len(vectors)} {domain} images shows {', '.join(absent)} on 10 pixels or more"
        f"{' that are also predicted as such' if domain == 'source' else ''}"
    )
    if domain == "source" and not settings.allow_absent:
        raise UserError(
            f"{found}; take --classes without them, or cluster with rows of zeros by --allow-absent-classes",
            everywhere=True,
        )
    logger.warning("%s: these rows of the anchors are zeros", found)


def _in_words(clusters: Clusters) -> str:
    sizes = f"images of each: {', '.join(map(str, clusters.sizes.tolist()))}"
    if not clusters.objective:
        return sizes
    first, last = clusters.objective[0], clusters.objective[-1]
    return f"{sizes}; K-means objective {first:.6g} -> {last:.6g} in {len(clusters.objective)} iterations"
