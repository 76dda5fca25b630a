"""From parsed arguments to what gives MADA's anchors: a file of anchors, a file of vectors, or the images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from data_loaders.dataset import SegmentationDataset
from data_loaders.discovery import FileList
from data_loaders.transforms import TrainingTransform
from networks.segmentation import SegmentationNetwork
from selection.anchor_files import Domain, find_centroids, find_vectors, read_centroids, read_vectors
from trainers import wiring_active
from trainers.domain_anchors import ClusterSettings, DomainAnchors, anchors_from_vectors, check_count
from trainers.run_state import check_alike
from trainers.wiring_data import Arguments, Domains
from utils import distributed
from utils.class_spaces import ClassSpace, class_space
from utils.distributed import World

RESAMPLING = "pillow_bilinear"


@dataclass(frozen=True, slots=True)
class AnchorSources:
    """Where the anchors of both domains come from; files are looked at when they are asked for.

    Attributes:
        folder: of all anchors of the run.
    """

    args: Arguments
    domains: Domains
    network: SegmentationNetwork
    world: World
    folder: Path

    def source(self) -> Callable[[], Tensor | None]:
        """What gives the source's anchors.

        Raises:
            UserError: a file of anchors or vectors that is not of this network or number.
        """
        args = self.args
        if args.source_anchors is not None:
            return self._given("source", args.source_anchors)
        if args.source_vectors is not None:
            return self._clustered(find_vectors(Path(args.source_vectors)))
        files = self.domains.source
        if files is None:
            return _never_asked
        return self._described("source", files, whole_images(files, args.input_size, self.domains.space))

    def target(self) -> Callable[[], Tensor | None]:
        """What gives the target's anchors.

        Raises:
            UserError: a file of anchors that is not of this network or number.
        """
        if self.args.target_anchors is not None:
            return self._given("target", self.args.target_anchors)
        files = self.domains.target
        return self._described("target", files, whole_images(files, self.args.input_size_query))

    def given(self) -> dict[str, str]:
        """Hex SHA-256 of the files that anchors come from, by domain. Collective.

        Raises:
            UserError: a file of anchors differs between the ranks, which all read it.
        """
        args, digests = self.args, {}
        for domain, path in (("source", args.source_anchors), ("target", args.target_anchors)):
            if path is not None:
                digests[domain] = _digest(find_centroids(Path(path), domain, args.num_anchors))
        check_alike(
            {f"the anchors of --{domain}-anchors": digest for domain, digest in digests.items()},
            "give every machine the same file",
        )
        if args.source_vectors is not None:  # which rank 0 alone reads
            path = find_vectors(Path(args.source_vectors))
            digests["source"] = distributed.from_rank_zero(lambda: _digest(path))
        return digests

    def _settings(self, domain: Domain) -> ClusterSettings:
        return ClusterSettings(
            domain=domain,
            folder=self.folder,
            num_anchors=self.args.num_anchors,
            class_names=class_space(self.network.spec.class_space).class_names,
            allow_absent=self.args.allow_absent_classes,
        )

    def _given(self, domain: Domain, path: str) -> Callable[[], Tensor]:
        count = self.args.num_anchors
        anchors = torch.from_numpy(
            read_centroids(
                find_centroids(Path(path), domain, count),
                num_anchors=count,
                num_classes=self.network.spec.num_classes,
                channels=self.network.feature_channels,
            )
        )
        return lambda: anchors

    def _clustered(self, path: Path) -> Callable[[], Tensor]:
        settings, channels = self._settings("source"), self.network.feature_channels

        def look() -> None:  # a file of 971 MB: read again where it is needed
            vectors = read_vectors(path, num_classes=len(settings.class_names), channels=channels)
            check_count(len(vectors), settings.num_anchors, f"vectors in {path}")

        distributed.from_rank_zero(look)
        return partial(anchors_from_vectors, path, settings, channels=channels)

    def _described(self, domain: Domain, files: FileList, samples: SegmentationDataset) -> DomainAnchors:
        args, labelled = self.args, domain == "source"
        width, height = args.input_size if labelled else args.input_size_query
        return DomainAnchors(
            network=self.network,
            samples=samples,
            labelled=labelled,
            fingerprint=f"{files.fingerprint()} {width}x{height}",
            clusters=self._settings(domain),
            published_vectors=args.published_vectors,
            world=self.world,
            num_workers=args.num_workers,
            stop=wiring_active.stop_asked,
        )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _never_asked() -> None:
    raise AssertionError("anchors of a source that the run does not read")


def whole_images(
    files: FileList, size: tuple[int, int], space: ClassSpace | None = None
) -> SegmentationDataset:
    """Images resized to `size` (W, H) as training resizes them first, without augmentation; with their labels
    in the classes of `space`, where one is given."""
    transform = TrainingTransform(size=size, crop=None, resampling=RESAMPLING)
    table = None if space is None else files.description.label_table(space.name)
    return SegmentationDataset(files, transform=transform, label_table=table)
