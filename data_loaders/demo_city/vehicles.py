"""Cars, trucks, buses and trams, built of prisms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_loaders.demo_city.canvas import Canvas, Colour, tint
from data_loaders.demo_city.ids import Id
from data_loaders.demo_city.solids import Pose, cast_body_shadow, draw_prism, end_quad, footprint, side_quads

_GLASS = (44.0, 54.0, 66.0)
_TYRE = (26.0, 26.0, 28.0)
_RIM = (128.0, 130.0, 134.0)
_TAIL = (206.0, 30.0, 30.0)
_LAMP = (248.0, 244.0, 220.0)
_WHEEL = np.stack([np.cos(np.arange(12) * (np.pi / 6)), np.sin(np.arange(12) * (np.pi / 6))], axis=1)


def box(length: float, low: float, high: float, *, slope: float = 0.0) -> np.ndarray:
    """(4, 2) side view of a box centred on the body; the front leans back by `slope` m."""
    half = length / 2
    return np.array([[-half, low], [half, low], [half - slope, high], [-half, high]])


def paint_visible(canvas: Canvas, quads: np.ndarray, colour: Colour) -> None:
    """Paints those of (K, 4, 3) details on a body whose outer side is seen; all lie in one plane."""
    if len(quads) and canvas.faces_camera(quads[0]):
        canvas.paint_many(quads, colour)


def draw_wheels(
    canvas: Canvas, pose: Pose, places: tuple[float, ...], side: float, radius: float, label: int
) -> None:
    """Paints the wheels of the side that is seen, and the tyres under the near end."""
    for sign in (-1.0, 1.0):
        panel = side_quads(pose, np.array([-0.5]), np.array([0.5]), 0.0, 1.0, sign * side)[0]
        if not canvas.faces_camera(panel):
            continue
        for place in places:
            for share, colour in ((1.0, _TYRE), (0.58, _RIM), (0.2, _TYRE)):
                ring = np.empty((12, 3))
                ring[:, 0] = place + share * radius * _WHEEL[:, 0]
                ring[:, 1] = sign * (side + 0.02)
                ring[:, 2] = radius + share * radius * _WHEEL[:, 1]
                if share == 1.0:
                    canvas.surface(pose.place(ring), colour, label, depth=pose.z)
                elif canvas.scale(pose.z) > 5:
                    canvas.paint(pose.place(ring), tint(colour, canvas.light.ambient + 0.3))


def draw_axle(
    canvas: Canvas, pose: Pose, forward: float, half_width: float, radius: float, label: int
) -> None:
    """Paints the two tyres and the dark gap between them as seen from an end."""
    for inner, outer in ((-half_width, -half_width + 0.24), (half_width - 0.24, half_width)):
        quad = end_quad(pose, forward, 0.0, 1.3 * radius, inner, outer)
        if canvas.faces_camera(quad):
            canvas.surface(quad, _TYRE, label, depth=pose.z)


@dataclass(frozen=True, slots=True)
class Car:
    """A passenger car; kind 0 saloon, 1 hatchback, 2 estate or SUV, 3 van."""

    pose: Pose
    kind: int
    colour: Colour
    braking: bool

    @property
    def key(self) -> float:
        return self.pose.z + abs(self.pose.x)

    @property
    def size(self) -> tuple[float, float, float]:
        """Length, half width, height in metres."""
        return ((4.6, 0.9, 1.43), (3.9, 0.86, 1.47), (4.6, 0.94, 1.68), (5.0, 0.98, 2.1))[self.kind]

    def shadow(self, canvas: Canvas) -> None:
        length, half, height = self.size
        cast_body_shadow(canvas, self.pose, length / 2, half, height)
        canvas.cast(footprint(self.pose, 0.5 * length + 0.1, half + 0.1))

    def draw(self, canvas: Canvas) -> None:
        """Paints tyres, body, cabin, glass, lamps."""
        if not canvas.in_view(self.pose.x, self.pose.z, 3.0) or self.pose.z < 4.5:
            return
        length, half, height = self.size
        back, front = -length / 2, length / 2
        for end in (back, front):
            draw_axle(canvas, self.pose, end * 0.96, half - 0.06, 0.3, Id.CAR)
        belt = 0.62 * height
        body = np.array(
            [
                [back + 0.05, 0.24],
                [front - 0.05, 0.24],
                [front, 0.5],
                [front - 0.1, 0.4 * height + 0.08],
                [0.2 * length, belt],
                [back + 0.06, belt + 0.02],
                [back, 0.5],
            ]
        )
        draw_prism(canvas, self.pose, body, half, self.colour, Id.CAR)
        self._draw_cabin(canvas, belt, length, half, height)
        if canvas.scale(self.pose.z) < 3.5:
            return
        self._draw_ends(canvas, belt, length, half)
        draw_wheels(canvas, self.pose, (-0.31 * length, 0.31 * length), half, 0.32, Id.CAR)

    def _draw_cabin(self, canvas: Canvas, belt: float, length: float, half: float, height: float) -> None:
        rear_low, rear_top, top, low = (
            (-0.42, -0.3, 0.06, 0.22),
            (-0.49, -0.42, 0.08, 0.24),
            (-0.49, -0.46, 0.1, 0.24),
            (-0.49, -0.48, 0.22, 0.36),
        )[self.kind]
        outline = np.array([[rear_low, belt], [low, belt], [top, height], [rear_top, height]]) * [length, 1.0]
        width = np.array([half - 0.02, half - 0.02, half - 0.17, half - 0.17])
        draw_prism(canvas, self.pose, outline, width, self.colour, Id.CAR)
        self._draw_glass(canvas, outline, width)

    def _draw_glass(self, canvas: Canvas, outline: np.ndarray, width: np.ndarray) -> None:
        """Windscreen, rear window and side windows, each an inset of a cabin face."""
        left = self.pose.place(np.stack([outline[:, 0], -width, outline[:, 1]], axis=1))
        right = self.pose.place(np.stack([outline[:, 0], width, outline[:, 1]], axis=1))
        faces = [left, right[::-1]]
        faces += [np.stack([left[i], right[i], right[j], left[j]]) for i, j in ((1, 2), (3, 0))]
        for number, face in enumerate(faces):
            if not canvas.faces_camera(face):
                continue
            pane = face.mean(axis=0) + 0.82 * (face - face.mean(axis=0))
            shade = canvas.light.polygon(face)
            canvas.paint(pane, tint(_GLASS, 0.6 + 0.6 * shade))
            if number < 2:  # the post between the side windows
                low, high = (pane[0] + pane[1]) / 2, (pane[2] + pane[3]) / 2
                canvas.bar(low.tolist(), high.tolist(), 0.09, tint(self.colour, shade))

    def _draw_ends(self, canvas: Canvas, belt: float, length: float, half: float) -> None:
        back, front = -length / 2 - 0.01, length / 2 + 0.01
        shade = canvas.light.face(0.0, 0.0, -1.0)
        bumper = tint(self.colour, 0.55 * shade)
        for end in (back, front):
            paint_visible(
                canvas, end_quad(self.pose, end, 0.26, 0.46, -half + 0.04, half - 0.04)[None], bumper
            )
            paint_visible(
                canvas,
                end_quad(self.pose, end, 0.46, 0.6, -0.26, 0.26)[None],
                tint((226.0, 226.0, 216.0), shade),
            )
        tail = _TAIL if self.braking else tint(_TAIL, 0.7)
        for inner, outer in ((-half + 0.02, -half + 0.34), (half - 0.34, half - 0.02)):
            paint_visible(
                canvas, end_quad(self.pose, back, belt - 0.26, belt - 0.04, inner, outer)[None], tail
            )
            lamp = tint(_LAMP, 0.75 + 0.25 * shade)
            paint_visible(canvas, end_quad(self.pose, front, 0.5, 0.66, inner, outer)[None], lamp)


@dataclass(frozen=True, slots=True)
class Truck:
    """A cab and a cargo box."""

    pose: Pose
    length: float  # m, of the whole
    colour: Colour
    cargo: Colour
    stripe: Colour

    @property
    def key(self) -> float:
        return self.pose.z + abs(self.pose.x)

    def shadow(self, canvas: Canvas) -> None:
        cast_body_shadow(canvas, self.pose, self.length / 2, 1.2, 3.3)

    def draw(self, canvas: Canvas) -> None:
        """Paints the farther of cab and cargo box first."""
        if not canvas.in_view(self.pose.x, self.pose.z, 5.0) or self.pose.z - self.length / 2 < 3.0:
            return
        parts = [self._draw_cab, self._draw_cargo]
        if np.cos(self.pose.heading) < 0:
            parts.reverse()
        frame = box(self.length, 0.5, 0.95)
        draw_prism(canvas, self.pose, frame, 1.1, (58.0, 58.0, 60.0), Id.TRUCK)
        for end in (-self.length / 2, self.length / 2):
            draw_axle(canvas, self.pose, end * 0.97, 1.15, 0.46, Id.TRUCK)
        for part in parts:
            part(canvas)
        half = self.length / 2
        draw_wheels(canvas, self.pose, (-half + 1.0, -half + 2.2, half - 1.1), 1.2, 0.48, Id.TRUCK)

    def _draw_cab(self, canvas: Canvas) -> None:
        centre = self.length / 2 - 1.0
        x, _, z = self.pose.point(centre, 0.0)
        cab = Pose(x, z, self.pose.heading)
        draw_prism(canvas, cab, box(2.0, 0.45, 2.75, slope=0.2), 1.15, self.colour, Id.TRUCK)
        shade = canvas.light.face(0.0, 0.0, -1.0)
        paint_visible(
            canvas, end_quad(cab, 0.98, 1.5, 2.45, -1.0, 1.0)[None], tint(_GLASS, 0.6 + 0.5 * shade)
        )
        paint_visible(canvas, end_quad(cab, 1.0, 0.75, 1.3, -0.7, 0.7)[None], (50.0, 50.0, 54.0))
        for inner in (-1.05, 0.75):
            paint_visible(canvas, end_quad(cab, 1.01, 0.6, 0.82, inner, inner + 0.3)[None], _LAMP)
        for side in (-1.16, 1.16):
            paint_visible(
                canvas, side_quads(cab, np.array([-0.3]), np.array([0.65]), 1.5, 2.35, side), _GLASS
            )

    def _draw_cargo(self, canvas: Canvas) -> None:
        length = self.length - 2.2
        x, _, z = self.pose.point(-1.1, 0.0)
        cargo = Pose(x, z, self.pose.heading)
        draw_prism(canvas, cargo, box(length, 0.95, 3.4), 1.25, self.cargo, Id.TRUCK)
        back = -length / 2 - 0.01
        shade = canvas.light.face(0.0, 0.0, -1.0)
        line = tint(self.cargo, 0.7 * shade)
        paint_visible(canvas, end_quad(cargo, back, 1.0, 3.35, -0.03, 0.03)[None], line)
        paint_visible(canvas, end_quad(cargo, back, 0.96, 1.1, -1.2, 1.2)[None], line)
        for inner in (-1.2, 0.9):
            paint_visible(canvas, end_quad(cargo, back, 0.7, 0.9, inner, inner + 0.3)[None], _TAIL)
        for side in (-1.26, 1.26):
            stripe = side_quads(cargo, np.array([-length / 2]), np.array([length / 2]), 1.7, 2.5, side)
            paint_visible(canvas, stripe, tint(self.stripe, canvas.light.ambient + 0.3))


@dataclass(frozen=True, slots=True)
class Coach:
    """A bus (label BUS) or one section of a tram (label TRAIN): a box with rows of windows."""

    pose: Pose
    length: float
    height: float
    colour: Colour
    band: Colour
    label: int
    driver: bool  # the front section of a tram, and every bus, have a windscreen

    @property
    def key(self) -> float:
        return self.pose.z + abs(self.pose.x)

    def shadow(self, canvas: Canvas) -> None:
        cast_body_shadow(canvas, self.pose, self.length / 2, 1.25, self.height)

    def draw(self, canvas: Canvas) -> None:
        """Paints body, windows, doors, ends, wheels or bogies."""
        nearest = self.pose.z - abs(np.cos(self.pose.heading)) * self.length / 2
        if nearest < 3.0 or not canvas.in_view(self.pose.x, self.pose.z, self.length / 2 + 1):
            return
        half, tram = self.length / 2, self.label == Id.TRAIN
        draw_prism(canvas, self.pose, box(self.length - 1, 0.15, 0.5), 1.1, (42.0, 42.0, 44.0), self.label)
        slope = 0.55 if tram and self.driver else 0.1
        draw_prism(
            canvas, self.pose, box(self.length, 0.38, self.height, slope=slope), 1.25, self.colour, self.label
        )
        for side in (-1.26, 1.26):
            self._draw_side(canvas, side)
        self._draw_ends(canvas, slope)
        if tram:
            canvas.bar(
                self.pose.point(0, self.height),
                self.pose.point(0.8, self.height + 0.9),
                0.08,
                (60, 60, 60),
                self.label,
            )
            canvas.bar(
                self.pose.point(0, self.height + 1.5),
                self.pose.point(0.8, self.height + 0.9),
                0.08,
                (60, 60, 60),
                self.label,
            )
        else:
            draw_wheels(canvas, self.pose, (-half + 2.6, half - 2.4), 1.25, 0.48, self.label)

    def _draw_side(self, canvas: Canvas, side: float) -> None:
        half = self.length / 2
        shade = canvas.light.ambient + 0.35
        whole = side_quads(self.pose, np.array([-half]), np.array([half]), 0.5, 0.95, side)
        paint_visible(canvas, whole, tint(self.band, shade))
        start = np.arange(-half + 0.4, half - 1.2, 1.5)
        panes = side_quads(self.pose, start, start + 1.3, 1.35, self.height - 0.65, side)
        paint_visible(canvas, panes, tint(_GLASS, 0.6 + 0.5 * shade))
        doors = np.array([-0.2 * self.length, half - 1.6])
        paint_visible(
            canvas,
            side_quads(self.pose, doors, doors + 1.1, 0.45, self.height - 0.6, side),
            tint(_GLASS, 0.8),
        )

    def _draw_ends(self, canvas: Canvas, slope: float) -> None:
        half = self.length / 2
        shade = canvas.light.face(0.0, 0.0, -1.0)
        top = self.height - 0.75
        glass = tint(_GLASS, 0.7 + 0.5 * shade)
        paint_visible(canvas, end_quad(self.pose, -half - 0.01, 1.5, top, -0.95, 0.95)[None], glass)
        paint_visible(
            canvas, end_quad(self.pose, -half - 0.01, 0.45, 0.95, -1.2, 1.2)[None], tint(self.band, shade)
        )
        for inner in (-1.18, 0.96):
            paint_visible(
                canvas, end_quad(self.pose, -half - 0.02, 0.98, 1.3, inner, inner + 0.22)[None], _TAIL
            )
        if not self.driver:
            return
        front = half + 0.02 - 0.5 * slope
        paint_visible(canvas, end_quad(self.pose, front, 1.2, top, -1.12, 1.12)[None], glass)
        display = end_quad(self.pose, front, top + 0.1, top + 0.5, -0.8, 0.8)[None]
        paint_visible(canvas, display, (240.0, 170.0, 40.0))
        for inner in (-1.1, 0.7):
            paint_visible(
                canvas, end_quad(self.pose, half + 0.02, 0.6, 0.85, inner, inner + 0.4)[None], _LAMP
            )
