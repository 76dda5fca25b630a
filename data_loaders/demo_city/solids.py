"""Solid bodies on the ground: a pose, and prisms with flat-shaded faces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_loaders.demo_city.canvas import Canvas, Colour, tint


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a body stands and where it heads: 0 rad = away from the camera, positive turns right."""

    x: float
    z: float
    heading: float

    def place(self, local: np.ndarray) -> np.ndarray:
        """(..., 3) body coordinates (forward, right, up) in metres -> (..., 3) world coordinates."""
        sine, cosine = np.sin(self.heading), np.cos(self.heading)
        forward, right = local[..., 0], local[..., 1]
        world = np.empty(local.shape)
        world[..., 0] = self.x + forward * sine + right * cosine
        world[..., 1] = local[..., 2]
        world[..., 2] = self.z + forward * cosine - right * sine
        return world

    def point(self, forward: float, up: float, right: float = 0.0) -> tuple[float, float, float]:
        """One body point as world coordinates."""
        sine, cosine = np.sin(self.heading), np.cos(self.heading)
        return self.x + forward * sine + right * cosine, up, self.z + forward * cosine - right * sine


def draw_prism(
    canvas: Canvas, pose: Pose, profile: np.ndarray, half_width: np.ndarray | float, colour: Colour, label: int
) -> None:
    """Draws the visible faces of a side view extruded sideways.

    Args:
        profile: (N, 2) convex outline (forward, up) in metres, counter-clockwise with forward to the right.
        half_width: m, or (N,) one per outline point (a cabin is narrower at the roof).
    """
    sides = np.broadcast_to(np.asarray(half_width, dtype=np.float64), len(profile))
    left = pose.place(np.stack([profile[:, 0], -sides, profile[:, 1]], axis=1))
    right = pose.place(np.stack([profile[:, 0], sides, profile[:, 1]], axis=1))
    faces = [left, right[::-1]]
    for i in range(len(profile)):
        j = (i + 1) % len(profile)
        faces.append(np.stack([left[i], right[i], right[j], left[j]]))
    for face in faces:
        if canvas.faces_camera(face):
            normal = np.cross(face[1] - face[0], face[2] - face[0])
            canvas.surface(face, tint(colour, canvas.light.face(normal)), label, depth=pose.z)


def end_quad(pose: Pose, forward: float, low: float, high: float, inner: float, outer: float) -> np.ndarray:
    """(4, 3) upright rectangle across the body at `forward`, from right = inner to outer; outward is its own end."""
    corners = np.array([[inner, low], [outer, low], [outer, high], [inner, high]])
    quad = pose.place(np.stack([np.full(4, forward), corners[:, 0], corners[:, 1]], axis=1))
    return quad if forward > 0 else quad[::-1]


def side_quads(pose: Pose, starts: np.ndarray, ends: np.ndarray, low: float, high: float, side: float) -> np.ndarray:
    """(K, 4, 3) upright rectangles along the body at right = side, from starts to ends; outward is away from the body."""
    zero = np.zeros_like(starts)
    forward = np.stack([starts, ends, ends, starts], axis=1)
    up = np.stack([zero + low, zero + low, zero + high, zero + high], axis=1)
    quads = pose.place(np.stack([forward, np.full_like(forward, side), up], axis=-1))
    return quads if side < 0 else quads[:, ::-1]


def footprint(pose: Pose, half_length: float, half_width: float) -> np.ndarray:
    """(4, 3) rectangle on the ground under a body."""
    corners = [(half_length, half_width), (half_length, -half_width), (-half_length, -half_width), (-half_length, half_width)]
    return pose.place(np.array([(s, t, 0.0) for s, t in corners]))


def cast_body_shadow(canvas: Canvas, pose: Pose, half_length: float, half_width: float, height: float) -> None:
    """Darkens the ground under a body and where its box keeps the sun away."""
    base = footprint(pose, half_length, half_width)
    dx, dz = canvas.light.shadow_offset(0.9 * height)
    for i in range(4):
        edge = base[[i, (i + 1) % 4]]
        canvas.cast(np.concatenate([edge, (edge + [dx, 0.0, dz])[::-1]]))
    canvas.cast(base + [dx, 0.0, dz])
    canvas.cast(base)
