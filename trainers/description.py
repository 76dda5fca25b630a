"""Describing the images of a domain: one vector and one mean entropy of each, by one pass of the network.

Source: Ning et al., ICCV 2021 (MADA), and the authors' released code, which likewise sees one whole image
at a time in eval mode.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data_loaders.samples import Sample
from data_loaders.streams import SampleSource
from losses.objective import class_means_of, nearest_labels
from networks.segmentation import SegmentationNetwork
from selection.vector_folder import VectorFolder, in_rows
from trainers.image_pass import pass_over
from trainers.labelling import weights_digest
from trainers.shared_folder import check_seen_everywhere, seen_in_time
from utils import distributed, maths
from utils.distributed import World
from utils.errors import UserError
from utils.stopping import never

logger = logging.getLogger(__name__)

PART_IMAGES = 64  # images a process describes between two writes: what a kill loses at most


def describe(
    network: SegmentationNetwork,
    samples: SampleSource,
    folder: VectorFolder,
    *,
    what: str,
    labelled: bool,
    fingerprint: str,
    world: World,
    num_workers: int = 2,
    stop: Callable[[], bool] = never,
) -> bool:
    """Completes the folder: whatever is missing of its vectors and entropies. Every rank must call it.

    The images are split over the processes, and each passes alone, so that the numbers do not depend on how
    many processes there are.

    Args:
        network: unwrapped, on its device.
        samples: whole images, without augmentation.
        folder: what it holds of another network or of other images is made anew.
        what: names the images in logs, such as "source images".
        labelled: a class counts where it is labelled and predicted, else where it is predicted.
        fingerprint: changes with the images and the size they are seen at.
        num_workers: threads that load images ahead.
        stop: asked before every image; true on any rank ends the work there.

    Returns:
        False when a stop signal cut it short; what is done is kept.

    Raises:
        UserError: on every rank: a folder that not all ranks see or rank 0 cannot write; on the rank that
            finds it: features or logits that are not finite, images that cannot be read.
    """
    content = distributed.from_rank_zero(
        lambda: {
            "weights": weights_digest(network),
            "images": fingerprint,
            "count": len(samples),
            "classes": network.spec.num_classes,
            "channels": network.feature_channels,
            "labelled": int(labelled),
        }
    )
    finished = distributed.from_rank_zero(lambda: folder.begin(content))
    folder.join(content)
    check_seen_everywhere(folder.description_path, f"the description of the {what}")
    if not pass_over(
        network,
        np.flatnonzero(~finished).tolist(),
        load=lambda number: (number, samples.sample(number, None)),
        see=lambda loaded: _described_image(network, *loaded, labelled=labelled, device=world.device),
        keep=lambda part: folder.write_part(*_arrays(part)),
        collect=lambda: _assemble(folder, samples, what),
        what=f"describing {what}",
        part_images=PART_IMAGES,
        num_workers=num_workers,
        stop=stop,
    ):
        return False
    check_seen_everywhere(folder.entropies_path, f"the vectors of the {what}")
    return True


def empty_images(vectors: np.ndarray) -> np.ndarray:
    """Positions of the images that show no class: (N, C, D) vectors that are all zeros, read in pieces."""
    return np.flatnonzero(~np.concatenate([rows.any(axis=(1, 2)) for _, rows in in_rows(vectors)]))


@dataclass(frozen=True, slots=True)
class _Image:
    """What is kept of an image, on the device, until `_arrays` copies a whole part in one go."""

    position: int
    name: str
    vector: Tensor  # (C, D)
    entropy: Tensor  # ()
    finite: Tensor  # () bool


def _arrays(part: Sequence[_Image]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, vectors and entropies as a `VectorFolder` takes them.

    Raises:
        UserError: the network's output for an image is not finite.
    """
    broken = (~torch.stack([image.finite for image in part])).nonzero().flatten().tolist()
    if broken:
        raise UserError(
            f"the network's features or output for {part[broken[0]].name} are not finite; the "
            "weights are broken: describe the images with another snapshot"
        )
    vectors = torch.stack([image.vector for image in part]).to("cpu", torch.float32).numpy()
    entropies = torch.stack([image.entropy for image in part]).cpu().numpy()
    return np.array([image.position for image in part], np.int64), vectors, entropies


def _described_image(
    network: SegmentationNetwork, number: int, sample: Sample, *, labelled: bool, device: torch.device
) -> _Image:
    label = None
    if labelled:
        assert sample.label is not None, f"{sample.name} has no label"
        label = sample.label[None].to(device)
    output = network(sample.image[None].to(device))
    assert output.features is not None, "the network gives no features"
    return _Image(number, sample.name, *described(output.features, output.logits, label))


def described(features: Tensor, logits: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """What is kept of one image, on its device; the host waits for nothing.

    Args:
        features: (1, D, h, w), what the network's last 1x1 convolution is given.
        logits: (1, C, h, w).
        label: (1, H, W) uint8 train ids; None: the prediction itself.

    Returns:
        (C, D) mean features of the classes, () float64 mean pixel entropy in nats, () bool whether features
        and logits are finite.
    """
    grid = None if label is None else nearest_labels(label, (logits.shape[2], logits.shape[3]))
    means = class_means_of(features, logits, grid, rescale=False)
    entropy = maths.entropy(maths.log_softmax(logits)).double().mean()
    finite = torch.isfinite(torch.stack([*features.aminmax(), *logits.aminmax()])).all()  # a NaN is both
    return means.vectors[0], entropy, finite


def _assemble(folder: VectorFolder, samples: SampleSource, what: str) -> None:
    """One matrix from all parts, unless it is there already."""
    if folder.is_complete():
        return
    seen_in_time(lambda: bool(folder.finished().all()))  # parts of other machines
    folder.assemble()
    empty = empty_images(folder.vectors())
    if len(empty):
        logger.warning(
            "%d of %d %s show no class on 10 pixels or more, the first is %s: their vectors are zeros",
            len(empty),
            len(samples),
            what,
            samples.sample(int(empty[0]), None).name,
        )
