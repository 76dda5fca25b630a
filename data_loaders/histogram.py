"""How often each value occurs in a map of bytes."""

from __future__ import annotations

import cv2
import numpy as np

from utils.class_spaces import TABLE_SIZE

_EXACT = 2**24  # OpenCV gives counts as float32
_PARTS = 4


def value_counts(values: np.ndarray) -> np.ndarray:
    """(256,) int64 pixels per value of an (H, W) uint8 map, which may be a view.

    Takes a sixth of the time of `np.bincount`, which makes int64 of every pixel first, and a tenth of
    `np.unique`.
    """
    if values.size >= _EXACT:
        return np.bincount(values.ravel(), minlength=TABLE_SIZE)
    rows = values.shape[0] // _PARTS
    counts = _histogram(values[rows * _PARTS :])
    if rows:
        # Neighbours mostly are of one class, and counting a value again waits for its last count to be
        # stored; pixels of distant rows in turn take half the time.
        parts = [values[part * rows : (part + 1) * rows] for part in range(_PARTS)]
        counts += _histogram(cv2.merge(parts).reshape(rows, -1))
    return counts


def _histogram(values: np.ndarray) -> np.ndarray:
    if not values.size:
        return np.zeros(TABLE_SIZE, np.int64)
    counts = cv2.calcHist([values], [0], None, [TABLE_SIZE], [0, TABLE_SIZE])
    return counts.ravel().astype(np.int64)  # (256, 1) or (256,), by OpenCV's version
