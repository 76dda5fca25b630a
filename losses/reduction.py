"""How a loss over pixels becomes one number: over all ranks, and on the CPU band by band of rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from utils import distributed, maths

BandTerm = Callable[[Tensor, slice, slice], tuple[Tensor, Tensor]]


def global_ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """This rank's numerator over the mean of all ranks' denominators; 0 if those are all 0.

    The mean of the results over ranks is the sum of all numerators over the sum of all denominators.
    """
    total = distributed.all_reduce_sum(denominator.detach())
    return numerator * distributed.world_size() / torch.where(total > 0, total, torch.ones_like(total))


def global_mean_in_bands(logits: Tensor, term: BandTerm, *, halo: int = 0) -> Tensor:
    """`global_ratio` of a sum and a count over bands of rows, which keeps only the gradient for backward.

    The gradient is computed together with the value, so the intermediate maps of a band (probabilities,
    logarithms, masks) are gone before the next one, and stay in the cache on a CPU. A GPU takes one band.
    Second derivatives are not available.

    Args:
        logits: (N, C, H, W).
        term: called with (part, rows, inner), gives a sum with gradient and an int64 count, both scalars.
            `rows` of the image are its own; they lie at the rows `inner` of `part` (N, C, h, W), which has up
            to `halo` more rows of logits on either side.
        halo: rows around a band on which its pixels depend; fewer are given at the border of the image.
    """
    wants_gradient = logits.requires_grad and torch.is_grad_enabled()
    return global_ratio(*_SumInBands.apply(logits, term, halo, wants_gradient))


class _SumInBands(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, term: BandTerm, halo: int, wants_gradient: bool
    ) -> tuple[Tensor, Tensor]:
        images, classes, height, width = logits.shape
        total = logits.new_zeros((), dtype=torch.promote_types(logits.dtype, torch.float32))
        count = logits.new_zeros((), dtype=torch.int64)
        gradient = torch.zeros_like(logits) if wants_gradient else None
        for rows in maths.row_bands(height, images * classes * width, logits.device):
            first, last = max(0, rows.start - halo), min(height, rows.stop + halo)
            part = logits[:, :, first:last].detach().requires_grad_(wants_gradient)
            with torch.set_grad_enabled(wants_gradient):
                value, counted = term(part, rows, slice(rows.start - first, rows.stop - first))
            if wants_gradient:
                gradient[:, :, first:last] += torch.autograd.grad(value, part)[0]
            total += value.detach()
            count += counted
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(count)
        return total, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor, _: Any) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer, None, None, None
