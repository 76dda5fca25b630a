"""What the layout modules share: the interface of a thing in the street, and random choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np

from data_loaders.demo_city.canvas import Canvas, Colour
from data_loaders.demo_city.looks import Range

Item = TypeVar("Item")


class Thing(Protocol):
    """Something that stands or moves on the ground."""

    @property
    def key(self) -> float:
        """Painter's order: things with a large key are painted first."""

    def shadow(self, canvas: Canvas) -> None:
        """Darkens the shadow buffer where this keeps the sun away."""

    def draw(self, canvas: Canvas) -> None:
        """Paints it."""


def pick(rng: np.random.Generator, choices: Sequence[Item]) -> Item:
    """One of the choices."""
    return choices[int(rng.integers(len(choices)))]


def within(rng: np.random.Generator, limits: Range) -> float:
    """Uniform between the limits."""
    return float(rng.uniform(*limits))


def vary(rng: np.random.Generator, colour: Colour, spread: float = 0.08) -> Colour:
    """The colour with brightness and hue a little off."""
    gain = 1 + rng.normal(0, spread) + rng.normal(0, 0.4 * spread, 3)
    red, green, blue = np.clip(np.asarray(colour) * gain, 0, 255)
    return float(red), float(green), float(blue)


def seed(rng: np.random.Generator) -> int:
    """A seed for the details of one thing."""
    return int(rng.integers(2**31))
