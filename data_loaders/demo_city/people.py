"""Pedestrians, cyclists, motorcyclists and their machines: flat figures of bars and discs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_loaders.demo_city.canvas import Canvas, Colour, tint
from data_loaders.demo_city.ids import Id
from data_loaders.demo_city.solids import Pose, cast_body_shadow

_TYRE = (30.0, 30.0, 32.0)
_RING = np.stack([np.cos(np.arange(16) * (np.pi / 8)), np.sin(np.arange(16) * (np.pi / 8))], axis=1)


@dataclass(frozen=True, slots=True)
class Clothes:
    """Colours of one person."""

    top: Colour
    trousers: Colour
    skin: Colour
    hair: Colour

    def lit(self, factor: float) -> Clothes:
        """The same in another brightness."""
        return Clothes(*(tint(c, factor) for c in (self.top, self.trousers, self.skin, self.hair)))


def _shade(canvas: Canvas) -> float:
    return canvas.light.face(0.0, 0.3, -1.0)


@dataclass(frozen=True, slots=True)
class Pedestrian:
    """A person on foot; `stride` in [-1, 1] is how far the legs are apart."""

    x: float
    z: float
    height: float
    stride: float
    clothes: Clothes
    bag: bool

    @property
    def key(self) -> float:
        return self.z + abs(self.x)

    def shadow(self, canvas: Canvas) -> None:
        cast_body_shadow(canvas, Pose(self.x, self.z, 0.0), 0.15, 0.22, self.height)

    def draw(self, canvas: Canvas) -> None:
        """Paints legs, body, arms, head."""
        if not canvas.in_view(self.x, self.z, 0.6) or self.z < 3.5:
            return
        wear, h = self.clothes.lit(_shade(canvas)), self.height

        def at(across: float, up: float) -> tuple[float, float, float]:
            return self.x + across * h, up * h, self.z

        step = 0.14 * self.stride
        for sign, dark in ((-1.0, 0.82), (1.0, 1.0)):
            hip, knee, foot = (
                at(0.03 * sign, 0.5),
                at(0.03 * sign + 0.5 * sign * step, 0.27),
                at(sign * step, 0.02),
            )
            canvas.bar(hip, knee, 0.09 * h, tint(wear.trousers, dark), Id.PERSON)
            canvas.bar(knee, foot, 0.07 * h, tint(wear.trousers, dark), Id.PERSON)
            canvas.bar(
                foot,
                at(sign * step + 0.05 * np.sign(self.stride or 1), 0.02),
                0.045 * h,
                (34, 30, 30),
                Id.PERSON,
            )
        canvas.bar(at(0, 0.46), at(0, 0.66), 0.17 * h, wear.top, Id.PERSON)
        canvas.bar(at(0, 0.64), at(0, 0.83), 0.22 * h, wear.top, Id.PERSON)
        for sign in (-1.0, 1.0):
            elbow, hand = at(0.13 * sign - 0.3 * step, 0.63), at(0.13 * sign - sign * step, 0.47)
            canvas.bar(at(0.1 * sign, 0.82), elbow, 0.06 * h, tint(wear.top, 0.84), Id.PERSON)
            canvas.bar(elbow, hand, 0.05 * h, tint(wear.top, 0.84), Id.PERSON)
            canvas.disc(hand, 0.025 * h, wear.skin, Id.PERSON)
        if self.bag:
            canvas.bar(at(0.16, 0.38), at(0.16, 0.52), 0.13 * h, tint(wear.trousers, 1.5), Id.PERSON)
        canvas.bar(at(0, 0.82), at(0, 0.88), 0.06 * h, wear.skin, Id.PERSON)
        canvas.disc(at(0, 0.945), 0.068 * h, wear.hair, Id.PERSON)
        canvas.disc(at(0.012 * np.sign(self.stride or 1), 0.925), 0.05 * h, wear.skin)


@dataclass(frozen=True, slots=True)
class Bicycle:
    """A bicycle, with a rider or parked."""

    pose: Pose
    colour: Colour
    rider: Clothes | None

    @property
    def key(self) -> float:
        return self.pose.z + abs(self.pose.x)

    def shadow(self, canvas: Canvas) -> None:
        cast_body_shadow(canvas, self.pose, 0.8, 0.12, 1.7 if self.rider else 0.9)

    def draw(self, canvas: Canvas) -> None:
        """Paints wheels, frame, handlebar, then the rider."""
        if not canvas.in_view(self.pose.x, self.pose.z, 1.0) or self.pose.z < 3.5:
            return
        shade = _shade(canvas)
        frame, at = tint(self.colour, shade), self.pose.point
        for s in (-0.52, 0.52):
            _draw_spoked_wheel(canvas, self.pose, s, 0.34, tint((150.0, 152.0, 154.0), shade))
        corners = {
            "rear": (-0.52, 0.34),
            "crank": (-0.05, 0.3),
            "seat": (-0.2, 0.85),
            "head": (0.36, 0.82),
            "front": (0.52, 0.34),
        }
        for a, b in (
            ("rear", "crank"),
            ("rear", "seat"),
            ("crank", "seat"),
            ("crank", "head"),
            ("seat", "head"),
            ("head", "front"),
        ):
            canvas.bar(at(*corners[a]), at(*corners[b]), 0.07, frame, Id.BICYCLE)
        canvas.bar(at(-0.32, 0.95), at(-0.1, 0.95), 0.1, _TYRE, Id.BICYCLE)
        canvas.bar(at(0.36, 0.82), at(0.4, 1.04), 0.06, frame, Id.BICYCLE)
        canvas.bar(at(0.4, 1.04, -0.3), at(0.4, 1.04, 0.3), 0.06, _TYRE, Id.BICYCLE)
        if self.rider is not None:
            draw_rider(
                canvas,
                self.pose,
                self.rider.lit(shade),
                seat=0.98,
                foot=(0.02, 0.2),
                hand=(0.4, 1.06),
                helmet=None,
            )


def _draw_spoked_wheel(canvas: Canvas, pose: Pose, forward: float, radius: float, spoke: Colour) -> None:
    rim = [pose.point(forward + radius * c, radius + radius * s) for c, s in _RING.tolist()]
    canvas.mark(np.array(rim), Id.BICYCLE)
    step = 1 if canvas.scale(pose.z) > 8 else 2
    if step == 1:
        for i in (0, 2, 4, 6):
            canvas.bar(rim[i], rim[i + 8], 0.012, spoke)
    for i in range(0, 16, step):
        canvas.bar(rim[i], rim[(i + step) % 16], 0.07, _TYRE, Id.BICYCLE)


@dataclass(frozen=True, slots=True)
class Motorcycle:
    """A motorcycle or scooter, with a rider or parked."""

    pose: Pose
    colour: Colour
    rider: Clothes | None
    helmet: Colour

    @property
    def key(self) -> float:
        return self.pose.z + abs(self.pose.x)

    def shadow(self, canvas: Canvas) -> None:
        cast_body_shadow(canvas, self.pose, 1.0, 0.25, 1.6 if self.rider else 1.0)

    def draw(self, canvas: Canvas) -> None:
        """Paints wheels, engine, tank, seat, lamps, then the rider."""
        if not canvas.in_view(self.pose.x, self.pose.z, 1.2) or self.pose.z < 3.5:
            return
        shade, at = _shade(canvas), self.pose.point
        colour, metal = tint(self.colour, shade), tint((112.0, 114.0, 118.0), shade)
        for s in (-0.7, 0.72):
            for share, paint in ((1.0, _TYRE), (0.55, metal), (0.2, _TYRE)):
                wheel = np.stack([at(s + share * 0.32 * c, 0.32 + share * 0.32 * d) for c, d in _RING])
                canvas.surface(wheel, paint, Id.MOTORCYCLE, depth=self.pose.z)
            canvas.bar(
                at(s, 0.02), at(s, 0.62), 0.16, _TYRE, Id.MOTORCYCLE
            )  # the width of the tyre, seen from an end
        canvas.bar(at(0.72, 0.34), at(0.5, 0.95), 0.1, metal, Id.MOTORCYCLE)
        canvas.bar(at(-0.3, 0.45), at(0.35, 0.45), 0.36, tint(metal, 0.6), Id.MOTORCYCLE)
        canvas.bar(at(-0.75, 0.3), at(-0.1, 0.34), 0.13, metal, Id.MOTORCYCLE)
        canvas.bar(at(-0.15, 0.78), at(0.42, 0.84), 0.3, colour, Id.MOTORCYCLE)
        canvas.bar(at(-0.8, 0.88), at(-0.1, 0.8), 0.17, (34.0, 30.0, 30.0), Id.MOTORCYCLE)
        canvas.bar(at(-0.7, 0.7, -0.16), at(-0.7, 0.7, 0.16), 0.34, colour, Id.MOTORCYCLE)
        canvas.bar(at(0.5, 0.95, -0.36), at(0.5, 0.98, 0.36), 0.09, _TYRE, Id.MOTORCYCLE)
        toward = np.cos(self.pose.heading) < 0
        lamp = (at(0.6, 0.82), (250.0, 246.0, 220.0)) if toward else (at(-0.86, 0.72), (220.0, 30.0, 30.0))
        canvas.disc(lamp[0], 0.1, lamp[1], Id.MOTORCYCLE)
        if self.rider is not None:
            wear = self.rider.lit(shade)
            draw_rider(
                canvas,
                self.pose,
                wear,
                seat=0.9,
                foot=(0.0, 0.3),
                hand=(0.48, 0.98),
                helmet=tint(self.helmet, shade),
            )


def draw_rider(
    canvas: Canvas,
    pose: Pose,
    wear: Clothes,
    *,
    seat: float,
    foot: tuple[float, float],
    hand: tuple[float, float],
    helmet: Colour | None,
) -> None:
    """Paints somebody who sits at height `seat`, feet and hands at (forward, up) of the machine."""
    at = pose.point
    shoulder = (0.12, seat + 0.52)
    for right in (-0.13, 0.13):
        hip, knee = at(-0.18, seat, 0.6 * right), at(0.2, seat - 0.24 + 0.3 * right, right)
        canvas.bar(hip, knee, 0.17, wear.trousers, Id.RIDER)
        canvas.bar(
            knee, at(foot[0], foot[1] + 0.3 * right + 0.05, right), 0.13, tint(wear.trousers, 0.9), Id.RIDER
        )
    canvas.bar(at(-0.2, seat - 0.06), at(*shoulder), 0.34, wear.top, Id.RIDER)
    canvas.bar(
        at(shoulder[0], shoulder[1] - 0.08, -0.2),
        at(shoulder[0], shoulder[1] - 0.08, 0.2),
        0.18,
        wear.top,
        Id.RIDER,
    )
    for right in (-0.21, 0.21):
        canvas.bar(
            at(shoulder[0], shoulder[1] - 0.05, right), at(*hand, right), 0.1, tint(wear.top, 0.85), Id.RIDER
        )
    head = at(shoulder[0] + 0.06, shoulder[1] + 0.17)
    canvas.bar(at(*shoulder), head, 0.1, wear.skin, Id.RIDER)
    canvas.disc(head, 0.125 if helmet is None else 0.155, wear.skin if helmet is None else helmet, Id.RIDER)
    if helmet is None:
        canvas.disc(at(shoulder[0] + 0.04, shoulder[1] + 0.21), 0.1, wear.hair)
    else:
        canvas.disc(at(shoulder[0] + 0.12, shoulder[1] + 0.16), 0.075, (40.0, 44.0, 50.0))
