"""Houses along the street: facades with windows, doors, shops, and roofs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_loaders.demo_city.canvas import Canvas, Colour, tint
from data_loaders.demo_city.ids import Id
from data_loaders.demo_city.solids import cast_wall_shadow

FLOOR = 3.1  # m
_GROUND_FLOOR = 3.7  # m
Point = tuple[float, float, float]

_GLASS = (74.0, 88.0, 104.0)
_BRIGHT_GLASS = (150.0, 168.0, 184.0)


@dataclass(frozen=True, slots=True)
class Facade:
    """An upright rectangle from `start` along the horizontal unit vector `along`, seen from the outside."""

    start: Point
    along: Point
    length: float
    height: float

    def quads(self, a0: np.ndarray, a1: np.ndarray, y0: np.ndarray, y1: np.ndarray) -> np.ndarray:
        """(K, 4, 3) rectangles on the facade, a in metres along it and y above the ground."""
        quads = np.empty((len(a0), 4, 3))
        for axis in (0, 2):
            quads[:, ::3, axis] = (self.start[axis] + a0 * self.along[axis])[:, None]
            quads[:, 1:3, axis] = (self.start[axis] + a1 * self.along[axis])[:, None]
        quads[:, :2, 1] = y0[:, None]
        quads[:, 2:, 1] = y1[:, None]
        return quads

    def quad(self, a0: float, a1: float, y0: float, y1: float) -> np.ndarray:
        """(4, 3) one rectangle on the facade."""
        (x, _, z), (dx, _, dz) = self.start, self.along
        near, far = (x + a0 * dx, z + a0 * dz), (x + a1 * dx, z + a1 * dz)
        corners = [(near[0], y0, near[1]), (far[0], y0, far[1]), (far[0], y1, far[1]), (near[0], y1, near[1])]
        return np.array(corners)


@dataclass(frozen=True, slots=True)
class Building:
    """A house whose front stands at x between z0 and z1; `sign` is the side of the street."""

    x: float
    z0: float
    z1: float
    sign: int
    floors: int
    colour: Colour
    roof: Colour
    style: int  # 0 plain, 1 framed windows, 2 window bands, 3 balconies
    shop: Colour | None  # colour of the shop sign, None: a house door instead
    seed: int  # which windows are bright

    @property
    def key(self) -> float:
        """Painter's order: far first."""
        return self.z1 + abs(self.x)

    @property
    def height(self) -> float:
        return _GROUND_FLOOR + FLOOR * (self.floors - 1) + 0.5

    def shadow(self, canvas: Canvas) -> None:
        """The house keeps the sun off the ground."""
        cast_wall_shadow(canvas, self.x, self.z0, self.z1, self.height)

    def draw(self, canvas: Canvas) -> None:
        """Paints the near side wall, the roof and the street front."""
        if not canvas.in_view(self.x, self.z1, 12.0):
            return
        depth = 12.0
        rng = np.random.default_rng(self.seed)
        gable = Facade((self.x, 0.0, self.z0), (float(self.sign), 0.0, 0.0), depth, self.height)
        self._draw_facade(canvas, gable, canvas.light.face(0.0, 0.0, -1.0), rng, front=False)
        self._draw_roof(canvas)
        length = self.z1 - self.z0
        front = Facade((self.x, 0.0, self.z0), (0.0, 0.0, 1.0), length, self.height)
        self._draw_facade(canvas, front, canvas.light.face(-self.sign, 0.0, 0.0), rng, front=True)

    def _draw_roof(self, canvas: Canvas) -> None:
        back = self.x + self.sign * 4.0
        top = self.height + 3.0
        roof = [
            [self.x, self.height, self.z0],
            [self.x, self.height, self.z1],
            [back, top, self.z1],
            [back, top, self.z0],
        ]
        canvas.surface(
            np.array(roof), tint(self.roof, canvas.light.face(-0.6 * self.sign, 0.8, 0.0)), Id.BUILDING
        )
        gable = [
            [self.x, self.height, self.z0],
            [back, top, self.z0],
            [back + self.sign * 4.0, self.height, self.z0],
        ]
        shade = canvas.light.face(0.0, 0.0, -1.0)
        canvas.surface(np.array(gable), tint(self.colour, 0.95 * shade), Id.BUILDING)

    def _draw_facade(
        self, canvas: Canvas, facade: Facade, shade: float, rng: np.random.Generator, *, front: bool
    ) -> None:
        canvas.surface(facade.quad(0, facade.length, 0, facade.height), tint(self.colour, shade), Id.BUILDING)
        canvas.paint(facade.quad(0, facade.length, 0, 0.5), tint(self.colour, 0.72 * shade))
        ledge = facade.quad(0, facade.length, facade.height - 0.45, facade.height)
        canvas.paint(ledge, tint(self.colour, 1.16 * shade))
        if canvas.scale(self.z0) < (1.8 if front else 4.0):
            return
        self._draw_windows(canvas, facade, shade, rng)
        if front:
            self._draw_ground_floor(canvas, facade, shade, rng)

    def _draw_windows(self, canvas: Canvas, facade: Facade, shade: float, rng: np.random.Generator) -> None:
        bays = max(int(facade.length / 2.6), 1)
        if self.floors < 2:
            return
        pitch = facade.length / bays
        half = pitch * (0.46 if self.style == 2 else 0.25)
        centre = (np.arange(bays) + 0.5) * pitch
        sill = _GROUND_FLOOR + FLOOR * np.arange(self.floors - 1) + 0.75
        a, y = (grid.ravel() for grid in np.meshgrid(centre, sill))
        if self.style in (1, 3) and canvas.scale(self.z0) > 4:
            frames = facade.quads(a - half - 0.14, a + half + 0.14, y - 0.14, y + 1.74)
            canvas.paint_many(frames, tint(self.colour, 1.3 * shade))
        panes = facade.quads(a - half, a + half, y, y + 1.6)
        bright = rng.random(len(panes)) < 0.3
        canvas.paint_many(panes[~bright], tint(_GLASS, 0.5 + 0.5 * shade))
        canvas.paint_many(panes[bright], tint(_BRIGHT_GLASS, 0.5 + 0.5 * shade))
        if canvas.scale(self.z0) > 9:
            bars = facade.quads(a - 0.05, a + 0.05, y, y + 1.6)
            canvas.paint_many(bars, tint(self.colour, 1.15 * shade))
        if self.style == 3 and canvas.scale(self.z0) > 4:
            rails = facade.quads(a - half - 0.3, a + half + 0.3, y - 0.5, y + 0.35)
            canvas.paint_many(rails[::2], tint(self.roof, 0.9 * shade))

    def _draw_ground_floor(
        self, canvas: Canvas, facade: Facade, shade: float, rng: np.random.Generator
    ) -> None:
        if self.shop is not None:
            windows = max(int(facade.length / 3.5), 1)
            pitch = facade.length / windows
            start = np.arange(windows) * pitch
            low = np.full(windows, 0.5)
            canvas.paint_many(
                facade.quads(start + 0.3, start + pitch - 0.3, low, low + 2.1),
                tint(_GLASS, 0.4 + 0.5 * shade),
            )
            lit = facade.quads(start + 0.6, start + 0.45 * pitch, low + 0.4, low + 1.5)
            canvas.paint_many(lit, tint((196.0, 178.0, 140.0), 0.4 + 0.4 * shade))
            canvas.paint(facade.quad(0.2, facade.length - 0.2, 2.8, 3.4), tint(self.shop, shade))
            return
        door = rng.uniform(0.2, 0.8) * facade.length
        canvas.paint(facade.quad(door - 0.75, door + 0.75, 0, 2.6), tint(self.colour, 1.2 * shade))
        canvas.paint(facade.quad(door - 0.55, door + 0.55, 0, 2.3), tint(self.roof, 0.7 * shade))
        a = np.arange(1.2, facade.length - 1.0, 2.6)
        a = a[np.abs(a - door) > 1.6]
        y = np.full_like(a, 1.0)
        canvas.paint_many(facade.quads(a - 0.6, a + 0.6, y, y + 1.5), tint(_GLASS, 0.5 + 0.5 * shade))


@dataclass(frozen=True, slots=True)
class EndBuilding:
    """A house that closes the street: its front looks at the camera."""

    x0: float
    x1: float
    z: float
    height: float
    colour: Colour

    @property
    def key(self) -> float:
        """Behind everything else."""
        return self.z + 1000.0

    def shadow(self, canvas: Canvas) -> None:
        """Too far away to matter."""

    def draw(self, canvas: Canvas) -> None:
        """Paints the front and its rows of windows."""
        facade = Facade((self.x0, 0.0, self.z), (1.0, 0.0, 0.0), self.x1 - self.x0, self.height)
        shade = canvas.light.face(0.0, 0.0, -1.0)
        canvas.surface(facade.quad(0, facade.length, 0, self.height), tint(self.colour, shade), Id.BUILDING)
        a, y = np.meshgrid(np.arange(2.0, facade.length - 1.5, 3.0), np.arange(1.2, self.height - 2.0, FLOOR))
        if a.size:
            a, y = a.ravel(), y.ravel()
            canvas.paint_many(facade.quads(a - 0.7, a + 0.7, y, y + 1.6), tint(_GLASS, 0.5 + 0.5 * shade))
