"""MADA's objective vectors: the mean feature of each class of an image, and of a batch.

Source: Ning et al., ICCV 2021, and the authors' released code, from which come the 10 pixels, the scaled
gradient and the last image of a batch. `tests/goldens/test_mada_objective_vectors.py` pins them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.class_balance import class_counts
from losses.self_training import largest_class
from utils import distributed
from utils.maths import at_least_float32
from utils.precision import exact_float32

BatchRule = Literal["last", "mean"]


@dataclass(frozen=True, slots=True)
class ObjectiveVectors:
    """Mean features of the classes of N images."""

    vectors: Tensor  # (N, C, D) in at least float32, 0 for an absent class
    present: Tensor  # (N, C) bool
    counts: Tensor  # (N, C) int64, pixels that count, also of absent classes


@torch.no_grad()
def predicted_classes(logits: Tensor) -> Tensor:
    """The likeliest class of every pixel, the lowest of equals: (N, C, h, w) logits give (N, h, w) uint8."""
    return largest_class(logits)[1]


def nearest_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels on the grid of the features: (N, H, W) uint8 or int64 give (N, h, w) uint8 for `size` = (h, w).

    Row i is row floor(i * H / h) of the labels, and columns likewise. The quotient is rounded as in torch's
    nearest interpolation, which the released code uses: at stride 4 or 8 that changes nothing.
    """
    return F.interpolate(labels.to(torch.uint8).unsqueeze(1), size=size, mode="nearest").squeeze(1)


def class_means_of(
    features: Tensor,
    logits: Tensor,
    labels: Tensor | None,
    *,
    min_pixels: int = 10,
    rescale: bool = True,
) -> ObjectiveVectors:
    """Mean feature of each class over the pixels that are predicted and labelled as that class.

    A class is present in an image from `min_pixels` such pixels on; otherwise its vector is 0 and has no
    gradient. All classes of all images are one batched matrix product, and the host waits for no device.
    Computed without autocast and without TF32. The choice of pixels has no gradient.

    Args:
        features: (N, D, h, w), what the network's last 1x1 convolution is given.
        logits: (N, C, h, w), C at most 255.
        labels: (N, h, w) uint8 or int64, ids outside [0, C) match no class; None: the prediction itself, as
            for target images.
        min_pixels: of a class that is present.
        rescale: multiply the gradient of a class with n pixels by 2 n / (h w), as released: a feature then
            gets 2 / (h w) of its class's gradient instead of 1 / n, whatever the size of the class. Values
            are the same.
    """
    assert features.shape[2:] == logits.shape[2:], (features.shape, logits.shape)
    num_classes, pixels = logits.shape[1], logits[0, 0].numel()
    classes = predicted_classes(logits)
    if labels is not None:
        assert labels.shape == classes.shape, (labels.shape, classes.shape)
        classes = classes.where(labels == classes, num_classes)
    counts = torch.stack([class_counts(image, num_classes) for image in classes])
    present = counts >= min_pixels
    with torch.autocast(features.device.type, enabled=False), exact_float32():
        flat = at_least_float32(features).flatten(2)
        sums = _ClassSums.apply(flat, classes.flatten(1), num_classes)
        means = (sums / counts.clamp_min(1).unsqueeze(2)).masked_fill(~present.unsqueeze(2), 0)
        if rescale:
            means = _with_scaled_gradient(means, 2 / pixels * counts.unsqueeze(2).to(means.dtype))
    return ObjectiveVectors(means, present, counts)


def batch_vector(vectors: Tensor, present: Tensor, *, rule: BatchRule = "last") -> Tensor:
    """One vector for the images of all ranks, in rank order: (C, D), 0 for a class that no image has.

    Collective, and the same on every rank. Only the own images get a gradient, times the number of ranks:
    where every rank computes the same loss of the result, DDP's average is the gradient of that loss.

    Args:
        vectors: (N, C, D) of this rank's images, N alike on all ranks.
        present: (N, C) bool.
        rule: "last": a class is that of the last image which has it, as released; "mean": the mean over the
            images which have it, each counting alike.
    """
    assert rule in ("last", "mean"), rule
    everywhere = distributed.all_gather_equal(present)  # (ranks * N, C)
    share = _last_of(everywhere) if rule == "last" else _equal_shares(everywhere, vectors.dtype)
    first = distributed.rank() * len(vectors)
    own_share = share[first : first + len(vectors)].to(vectors.dtype)
    own = (own_share.unsqueeze(2) * vectors).sum(0)
    return _with_scaled_gradient(own, distributed.world_size(), value=distributed.all_reduce_sum(own))


def _last_of(present: Tensor) -> Tensor:
    """(M, C) bool: the last image that has the class."""
    later = present.long().flip(0).cumsum(0).flip(0)  # images with the class from this one on
    return present & (later == 1)


def _equal_shares(present: Tensor, dtype: torch.dtype) -> Tensor:
    """(M, C): 1 / number of images that have the class, for each of these."""
    return present.to(dtype) / present.sum(0).clamp_min(1)


def _with_scaled_gradient(x: Tensor, factor: Tensor | float, *, value: Tensor | None = None) -> Tensor:
    """`x`, or another `value`, with the gradient of `x` times a factor."""
    constant = x.detach()
    return (constant if value is None else value) + factor * (x - constant)


class _ClassSums(torch.autograd.Function):
    """Sums of (N, D, P) features over the pixels of each class: (N, C, D).

    The gradient is looked up by class instead of multiplied: exact whatever the precision of matrix products
    during backward is, and only the classes are kept for it.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, classes: Tensor, num_classes: int) -> Tensor:
        """`classes` are (N, P) uint8; pixels with id C belong to none."""
        ctx.save_for_backward(classes)
        ids = torch.arange(num_classes, dtype=classes.dtype, device=classes.device)
        one_hot = (classes.unsqueeze(1) == ids.unsqueeze(1)).to(features.dtype)  # (N, C, P)
        return one_hot @ features.mT

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (classes,) = ctx.saved_tensors
        by_class = F.pad(gradient.mT, (0, 1))  # (N, D, C + 1), the last for pixels of no class
        index = classes.long().unsqueeze(1).expand(-1, by_class.shape[1], -1)
        return by_class.gather(2, index), None, None
