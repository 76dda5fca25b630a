"""Resizing images and label maps exactly as Pillow or OpenCV does, but only as much of them as a crop keeps.

Which library resizes is part of a method's recipe, as their pixels differ: Pillow widens its filter when it
shrinks (antialiasing), OpenCV does not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image

_PILLOW_FILTERS = {"pillow_bicubic": Image.Resampling.BICUBIC, "pillow_bilinear": Image.Resampling.BILINEAR}
_FILTER_RADIUS = 2  # source pixels at scale 1 that the widest of these filters (bicubic) reaches
RESAMPLINGS = (*_PILLOW_FILTERS, "opencv_bilinear")


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of pixels inside a resized image."""

    top: int
    left: int
    height: int
    width: int


def resize_image(
    image: np.ndarray, size: tuple[int, int], resampling: str, window: Window | None = None
) -> np.ndarray:
    """The `window` (None: everything) of an image resized to `size`: the bits of resizing, then cropping.

    Args:
        image: (H, W, 3) uint8.
        size: (width, height) of the whole resized image.
        resampling: one of RESAMPLINGS.
        window: inside the resized image.

    Returns:
        (height, width, 3) uint8; the image itself where nothing changes, else possibly a read-only array.
    """
    if (image.shape[1], image.shape[0]) == size:
        return image if window is None else _crop(image, window)
    if resampling == "opencv_bilinear":
        resized = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        return resized if window is None else _crop(resized, window)
    if window is not None and _rows_are_resized_first(image, size):
        return _resize_window_with_pillow(image, size, _PILLOW_FILTERS[resampling], window)
    resized = np.asarray(Image.fromarray(image).resize(size, _PILLOW_FILTERS[resampling]))
    return resized if window is None else _crop(resized, window)


def resize_label(
    label: np.ndarray, size: tuple[int, int], resampling: str, window: Window | None = None
) -> np.ndarray:
    """The `window` of a label map resized to `size` by the nearest neighbour of the image's library.

    Args:
        label: (H, W) uint8; its size need not be that of the image.
        size: (width, height) of the whole resized map.
        resampling: one of RESAMPLINGS; Pillow and OpenCV pick different neighbours.
        window: inside the resized map; None: everything.
    """
    if (label.shape[1], label.shape[0]) == size:
        return label if window is None else _crop(label, window)
    window = window or Window(0, 0, size[1], size[0])
    library = resampling.partition("_")[0]
    rows = nearest_indices(label.shape[0], size[1], library)[window.top : window.top + window.height]
    columns = nearest_indices(label.shape[1], size[0], library)[window.left : window.left + window.width]
    return label.take(rows, axis=0).take(columns, axis=1)


@lru_cache(maxsize=512)
def nearest_indices(length: int, new_length: int, library: str) -> np.ndarray:
    """(new_length,) source positions of a nearest-neighbour resize, asked of "pillow" or "opencv" itself."""
    positions = np.arange(length, dtype=np.float32)[None]  # exact up to 2**24
    if library == "pillow":
        picked = np.asarray(Image.fromarray(positions).resize((new_length, 1), Image.Resampling.NEAREST))
    else:
        picked = cv2.resize(positions, (new_length, 1), interpolation=cv2.INTER_NEAREST)
    return picked[0].astype(np.intp)


def _crop(array: np.ndarray, window: Window) -> np.ndarray:
    return array[window.top : window.top + window.height, window.left : window.left + window.width]


def _rows_are_resized_first(image: np.ndarray, size: tuple[int, int]) -> bool:
    """Whether every Pillow makes all rows shorter before it reduces their number.

    From version 13 on the order is the other one where the height loses more than twice what the width does.
    """
    return image.shape[0] - size[1] <= max(0, 2 * (image.shape[1] - size[0]))


def _resize_window_with_pillow(
    image: np.ndarray, size: tuple[int, int], pillow_filter: Image.Resampling, window: Window
) -> np.ndarray:
    """Resizes only the rows and columns that the window needs.

    Pillow changes the length of all rows, rounds to bytes, then changes their number. So the first pass may
    leave out rows, and the second columns, without changing a bit. (Its `box` is float32: that changes some.)
    """
    height, (new_width, new_height) = image.shape[0], size
    scale = height / new_height
    reach = _FILTER_RADIUS * max(scale, 1.0) + 1
    first = max(0, math.floor(window.top * scale - reach))
    last = min(height, math.ceil((window.top + window.height) * scale + reach))
    strip = Image.fromarray(image[first:last]).resize((new_width, last - first), pillow_filter)
    columns = strip.crop(
        (window.left, -first, window.left + window.width, height - first)
    )  # black where not needed
    resized = columns.resize((window.width, new_height), pillow_filter)
    return np.asarray(resized.crop((0, window.top, window.width, window.top + window.height)))
