"""DAFormer's feature distance: things keep the features that the backbone had before training.

Source: Hoyer et al., CVPR 2022, section 3.3, and the authors' released code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from losses.reduction import global_ratio
from utils.class_spaces import IGNORE_LABEL
from utils.maths import at_least_float32

_ROUNDING = 32  # units in the last place of the reference's norm


def feature_distance(features: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """Mean Euclidean distance over the mask's positions on all ranks; a scalar.

    0 with a zero gradient when the mask is empty. Both are 0 too where the two differ by no more than
    rounding: before the first update that is everywhere, and the gradient would be a unit vector of noise.

    Args:
        features: (N, C, h, w).
        reference: the same shape, without gradient.
        mask: (N, h, w) bool.
    """
    reference = at_least_float32(reference.detach())
    distance = torch.linalg.vector_norm(at_least_float32(features) - reference, dim=1)
    rounding = _ROUNDING * torch.finfo(distance.dtype).eps * torch.linalg.vector_norm(reference, dim=1)
    distance = torch.where(distance > rounding, distance, torch.zeros_like(distance))
    return global_ratio(distance.masked_fill(~mask, 0).sum(), mask.sum())


def feature_mask(
    labels: Tensor,
    features_size: tuple[int, int],
    *,
    classes: Sequence[int],
    num_classes: int,
    min_share: float = 0.75,
) -> Tensor:
    """Where features belong clearly to one of the classes: (N, h, w) bool.

    Args:
        labels: (N, H, W) uint8 or int64 train ids, 255 is ignored.
        features_size: (h, w), which divides the labels as in `downscaled_labels`.
        classes: train ids that count.
        num_classes: C.
        min_share: of a cell's pixels, as in `downscaled_labels`.
    """
    majority = downscaled_labels(labels, features_size, num_classes=num_classes, min_share=min_share)
    mask = torch.zeros_like(majority, dtype=torch.bool)
    for train_id in classes:  # a few small kernels, and nothing that is copied from the host
        mask |= majority == train_id
    return mask


def downscaled_labels(labels: Tensor, size: tuple[int, int], *, num_classes: int, min_share: float) -> Tensor:
    """Class of each of the `size` = (h, w) cells that divide the labels: (N, h, w) int64.

    255 where the largest share is below `min_share`, or where the ignored pixels, which count as one more
    class, have it. The lowest id wins a tie.

    Cells are W // w pixels wide and high as in the released code, and pixels beyond the last one are left
    out; where such cells do not give this size, they are H / h by W / w pixels.

    Args:
        labels: (N, H, W) uint8 or int64 train ids, 255 is ignored.
        size: (h, w).
        num_classes: C.
        min_share: in [0, 1]; exactly so much is enough.
    """
    scale = labels.shape[2] // size[1]
    if scale and (labels.shape[1] // scale, labels.shape[2] // scale) == tuple(size):
        labels = labels[:, : size[0] * scale, : size[1] * scale]
    images, height, width = labels.shape
    rows, columns = (
        torch.arange(length, device=labels.device) * cells // length
        for length, cells in zip((height, width), size, strict=True)
    )
    image = torch.arange(images, device=labels.device).view(-1, 1, 1)
    cell = (image * size[0] + rows.view(-1, 1)) * size[1] + columns  # (N, H, W)
    bins = num_classes + 1  # the last one for ignored pixels
    index = (cell * bins + labels.to(torch.int64).clamp_max(num_classes)).reshape(-1)
    counts = index.new_zeros(images * size[0] * size[1] * bins, dtype=torch.int32)
    counts.scatter_add_(0, index, counts.new_ones(()).expand_as(index))
    counts = counts.view(images, *size, bins)
    largest, majority = counts.max(-1)  # the first of equals
    clear = largest.to(torch.float64) / counts.sum(-1) >= min_share
    return torch.where(clear & (majority < num_classes), majority, IGNORE_LABEL)
