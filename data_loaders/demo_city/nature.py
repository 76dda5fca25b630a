"""Trees, bushes and hedges, built of shaded blobs of leaves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_loaders.demo_city.canvas import Canvas, Colour, tint
from data_loaders.demo_city.ids import Id
from data_loaders.demo_city.solids import cast_wall_shadow

_OVAL = np.stack([np.cos(np.arange(10) * (np.pi / 5)), np.sin(np.arange(10) * (np.pi / 5))], axis=1)


def draw_leaves(
    canvas: Canvas,
    centres: np.ndarray,
    radii: np.ndarray,
    heights: np.ndarray,
    colour: Colour,
    *,
    depth: float,
) -> None:
    """Paints blobs of leaves from dark to bright.

    Args:
        centres: (K, 3) m.
        radii: (K,) m.
        heights: (K,) in [-1, 1], how much a blob looks towards the sun.
    """
    order = np.argsort(heights)
    centres, radii, heights = centres[order], radii[order], heights[order]
    scale = radii * canvas.camera.focal / centres[:, 2]
    pixels = canvas.camera.project(centres)[:, None] + _OVAL * scale[:, None, None]
    light = canvas.light
    brightness = light.ambient * 0.9 + light.diffuse * (0.45 + 0.45 * heights) + 0.16 * heights
    colours = [tint(colour, factor) for factor in brightness.tolist()]
    canvas.blobs(pixels, colours, Id.VEGETATION, depth=depth)


@dataclass(frozen=True, slots=True)
class Tree:
    """A trunk and a round crown."""

    x: float
    z: float
    height: float  # m to the top
    radius: float  # m of the crown
    colour: Colour
    seed: int

    @property
    def key(self) -> float:
        return self.z + abs(self.x)

    def shadow(self, canvas: Canvas) -> None:
        """A round spot where the shadow of the crown falls."""
        dx, dz = canvas.light.shadow_offset(self.height - self.radius)
        spot = np.zeros((10, 3))
        spot[:, 0] = self.x + dx + self.radius * _OVAL[:, 0]
        spot[:, 2] = self.z + dz + self.radius * _OVAL[:, 1]
        canvas.cast(spot)

    def draw(self, canvas: Canvas) -> None:
        """Paints trunk, then crown."""
        if not canvas.in_view(self.x, self.z, self.radius) or self.z < 3.0:
            return
        rng = np.random.default_rng(self.seed)
        trunk = tint((92.0, 76.0, 60.0), canvas.light.face(0.0, 0.0, -1.0))
        crown = self.height - 0.9 * self.radius
        canvas.bar(
            (self.x, 0, self.z), (self.x, crown, self.z), 0.16 + 0.03 * self.height, trunk, Id.VEGETATION
        )
        count = int(np.clip(5 * canvas.scale(self.z) * self.radius / 2, 9, 34))
        angle, reach = rng.uniform(0, 2 * np.pi, count), np.sqrt(rng.uniform(0, 1, count)) * 0.8
        offsets = np.stack([reach * np.cos(angle), reach * np.sin(angle) * 0.85, np.zeros(count)], axis=1)
        facing = 0.7 * (offsets[:, 0] * np.sign(canvas.light.sun[0]) * 0.5 + offsets[:, 1]) + rng.uniform(
            -0.35, 0.35, count
        )
        centres = np.array([self.x, crown, self.z]) + offsets * self.radius
        radii = self.radius * rng.uniform(0.2, 0.42, count)
        draw_leaves(canvas, centres, radii, np.clip(facing, -1, 1), self.colour, depth=self.z)


@dataclass(frozen=True, slots=True)
class Hedge:
    """A row of bushes along the street between z0 and z1."""

    x: float
    z0: float
    z1: float
    height: float
    colour: Colour
    seed: int

    @property
    def key(self) -> float:
        return self.z1 + abs(self.x)

    def shadow(self, canvas: Canvas) -> None:
        """Darkens a narrow strip."""
        cast_wall_shadow(canvas, self.x, self.z0, self.z1, self.height)

    def draw(self, canvas: Canvas) -> None:
        """Paints the row from far to near."""
        rng = np.random.default_rng(self.seed)
        step = 0.7 * self.height
        for z in np.arange(max(self.z1, 4.0), max(self.z0, 4.0), -step):
            if not canvas.in_view(self.x, float(z), self.height):
                continue
            count = 5 if canvas.scale(float(z)) > 6 else 2
            offsets = rng.uniform(-0.5, 0.5, (count, 3)) * [1.0, 0.7, 0.0]
            centres = np.array([self.x, 0.5 * self.height, float(z)]) + offsets * self.height
            radii = self.height * rng.uniform(0.3, 0.5, count)
            facing = np.clip(1.4 * offsets[:, 1] + rng.uniform(-0.3, 0.3, count), -1, 1)
            draw_leaves(canvas, centres, radii, facing, self.colour, depth=float(z))
