"""Solid bodies on the ground: a pose, and prisms with flat-shaded faces."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from data_loaders.demo_city.canvas import NEAREST_FACE, Canvas, Colour, outer_side, tint


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a body stands and where it heads: 0 rad = away from the camera, positive turns right."""

    x: float
    z: float
    heading: float

    def place(self, local: np.ndarray) -> np.ndarray:
        """(..., 3) body coordinates (forward, right, up) in metres -> (..., 3) world coordinates."""
        sine, cosine = math.sin(self.heading), math.cos(self.heading)
        forward, right = local[..., 0], local[..., 1]
        world = np.empty(local.shape)
        world[..., 0] = self.x + forward * sine + right * cosine
        world[..., 1] = local[..., 2]
        world[..., 2] = self.z + forward * cosine - right * sine
        return world

    def point(self, forward: float, up: float, right: float = 0.0) -> tuple[float, float, float]:
        """One body point as world coordinates."""
        sine, cosine = math.sin(self.heading), math.cos(self.heading)
        return self.x + forward * sine + right * cosine, up, self.z + forward * cosine - right * sine


def draw_prism(
    canvas: Canvas,
    pose: Pose,
    profile: np.ndarray,
    half_width: np.ndarray | float,
    colour: Colour,
    label: int,
) -> None:
    """Draws the visible faces of a side view extruded sideways.

    Args:
        profile: (N, 2) convex outline (forward, up) in metres, counter-clockwise with forward to the right.
        half_width: m, or (N,) one per outline point (a cabin is narrower at the roof).
    """
    count = len(profile)
    local = np.empty((2 * count, 3))  # left outline, then right
    local[:count, 0] = local[count:, 0] = profile[:, 0]
    local[:count, 2] = local[count:, 2] = profile[:, 1]
    local[count:, 1] = half_width
    local[:count, 1] = -local[count:, 1]
    corners = pose.place(local)
    if corners[:, 2].min() < NEAREST_FACE:
        return
    pixels = canvas.camera.project(corners)
    left = list(range(count))
    faces = [left, [count + i for i in reversed(left)]]
    faces += [[i, count + i, count + (i + 1) % count, (i + 1) % count] for i in left]
    for face in faces:
        outline = pixels[face]
        if outer_side(outline):
            canvas.surface_pixels(
                outline, tint(colour, canvas.light.polygon(corners[face])), label, depth=pose.z
            )


def end_quad(pose: Pose, forward: float, low: float, high: float, inner: float, outer: float) -> np.ndarray:
    """(4, 3) upright rectangle across the body at `forward`, from right = inner to outer, facing outward."""
    corners = np.array([[inner, low], [outer, low], [outer, high], [inner, high]])
    quad = pose.place(np.stack([np.full(4, forward), corners[:, 0], corners[:, 1]], axis=1))
    return quad if forward > 0 else quad[::-1]


def side_quads(
    pose: Pose, starts: np.ndarray, ends: np.ndarray, low: float, high: float, side: float
) -> np.ndarray:
    """(K, 4, 3) upright rectangles along the body at right = side, from starts to ends; they face outward."""
    zero = np.zeros_like(starts)
    forward = np.stack([starts, ends, ends, starts], axis=1)
    up = np.stack([zero + low, zero + low, zero + high, zero + high], axis=1)
    quads = pose.place(np.stack([forward, np.full_like(forward, side), up], axis=-1))
    return quads if side < 0 else quads[:, ::-1]


def footprint(pose: Pose, half_length: float, half_width: float) -> np.ndarray:
    """(4, 3) rectangle on the ground under a body."""
    corners = [
        (half_length, half_width),
        (half_length, -half_width),
        (-half_length, -half_width),
        (-half_length, half_width),
    ]
    return pose.place(np.array([(s, t, 0.0) for s, t in corners]))


def cast_body_shadow(
    canvas: Canvas, pose: Pose, half_length: float, half_width: float, height: float
) -> None:
    """Darkens the ground under a body and where its box keeps the sun away."""
    if canvas.scale(max(pose.z, 1.0)) < 2.5 or not canvas.in_view(pose.x, pose.z, half_length + 2 * height):
        return
    base = footprint(pose, half_length, half_width)
    dx, dz = canvas.light.shadow_offset(0.9 * height)
    canvas.cast_hull(np.concatenate([base, base + np.array([dx, 0.0, dz])]))


def cast_wall_shadow(
    canvas: Canvas, x: float, z0: float, z1: float, height: float, strength: int = 255
) -> None:
    """Darkens the ground beside something long and thin that stands along the street."""
    dx, dz = canvas.light.shadow_offset(height)
    canvas.cast(np.array([(x, 0, z0), (x, 0, z1), (x + dx, 0, z1 + dz), (x + dx, 0, z0 + dz)]), strength)
