"""Street furniture: lamp posts, traffic lights, signs, bins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_loaders.demo_city.canvas import Canvas, Colour, tint
from data_loaders.demo_city.ids import Id
from data_loaders.demo_city.solids import Pose, cast_body_shadow, draw_prism

_WHITE = (238.0, 238.0, 234.0)
_RED = (200.0, 30.0, 36.0)
_BLUE = (30.0, 86.0, 176.0)
_YELLOW = (240.0, 196.0, 40.0)
_LAMPS = ((226.0, 40.0, 36.0), (244.0, 178.0, 40.0), (60.0, 214.0, 120.0))


def _post(canvas: Canvas, x: float, z: float, height: float, width: float, colour: Colour) -> None:
    lit = tint(colour, canvas.light.face(-0.5, 0.0, -1.0))
    canvas.bar((x, 0, z), (x, height, z), width, lit, Id.POLE)


@dataclass(frozen=True, slots=True)
class LampPost:
    """A street lamp whose arm reaches `arm` m over the road (signed)."""

    x: float
    z: float
    height: float
    arm: float
    colour: Colour

    @property
    def key(self) -> float:
        return self.z + abs(self.x)

    def shadow(self, canvas: Canvas) -> None:
        cast_body_shadow(canvas, Pose(self.x, self.z, 0.0), 0.05, 0.05, self.height)

    def draw(self, canvas: Canvas) -> None:
        """Paints post, arm and lamp."""
        if not canvas.in_view(self.x, self.z, abs(self.arm) + 0.5) or self.z < 3.0:
            return
        _post(canvas, self.x, self.z, self.height, 0.19, self.colour)
        lit = tint(self.colour, canvas.light.ambient)
        end = self.x + self.arm
        canvas.bar((self.x, self.height, self.z), (end, self.height + 0.35, self.z), 0.11, lit, Id.POLE)
        canvas.bar(
            (end - 0.35, self.height + 0.33, self.z),
            (end + 0.35, self.height + 0.33, self.z),
            0.18,
            lit,
            Id.POLE,
        )


@dataclass(frozen=True, slots=True)
class TrafficLight:
    """Signal heads on a post, and one more over the road when `arm` (signed, m) is not 0."""

    x: float
    z: float
    arm: float
    lit: int  # 0 red, 1 amber, 2 green
    colour: Colour

    @property
    def key(self) -> float:
        return self.z + abs(self.x) - 0.5

    def shadow(self, canvas: Canvas) -> None:
        cast_body_shadow(canvas, Pose(self.x, self.z, 0.0), 0.1, 0.1, 3.3)

    def draw(self, canvas: Canvas) -> None:
        """Paints post, arm and signal heads."""
        if not canvas.in_view(self.x, self.z, abs(self.arm) + 0.5) or self.z < 4.0:
            return
        _post(canvas, self.x, self.z, 5.6 if self.arm else 3.3, 0.17, self.colour)
        self._draw_head(canvas, self.x, 2.3)
        if self.arm:
            shade = tint(self.colour, canvas.light.ambient)
            canvas.bar((self.x, 5.5, self.z), (self.x + self.arm, 5.6, self.z), 0.14, shade, Id.POLE)
            self._draw_head(canvas, self.x + self.arm, 4.8)

    def _draw_head(self, canvas: Canvas, x: float, low: float) -> None:
        z = self.z - 0.1
        canvas.bar((x, low - 0.06, z), (x, low + 1.2, z), 0.5, (26.0, 28.0, 28.0), Id.TRAFFIC_LIGHT)
        for i, colour in enumerate(_LAMPS):
            on = i == self.lit
            centre = (x, low + 0.96 - 0.38 * i, z)
            if on:
                canvas.disc(centre, 0.2, tint(colour, 0.6))
            canvas.disc(centre, 0.15, tint(colour, 1.15 if on else 0.22))


@dataclass(frozen=True, slots=True)
class Sign:
    """A traffic sign; kind 0 prohibition, 1 warning, 2 blue disc, 3 blue board, 4 yellow diamond, 5 stop."""

    x: float
    z: float
    kind: int
    height: float  # m of the middle of the plate
    colour: Colour  # of the post

    @property
    def key(self) -> float:
        return self.z + abs(self.x) - 0.4

    def shadow(self, canvas: Canvas) -> None:
        cast_body_shadow(canvas, Pose(self.x, self.z, 0.0), 0.05, 0.2, self.height)

    def draw(self, canvas: Canvas) -> None:
        """Paints post and plate."""
        if not canvas.in_view(self.x, self.z, 0.8) or self.z < 3.0:
            return
        _post(canvas, self.x, self.z, self.height, 0.09, self.colour)
        light = 0.35 + 0.65 * canvas.light.face(0.0, 0.2, -1.0)
        corners, start = ((14, 0.0), (3, np.pi / 2), (14, 0.0), (4, np.pi / 4), (4, 0.0), (8, np.pi / 8))[
            self.kind
        ]
        outer, inner = (
            (_RED, _WHITE),
            (_RED, _WHITE),
            (_WHITE, _BLUE),
            (_WHITE, _BLUE),
            (_WHITE, _YELLOW),
            (_WHITE, _RED),
        )[self.kind]
        canvas.surface(self._plate(corners, start, 0.46), tint(outer, light), Id.TRAFFIC_SIGN)
        canvas.paint(self._plate(corners, start, 0.36), tint(inner, light))
        ink = tint((30.0, 30.0, 30.0) if self.kind in (0, 1, 4) else _WHITE, light)
        z = self.z - 0.06
        canvas.bar((self.x - 0.14, self.height, z), (self.x + 0.14, self.height, z), 0.12, ink)

    def _plate(self, corners: int, start: float, radius: float) -> np.ndarray:
        angle = start + np.arange(corners) * (2 * np.pi / corners)
        flat = np.zeros((corners, 3))
        flat[:, 0] = self.x + radius * np.cos(angle)
        flat[:, 1] = self.height + radius * np.sin(angle)
        flat[:, 2] = self.z - 0.05
        return flat


@dataclass(frozen=True, slots=True)
class Bin:
    """A rubbish bin or a crate: void in the label ids (STATIC or DYNAMIC)."""

    pose: Pose
    height: float
    colour: Colour
    label: int

    @property
    def key(self) -> float:
        return self.pose.z + abs(self.pose.x)

    def shadow(self, canvas: Canvas) -> None:
        cast_body_shadow(canvas, self.pose, 0.3, 0.3, self.height)

    def draw(self, canvas: Canvas) -> None:
        """Paints a box with a lid."""
        if not canvas.in_view(self.pose.x, self.pose.z, 0.6) or self.pose.z < 4.0:
            return
        half = 0.3
        body = np.array([[-half, 0.0], [half, 0.0], [half, self.height], [-half, self.height]])
        draw_prism(canvas, self.pose, body, half, self.colour, self.label)
        lid = np.array(
            [[-half, self.height], [half, self.height], [half, self.height + 0.1], [-half, self.height + 0.1]]
        )
        draw_prism(canvas, self.pose, lid, half + 0.03, tint(self.colour, 0.7), self.label)
