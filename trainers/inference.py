"""From an image to a label map: several passes through the network, their fusion, and uncertainty maps."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from data_loaders.resampling import resize_image
from data_loaders.samples import planar
from trainers.protocols import Protocol, Size, Upsampled
from utils import distributed, maths
from utils.errors import UserError
from utils.logs import format_duration
from utils.precision import Precision

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Pass:
    """Raw logits of one forward, (N, C, h, w) at network stride, or at the input's size if it saw windows.

    `flipped`: the image went in mirrored. `input_size`: (W, H) that went in; needed for "logits_twice" only.
    """

    main: Tensor
    auxiliary: Tensor | None = None
    flipped: bool = False
    input_size: Size | None = None

    def upright(self) -> Pass:
        """The same logits in the image's own orientation."""
        if not self.flipped:
            return self
        auxiliary = None if self.auxiliary is None else self.auxiliary.flip(-1)
        return dataclasses.replace(self, main=self.main.flip(-1), auxiliary=auxiliary, flipped=False)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the fused passes say about each pixel.

    Attributes:
        label: (H, W) uint8 train ids of the network's class space.
        confidence: (H, W) summed probability of that class, in (0, number of passes].
        passes: the raw logits, first the base size, un-flipped before flipped.
    """

    label: Tensor
    confidence: Tensor
    passes: tuple[Pass, ...]


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """The network's inputs for one image, (3, h, w) uint8 RGB, one per scale; and the image's own (W, H)."""

    inputs: tuple[Tensor, ...]
    size: Size


def pass_logits(one: Pass, auxiliary_weight: float) -> Tensor:
    """auxiliary_weight * auxiliary + main, in the orientation of the pass; (N, C, h, w).

    Source: the authors' released evaluation code (Zheng & Yang, IJCV 2021), both heads fused with 0.5 : 1.
    """
    logits = maths.at_least_float32(one.main)
    if one.auxiliary is not None:
        logits = logits + auxiliary_weight * maths.at_least_float32(one.auxiliary)
    return logits


def sum_by_size(passes: Sequence[Pass], auxiliary_weight: float) -> list[Tensor]:
    """Probability maps at network stride, one per size: equal sizes are summed, as upsampling is linear."""
    sums: dict[torch.Size, Tensor] = {}
    for one in passes:
        probability = maths.softmax(pass_logits(one.upright(), auxiliary_weight))
        size = probability.shape
        sums[size] = sums[size] + probability if size in sums else probability
    return list(sums.values())


def fused_probability(
    passes: Sequence[Pass],
    size: Size,
    *,
    auxiliary_weight: float = 0.5,
    upsampled: Upsampled = "probabilities",
    align_corners: bool = True,
) -> Tensor:
    """Sum of the passes' probabilities at (W, H) `size`, as `Protocol` says: (N, C, H, W) in [0, passes]."""
    bands = _bands(passes, size, auxiliary_weight, upsampled, align_corners)
    return torch.cat([band for _, band in bands], dim=2)


def fuse(
    passes: Sequence[Pass],
    size: Size,
    *,
    auxiliary_weight: float = 0.5,
    upsampled: Upsampled = "probabilities",
    align_corners: bool = True,
) -> tuple[Tensor, Tensor]:
    """Most probable class and its summed probability at (W, H) `size`.

    Equal to the maximum of `fused_probability` over classes, without ever holding that on the CPU: the sum is
    made, reduced and dropped for a band of rows at a time.

    Returns:
        (N, H, W) uint8 train ids and (N, H, W) summed probability in (0, len(passes)].
    """
    main, (width, height) = passes[0].main, size
    label = torch.empty((len(main), height, width), dtype=torch.uint8, device=main.device)
    confidence = torch.empty(label.shape, dtype=maths.at_least_float32(main[:0]).dtype, device=main.device)
    for rows, band in _bands(passes, size, auxiliary_weight, upsampled, align_corners):
        confidence[:, rows], best = band.max(dim=1)
        label[:, rows] = best.to(torch.uint8)
    return label, confidence


