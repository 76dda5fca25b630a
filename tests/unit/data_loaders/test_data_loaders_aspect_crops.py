"""Fitted sizes and the crops that are taken; the reference's cases are in tests/goldens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_loaders.aspect_crops import AspectCropTransform, fitted_size, is_mixed

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


class CountingGenerator:
    """Takes the last place each time, mirrors if told to, and keeps what it was asked."""

    def __init__(self, chance: float = 1.0) -> None:
        self.chance = chance
        self.asked: list[tuple[int, int] | str] = []

    def random(self) -> float:
        """Decides about the mirror."""
        self.asked.append("mirror")
        return self.chance

    def integers(self, low: int, high: int, *, endpoint: bool) -> int:
        """The largest offset."""
        self.asked.append((low, high))
        return high if endpoint else high - 1


@given(
    size=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    limit=st.tuples(st.integers(1, 2000), st.integers(1, 2000)),
)
def test_a_fitted_image_reaches_a_limit_and_exceeds_none(
    size: tuple[int, int], limit: tuple[int, int]
) -> None:
    fitted = fitted_size(size, limit)
    assert min(fitted) >= 1
    assert max(fitted) <= max(limit)
    assert min(fitted) <= min(limit)
    assert max(fitted) == max(limit) or min(fitted) == min(limit)
    assert fitted_size(size, limit[::-1]) == fitted
    assert fitted_size(size[::-1], limit) == fitted[::-1]


def test_offsets_are_drawn_top_first_then_the_mirror() -> None:
    transform = AspectCropTransform(limit=(30, 20), crop=(8, 10))
    generator = CountingGenerator()
    image, label = transform(IMAGE, None, generator)
    assert generator.asked == [(0, 12), (0, 20), "mirror"]
    assert label is None
    np.testing.assert_array_equal(image, IMAGE[12:, 20:])


def test_image_and_label_are_mirrored_together() -> None:
    transform = AspectCropTransform(limit=(30, 20), crop=(8, 10))
    image, label = transform(IMAGE, IMAGE[..., 0], CountingGenerator(chance=0.4999))
    np.testing.assert_array_equal(image, IMAGE[12:, 20:][:, ::-1])
    np.testing.assert_array_equal(label, image[..., 0])
    image, _ = transform(IMAGE, None, CountingGenerator(chance=0.5))
    np.testing.assert_array_equal(image, IMAGE[12:, 20:])


def test_a_small_image_stays_small_but_takes_its_draws() -> None:
    transform = AspectCropTransform(limit=(30, 20), crop=(40, 10))
    generator = CountingGenerator()
    image, label = transform(IMAGE, np.zeros((20, 30), np.uint8), generator)
    assert generator.asked == [(0, 0), (0, 20), "mirror"]
    assert label is not None
    assert image.shape[:2] == label.shape == (20, 10)


def test_a_label_takes_the_size_of_the_resized_image() -> None:
    transform = AspectCropTransform(limit=(15, 10), crop=(4, 4))
    image, label = transform.prepare(IMAGE, np.zeros((40, 60), np.uint8))
    assert label is not None
    assert image.shape[:2] == label.shape == (10, 15)


@pytest.mark.parametrize("attempts", [1, 3, 11])
def test_the_last_attempt_is_taken_unchecked(attempts: int) -> None:
    transform = AspectCropTransform(
        limit=(30, 20), crop=(8, 10), largest_share=0.75, attempts=attempts, mirror=False
    )
    generator = CountingGenerator()
    transform.draw(IMAGE, np.zeros((20, 30), np.uint8), generator)
    assert generator.asked == [(0, 12), (0, 20)] * attempts


@pytest.mark.parametrize(
    ("values", "mixed"),
    [
        ([0, 0, 0, 1], False),  # exactly three quarters
        ([0, 0, 0, 1, 1], True),
        ([0, 0, 0, 0], False),
        ([0, 1, 255, 255, 255, 255, 255], True),  # ignored pixels do not count
        ([0, 255, 255], False),
        ([255, 255], False),
        ([254, 3], True),
    ],
)
def test_mixed_crops_have_no_class_with_the_share(values: list[int], mixed: bool) -> None:
    assert is_mixed(np.array([values], np.uint8), 0.75) is mixed
