"""The sky behind and the ground under a street: road, markings, rails, pavements, green strips."""

from __future__ import annotations

import numpy as np

from data_loaders.demo_city.camera import FAR
from data_loaders.demo_city.canvas import Canvas, Colour, tint
from data_loaders.demo_city.ids import Id
from data_loaders.demo_city.looks import Materials
from data_loaders.demo_city.street import END, TRACK, Side, Street

_STATIONS = np.geomspace(1.0, END + 10.0, 14)  # m; where strips along a bent street get a corner
_EDGE = 1500.0  # m; where the plain around the city ends
_SIDE_STREET = 70.0  # m; how far a crossing road reaches to either side


def draw_ground(canvas: Canvas, street: Street, materials: Materials) -> None:
    """Paints sky and ground; everything that stands is painted over it."""
    light = canvas.light.face(0.0, 1.0, 0.0)
    right, bottom = canvas.camera.width, canvas.camera.project_point(0.0, 0.0, _EDGE)[1] + 1
    sky = np.array([[-1.0, -1.0], [right, -1.0], [right, bottom], [-1.0, bottom]])
    canvas.surface_pixels(sky, materials.sky_low, Id.SKY, depth=FAR)
    _band(canvas, -_EDGE, _EDGE, 1.0, _EDGE, tint(materials.terrain, light), Id.TERRAIN)
    for side in (street.left, street.right):
        _draw_side(canvas, side, materials, light)
    _strip(canvas, street.left.edge, street.right.edge, tint(materials.road, light), Id.ROAD)
    _draw_parking(canvas, street, materials, light)
    if street.junction is not None:
        _draw_junction(canvas, street, street.junction, materials, light)
    _draw_markings(canvas, street, materials, light)
    if street.tram:
        _draw_rails(canvas, street, materials, light)


def _strip(canvas: Canvas, x0: float, x1: float, colour: Colour, label: int) -> None:
    """A strip along the street between two x."""
    ones = np.ones_like(_STATIONS)
    there = np.stack([x0 * ones, 0 * ones, _STATIONS], axis=1)
    back = np.stack([x1 * ones, 0 * ones, _STATIONS], axis=1)[::-1]
    canvas.surface(np.concatenate([there, back]), colour, label)


def _band(canvas: Canvas, x0: float, x1: float, z0: float, z1: float, colour: Colour, label: int) -> None:
    """A rectangle on the ground."""
    canvas.surface(np.array([[x0, 0, z0], [x1, 0, z0], [x1, 0, z1], [x0, 0, z1]]), colour, label)


def _draw_side(canvas: Canvas, side: Side, materials: Materials, light: float) -> None:
    walk = tint(materials.sidewalk, light)
    _strip(canvas, side.edge, side.front, walk, Id.SIDEWALK)
    if side.verge > 0:
        _strip(
            canvas, side.outside(0.3), side.outside(side.verge), tint(materials.terrain, light), Id.TERRAIN
        )
    for part in side.frontage:
        if part.kind == "building":
            _band(canvas, side.front, side.front + side.sign * 14, part.z0, part.z1, walk, Id.SIDEWALK)
    _strip(canvas, side.edge, side.outside(0.16), tint(materials.kerb, 1.08 * light), Id.SIDEWALK)
    _strip(canvas, side.outside(-0.07), side.edge, tint(materials.road, 0.62 * light), Id.ROAD)


def _draw_parking(canvas: Canvas, street: Street, materials: Materials, light: float) -> None:
    for side in (street.left, street.right):
        if side.parking:
            line = side.outside(-2.2)
            _strip(canvas, line, line + side.sign * 0.1, tint(materials.marking, light), Id.LANE_MARKING)


def _draw_junction(
    canvas: Canvas, street: Street, junction: tuple[float, float], materials: Materials, light: float
) -> None:
    z0, z1 = junction
    walk, kerb = tint(materials.sidewalk, light), tint(materials.kerb, light)
    for side in (street.left, street.right):
        end = side.sign * _SIDE_STREET
        _band(canvas, side.edge, end, z0 - 2.0, z0, walk, Id.SIDEWALK)
        _band(canvas, side.edge, end, z1, z1 + 2.5, walk, Id.SIDEWALK)
        _band(canvas, side.edge, end, z1, z1 + 0.2, kerb, Id.SIDEWALK)
    _band(canvas, -_SIDE_STREET, _SIDE_STREET, z0, z1, tint(materials.road, light), Id.ROAD)
    paint = tint(materials.marking, light)
    left, right = street.left.edge + 0.6, street.right.edge - 0.6
    for z in (z0 - 3.4, z1 + 0.6):  # zebra crossings
        x = np.arange(left, right - 0.5, 1.0)
        canvas.paint_many(
            _rectangles(x, x + 0.5, np.full_like(x, z), np.full_like(x, z + 2.8)),
            paint,
            label=Id.LANE_MARKING,
        )
    stop = np.array([z0 - 4.6])
    canvas.paint_many(
        _rectangles(np.array([street.centre]), np.array([right]), stop, stop + 0.45),
        paint,
        label=Id.LANE_MARKING,
    )


def _draw_markings(canvas: Canvas, street: Street, materials: Materials, light: float) -> None:
    paint = tint(materials.marking, light)
    half_track = TRACK / 2 if street.tram else 0.0
    for i in range(1, street.lanes):
        offset = half_track + street.lane * i
        for x in (street.centre - offset, street.centre + offset):
            _dashes(canvas, street, x, paint, length=3.0, gap=5.0)
    if street.tram:
        return
    middle = tint(materials.centre_marking, light)
    if street.lanes == 1:
        _dashes(canvas, street, street.centre, middle, length=4.0, gap=4.0)
    else:
        for x in (street.centre - 0.13, street.centre + 0.13):
            _dashes(canvas, street, x, middle, length=4.0, gap=0.0)


def _dashes(canvas: Canvas, street: Street, x: float, colour: Colour, *, length: float, gap: float) -> None:
    z0 = np.arange(2.0, 100.0, length + gap)
    z1 = z0 + length
    if street.junction is not None:
        outside = (z1 < street.junction[0] - 3.5) | (z0 > street.junction[1] + 3.5)
        z0, z1 = z0[outside], z1[outside]
    side = np.full_like(z0, x)
    canvas.paint_many(_rectangles(side - 0.07, side + 0.07, z0, z1), colour, label=Id.LANE_MARKING)


def _draw_rails(canvas: Canvas, street: Street, materials: Materials, light: float) -> None:
    bed = tint(materials.sidewalk, 0.85 * light)
    _strip(canvas, street.centre - TRACK / 2, street.centre + TRACK / 2, bed, Id.ROAD)
    for offset in (-0.72, 0.72):
        x = street.centre + offset
        _strip(canvas, x - 0.11, x + 0.11, (64.0, 62.0, 62.0), Id.ROAD)
        _strip(canvas, x - 0.05, x + 0.05, (176.0, 178.0, 182.0), Id.ROAD)


def _rectangles(x0: np.ndarray, x1: np.ndarray, z0: np.ndarray, z1: np.ndarray) -> np.ndarray:
    """(K, 4, 3) rectangles on the ground."""
    zero = np.zeros_like(x0)
    corners = [(x0, zero, z0), (x1, zero, z0), (x1, zero, z1), (x0, zero, z1)]
    return np.stack([np.stack(corner, axis=-1) for corner in corners], axis=1)
