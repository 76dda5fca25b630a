"""Negative learning: classes that the network already finds improbable are pushed further down."""

from __future__ import annotations

from torch import Tensor

from losses.reduction import global_mean_in_bands
from utils import maths

EPSILON = 1e-6  # inside the logarithm


def negative_learning(logits: Tensor, *, threshold: float = 0.05) -> Tensor:
    """Mean of -log(1 - p + 1e-6) over all (pixel, class) entries of all ranks with probability p < threshold.

    The choice of the entries receives no gradient. 0 with a zero gradient where there is none, as with 19
    equally probable classes and the published threshold.

    Args:
        logits: (N, C, H, W) at the size of the input, annotated or not.
        threshold: in (0, 1].

    Source: Xie et al., CVPR 2022 (RIPU), the authors' released code, which divides by zero where there is no
    such entry; `tests/goldens/test_ripu_losses.py` pins it.
    """

    def negative_log_rest(part: Tensor, rows: slice, inner: slice) -> tuple[Tensor, Tensor]:
        probability = maths.softmax(part)
        improbable = probability.detach() < threshold
        rest = (1 - probability).add_(EPSILON).masked_fill_(~improbable, 1)
        return -rest.log().sum(), improbable.sum()

    return global_mean_in_bands(logits, negative_log_rest)
