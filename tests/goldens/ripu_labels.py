"""The label maps that RIPU's loss and training goldens are computed on."""

from __future__ import annotations

import numpy as np

from utils.class_spaces import IGNORE_LABEL

CELL = 4  # pixels: side of the cells of "blocks"
CONSTANT = {"zeros": 0, "ones": 1, "ignore": IGNORE_LABEL}
IGNORED_SHARE = {"blocks": 0.15, "noise": 0.2}
SPARSE_SHARE = 0.03  # of "sparse" is labelled


def drawn_labels(kind: str, seed: int | None, shape: tuple[int, int, int], num_classes: int) -> np.ndarray:
    """(N, H, W) int64 labels of a kind: blocks, noise, sparse, zeros, ones, ignore, ramp."""
    count, height, width = shape
    if kind in CONSTANT:
        return np.full(shape, CONSTANT[kind], np.int64)
    if kind == "ramp":
        return np.broadcast_to(np.arange(width) % num_classes, shape).copy()
    rng = np.random.default_rng(seed)
    cell = CELL if kind == "blocks" else 1
    labels = rng.integers(0, num_classes, (count, -(-height // cell), -(-width // cell)))
    chance = rng.random(labels.shape)
    labels[chance > SPARSE_SHARE if kind == "sparse" else chance < IGNORED_SHARE[kind]] = IGNORE_LABEL
    return labels.repeat(cell, axis=1).repeat(cell, axis=2)[:, :height, :width]
