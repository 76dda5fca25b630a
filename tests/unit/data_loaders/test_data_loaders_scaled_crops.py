"""MADA's training transform: draws, sizes and pixels against plain Pillow; goldens are in tests/goldens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_loaders.scaled_crops import ScaledCropTransform

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
LABEL = np.random.default_rng(1).integers(0, 19, (40, 60), dtype=np.uint8)


class Recorder:
    """Gives fixed draws and keeps what was asked."""

    def __init__(self, scale: float = 0.5, chance: float = 0.9, integer: str = "low") -> None:
        self.uniforms = iter((scale, chance))
        self.integer = integer
        self.asked: list[str | tuple[int, int]] = []

    def random(self) -> float:
        """The scale at first, then what decides about the mirror."""
        self.asked.append("random")
        return next(self.uniforms)

    def integers(self, low: int, high: int, *, endpoint: bool) -> int:
        """One of the bounds."""
        assert endpoint
        self.asked.append((low, high))
        return low if self.integer == "low" else high


def plain(
    image: np.ndarray, size: tuple[int, int], scaled: tuple[int, int], inside: tuple[slice, slice] | None
) -> np.ndarray:
    """Image or label resized as a whole with Pillow, twice, then cropped."""
    kind = Image.Resampling.BILINEAR if image.ndim == 3 else Image.Resampling.NEAREST
    resized = np.asarray(Image.fromarray(image).resize(size, kind).resize(scaled, kind))
    return resized if inside is None else resized[inside]


def test_draws_come_in_the_order_scale_left_top_mirror() -> None:
    transform = ScaledCropTransform(size=(60, 40), crop=(20, 30), scaled_width=80)
    generator = Recorder(scale=0.5)  # once the width: 80 x 53
    image, label = transform(IMAGE, LABEL, generator)
    assert generator.asked == ["random", (0, 80 - 30), (0, 53 - 20), "random"]
    assert label is not None
    assert (image.shape, label.shape) == ((20, 30, 3), (20, 30))


@settings(deadline=None, max_examples=60)
@given(
    scale=st.floats(0, 1, exclude_max=True),
    size=st.tuples(st.integers(20, 70), st.integers(20, 70)),
    integer=st.sampled_from(("low", "high")),
)
def test_pixels_are_those_of_resizing_twice_and_cropping(
    scale: float, size: tuple[int, int], integer: str
) -> None:
    crop = (6, 9)
    image, label = ScaledCropTransform(size=size, crop=crop, scaled_width=80)(
        IMAGE, LABEL[:33], Recorder(scale, integer=integer)
    )
    width = int((0.5 + scale) * 80)
    scaled = (width, int(width / (size[0] / size[1])))
    top, left = (0, 0) if integer == "low" else (scaled[1] - crop[0], scaled[0] - crop[1])
    inside = (slice(top, top + crop[0]), slice(left, left + crop[1]))
    np.testing.assert_array_equal(image, plain(IMAGE, size, scaled, inside))
    np.testing.assert_array_equal(label, plain(LABEL[:33], size, scaled, inside))


@pytest.mark.parametrize("crop", [(11, 3), (3, 21), (30, 30)])
def test_an_image_smaller_than_the_crop_in_one_direction_is_resized_once_more(crop: tuple[int, int]) -> None:
    transform = ScaledCropTransform(size=(60, 30), crop=crop, scaled_width=40, mirror=1.0)
    generator = Recorder(scale=0.0)  # half the width: 20 x 10
    image, label = transform(IMAGE, LABEL, generator)
    assert generator.asked == ["random", "random"]
    for ours, given_array in ((image, IMAGE), (label, LABEL)):
        half = plain(given_array, (60, 30), (20, 10), None)
        np.testing.assert_array_equal(ours[:, ::-1], plain(half, (20, 10), crop[::-1], None))


def test_a_crop_of_the_scaled_images_size_is_the_whole() -> None:
    generator = Recorder(scale=0.0)
    image, _ = ScaledCropTransform(size=(60, 30), crop=(10, 20), scaled_width=40)(IMAGE, None, generator)
    assert generator.asked == ["random", (0, 0), (0, 0), "random"]
    np.testing.assert_array_equal(image, plain(IMAGE, (60, 30), (20, 10), None))


@pytest.mark.parametrize(
    ("mirror", "chance", "mirrored"),
    [(0.5, 0.49, True), (0.5, 0.5, False), (0.0, 0.0, False), (1.0, 0.99, True), (0.2, 0.3, False)],
)
def test_image_and_label_are_mirrored_together(mirror: float, chance: float, mirrored: bool) -> None:
    transform = ScaledCropTransform(size=(60, 40), crop=(40, 60), scaled_width=60, mirror=mirror)
    image, label = transform(IMAGE, LABEL, Recorder(scale=0.5, chance=chance))
    step = -1 if mirrored else 1
    np.testing.assert_array_equal(image, IMAGE[:, ::step])
    np.testing.assert_array_equal(label, LABEL[:, ::step])


def test_an_unlabelled_image_is_drawn_alike() -> None:
    transform = ScaledCropTransform(size=(60, 40), crop=(20, 30), scaled_width=80)
    labelled, unlabelled = (transform(IMAGE, label, Recorder(0.7, 0.1, "high")) for label in (LABEL, None))
    assert unlabelled[1] is None
    np.testing.assert_array_equal(labelled[0], unlabelled[0])


def test_published_sizes_always_hold_the_crop() -> None:
    transform = ScaledCropTransform(size=(192, 105), crop=(51, 90), scaled_width=220)  # a tenth of them
    generator = Recorder(scale=0.0)
    transform(IMAGE, None, generator)
    assert generator.asked == ["random", (0, 110 - 90), (0, 60 - 51), "random"]
