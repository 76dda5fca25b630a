"""From painted buffers to a picture: surface texture, clouds, haze, and what the camera makes of it."""

from __future__ import annotations

import cv2
import numpy as np

from data_loaders.demo_city.camera import Camera
from data_loaders.demo_city.canvas import SUPERSAMPLING, Canvas
from data_loaders.demo_city.ids import Id
from data_loaders.demo_city.looks import Look, Materials, Rendering
from data_loaders.demo_city.things import within

_TILE = 256  # side of the noise tile
_GROUND_DETAIL = 24.0  # noise samples per metre of ground
_TEXTURE = {  # contrast of the texture by painted id; 0 for the rest
    Id.ROAD: 0.09,
    Id.LANE_MARKING: 0.1,
    Id.SIDEWALK: 0.09,
    Id.TERRAIN: 0.24,
    Id.VEGETATION: 0.3,
    Id.BUILDING: 0.07,
    Id.WALL: 0.12,
    Id.PERSON: 0.08,
    Id.RIDER: 0.08,
    Id.TRUCK: 0.03,
    Id.BUS: 0.03,
    Id.TRAIN: 0.03,
    Id.CAR: 0.03,
    Id.STATIC: 0.08,
    Id.DYNAMIC: 0.08,
}
_GROUND = np.isin(np.arange(256), (Id.ROAD, Id.LANE_MARKING, Id.SIDEWALK, Id.TERRAIN))
_LUMA = (0.299, 0.587, 0.114)  # shares of red, green, blue in the brightness


def render(rng: np.random.Generator, canvas: Canvas, look: Look) -> np.ndarray:
    """(H, W, 3) uint8 RGB picture of a finished canvas."""
    rendering = look.rendering
    light = canvas.colour.astype(np.float32)
    _add_texture(rng, light, canvas, rendering)
    _paint_sky(rng, light, canvas, look.materials, rendering)
    _add_haze(light, canvas, rendering, within(rng, rendering.haze_distance))
    size = (canvas.camera.width, canvas.camera.height)
    picture = cv2.resize(light, size, interpolation=cv2.INTER_AREA)
    picture = _expose(rng, picture, rendering)
    picture = _blur(rng, picture, rendering)
    picture = _add_noise(rng, picture, rendering)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def _smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cell: float) -> np.ndarray:
    """Noise of mean about 0 and unit contrast whose details are `cell` samples wide."""
    coarse = (max(int(shape[0] / cell), 2), max(int(shape[1] / cell), 2))
    small = rng.standard_normal(coarse, dtype=np.float32)
    return cv2.resize(small, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)


def _add_texture(rng: np.random.Generator, light: np.ndarray, canvas: Canvas, rendering: Rendering) -> None:
    """Multiplies by noise: in perspective on the ground, in the image plane elsewhere."""
    shape = canvas.label.shape
    unit = shape[1] / 512 * rendering.grain  # details keep their size relative to the image
    noise = 0.6 * _smooth_noise(rng, shape, 2.0 * unit) + 0.55 * _smooth_noise(rng, shape, 5.0 * unit)
    noise += 0.4 * _smooth_noise(rng, shape, 14.0 * unit)
    first = int(
        np.clip(canvas.camera.horizon * SUPERSAMPLING, 0, shape[0] - 1)
    )  # the ground is below this row
    ground, slabs = _ground_noise(rng, canvas.camera, first, shape, rendering.grain)
    lower = canvas.label[first:]
    noise[first:] = np.where(_GROUND[lower], ground, noise[first:])
    contrast = np.zeros(256, dtype=np.float32)
    for label, share in _TEXTURE.items():
        contrast[label] = share * rendering.texture
    factor = 1 + contrast[canvas.label] * np.clip(noise, -2.2, 2.2)
    factor[first:] -= slabs * (lower == Id.SIDEWALK)
    light *= np.maximum(factor, 0.2)[..., None]