def _bands(
    passes: Sequence[Pass], size: Size, auxiliary_weight: float, upsampled: Upsampled, align_corners: bool
) -> Iterator[tuple[slice, Tensor]]:
    """Consecutive rows of the sum of all passes' probabilities: (rows, (N, C, number of rows, W))."""
    parts: list[Callable[[slice], Tensor]]
    if upsampled == "probabilities":
        maps = sum_by_size(passes, auxiliary_weight)
        parts = [partial(maths.upsampled_rows, values, size, align_corners=align_corners) for values in maps]
    else:
        twice = upsampled == "logits_twice"
        maps = [pass_logits(one, auxiliary_weight) for one in passes]
        parts = [
            partial(
                _probability_rows,
                values,
                size,
                through=one.input_size if twice else None,
                align_corners=align_corners,
                mirrored=one.flipped,
            )
            for values, one in zip(maps, passes, strict=True)
        ]
        assert not twice or all(one.input_size is not None for one in passes)
    per_row = maps[0].shape[0] * maps[0].shape[1] * size[0]
    for rows in maths.row_bands(size[1], per_row, maps[0].device):
        total = parts[0](rows)
        for part in parts[1:]:
            total += part(rows)
        yield rows, total


def _probability_rows(
    logits: Tensor,
    size: Size,
    rows: slice,
    *,
    through: Size | None,
    align_corners: bool,
    mirrored: bool,
) -> Tensor:
    """Rows of the softmax of the upsampled logits, mirrored back after it."""
    band = maths.softmax(
        maths.upsampled_rows(logits, size, rows, through=through, align_corners=align_corners)
    )
    return band.flip(-1) if mirrored else band


def labelling_uncertainty(passes: Sequence[Pass]) -> Tensor:
    """KL(main || auxiliary) of the first pass, divided by its maximum over the image: (N, h, w) in [0, 1].

    Source: the authors' released pseudo-label code (Zheng & Yang, IJCV 2021).
    """
    auxiliary, main = _two_heads(passes[0].upright())
    return _share_of_maximum(maths.kl_divergence(maths.log_softmax(main), maths.log_softmax(auxiliary)))


def evaluation_uncertainty(passes: Sequence[Pass]) -> Tensor:
    """log(1 + 10 KL(main || auxiliary)) of the heads summed over the passes of the first size, divided by its
    maximum over the image: (N, h, w) in [0, 1].

    Source: the authors' released evaluation code (Zheng & Yang, IJCV 2021).
    """
    same_size = [one.upright() for one in passes if one.main.shape == passes[0].main.shape]
    heads = [_two_heads(one) for one in same_size]
    auxiliary = torch.stack([auxiliary for auxiliary, _ in heads]).sum(0)
    main = torch.stack([main for _, main in heads]).sum(0)
    divergence = maths.kl_divergence(maths.log_softmax(main), maths.log_softmax(auxiliary))
    return _share_of_maximum(torch.log1p(10 * divergence))


def score_map(confidence: Tensor) -> Tensor:
    """1 - confidence / (maximum over the image): (N, H, W) in [0, 1), 0 at the surest pixel."""
    return 1 - _share_of_maximum(confidence)


def _two_heads(one: Pass) -> tuple[Tensor, Tensor]:
    if one.auxiliary is None:
        raise UserError("uncertainty maps compare two heads, but this network has one; leave them out")
    return maths.at_least_float32(one.auxiliary), maths.at_least_float32(one.main)


def _share_of_maximum(values: Tensor) -> Tensor:
    tiny = torch.finfo(values.dtype).tiny  # a map of zeros stays zero
    return values / values.amax(dim=(-2, -1), keepdim=True).clamp_min(tiny)


