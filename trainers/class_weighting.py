"""DWACA's difference from RIPU: a weight per class, from how well the present network segments it."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from selection.class_weights import class_weights
from utils.class_spaces import ClassSpace

logger = logging.getLogger(__name__)


def weights_from_scores(scores: Mapping[str, float], space: ClassSpace, *, source: str) -> tuple[float, ...]:
    """The weights of a round, one per class; the log says them.

    Args:
        scores: "val/iou/<class>" in percent, as an evaluation gives it; a class that is absent there, or NaN,
            counts as 0.
        space: the classes.
        source: which labels the scores come from, for the log.
    """
    percent = np.array([scores.get(f"val/iou/{name}", 0.0) for name in space.class_names])
    iou = (np.nan_to_num(percent, nan=0.0) / 100).astype(np.float32).astype(np.float64)  # as the reference
    weights = class_weights(iou)
    listed = zip(space.class_names, weights, iou, strict=True)
    logger.info(
        "class weights from %s (weight / IoU): %s",
        source,
        ", ".join(f"{name} {weight:.3g} / {100 * value:.1f}" for name, weight, value in listed),
    )
    dead = [name for name, value in zip(space.class_names, iou, strict=True) if value == 0]
    if 0 < len(dead) < len(iou):
        logger.warning(
            "IoU 0 of %s: they take weight 1, all other classes shrink to about 1e-5", ", ".join(dead)
        )
    return tuple(weights.tolist())
