"""Fills an instance bank from a network: class means of single training samples, evenly over the classes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from torch import Tensor

from data_loaders.parallel import ProgressLine
from data_loaders.samples import Batch
from data_loaders.streams import SampleSource, SampleStream
from losses.instance_bank import (
    CITYSCAPES_RARE_FIRST,
    InstanceBank,
    class_means,
    label_weights,
    non_negative,
    rare_first,
)
from networks.segmentation import SegmentationNetwork
from trainers.bad_images import SkippedImages
from trainers.bank_files import report_bank
from trainers.inference import evaluation_mode
from trainers.padding import neutral_padding
from utils import distributed, maths
from utils.class_spaces import ClassSpace, class_space
from utils.distributed import World
from utils.errors import UserError
from utils.precision import Precision, exact_float32
from utils.stopping import never

logger = logging.getLogger(__name__)

STREAM = "instance_bank"  # of the samples' random draws
IMAGES = (
    4  # of one forward pass; fixed, so that every sample meets the same neighbours on any number of ranks
)
PATIENCE = 1000  # samples without a new entry after which the limit per class is given up
PROGRESS_S = 10.0


def filling_order(space: ClassSpace, pixels: Sequence[int] | None = None) -> tuple[int, ...]:
    """The order in which the classes of a sample enter the bank, rarest first.

    Args:
        space: of the network. The 19 Cityscapes classes have the published order.
        pixels: of each class in the source, where known: orders other spaces, and leaves out classes that the
            source lacks. Without it other spaces are in the order of their ids.
    """
    occurring = range(space.num_classes) if pixels is None else rare_first(pixels)
    if space.name == "cityscapes19":
        return tuple(index for index in CITYSCAPES_RARE_FIRST if index in occurring)
    return tuple(occurring)


def fill_bank(
    network: SegmentationNetwork,
    samples: SampleSource,
    *,
    size: int,
    order: Sequence[int],
    seed: int,
    world: World,
    precision: Precision | None = None,
    num_workers: int = 0,
    patience: int = PATIENCE,
    stop: Callable[[], bool] = never,
    skip_bad_images: bool = False,
) -> tuple[Tensor, Tensor] | None:
    """A bank of `size` features (K, D) and labels (K,) on the CPU; None when a stop signal cut it short.

    Sample after sample, every class of `order` that it shows adds the mean of the network's features over its
    positions of the class, until the class has floor(K / len(order)) entries, and once all have, ceil(K /
    len(order)). When `patience` samples in a row add nothing, because classes are absent or too rare, the
    limit becomes K shared by the classes seen so far; and when that does not help either, there is none.

    Collective: all ranks return the same bank, whatever their number. The network is used in eval mode with
    rank 0's buffers.

    Args:
        network: unwrapped, on the device of `world`; DIDA uses one trained on the source.
        samples: labelled source samples of one size, with their training transform.
        size: K.
        order: classes to be stored, rarest first (`filling_order`).
        seed: of the samples' draws.
        world: this process.
        precision: of the forward passes; None: float32.
        num_workers: processes of this rank that load samples.
        patience: in samples over all ranks.
        stop: asked before every batch; when it is true on any rank, all return None.
        skip_bad_images: see `SampleStream`.

    Raises:
        UserError: K is smaller than the number of classes, features are not finite, or the samples hold no
            labelled pixel of the classes; and what reading samples raises.
    """
    assert order, "no class to store"
    if size < len(order):
        raise UserError(
            f"an instance bank of {size} entries has no room for {len(order)} classes; use {len(order)} or "
            "more entries.",
            everywhere=True,
        )
    distributed.synchronize_buffers_(network)
    space = class_space(network.spec.class_space)
    filling = _Filling(
        InstanceBank(size, network.feature_channels, space.num_classes), tuple(order), patience
    )
    stream = SampleStream(
        samples,
        seed=seed,
        name=STREAM,
        global_batch=IMAGES * world.size,
        rank=world.rank,
        world_size=world.size,
        num_workers=num_workers,
        skip_bad_images=skip_bad_images,
    )
    skipped = SkippedImages()
    with closing(stream), evaluation_mode(network), exact_float32():
        while not filling.bank.is_full:
            if distributed.any_rank(stop(), what="the filling of the instance bank"):
                return None
            means, present = sample_means(network, stream.next().to(world.device), precision)
            skipped.gather({STREAM: stream})
            filling.take(distributed.all_gather_equal(means), distributed.all_gather_equal(present))
    filling.report(space)
    return filling.bank.features, filling.bank.labels


def sample_means(
    network: SegmentationNetwork, batch: Batch, precision: Precision | None = None
) -> tuple[Tensor, Tensor]:
    """Mean features of the classes of every single image: (N, C, D), and which it shows: (N, C) bool."""
    assert batch.label is not None, "a bank is filled from labelled samples"
    with (precision or Precision("fp32")).autocast():
        features = network(neutral_padding(network, batch)).features
    features = non_negative(maths.at_least_float32(features))
    size, classes = (features.shape[-2], features.shape[-1]), network.spec.num_classes
    weights = torch.stack(
        [label_weights(label[None], size, classes, features.dtype) for label in batch.label]
    )
    return class_means(weights, features), weights.flatten(2).any(2)


@dataclass(slots=True)
class _Filling:
    """Samples in the order of their draws go into the bank."""

    bank: InstanceBank
    order: tuple[int, ...]
    patience: int
    most: int | None = None  # entries of a class; None: no limit
    samples: int = 0
    idle: int = 0  # samples in a row that added nothing
    progress: ProgressLine | None = None

    def __post_init__(self) -> None:
        self.most = self.size // len(self.order)  # first as many of every class, then the rest
        if distributed.is_main():
            self.progress = ProgressLine(self.size, "bank entries", interval=PROGRESS_S)

    @property
    def size(self) -> int:
        """K."""
        return len(self.bank.labels)

    def take(self, means: Tensor, present: Tensor) -> None:
        """Adds what samples show, (N, C, D) means of classes where (N, C) is true, until the bank is full."""
        for own_means, own_present in zip(means.cpu(), present.tolist(), strict=True):
            self._take_sample(own_means, [index for index in self.order if own_present[index]])
            if self.bank.is_full:
                break
        filled = self.bank.histogram().sum().item()
        if self.progress is not None and filled:
            self.progress.show(filled)

    def _take_sample(self, means: Tensor, classes: list[int]) -> None:
        self.samples += 1
        if not torch.isfinite(means).all():
            raise UserError(
                f"the network's features of training sample {self.samples} are not finite; its weights are "
                "broken: use an earlier snapshot",
                everywhere=True,
            )
        added = self.bank.add(means[classes], classes, most=self.most)
        self.idle = 0 if added else self.idle + 1
        even, ceiling = self.size // len(self.order), math.ceil(self.size / len(self.order))
        if self.most == even < ceiling and added:
            counts = self.bank.histogram()[list(self.order)]
            self.most = ceiling if int(counts.min()) == even else even
        if self.idle == self.patience:
            self._lift_limit()

    def _lift_limit(self) -> None:
        seen = int((self.bank.histogram() > 0).sum())
        if not seen:
            raise UserError(
                f"{self.samples} training samples hold no labelled pixel of the {len(self.order)} classes of "
                "the instance bank; look at the source's labels with prepare_data.py check",
                everywhere=True,
            )
        shared = math.ceil(self.size / seen)
        before, self.idle = self.most, 0
        self.most = shared if before is not None and shared > before else None
        logger.warning(
            "instance bank: %d samples added nothing at %s entries a class; going on with %s",
            self.patience,
            before,
            "no limit" if self.most is None else f"{self.most} a class",
        )

    def report(self, space: ClassSpace) -> None:
        """Logs what the full bank holds."""
        origin = f"from {self.samples} samples"
        for line in report_bank(origin, self.bank.features, self.bank.labels, space.class_names):
            logger.info("%s", line)