def _ground_noise(
    rng: np.random.Generator, camera: Camera, first: int, shape: tuple[int, int], grain: float
) -> tuple[np.ndarray, np.ndarray]:
    """Texture of the ground in perspective, and the darkening (0 to 0.2) of joints between paving slabs.

    Both are for the rows from `first` down.
    """
    rows = np.arange(first, shape[0], dtype=np.float32)[:, None]
    x, z = camera.ground(
        (rows - 0.5) / SUPERSAMPLING, (np.arange(shape[1], dtype=np.float32) - 0.5) / SUPERSAMPLING
    )
    tile = rng.standard_normal((_TILE, _TILE), dtype=np.float32)
    tile = 0.6 * tile + 1.6 * cv2.GaussianBlur(tile, (0, 0), 2, borderType=cv2.BORDER_REFLECT)
    tile += 3.0 * cv2.GaussianBlur(tile, (0, 0), 7, borderType=cv2.BORDER_REFLECT)
    scale = _GROUND_DETAIL / grain
    fine = cv2.remap(tile, x * scale, z * scale, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    coarse = cv2.remap(tile, x * 1.3, z * 1.3, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    near = np.exp(-z[:, :1] / 14)
    across = z[:, :1] / 0.8 % 1 < 0.1
    along = x / 0.8
    joint = (along - np.floor(along) < 0.1) | across
    return fine * near + 0.8 * coarse, 0.2 * joint * near


def _paint_sky(
    rng: np.random.Generator, light: np.ndarray, canvas: Canvas, materials: Materials, rendering: Rendering
) -> None:
    """Replaces the flat sky by a gradient with clouds."""
    height, width = canvas.label.shape
    sky = canvas.label == Id.SKY
    rise = (
        np.linspace(0, 1, height, dtype=np.float32) * height / max(canvas.camera.horizon * SUPERSAMPLING, 1)
    )
    rise = np.clip(rise, 0, 1)[:, None, None]
    colour = (1 - rise) * np.float32(materials.sky_top) + rise * np.float32(materials.sky_low)
    shape = (height // 2 + 1, width // 4 + 1)  # clouds are wider than high
    field = sum(
        _smooth_noise(rng, shape, cell * width / 512) / share for cell, share in ((40, 1), (16, 2), (6, 4))
    )
    cover = np.quantile(field, 1 - within(rng, rendering.clouds))
    cloud = np.clip((cv2.resize(field, (width, height)) - cover) * 1.1, 0, 1)[..., None] * 0.9
    sheen = np.float32(materials.cloud) * (0.9 + 0.1 * (1 - rise))
    light[sky] = (colour * (1 - cloud) + sheen * cloud)[sky]


def _add_haze(light: np.ndarray, canvas: Canvas, rendering: Rendering, distance: float) -> None:
    """Fades everything but the sky into the haze with its depth; the ground by its own depth at each row."""
    height = canvas.label.shape[0]
    rows = np.arange(height, dtype=np.float32)[:, None]
    _, ground = canvas.camera.ground((rows - 0.5) / SUPERSAMPLING, np.zeros_like(rows))
    depth = np.where(_GROUND[canvas.label], ground, canvas.depth)
    left = np.exp(-depth / distance)
    left[canvas.depth > 399] = 1.0
    light *= left[..., None]
    light += np.float32(rendering.haze_colour) * (1 - left[..., None])


def _expose(rng: np.random.Generator, picture: np.ndarray, rendering: Rendering) -> np.ndarray:
    """Bloom, vignette, exposure, colour cast, saturation, contrast; float32 in about [0, 255]."""
    height, width = picture.shape[:2]
    glow = cv2.GaussianBlur(np.maximum(picture - 190, 0), (0, 0), 0.012 * width + 0.5)
    picture = picture + rendering.bloom * 2 * glow
    gains = np.float32(rendering.cast) * (1 + rng.normal(0, rendering.cast_spread, 3))
    picture *= np.float32(gains * within(rng, rendering.exposure))
    rows, columns = np.linspace(-1, 1, height), np.linspace(-1, 1, width)
    radius = (rows[:, None] ** 2 + columns[None] ** 2) / 2
    picture *= np.float32(1 - rendering.vignette * radius)[..., None]
    red, green, blue = _LUMA
    grey = (red * picture[..., 0] + green * picture[..., 1] + blue * picture[..., 2])[..., None]
    picture = grey + within(rng, rendering.saturation) * (picture - grey)
    return 118 + within(rng, rendering.contrast) * (picture - 118)


def _blur(rng: np.random.Generator, picture: np.ndarray, rendering: Rendering) -> np.ndarray:
    """The lens of a camera, or the edge filter of a renderer."""
    sigma = within(rng, rendering.blur)
    if sigma > 0.15:
        picture = cv2.GaussianBlur(picture, (0, 0), sigma)
    if rendering.sharpen:
        picture = picture + rendering.sharpen * (picture - cv2.GaussianBlur(picture, (0, 0), 1.0))
    return picture


def _add_noise(rng: np.random.Generator, picture: np.ndarray, rendering: Rendering) -> np.ndarray:
    """Sensor noise that grows with the square root of the light, partly the same in the three colours."""
    strength = within(rng, rendering.noise)
    if strength == 0:
        return picture
    height, width = picture.shape[:2]
    common = rng.standard_normal((height, width, 1), dtype=np.float32)
    colour = rng.standard_normal((height, width, 3), dtype=np.float32)
    share = rendering.colour_noise
    level = np.sqrt(np.clip(picture, 0, 255) / 118 + 0.3)
    return picture + np.float32(strength) * level * ((1 - share) * common + share * colour)
