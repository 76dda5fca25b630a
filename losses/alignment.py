"""MADA's soft alignment: the target batch's objective vector is pulled towards all anchors, most to the
nearest, which follows it by a moving average.

Source: Ning et al., ICCV 2021, and the authors' released code, from which come the weights with gradient and
the momentum. `tests/goldens/test_mada_soft_alignment.py` and `test_mada_anchor_ema.py` pin them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from utils.maths import at_least_float32

_SMALLEST_DISTANCE = 1e-12  # the released code divides by 0 where the vector is an anchor


def soft_alignment(vector: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Harmonic mean of the mean-square distances d_i to the V anchors, V / sum_i (1 / d_i).

    The published form is a mean of the d_i weighted with 1 / d_i. The weights are not detached there: of the
    gradient, d_i gets (V / (sum_j 1/d_j)^2) / d_i^2, not the weight's share. Absent classes, rows of zeros,
    count as any other row. Distances are at least 1e-12 in the mean, so that loss and gradient stay finite
    where the vector is an anchor. There is no operation here that autocast or TF32 would round, and the host
    waits for no device. Second derivatives are not available.

    Args:
        vector: (C, D), the only input with a gradient.
        anchors: (V, C, D).

    Returns:
        The loss without the method's weight, a scalar, and the (V,) distances without gradient; both in at
        least float32.
    """
    assert anchors.shape[1:] == vector.shape, (anchors.shape, vector.shape)
    return _HarmonicMeanDistance.apply(at_least_float32(vector), at_least_float32(anchors))


@torch.no_grad()
def updated_anchors(anchors: Tensor, vector: Tensor, distances: Tensor, *, momentum: float = 0.999) -> Tensor:
    """The anchors after the nearest one, the first of equals, moved towards the vector: a new (V, C, D).

    Absent classes are zeros in the vector and shrink that anchor's rows, as released.

    Args:
        anchors: (V, C, D); the result has their type.
        vector: (C, D).
        distances: (V,) from `soft_alignment`, before the update.
        momentum: share of the old anchor.
    """
    moved = momentum * anchors + (1 - momentum) * vector.to(anchors.dtype)
    nearest = torch.arange(len(anchors), device=anchors.device) == distances.argmin()
    return torch.where(nearest.view(-1, 1, 1), moved, anchors)


class _HarmonicMeanDistance(torch.autograd.Function):
    """Loss and distances; the gradient is computed with them, as it is a weighted sum of the differences."""

    @staticmethod
    def forward(ctx: Any, vector: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
        difference = (vector - anchors).flatten(1)  # (V, C * D)
        count, length = difference.shape
        distances = difference.square().mean(1)
        closeness = distances.clamp_min(_SMALLEST_DISTANCE).reciprocal_()
        loss = count / closeness.sum()
        weights = closeness.mul_(loss).square_().mul_(2 / (count * length))
        gradient = difference.mul_(weights.unsqueeze(1)).sum(0)
        ctx.save_for_backward(gradient.view_as(vector))
        ctx.mark_non_differentiable(distances)
        return loss, distances

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor, _: Any) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer, None