@contextlib.contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Inside, all modules are in eval mode without gradients; each module gets its own mode back."""
    training = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, was_training in training.items():
            module.training = was_training


class Predictor:
    """Label maps of single images by one network under one protocol.

    The network must be in eval mode (`evaluation_mode`). `prepare` works on the CPU, in any thread.
    With `keep_aspect` an image is scaled to the area of the protocol's base size, not squeezed into it.
    """

    def __init__(
        self,
        network: nn.Module,
        protocol: Protocol,
        *,
        device: torch.device,
        precision: Precision | None = None,
        keep_aspect: bool = False,
    ) -> None:
        self.network = network
        self.protocol = protocol
        self.device = device
        self.precision = precision
        self.keep_aspect = keep_aspect

    def prepare(self, image: np.ndarray) -> PreparedImage:
        """Resizes an (H, W, 3) uint8 RGB image to the protocol's input sizes."""
        height, width = image.shape[:2]
        inputs = [
            planar(resize_image(image, size, self.protocol.resampling))
            for size in self.protocol.input_sizes((width, height), keep_aspect=self.keep_aspect)
        ]
        return PreparedImage(tuple(inputs), (width, height))

    def predict(self, image: np.ndarray | PreparedImage, output_size: Size | None = None) -> Prediction:
        """Fused prediction of one image, at the protocol's output size, else `output_size`, else its own."""
        prepared = image if isinstance(image, PreparedImage) else self.prepare(image)
        with torch.inference_mode():
            passes = [one for scaled in prepared.inputs for one in self._forward(scaled)]
            label, confidence = fuse(
                passes,
                self.protocol.output_size or output_size or prepared.size,
                auxiliary_weight=self.protocol.auxiliary_weight,
                upsampled=self.protocol.upsampled,
                align_corners=self.protocol.align_corners,
            )
        return Prediction(label[0], confidence[0], tuple(passes))

    def _forward(self, image: Tensor) -> list[Pass]:
        """The passes of one input size; image and mirror image go through the network as one batch."""
        images = image[None].to(self.device)
        if self.protocol.flip:
            images = torch.cat([images, images.flip(-1)])
        heads = self._logits(images)
        size = (image.shape[2], image.shape[1])
        return [
            Pass(*(logits[i : i + 1] for logits in heads), flipped=i == 1, input_size=size)
            for i in range(len(images))
        ]

    def _logits(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits of each head, main first, for (N, 3, h, w): at network stride, or the mean over windows."""
        height, width = images.shape[-2:]
        windows = self.protocol.windows((width, height))
        if not windows:
            return self._run(images)
        sums: list[Tensor] = []
        count = torch.zeros((height, width), device=images.device)
        for rows, columns in windows:
            window = images[..., rows, columns]
            heads = [
                maths.upsample(
                    maths.at_least_float32(low),
                    tuple(window.shape[-2:]),
                    align_corners=self.protocol.align_corners,
                )
                for low in self._run(window)
            ]
            sums = sums or [head.new_zeros((*head.shape[:2], height, width)) for head in heads]
            for total, head in zip(sums, heads, strict=True):
                total[..., rows, columns] += head
            count[rows, columns] += 1
        return tuple(total.div_(count) for total in sums)

    def _run(self, images: Tensor) -> tuple[Tensor, ...]:
        """One forward: the logits of each head at network stride."""
        with contextlib.nullcontext() if self.precision is None else self.precision.autocast():
            output = self.network(images)
        heads = (output.logits, output.auxiliary_logits)
        return tuple(logits for logits in heads if logits is not None)


def prefetch(load: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    """`load(item)` for all items in order, made ahead by `workers` threads; 0: made when asked for.

    Threads are enough here: decoding and resizing release Python's lock.
    """
    if workers == 0:
        yield from map(load, items)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="prefetch")
    try:
        remaining = iter(items)
        waiting: list[Future[Result]] = [pool.submit(load, item) for item in islice(remaining, 2 * workers)]
        while waiting:
            result = waiting.pop(0).result()
            waiting += [pool.submit(load, item) for item in islice(remaining, 1)]
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


class ImageProgress:
    """Logs, on rank 0 and every few seconds, how many of its images are done, how fast, and the time left."""

    def __init__(self, what: str, images: int, *, every_s: float = 10.0) -> None:
        self.what = what
        self.images = images
        self.every_s = every_s
        self.done = 0
        self.start = self.spoken = time.monotonic()

    def advance(self) -> None:
        """One more image is done."""
        self.done += 1
        now = time.monotonic()
        if now - self.spoken < self.every_s and self.done < self.images:
            return
        self.spoken = now
        if distributed.is_main():
            logger.info("%s", self.line(now - self.start))

    def line(self, seconds: float) -> str:
        """For example "evaluation 120/500, 3.4 images/s, 0:01:51 left", after so many seconds."""
        rate = self.done * distributed.world_size() / max(seconds, 1e-9)
        left = (self.images - self.done) * seconds / max(self.done, 1)
        return f"{self.what} {self.done}/{self.images}, {rate:.2f} images/s, {format_duration(left)} left"
