"""Online self-training: the teacher's pseudo labels, and the cross entropy that is divided by all pixels.

Labels are (N, H, W) uint8 or int64 train ids, 255 is ignored; logits (N, C, H, W) have the labels' size. All
ranks hold equally many pixels, so the mean of their losses is the loss of the global batch. Source: Hoyer et
al., CVPR 2022 (DAFormer), and the authors' released code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from losses.reduction import global_mean_in_bands
from losses.segmentation import label_cross_entropy
from utils import distributed, maths
from utils.class_spaces import IGNORE_LABEL


def pixel_cross_entropy(logits: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
    """Sum of weight * cross entropy over the number of all pixels, the ignored ones included; a scalar.

    So a batch with few labels has a small loss, and one without any 0 with a zero gradient. It is computed in
    at least float32, together with its gradient, which leaves no second derivatives.

    Args:
        logits: (N, C, H, W).
        labels: (N, H, W); pixels with label 255 cost 0.
        weight: (N, H, W) of any floating-point type; ones if None.
    """

    def term(part: Tensor, rows: slice, _: slice) -> tuple[Tensor, Tensor]:
        band = labels[:, rows]
        loss = label_cross_entropy(maths.log_softmax(part), band)
        if weight is not None:
            loss = loss * weight[:, rows].to(loss.dtype)
        return loss.sum(), part.new_full((), band.numel(), dtype=torch.int64)

    return global_mean_in_bands(logits, term)


@torch.no_grad()
def pixel_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Right pixels in percent of all pixels of this rank, the ignored ones included; a scalar."""
    right = largest_class(logits)[1] == labels
    return 100 * right.to(torch.promote_types(logits.dtype, torch.float32)).mean()


@dataclass(frozen=True, slots=True)
class TeacherLabels:
    """Pseudo labels of the target images and how much they count."""

    label: Tensor  # (N, H, W) uint8, the likeliest class everywhere
    weight: Tensor  # (N, H, W): the ratio, and 0 in the rows to ignore
    ratio: Tensor  # float64 scalar, share of confident pixels in the batch of all ranks
    confidence: Tensor  # (N, H, W), the likeliest class's probability


@torch.no_grad()
def teacher_labels(
    logits: Tensor,
    *,
    threshold: float,
    ignore_top: int,
    ignore_bottom: int,
    bonus: Tensor | None = None,
    content: Tensor | None = None,
) -> TeacherLabels:
    """The teacher's class of every pixel, all weighted by the share of confident pixels.

    No pixel is dropped for its own confidence. The share is taken over all rows of all ranks' images, also
    the rows to ignore. Padding is no part of an image: it is 255, has weight 0 and is not counted.

    Args:
        logits: (N, C, H, W) of the teacher at full size.
        threshold: a pixel is confident from this probability on.
        ignore_top: rows at the upper border that get weight 0; they may be more than the image has.
        ignore_bottom: rows at the lower border, likewise; 0: none.
        bonus: (N, C, H, W) added to the probabilities before the choice (Yao & Li's smoothing).
        content: (N, 2) rows and columns of each image that are no padding, which lies below and to the right;
            None: all.
    """
    count, _, height, width = logits.shape
    label = logits.new_empty((count, height, width), dtype=torch.uint8)
    confidence = torch.empty_like(label, dtype=torch.promote_types(logits.dtype, torch.float32))
    for rows in maths.row_bands(height, logits[:, :, 0].numel(), logits.device):
        probability = maths.softmax(logits[:, :, rows])
        if bonus is not None:
            probability = probability + bonus[:, :, rows].to(probability.dtype)
        confidence[:, rows], label[:, rows] = largest_class(probability)
    row = torch.arange(height, device=logits.device)
    inside = torch.ones_like(label[:1], dtype=torch.bool)
    below: Tensor | int = height  # first row under the image
    if content is not None:
        content = content.to(logits.device, non_blocking=True)
        below = content[:, :1]
        column = torch.arange(width, device=logits.device)
        inside = (row < below)[:, :, None] & (column < content[:, 1:])[:, None]
        label = label.masked_fill(~inside, IGNORE_LABEL)
    counts = torch.stack([((confidence >= threshold) & inside).sum(), inside.expand_as(label).sum()])
    confident, counted = distributed.all_reduce_sum(counts).to(torch.float64).unbind()
    ratio = confident / counted
    weighted = inside & ((row >= ignore_top) & (row < below - ignore_bottom)).view(-1, height, 1)
    weight = (ratio.to(confidence.dtype) * weighted).expand_as(confidence)
    return TeacherLabels(label, weight, ratio, confidence)


def largest_class(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Largest score over dimension 1 and its uint8 index, the lowest of equals (the last class for NaN).

    On a CPU it takes a third of the time of `Tensor.max(1)`, which does not use vector instructions.
    """
    classes = scores.shape[1]
    largest = scores.amax(1, keepdim=True)
    places_left = torch.arange(classes, 0, -1, dtype=torch.uint8, device=scores.device).view(1, -1, 1, 1)
    most_left = ((scores == largest) * places_left).amax(1)
    return largest.squeeze(1), classes - most_left.clamp_min(1)
