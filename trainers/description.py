"""Describing the images of a domain: one vector and one mean entropy of each, by one pass of the network.

Source: Ning et al., ICCV 2021 (MADA), and the authors' released code, which likewise sees one whole image
at a time in eval mode.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from data_loaders.samples import Sample
from data_loaders.streams import SampleSource
from losses.objective import class_means_of, nearest_labels
from networks.segmentation import SegmentationNetwork
from selection.vector_folder import VectorFolder
from trainers.inference import ImageProgress, evaluation_mode, prefetch
from trainers.labelling import weights_digest
from trainers.shared_folder import check_seen_everywhere, seen_in_time
from utils import distributed, maths
from utils.distributed import World
from utils.errors import UserError
from utils.precision import exact_float32

logger = logging.getLogger(__name__)

PART_IMAGES = 64  # images a process describes between two writes: what a kill loses at most
_ROWS_AT_ONCE = 256


def never() -> bool:
    """No stop signal ever comes."""
    return False


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
    distributed.synchronize_buffers_(network)  # so that it does not matter who describes an image
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
    missing = np.flatnonzero(~finished).tolist()
    mine = [missing[place] for place in distributed.shard(len(missing))]
    described = 0
    with evaluation_mode(network), exact_float32():
        for part in _parts(
            network,
            samples,
            mine,
            what=what,
            labelled=labelled,
            world=world,
            num_workers=num_workers,
            stop=stop,
        ):
            folder.write_part(*part.arrays())
            described += len(part.positions)
    if distributed.any_rank(described < len(mine), what=f"describing the {what}"):
        return False
    distributed.from_rank_zero(lambda: _assemble(folder, samples, what))
    check_seen_everywhere(folder.entropies_path, f"the vectors of the {what}")
    return True


def empty_images(vectors: np.ndarray) -> np.ndarray:
    """Positions of the images that show no class: (N, C, D) vectors that are all zeros, read in pieces."""
    pieces = [
        vectors[start : start + _ROWS_AT_ONCE].any(axis=(1, 2))
        for start in range(0, len(vectors), _ROWS_AT_ONCE)
    ]
    return np.flatnonzero(~np.concatenate(pieces))


@dataclass(slots=True)
class _Images:
    """Some images that are described; the numbers stay on the device until `arrays` copies them in one go."""

    positions: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    vectors: list[Tensor] = field(default_factory=list)  # (C, D) each
    entropies: list[Tensor] = field(default_factory=list)  # scalars
    finite: list[Tensor] = field(default_factory=list)  # scalars

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions, vectors and entropies as a `VectorFolder` takes them.

        Raises:
            UserError: the network's output for an image is not finite.
        """
        broken = (~torch.stack(self.finite)).nonzero().flatten().tolist()
        if broken:
            raise UserError(
                f"the network's features or output for {self.names[broken[0]]} are not finite; the "
                "weights are broken: describe the images with another snapshot"
            )
        vectors = torch.stack(self.vectors).to("cpu", torch.float32).numpy()
        entropies = torch.stack(self.entropies).cpu().numpy()
        return np.array(self.positions, np.int64), vectors, entropies


def _parts(
    network: SegmentationNetwork,
    samples: SampleSource,
    numbers: Sequence[int],
    *,
    what: str,
    labelled: bool,
    world: World,
    num_workers: int,
    stop: Callable[[], bool],
) -> Iterator[_Images]:
    """Some images described, a part at a time, as far as no stop signal comes."""
    progress = ImageProgress(f"describing {what}", len(numbers))
    part = _Images()

    def load(number: int) -> tuple[int, Sample]:
        return number, samples.sample(number, None)

    for number, sample in prefetch(load, numbers, num_workers):
        if stop():
            break
        image = sample.image[None].to(world.device)
        label = None
        if labelled:
            assert sample.label is not None, f"{sample.name} has no label"
            label = sample.label[None].to(world.device)
        output = network(image)
        assert output.features is not None, "the network gives no features"
        vector, entropy, finite = described(output.features, output.logits, label)
        part.positions.append(number)
        part.names.append(sample.name)
        part.vectors.append(vector)
        part.entropies.append(entropy)
        part.finite.append(finite)
        progress.advance()
        if len(part.positions) == PART_IMAGES:
            yield part
            part = _Images()
    if part.positions:
        yield part


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
