"""Walls and fences along the street."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_loaders.demo_city.buildings import Facade
from data_loaders.demo_city.canvas import Canvas, Colour, tint
from data_loaders.demo_city.ids import Id
from data_loaders.demo_city.solids import cast_wall_shadow


@dataclass(frozen=True, slots=True)
class Barrier:
    """A short piece of wall (solid) or fence (bars that show what is behind) between z0 and z1.

    `sign` is the side of the street.
    """

    x: float
    z0: float
    z1: float
    sign: int
    height: float
    colour: Colour
    fence: bool
    spacing: float  # m between the bars of a fence or the joints of a wall

    @property
    def key(self) -> float:
        return self.z1 + abs(self.x)

    def shadow(self, canvas: Canvas) -> None:
        """The ground behind or before it."""
        strength = 110 if self.fence else 255
        cast_wall_shadow(canvas, self.x, self.z0, self.z1, self.height, strength)

    def draw(self, canvas: Canvas) -> None:
        """Paints it where it is far enough ahead."""
        if self.z0 < 2.0 or not canvas.in_view(self.x, self.z1, 1.0):
            return
        piece = Facade((self.x, 0.0, self.z0), (0.0, 0.0, 1.0), self.z1 - self.z0, self.height)
        if self.fence:
            self._draw_fence(canvas, piece)
        else:
            self._draw_wall(canvas, piece)

    def _draw_wall(self, canvas: Canvas, piece: Facade) -> None:
        shade = canvas.light.face(-float(self.sign), 0.0, 0.0)
        canvas.surface(piece.quad(0, piece.length, 0, self.height), tint(self.colour, shade), Id.WALL)
        rows = np.arange(self.spacing, self.height - 0.1, self.spacing)
        joint = tint(self.colour, 0.82 * shade)
        whole = np.full_like(rows, piece.length)
        canvas.paint_many(piece.quads(0 * rows, whole, rows, rows + 0.05), joint)
        canvas.paint(piece.quad(0, 0.3, 0, self.height), tint(self.colour, 0.9 * shade))
        canvas.paint(
            piece.quad(0, piece.length, self.height - 0.16, self.height), tint(self.colour, 1.2 * shade)
        )

    def _draw_fence(self, canvas: Canvas, piece: Facade) -> None:
        colour = tint(self.colour, canvas.light.face(-float(self.sign), 0.0, 0.0))
        canvas.mark(piece.quad(0, piece.length, 0, self.height), Id.FENCE)
        width = 0.045
        for y in (0.18, self.height - 0.1):
            canvas.paint(piece.quad(0, piece.length, y - 0.04, y + 0.05), colour)
        a = np.arange(0.0, piece.length, self.spacing)
        low = np.full_like(a, 0.05)
        canvas.paint_many(piece.quads(a, a + width, low, low + self.height - 0.05), colour)
        canvas.paint(piece.quad(0, 0.1, 0, self.height + 0.08), tint(colour, 0.8))
