"""Weight of each class in DWACA's acquisition score, from how well the network segments it now."""

from __future__ import annotations

import numpy as np

_EPS = 1e-6


def class_weights(iou: np.ndarray) -> np.ndarray:
    """Inverse share of each class in the summed IoU, scaled so that the worst class has weight 1.

    The best class gets about 1e-8. All classes alike, also all zero, get exactly 1, and DWACA then scores as
    RIPU does. One class with IoU 0 leaves all others about 1e-5 or less.

    Args:
        iou: (C,) IoU per class as fractions in [0, 1]; an absent class counts as 0.

    Returns:
        (C,) float64 in (0, 1].

    Raises:
        ValueError: not a vector of finite numbers in [0, 1], for example percent.

    Source: the authors' released scoring code (Guan and Yuan, DWACA); `tests/goldens/test_dwaca_weights.py`.
    """
    iou = np.asarray(iou, dtype=np.float64)
    if iou.ndim != 1 or not len(iou):
        raise ValueError(f"class weights need one IoU per class, got an array of shape {iou.shape}")
    if not (np.isfinite(iou).all() and iou.min() >= 0 and iou.max() <= 1):
        raise ValueError(f"class weights need IoU fractions in [0, 1], got {iou.tolist()}")
    inverse = 1 / (iou / (iou.sum() + _EPS) + _EPS)
    lowest, highest = inverse.min(), inverse.max()
    return (inverse - lowest + _EPS) / (highest - lowest + _EPS)
