"""One scene from one generator: street, houses, traffic, seen by one camera."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from data_loaders.demo_city.camera import Camera, Light
from data_loaders.demo_city.canvas import Canvas
from data_loaders.demo_city.frontage import build_frontage
from data_loaders.demo_city.ground import draw_ground
from data_loaders.demo_city.ids import Id
from data_loaders.demo_city.looks import Look, Rendering
from data_loaders.demo_city.population import Population
from data_loaders.demo_city.street import sample_street
from data_loaders.demo_city.things import within

_BORDER = 0.006  # share of the width that is out of the region of interest, where there is a bonnet


def draw_scene(
    rng: np.random.Generator, look: Look, *, size: tuple[int, int], wanted: Collection[Id]
) -> Canvas:
    """Draws one street.

    Args:
        size: (width, height) of the final image.
        wanted: classes that must be near the camera.
    """
    canvas = Canvas(_sample_camera(rng, look, size), _sample_light(rng, look.rendering))
    street = sample_street(rng, look.habits, wanted)
    things = build_frontage(rng, street, look) + Population(rng, street, look, wanted).build()
    hood = rng.random() < look.habits.hood
    draw_ground(canvas, street, look.materials)
    for thing in things:
        thing.shadow(canvas)
    canvas.darken_shadows()
    for thing in sorted(things, key=lambda thing: -thing.key):
        thing.draw(canvas)
    if hood:
        _draw_bonnet(canvas)
    return canvas


def _sample_camera(rng: np.random.Generator, look: Look, size: tuple[int, int]) -> Camera:
    width, height = size
    return Camera(
        width=width,
        height=height,
        focal=within(rng, look.habits.focal) * float(np.sqrt(2.0 * width * height)),
        horizon=within(rng, look.habits.horizon) * height,
        eye=within(rng, look.habits.eye),
        yaw=float(rng.normal(0, 0.035)),
        bend=float(rng.normal(0, 2.5e-4)),
    )


def _sample_light(rng: np.random.Generator, rendering: Rendering) -> Light:
    azimuth, height = float(rng.uniform(0, 2 * math.pi)), within(rng, rendering.sun_height)
    flat = math.cos(height)
    sun = (flat * math.sin(azimuth), math.sin(height), flat * math.cos(azimuth))
    return Light(
        sun, within(rng, rendering.ambient), within(rng, rendering.diffuse), within(rng, rendering.shadow)
    )


def _draw_bonnet(canvas: Canvas) -> None:
    """The bonnet of the own car, and the rim without labels that the rectification of a camera leaves."""
    width, height = canvas.camera.width, canvas.camera.height
    across = np.linspace(-1.0, 1.0, 21)
    for lift, colour in (
        (0.085, (40.0, 42.0, 46.0)),
        (0.07, (62.0, 66.0, 72.0)),
        (0.045, (48.0, 50.0, 55.0)),
    ):
        arch = height * (1 - lift * (1 - 0.75 * across**4))
        top = np.stack([(across + 1) / 2 * (width - 1), arch], axis=1)
        bottom = np.array([[width, height + 1.0], [-1.0, height + 1.0]])
        canvas.surface_pixels(np.concatenate([top, bottom]), colour, Id.EGO_VEHICLE, depth=1.5)
    canvas.rim = max(round(_BORDER * width), 1)
