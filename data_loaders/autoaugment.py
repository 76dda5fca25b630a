"""Colour augmentation by the AutoAugment policies that MRNet keeps: those without rotation and shear.

Source: Cubuk et al., CVPR 2019 (ImageNet policies, strengths on a scale of 0 to 9), in the selection of the
code released with Zheng & Yang, IJCV 2021; some policies occur twice there, which doubles their probability.
`tests/goldens/test_mrnet_autoaugment.py` pins table and pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

LEVELS = 9  # strengths run from 0 to 9


class RandomSource(Protocol):
    """What transforms draw from: numpy's Generator, or recorded draws."""

    def random(self) -> float:
        """Uniform in [0, 1)."""
        ...

    def integers(self, low: int, high: int, *, endpoint: bool) -> int:
        """Uniform in [low, high], both included; always called with endpoint=True."""
        ...


@dataclass(frozen=True, slots=True)
class Operation:
    """One colour operation of a policy."""

    probability: float
    name: str
    level: int

    @property
    def magnitude(self) -> float:
        """What the level means: a threshold, a number of bits, a factor's distance from 1; else 0."""
        if self.name == "solarize":
            return 256 - 256 / LEVELS * self.level
        if self.name == "posterize":
            return float(round(8 - 4 / LEVELS * self.level))
        return 0.9 / LEVELS * self.level if self.name in _ENHANCERS else 0.0

    def apply(self, image: Image.Image, sign: int) -> Image.Image:
        """The changed image; `sign` (-1 or 1) is the direction of colour, contrast and sharpness."""
        if self.name in _ENHANCERS:
            return _ENHANCERS[self.name](image).enhance(1 + sign * self.magnitude)
        return _OPERATIONS[self.name](image, self.magnitude)


_ENHANCERS: dict[str, Callable[[Image.Image], ImageEnhance._Enhance]] = {
    "color": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "sharpness": ImageEnhance.Sharpness,
}
_OPERATIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "invert": lambda image, _: ImageOps.invert(image),
    "posterize": lambda image, bits: ImageOps.posterize(image, int(bits)),
    "solarize": lambda image, threshold: ImageOps.solarize(image, threshold),
}

Policy = tuple[Operation, Operation]
POLICIES: tuple[Policy, ...] = (
    (Operation(0.6, "solarize", 5), Operation(0.6, "autocontrast", 5)),
    (Operation(0.8, "equalize", 8), Operation(0.6, "equalize", 3)),
    (Operation(0.6, "posterize", 7), Operation(0.6, "posterize", 6)),
    (Operation(0.4, "equalize", 7), Operation(0.2, "solarize", 4)),
    (Operation(0.6, "solarize", 3), Operation(0.6, "equalize", 7)),
    (Operation(0.8, "posterize", 5), Operation(1.0, "equalize", 2)),
    (Operation(0.6, "equalize", 8), Operation(0.4, "posterize", 6)),
    (Operation(0.0, "equalize", 7), Operation(0.8, "equalize", 8)),
    (Operation(0.6, "invert", 4), Operation(1.0, "equalize", 8)),
    (Operation(0.6, "color", 4), Operation(1.0, "contrast", 8)),
    (Operation(0.8, "color", 8), Operation(0.8, "solarize", 7)),
    (Operation(0.4, "sharpness", 7), Operation(0.6, "invert", 8)),
    (Operation(0.4, "color", 0), Operation(0.6, "equalize", 3)),
    (Operation(0.4, "equalize", 7), Operation(0.2, "solarize", 4)),
    (Operation(0.6, "solarize", 5), Operation(0.6, "autocontrast", 5)),
    (Operation(0.6, "invert", 4), Operation(1.0, "equalize", 8)),
    (Operation(0.6, "color", 4), Operation(1.0, "contrast", 8)),
    (Operation(0.8, "equalize", 8), Operation(0.6, "equalize", 3)),
)


def augment(image: np.ndarray, generator: RandomSource) -> np.ndarray:
    """The (H, W, 3) uint8 image under one policy, drawn uniformly."""
    policy = POLICIES[int(generator.integers(0, len(POLICIES) - 1, endpoint=True))]
    return np.asarray(apply_policy(Image.fromarray(image), policy, generator))


def apply_policy(image: Image.Image, policy: Policy, generator: RandomSource) -> Image.Image:
    """Both operations in turn, each with its own probability; a random sign is drawn as 0 (minus) or 1."""
    for operation in policy:
        if generator.random() < operation.probability:
            signed = operation.name in _ENHANCERS
            sign = 2 * int(generator.integers(0, 1, endpoint=True)) - 1 if signed else 1
            image = operation.apply(image, sign)
    return image
