"""Local consistency: near the boundaries of the labels, each prediction resembles those around it."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from losses.reduction import global_mean_in_bands
from utils import maths
from utils.class_spaces import IGNORE_LABEL

EPSILON = 1e-6  # in the quotient and inside the logarithm of the divergence
WINDOW = 9  # pixels in the 3 x 3 neighbourhood

Discrepancy = Literal["l1", "kl"]


def local_consistency(logits: Tensor, labels: Tensor, *, kind: Discrepancy = "l1") -> Tensor:
    """Mean distance of the probabilities q from their 3 x 3 mean m, over the boundary pixels of all ranks.

    Per pixel "l1" is sum_c |q_c - m_c|, and "kl" sum_c q_c log(q_c / (m_c + 1e-6) + 1e-6). Beyond the image
    border the outermost probabilities are repeated. Gradients flow through q and m. 0 with a zero gradient
    where no rank has a boundary pixel.

    Args:
        logits: (N, C, H, W) at label resolution.
        labels: (N, H, W) uint8 or int64; `boundary_mask` says which pixels count.
        kind: the distance.

    Source: Xie et al., CVPR 2022 (RIPU). The restriction to boundaries is the authors' released code's, the
    paper has all pixels; `tests/goldens/test_ripu_losses.py` pins it.
    """
    distance = {"l1": _l1, "kl": _kl}[kind]
    boundary = boundary_mask(labels)

    def distance_at_boundaries(part: Tensor, rows: slice, inner: slice) -> tuple[Tensor, Tensor]:
        probability = maths.softmax(part)
        mean = _WindowMean.apply(probability)
        distances = distance(probability[:, :, inner], mean[:, :, inner])
        counted = boundary[:, rows]
        return distances.masked_fill(~counted, 0).sum(), counted.sum()

    return global_mean_in_bands(logits, distance_at_boundaries, halo=1)


def boundary_mask(labels: Tensor) -> Tensor:
    """(N, H, W) bool: labels but 255 whose number, times 8, is not the sum of their 8 neighbours' numbers.

    The numbers are what is compared, with zeros outside the image and 255 as a number. So at the border of
    the image every label but 0 is a boundary, and so is whatever lies beside ignored pixels; neighbours that
    cancel (3, 4, 5 in a row) are none.

    Args:
        labels: (N, H, W) uint8 or int64 in [0, 255].

    Source: the authors' released code of Xie et al., CVPR 2022.
    """
    number = labels.to(torch.int16)  # the largest sum is 9 * 255
    total = _sum_of_three(_sum_of_three(number, dim=1), dim=2)
    return (total != WINDOW * number) & (labels != IGNORE_LABEL)


def _l1(probability: Tensor, mean: Tensor) -> Tensor:
    return (probability - mean).abs().sum(1)


def _kl(probability: Tensor, mean: Tensor) -> Tensor:
    return (probability * (probability / (mean + EPSILON) + EPSILON).log()).sum(1)


class _WindowMean(torch.autograd.Function):
    """3 x 3 mean of (N, C, H, W) with the border repeated; a symmetric operator, so its own gradient.

    Unlike torch's pooling it is vectorised on the CPU, and unlike torch's replicate padding its backward is
    deterministic on a GPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        rows = _sum_of_three(x, dim=2, repeat_border=True)
        return _sum_of_three(rows, dim=3, repeat_border=True).div_(WINDOW)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _WindowMean.apply(gradient)


def _sum_of_three(x: Tensor, *, dim: int, repeat_border: bool = False) -> Tensor:
    """Each value plus its two neighbours along `dim`; outside lie zeros, or the outermost values again."""
    last = x.shape[dim] - 1
    total = x.clone(memory_format=torch.contiguous_format)
    total.narrow(dim, 1, last).add_(x.narrow(dim, 0, last))
    total.narrow(dim, 0, last).add_(x.narrow(dim, 1, last))
    if repeat_border:
        for place in (0, last):
            total.narrow(dim, place, 1).add_(x.narrow(dim, place, 1))
    return total
