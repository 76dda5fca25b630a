"""Colour policies are drawn from the generator given."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from data_loaders.autoaugment import POLICIES, Operation, apply_policy, augment
from utils import seeding

IMAGE = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)


class CountingGenerator:
    """Draws from numpy and counts which policy is chosen."""

    def __init__(self, seed: int) -> None:
        self.generator = np.random.default_rng(seed)
        self.policies: Counter[int] = Counter()

    def random(self) -> float:
        return self.generator.random()

    def integers(self, low: int, high: int, *, endpoint: bool) -> int:
        value = int(self.generator.integers(low, high, endpoint=endpoint))
        if high == len(POLICIES) - 1:
            self.policies[value] += 1
        return value


def test_equal_draws_give_equal_pictures() -> None:
    first = augment(IMAGE, seeding.generator(0, "colour", 3))
    np.testing.assert_array_equal(augment(IMAGE, seeding.generator(0, "colour", 3)), first)
    assert first.shape == IMAGE.shape
    assert first.dtype == np.uint8


def test_every_policy_is_drawn_about_equally_often() -> None:
    generator = CountingGenerator(0)
    for _ in range(60 * len(POLICIES)):
        augment(IMAGE[:2, :2], generator)
    assert set(generator.policies) == set(range(len(POLICIES)))
    assert min(generator.policies.values()) > 30


@pytest.mark.parametrize(("probability", "changed"), [(0.0, 0), (0.25, 100), (1.0, 400)])
def test_an_operation_is_applied_with_its_probability(probability: float, changed: int) -> None:
    invert = Operation(probability, "invert", 0)
    never = Operation(0.0, "invert", 0)
    picture = Image.fromarray(IMAGE[:1, :1])
    generator = np.random.default_rng(0)
    results = [np.asarray(apply_policy(picture, (invert, never), generator))[0, 0, 0] for _ in range(400)]
    assert abs(sum(value != IMAGE[0, 0, 0] for value in results) - changed) <= 30


def test_both_signs_of_a_colour_change_occur() -> None:
    saturate = (Operation(1.0, "color", 9), Operation(0.0, "invert", 0))
    generator = np.random.default_rng(0)
    pictures = {apply_policy(Image.fromarray(IMAGE), saturate, generator).tobytes() for _ in range(20)}
    assert len(pictures) == 2
