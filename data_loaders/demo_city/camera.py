"""The pinhole camera of the demo city, and the light.

World axes in metres: x to the right, y up, z ahead; the ground is y = 0, the camera stands at x = z = 0.
Pitch is a shift of the horizon (as with a shift lens), so that verticals stay vertical; yaw and the bend of
the street are shears of x.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

NEAR = 0.8  # m; nothing nearer is drawn
FAR = 400.0  # m; the depth of the sky


@dataclass(frozen=True, slots=True)
class Camera:
    """Where points of the street fall in an image of `width` x `height` pixels."""

    width: int
    height: int
    focal: float  # pixels
    horizon: float  # image row
    eye: float  # m above the ground
    yaw: float  # rad, positive looks right
    bend: float  # 1/m; the street lies bend * z^2 m to the right of a straight one

    def project(self, points: np.ndarray) -> np.ndarray:
        """(..., 3) metres with z > 0 -> (..., 2) pixels (column, row), pixel centres at whole numbers."""
        z = points[..., 2]
        pixels = np.empty((*points.shape[:-1], 2))
        pixels[..., 0] = points[..., 0] / z + (self.bend * z - self.yaw)
        pixels[..., 1] = (self.eye - points[..., 1]) / z
        pixels *= self.focal
        pixels += ((self.width - 1) / 2, self.horizon)
        return pixels

    def project_point(self, x: float, y: float, z: float) -> tuple[float, float]:
        """`project` of one point, without arrays."""
        column = (self.width - 1) / 2 + self.focal * (x / z + self.bend * z - self.yaw)
        return column, self.horizon + self.focal * (self.eye - y) / z

    def ground(self, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """World x and z (metres, float32) of the ground under image points; z is FAR from the horizon up.

        Args:
            rows: (H, 1) float32 image rows.
            columns: (W,) float32 image columns.

        Returns:
            two (H, W) arrays.
        """
        z = np.minimum(self.focal * self.eye / np.maximum(rows - self.horizon, 1e-6), FAR)
        across = (columns - (self.width - 1) / 2) / self.focal
        x = (across - (self.bend * z - self.yaw)) * z
        return x.astype(np.float32), np.broadcast_to(z.astype(np.float32), x.shape)


def clip_near(polygon: np.ndarray) -> np.ndarray:
    """The part of an (N, 3) polygon at z >= NEAR; may be empty."""
    z = polygon[:, 2]
    if z.min() >= NEAR:
        return polygon
    kept: list[np.ndarray] = []
    for i in range(len(polygon)):
        here, following = polygon[i], polygon[(i + 1) % len(polygon)]
        if here[2] >= NEAR:
            kept.append(here)
        if (here[2] >= NEAR) != (following[2] >= NEAR):
            share = (NEAR - here[2]) / (following[2] - here[2])
            kept.append(here + share * (following - here))
    return np.array(kept).reshape(-1, 3)


@dataclass(frozen=True, slots=True)
class Light:
    """One distant sun and a sky: brightness of a face = ambient + diffuse * cos(angle to the sun)."""

    sun: tuple[float, float, float]  # unit vector towards the sun, y > 0
    ambient: float
    diffuse: float
    shadow: float  # share of the light that a shadow takes from the ground, in [0, 1]

    def face(self, x: float, y: float, z: float) -> float:
        """Brightness factor of a face with this outward normal of any length."""
        length = math.sqrt(x * x + y * y + z * z)
        if length == 0:
            return self.ambient
        sun_x, sun_y, sun_z = self.sun
        return self.ambient + self.diffuse * max(0.0, (x * sun_x + y * sun_y + z * sun_z) / length)

    def polygon(self, points: np.ndarray) -> float:
        """Brightness factor of an (N, 3) flat face wound so that the cross product points outward."""
        (ax, ay, az), (bx, by, bz), (cx, cy, cz) = points[:3].tolist()
        ux, uy, uz, vx, vy, vz = bx - ax, by - ay, bz - az, cx - ax, cy - ay, cz - az
        return self.face(uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx)

    def shadow_offset(self, height: float) -> tuple[float, float]:
        """(dx, dz) in metres from a foot to the end of the shadow of a point `height` m above it."""
        reach = height / max(self.sun[1], 0.25)
        return -self.sun[0] * reach, -self.sun[2] * reach
