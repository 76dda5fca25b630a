"""The losses written out plainly, one head at a time with torch's functions: what ours are tested against.

Logits are (N, C, H, W), labels (N, H, W) with 255 ignored, class weights (C,) or None for ones.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def pixel_loss(logits: Tensor, labels: Tensor, class_weight: Tensor | None = None) -> Tensor:
    """Weighted cross entropy per pixel, (N, H, W); 0 at 255."""
    return F.cross_entropy(logits, labels.long(), class_weight, ignore_index=255, reduction="none")


def kl_variance(logits: Tensor, other_logits: Tensor) -> Tensor:
    """KL(softmax(other) || softmax(logits)) per pixel, (N, H, W)."""
    own, other = F.log_softmax(logits, 1), F.log_softmax(other_logits, 1)
    return F.kl_div(own, other, reduction="none", log_target=True).sum(1)


def rectified_cross_entropy(
    logits: Tensor, other_logits: Tensor, labels: Tensor, class_weight: Tensor | None = None
) -> Tensor:
    """Rectified loss of one head."""
    variance = kl_variance(logits, other_logits)
    return (pixel_loss(logits, labels, class_weight) * torch.exp(-variance)).mean() + variance.mean()


def hard_pixel_labels(
    logits: Tensor, labels: Tensor, class_weight: Tensor | None, percentile: float
) -> tuple[Tensor, float]:
    """Int64 labels with 255 where the loss is below the percentile of all pixels, and that percentile."""
    loss = pixel_loss(logits, labels, class_weight).detach()
    threshold = float(np.percentile(loss.numpy(), percentile))
    return labels.long().masked_fill(loss < threshold, 255), threshold
