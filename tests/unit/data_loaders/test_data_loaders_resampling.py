"""Resizing only a window gives the very pixels of resizing everything."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_loaders.resampling import RESAMPLINGS, Window, nearest_indices, resize_image, resize_label

FILTERS = {"pillow_bicubic": Image.Resampling.BICUBIC, "pillow_bilinear": Image.Resampling.BILINEAR}
side = st.integers(1, 90)


def plain_resize(image: np.ndarray, size: tuple[int, int], resampling: str) -> np.ndarray:
    """What the originals do."""
    if resampling == "opencv_bilinear":
        return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    return np.asarray(Image.fromarray(image).resize(size, FILTERS[resampling]))


@pytest.mark.parametrize("resampling", RESAMPLINGS)
@settings(deadline=None, max_examples=60)
@given(height=side, width=side, new_height=side, new_width=side, data=st.data())
def test_a_window_equals_the_crop_of_the_whole(
    resampling: str, height: int, width: int, new_height: int, new_width: int, data: st.DataObject
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    top, left = data.draw(st.integers(0, new_height - 1)), data.draw(st.integers(0, new_width - 1))
    window = Window(
        top, left, data.draw(st.integers(1, new_height - top)), data.draw(st.integers(1, new_width - left))
    )
    whole = plain_resize(image, (new_width, new_height), resampling)
    inside = (slice(top, top + window.height), slice(left, left + window.width))

    np.testing.assert_array_equal(resize_image(image, (new_width, new_height), resampling), whole)
    np.testing.assert_array_equal(
        resize_image(image, (new_width, new_height), resampling, window), whole[inside]
    )


@settings(deadline=None, max_examples=60)
@given(height=side, width=side, new_height=side, new_width=side)
def test_labels_take_the_neighbours_of_the_library(
    height: int, width: int, new_height: int, new_width: int
) -> None:
    label = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    size = (new_width, new_height)
    by_pillow = np.asarray(Image.fromarray(label).resize(size, Image.Resampling.NEAREST))
    by_opencv = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(resize_label(label, size, "pillow_bicubic"), by_pillow)
    np.testing.assert_array_equal(resize_label(label, size, "opencv_bilinear"), by_opencv)


def test_a_label_window_equals_the_crop_of_the_whole() -> None:
    label = np.random.default_rng(0).integers(0, 256, (31, 47), dtype=np.uint8)
    whole = resize_label(label, (40, 20), "pillow_bicubic")
    window = resize_label(label, (40, 20), "pillow_bicubic", Window(3, 5, 11, 13))
    np.testing.assert_array_equal(window, whole[3:14, 5:18])


def test_ties_of_the_nearest_neighbour_follow_pillow_at_published_sizes() -> None:
    exact = np.floor((np.arange(1280) + 0.5) * 2048 / 1280).astype(np.intp)
    assert (nearest_indices(2048, 1280, "pillow") != exact).sum() == 133  # accumulated, not multiplied


def test_an_image_of_the_right_size_is_not_copied() -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    assert resize_image(image, (6, 4), "pillow_bicubic") is image


@pytest.mark.parametrize(("new_height", "new_width"), [(40, 60), (35, 60), (12, 50), (70, 20), (44, 66)])
def test_a_window_follows_the_order_of_pillows_passes(new_height: int, new_width: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 66, 3), dtype=np.uint8)
    whole = plain_resize(image, (new_width, new_height), "pillow_bicubic")
    window = resize_image(image, (new_width, new_height), "pillow_bicubic", Window(2, 3, 9, 13))
    np.testing.assert_array_equal(window, whole[2:11, 3:16])
