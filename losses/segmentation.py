"""Cross entropy on labels, weighted by class, over all pixels or over the hardest ones.

Logits are (N, C, H, W) at label resolution. Labels are (N, H, W) uint8 or int64 train ids; 255 is ignored.
On several ranks the mean of the returned losses is the loss of the global batch, and so are the averaged
gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from losses.reduction import global_ratio
from utils import distributed, maths
from utils.class_spaces import IGNORE_LABEL


def pixel_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of each pixel in nats, (N, H, W); 0, without gradient, where the label is 255.

    Unlike torch's own it has a deterministic form on CUDA (`torch.use_deterministic_algorithms`).
    """
    return label_cross_entropy(maths.log_softmax(logits), labels)


def label_cross_entropy(log_probability: Tensor, labels: Tensor) -> Tensor:
    """`pixel_cross_entropy` for callers that already hold the log-probabilities (N, C, H, W)."""
    index = labels.to(torch.int64)
    ignored = index == IGNORE_LABEL
    chosen = log_probability.gather(1, index.masked_fill(ignored, 0).unsqueeze(1)).squeeze(1)
    return -chosen.masked_fill(ignored, 0)


def pixel_weight(labels: Tensor, class_weight: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Class weight of each pixel, (N, H, W) of type `dtype`; 0 at label 255. None stands for ones."""
    if class_weight is None:
        return (labels != IGNORE_LABEL).to(dtype)
    table = F.pad(class_weight.to(dtype), (0, IGNORE_LABEL + 1 - len(class_weight)))
    return table[labels.to(torch.int64)]


def weighted_cross_entropy(logits: Tensor, labels: Tensor, class_weight: Tensor | None = None) -> Tensor:
    """sum(w ce) / sum(w) over the labelled pixels of all ranks; 0 with a zero gradient if there is none.

    Source: Zheng & Yang, IJCAI 2020, Eq. 1 (with the class weights of the authors' released code, which gives
    NaN when every pixel is ignored).
    """
    pixel_loss = pixel_cross_entropy(logits, labels)
    weight = pixel_weight(labels, class_weight, pixel_loss.dtype)
    return global_ratio((pixel_loss * weight).sum(), weight.sum())


@dataclass(frozen=True, slots=True)
class HardPixelLoss:
    """Loss on the hardest pixels, the threshold that chose them, and the labels that are left."""

    loss: Tensor  # scalar
    threshold: Tensor  # scalar, weighted cross entropy
    labels: Tensor  # (N, H, W) int64, 255 where the pixel was not chosen


def hard_pixel_cross_entropy(
    logits: Tensor, labels: Tensor, class_weight: Tensor | None, percentile: float
) -> HardPixelLoss:
    """`weighted_cross_entropy` on the pixels whose weighted loss reaches the percentile over all ranks.

    The percentile is taken over all pixels, the ignored ones as zeros: 80 keeps the hardest 20 % of all
    pixels, or every labelled pixel if fewer than that are labelled. Ties at the threshold are kept, as only
    smaller losses go. No gradient flows through the choice.

    Source: the authors' released code of Zheng & Yang, IJCAI 2020 (the paper does not mention it);
    `tests/goldens/test_mrnet_hard_label.py` pins it.
    """
    pixel_loss = pixel_cross_entropy(logits, labels)
    weight = pixel_weight(labels, class_weight, pixel_loss.dtype)
    weighted = pixel_loss * weight
    threshold = hard_label_threshold(weighted, percentile)
    easy = weighted.detach() < threshold
    loss = global_ratio(weighted.masked_fill(easy, 0).sum(), weight.masked_fill(easy, 0).sum())
    return HardPixelLoss(loss, threshold, labels.to(torch.int64).masked_fill(easy, IGNORE_LABEL))


@torch.no_grad()
def hard_label_threshold(pixel_loss: Tensor, percentile: float) -> Tensor:
    """Percentile of the pixel losses of all ranks, linear between neighbours in the sorted order.

    Args:
        pixel_loss: this rank's losses, any shape.
        percentile: in [0, 100]; the place in the sorted order is (number of values - 1) * percentile / 100.

    Returns:
        A scalar tensor on the same device and of the same type; nothing is copied to the host.
    """
    values = distributed.all_gather_equal(pixel_loss.detach().reshape(-1))
    last = values.numel() - 1
    place = last * percentile / 100
    low = min(int(place), last)
    if (
        values.device.type == "cpu"
    ):  # numpy selects one place ten times faster than torch.kthvalue, or than two
        values.numpy().partition(low)
        above = values[min(low + 1, last) :].min()
    else:
        values = values.sort().values
        above = values[min(low + 1, last)]
    return torch.lerp(values[low], above, place - low)
