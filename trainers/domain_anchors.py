"""The anchors of a domain: its images described, their vectors clustered, the published files written.

Source: Ning et al., ICCV 2021 (MADA), and the authors' released code, whose file names these are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from data_loaders.streams import SampleSource
from networks.segmentation import SegmentationNetwork
from selection.anchor_files import (
    centroids_name,
    clusters_name,
    read_vectors,
    vectors_name,
    write_centroids,
    write_clusters,
    write_vectors,
)
from selection.anchors import Clusters, cluster
from selection.vector_folder import VectorFolder
from trainers.description import describe, never
from utils import distributed
from utils.distributed import World
from utils.errors import UserError

logger = logging.getLogger(__name__)

Domain = Literal["source", "target"]
_ROWS_AT_ONCE = 256


@dataclass(slots=True, kw_only=True)
class DomainAnchors:
    """Makes the anchors of a domain, from its images to K-means. Every rank must call it.

    Attributes:
        domain: "source" or "target", for names of files and messages.
        network: unwrapped, on its device.
        samples: whole images of the domain, without augmentation.
        labelled: whether the vectors are of pixels that are labelled as well as predicted, as the source's.
        fingerprint: changes with the images and the size they are seen at.
        folder: of all anchors of the run.
        num_anchors: V.
        class_names: C, for messages.
        allow_absent: a class that no source image shows gets rows of zeros instead of an error.
        published_vectors: also write all vectors in the published file, which is twice as large as ours.
        num_workers: threads that load images ahead.
        stop: asked before every image; true on any rank ends the work there.
    """

    domain: Domain
    network: SegmentationNetwork
    samples: SampleSource
    labelled: bool
    fingerprint: str
    folder: Path
    num_anchors: int
    class_names: Sequence[str]
    allow_absent: bool = False
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
        check_count(len(self.samples), self.num_anchors, f"{self.domain} images")
        vectors = VectorFolder(self.folder / f"{self.domain}_vectors")
        finished = describe(
            self.network,
            self.samples,
            vectors,
            what=f"{self.domain} images",
            labelled=self.labelled,
            fingerprint=self.fingerprint,
            world=self.world,
            num_workers=self.num_workers,
            stop=self.stop,
        )
        if not finished:
            return None
        return torch.from_numpy(distributed.from_rank_zero(lambda: self._clustered(vectors.vectors())))

    def _clustered(self, vectors: np.ndarray) -> np.ndarray:
        if self.published_vectors:
            write_vectors(self.folder / vectors_name(self.domain), vectors)
        return _clustered(
            vectors,
            domain=self.domain,
            folder=self.folder,
            num_anchors=self.num_anchors,
            class_names=self.class_names,
            allow_absent=self.allow_absent,
        )


def anchors_from_vectors(
    path: Path,
    *,
    domain: Domain,
    folder: Path,
    num_anchors: int,
    class_names: Sequence[str],
    channels: int,
    allow_absent: bool = False,
) -> Tensor:
    """The anchors of a published file of vectors, as `DomainAnchors` makes them. Collective.

    Args:
        path: of the vectors (N, C, D).
        channels: D of the network.

    Returns:
        (V, C, D) float32 on the CPU, the same on all ranks.

    Raises:
        UserError: the file is unfit for this network, has fewer vectors than anchors, or no source image
            shows a class.
    """

    def make() -> np.ndarray:
        vectors = read_vectors(path, num_classes=len(class_names), channels=channels)
        check_count(len(vectors), num_anchors, f"vectors in {path}")
        return _clustered(
            vectors,
            domain=domain,
            folder=folder,
            num_anchors=num_anchors,
            class_names=class_names,
            allow_absent=allow_absent,
        )

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


def _clustered(
    vectors: np.ndarray,
    *,
    domain: Domain,
    folder: Path,
    num_anchors: int,
    class_names: Sequence[str],
    allow_absent: bool,
) -> np.ndarray:
    """Anchors (V, C, D) of the vectors, also as files. Rank 0 only."""
    _check_classes(vectors, domain, class_names, allow_absent=allow_absent)
    clusters = cluster(vectors, num_anchors)
    write_centroids(folder / centroids_name(domain, num_anchors), clusters.centroids)
    write_clusters(folder / clusters_name(domain, num_anchors), clusters.labels)
    _say(clusters, domain)
    return clusters.centroids


def _check_classes(
    vectors: np.ndarray, domain: Domain, class_names: Sequence[str], *, allow_absent: bool
) -> None:
    """Refuses classes that no source image shows; warns of those of the target."""
    seen = np.zeros(len(class_names), bool)
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        seen |= vectors[start : start + _ROWS_AT_ONCE].any(axis=(0, 2))
    absent = [name for name, is_seen in zip(class_names, seen, strict=True) if not is_seen]
    if not absent:
        return
    found = (
        f"none of the {len(vectors)} {domain} images shows {', '.join(absent)} on 10 pixels or more"
        f"{' that are also predicted as such' if domain == 'source' else ''}"
    )
    if domain == "source" and not allow_absent:
        raise UserError(
            f"{found}; take --classes without them, or cluster with rows of zeros by --allow-absent-classes",
            everywhere=True,
        )
    logger.warning("%s: these rows of the anchors are zeros", found)


def _say(clusters: Clusters, domain: Domain) -> None:
    sizes = ", ".join(map(str, clusters.sizes.tolist()))
    objective = ""
    if clusters.objective:
        first, last = clusters.objective[0], clusters.objective[-1]
        objective = f"; K-means objective {first:.6g} -> {last:.6g} in {len(clusters.objective)} iterations"
    logger.info("%d %s anchors, images of each: %s%s", len(clusters.centroids), domain, sizes, objective)
