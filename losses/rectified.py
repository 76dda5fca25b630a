"""Rectified pseudo-label loss: each pixel counts as far as the two heads agree on it.

Source: Zheng & Yang, IJCV 2021, Eq. 6-8. As in the authors' released code, and unlike the paper, the cross
entropy carries the class weights without being divided by their sum, and each head measures KL(other head ||
itself). `tests/goldens/test_mrnet_losses.py` pins both.
"""

from __future__ import annotations

from torch import Tensor

from losses.segmentation import label_cross_entropy, pixel_weight
from utils import maths


def rectified_losses(
    auxiliary: Tensor, main: Tensor, labels: Tensor, class_weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Losses of the auxiliary and of the main head, each mean(w ce exp(-V)) + mean(V) over all pixels.

    V is the head's disagreement with the other one, KL(softmax(other) || softmax(own)) in nats per pixel.
    Nothing is detached: both heads receive gradients from either loss. One log-softmax per head serves both.

    Args:
        auxiliary: (N, C, H, W) logits.
        main: (N, C, H, W) logits.
        labels: (N, H, W) uint8 or int64. At 255 the cross entropy is 0, but V still counts: the heads are
            taught to agree there, and a batch without any label has a finite loss.
        class_weight: (C,) or None for ones.

    Every rank must hold equally many pixels; then the mean over ranks is the loss of the global batch.
    """
    log_auxiliary, log_main = maths.log_softmax(auxiliary), maths.log_softmax(main)
    difference = log_main - log_auxiliary
    auxiliary_variance = (log_main.exp() * difference).sum(1)  # KL(main || auxiliary)
    main_variance = -(log_auxiliary.exp() * difference).sum(1)  # KL(auxiliary || main)
    return (
        _rectified(log_auxiliary, auxiliary_variance, labels, class_weight),
        _rectified(log_main, main_variance, labels, class_weight),
    )


def _rectified(
    log_probability: Tensor, variance: Tensor, labels: Tensor, class_weight: Tensor | None
) -> Tensor:
    pixel_loss = label_cross_entropy(log_probability, labels)
    weight = pixel_weight(labels, class_weight, pixel_loss.dtype)
    return (weight * pixel_loss * (-variance).exp()).mean() + variance.mean()
