"""Buffers that the painter's algorithm draws into, at twice the size of the final image.

Four buffers share one geometry: colour, label id, depth and the shadows on the ground. Colours are averaged down at the end,
which smooths their edges; labels are picked, which keeps them crisp.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from data_loaders.demo_city.camera import FAR, Camera, Light, clip_near

SUPERSAMPLING = 2
_NEAREST_FACE = 1.0  # m; solid bodies nearer than this are not drawn
_SHIFT = 3  # fractional bits of the coordinates that OpenCV gets
_CIRCLE = np.stack([np.cos(np.arange(14) * (np.pi / 7)), np.sin(np.arange(14) * (np.pi / 7))], axis=1)

Colour = Sequence[float]  # R, G, B in [0, 255]


def tint(colour: Colour, factor: float) -> tuple[float, float, float]:
    """The colour with its brightness multiplied, clipped to 255."""
    red, green, blue = colour
    return min(red * factor, 255.0), min(green * factor, 255.0), min(blue * factor, 255.0)


class Canvas:
    """What has been painted so far, and the camera and light that it is seen with."""

    def __init__(self, camera: Camera, light: Light) -> None:
        self.camera = camera
        self.light = light
        size = (camera.height * SUPERSAMPLING, camera.width * SUPERSAMPLING)
        self.colour = np.zeros((*size, 3), dtype=np.uint8)
        self.label = np.zeros(size, dtype=np.uint8)
        self.depth = np.full(size, FAR, dtype=np.float32)  # m
        self.shadow = np.zeros(size, dtype=np.uint8)

    def surface(self, points: np.ndarray, colour: Colour, label: int, *, depth: float | None = None) -> None:
        """Fills an (N, 3) polygon in colour, label and depth (its mean z unless given)."""
        points = clip_near(np.asarray(points, dtype=np.float64))
        if len(points) < 3:
            return
        depth = float(points[:, 2].mean()) if depth is None else depth
        self.surface_pixels(self.camera.project(points), colour, label, depth=depth)

    def surface_pixels(self, pixels: np.ndarray, colour: Colour, label: int, *, depth: float) -> None:
        """Fills an (N, 2) polygon given in image pixels."""
        fixed = [self._fixed(pixels)]
        cv2.fillPoly(self.colour, fixed, colour, shift=_SHIFT)
        cv2.fillPoly(self.label, fixed, int(label), shift=_SHIFT)
        cv2.fillPoly(self.depth, fixed, depth, shift=_SHIFT)

    def mark(self, points: np.ndarray, label: int) -> None:
        """Fills an (N, 3) polygon in the label buffer only (a fence counts as closed, its picture has gaps)."""
        points = clip_near(np.asarray(points, dtype=np.float64))
        if len(points) >= 3:
            cv2.fillPoly(self.label, [self._fixed(self.camera.project(points))], int(label), shift=_SHIFT)

    def paint(self, points: np.ndarray, colour: Colour) -> None:
        """Fills an (N, 3) polygon in colour only: a detail of the surface under it."""
        points = clip_near(np.asarray(points, dtype=np.float64))
        if len(points) >= 3:
            cv2.fillPoly(self.colour, [self._fixed(self.camera.project(points))], colour, shift=_SHIFT)

    def paint_pixels(self, pixels: np.ndarray, colour: Colour) -> None:
        """Fills an (N, 2) polygon given in image pixels, in colour only."""
        cv2.fillPoly(self.colour, [self._fixed(pixels)], colour, shift=_SHIFT)

    def paint_many(self, polygons: np.ndarray, colour: Colour, *, label: int | None = None) -> None:
        """Fills (K, N, 3) polygons that do not overlap, in one colour; those that reach behind the camera are left out."""
        if len(polygons):
            polygons = polygons[polygons[..., 2].min(axis=1) > 1.0]
        if len(polygons) == 0:
            return
        fixed = list(self._fixed(self.camera.project(polygons)))
        cv2.fillPoly(self.colour, fixed, colour, shift=_SHIFT)
        if label is not None:
            cv2.fillPoly(self.label, fixed, int(label), shift=_SHIFT)

    def bar(
        self, start: Sequence[float], end: Sequence[float], width: float, colour: Colour, label: int | None = None
    ) -> None:
        """Draws a bar between two world points, `width` m thick and never thinner than a pixel can show."""
        ends = np.array([start, end], dtype=np.float64)
        if ends[:, 2].min() < 1.0:
            return
        pixels = self.camera.project(ends)
        along = pixels[1] - pixels[0]
        length = float(np.hypot(along[0], along[1]))
        if length < 1e-6:
            return
        half = np.maximum(0.5 * width * self.camera.focal / ends[:, 2], 0.3)
        normal = np.array([-along[1], along[0]]) / length
        quad = np.array(
            [
                pixels[0] + normal * half[0],
                pixels[1] + normal * half[1],
                pixels[1] - normal * half[1],
                pixels[0] - normal * half[0],
            ]
        )
        if label is None:
            self.paint_pixels(quad, colour)
        else:
            self.surface_pixels(quad, colour, label, depth=float(ends[:, 2].mean()))

    def disc(self, centre: Sequence[float], radius: float, colour: Colour, label: int | None = None) -> None:
        """Draws a disc of `radius` m that faces the camera."""
        place = np.array(centre, dtype=np.float64)
        if place[2] < 1.0:
            return
        pixels = self.camera.project(place) + _CIRCLE * max(radius * self.camera.focal / place[2], 0.3)
        if label is None:
            self.paint_pixels(pixels, colour)
        else:
            self.surface_pixels(pixels, colour, label, depth=float(place[2]))

    def faces_camera(self, points: np.ndarray) -> bool:
        """Whether the outer side of an (N, 3) polygon, wound so that the cross product points outward, is seen."""
        if points[:, 2].min() < _NEAREST_FACE:
            return False
        u, v = self.camera.project(points).T
        return bool((u * np.roll(v, -1) - np.roll(u, -1) * v).sum() > 0)

    def cast(self, points: np.ndarray, strength: int = 255) -> None:
        """Fills an (N, 3) polygon on the ground in the shadow buffer."""
        points = clip_near(np.asarray(points, dtype=np.float64))
        if len(points) >= 3:
            cv2.fillPoly(self.shadow, [self._fixed(self.camera.project(points))], strength, shift=_SHIFT)

    def in_view(self, x: float, z: float, radius: float) -> bool:
        """Whether something `radius` m wide at (x, z) can be in the image."""
        if z + radius < 1.5:
            return False
        nearest = max(z - radius, 1.0)
        u = self.camera.project(np.array([x, 0.0, nearest]))[0]
        reach = radius * self.camera.focal / nearest
        return bool(-reach <= u <= self.camera.width + reach)

    def darken_shadows(self) -> None:
        """Applies the shadow buffer to what is painted: call it when only the ground is."""
        soft = cv2.GaussianBlur(self.shadow, (0, 0), max(0.004 * self.shadow.shape[1], 0.5))
        factor = 1 - soft.astype(np.float32)[..., None] * (self.light.shadow / 255)
        self.colour = (self.colour * factor).astype(np.uint8)

    def label_image(self) -> np.ndarray:
        """(H, W) uint8 painted ids at the final size."""
        return np.ascontiguousarray(self.label[::SUPERSAMPLING, ::SUPERSAMPLING])

    @staticmethod
    def _fixed(pixels: np.ndarray) -> np.ndarray:
        # Sample (0, 0) of the label is the first of the block that makes pixel 0 of the image.
        return np.rint((pixels * SUPERSAMPLING + 0.5) * (1 << _SHIFT)).astype(np.int32)
