"""Buffers that the painter's algorithm draws into, at twice the size of the final image.

Four buffers share one geometry: colour, label id, depth, and shadows on the ground. Colours are averaged down
at the end, which smooths their edges; labels are picked, which keeps them crisp.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from data_loaders.demo_city.camera import FAR, Camera, Light, clip_near
from data_loaders.demo_city.ids import Id

SUPERSAMPLING = 2
NEAREST_FACE = 1.0  # m; solid bodies nearer than this are not drawn
_SHIFT = 3  # fractional bits of the coordinates that OpenCV gets
_CIRCLE = np.stack([np.cos(np.arange(14) * (np.pi / 7)), np.sin(np.arange(14) * (np.pi / 7))], axis=1)

Colour = Sequence[float]  # R, G, B in [0, 255]


def tint(colour: Colour, factor: float) -> tuple[float, float, float]:
    """The colour with its brightness multiplied, clipped to 255."""
    red, green, blue = colour
    return min(red * factor, 255.0), min(green * factor, 255.0), min(blue * factor, 255.0)


def outer_side(pixels: np.ndarray) -> bool:
    """Whether (N, 2) projected corners run clockwise in the image: the outer side of the face is seen."""
    u, v = pixels.T.tolist()
    return sum(u[i - 1] * v[i] - u[i] * v[i - 1] for i in range(len(u))) > 0


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
        self.rim = (
            0  # pixels along the left, right and top edge that the label calls out of the region of interest
        )

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

    def blobs(self, pixels: np.ndarray, colours: Sequence[Colour], label: int, *, depth: float) -> None:
        """Fills (K, N, 2) convex polygons given in image pixels, one colour each, in order."""
        for outline, colour in zip(self._fixed(pixels), colours, strict=True):
            cv2.fillConvexPoly(self.colour, outline, colour, shift=_SHIFT)
            cv2.fillConvexPoly(self.label, outline, int(label), shift=_SHIFT)
            cv2.fillConvexPoly(self.depth, outline, depth, shift=_SHIFT)

    def mark(self, points: np.ndarray, label: int) -> None:
        """Fills an (N, 3) polygon in the label only (a fence counts as closed, its picture has gaps)."""
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
        """Fills (K, N, 3) disjoint polygons in one colour, without those that reach behind the camera."""
        if len(polygons):
            polygons = polygons[polygons[..., 2].min(axis=1) > 1.0]
        if len(polygons) == 0:
            return
        fixed = list(self._fixed(self.camera.project(polygons)))
        cv2.fillPoly(self.colour, fixed, colour, shift=_SHIFT)
        if label is not None:
            cv2.fillPoly(self.label, fixed, int(label), shift=_SHIFT)

    def bar(
        self,
        start: Sequence[float],
        end: Sequence[float],
        width: float,
        colour: Colour,
        label: int | None = None,
    ) -> None:
        """Draws a bar between two world points, `width` m thick and never thinner than a pixel can show."""
        (x0, y0, z0), (x1, y1, z1) = start, end
        if min(z0, z1) < 1.0:
            return
        u0, v0 = self.camera.project_point(x0, y0, z0)
        u1, v1 = self.camera.project_point(x1, y1, z1)
        length = math.hypot(u1 - u0, v1 - v0)
        if length < 1e-6:
            return
        across = (v0 - v1) / length, (u1 - u0) / length
        half0, half1 = (max(0.5 * width * self.scale(z), 0.3) for z in (z0, z1))
        du0, dv0, du1, dv1 = across[0] * half0, across[1] * half0, across[0] * half1, across[1] * half1
        quad = np.array(
            [(u0 + du0, v0 + dv0), (u1 + du1, v1 + dv1), (u1 - du1, v1 - dv1), (u0 - du0, v0 - dv0)]
        )
        if label is None:
            self.paint_pixels(quad, colour)
        else:
            self.surface_pixels(quad, colour, label, depth=(z0 + z1) / 2)

    def disc(self, centre: Sequence[float], radius: float, colour: Colour, label: int | None = None) -> None:
        """Draws a disc of `radius` m that faces the camera."""
        x, y, z = centre
        if z < 1.0:
            return
        pixels = _CIRCLE * max(radius * self.scale(z), 0.3) + self.camera.project_point(x, y, z)
        if label is None:
            self.paint_pixels(pixels, colour)
        else:
            self.surface_pixels(pixels, colour, label, depth=z)

    def faces_camera(self, points: np.ndarray) -> bool:
        """Whether an (N, 3) polygon whose cross product points outward is seen from outside."""
        return bool(points[:, 2].min() >= NEAREST_FACE) and outer_side(self.camera.project(points))

    def cast(self, points: np.ndarray, strength: int = 255) -> None:
        """Fills an (N, 3) polygon on the ground in the shadow buffer."""
        points = clip_near(np.asarray(points, dtype=np.float64))
        if len(points) >= 3:
            cv2.fillPoly(self.shadow, [self._fixed(self.camera.project(points))], strength, shift=_SHIFT)

    def cast_hull(self, points: np.ndarray) -> None:
        """Fills the convex hull of (N, 3) points on the ground in the shadow buffer."""
        if points[:, 2].min() >= NEAREST_FACE:
            hull = cv2.convexHull(self._fixed(self.camera.project(points)))
            cv2.fillConvexPoly(self.shadow, hull, 255, shift=_SHIFT)

    def in_view(self, x: float, z: float, radius: float) -> bool:
        """Whether something `radius` m wide at (x, z) can be in the image."""
        if z + radius < 1.5:
            return False
        u, _ = self.camera.project_point(x, 0.0, z if z > 1.5 else 1.5)
        reach = radius * self.scale(max(z - radius, 1.0))
        return -reach <= u <= self.camera.width + reach

    def scale(self, z: float) -> float:
        """Pixels of the final image per metre at depth z; details are left out where it is small."""
        return self.camera.focal / z

    def darken_shadows(self) -> None:
        """Applies the shadow buffer to what is painted: call it when only the ground is."""
        soft = cv2.GaussianBlur(self.shadow, (0, 0), max(0.004 * self.shadow.shape[1], 0.5))
        factor = 1 - soft.astype(np.float32)[..., None] * (self.light.shadow / 255)
        self.colour = (self.colour * factor).astype(np.uint8)

    def label_image(self) -> np.ndarray:
        """(H, W) uint8 painted ids at the final size."""
        label = np.ascontiguousarray(self.label[::SUPERSAMPLING, ::SUPERSAMPLING])
        if self.rim:
            label[: self.rim] = label[:, : self.rim] = label[:, -self.rim :] = Id.OUT_OF_ROI
        return label

    @staticmethod
    def _fixed(pixels: np.ndarray) -> np.ndarray:
        # Sample (0, 0) of the label is the first of the block that makes pixel 0 of the image.
        return np.rint((pixels * SUPERSAMPLING + 0.5) * (1 << _SHIFT)).astype(np.int32)
