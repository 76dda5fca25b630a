"""One numbered image of the demo city with its label, and which classes it must show."""

from __future__ import annotations

import zlib

import numpy as np

from data_loaders.demo_city.appearance import render
from data_loaders.demo_city.ids import Id
from data_loaders.demo_city.looks import LOOKS
from data_loaders.demo_city.scene import draw_scene

WANTED_CYCLE = (  # image n must show entry n modulo 8, so that any 8 images in a row have all rare classes
    (Id.WALL, Id.TRAIN),
    (Id.FENCE, Id.RIDER),
    (Id.TERRAIN, Id.TRUCK),
    (Id.TRAFFIC_LIGHT, Id.MOTORCYCLE),
    (Id.BUS, Id.BICYCLE),
    (Id.WALL, Id.PERSON),
    (Id.FENCE, Id.TRAFFIC_SIGN),
    (Id.TERRAIN, Id.POLE, Id.CAR),
)
_ATTEMPTS = 6
_ENOUGH = 4e-4  # share of the pixels that a wanted class must have


def draw_picture(seed: int, domain: str, number: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Draws image `number` of a domain; depends on the four arguments and nothing else.

    Args:
        seed: of the whole city, >= 0.
        domain: a key of `LOOKS`.
        number: >= 0.
        size: (width, height).

    Returns:
        (H, W, 3) uint8 RGB picture and (H, W) uint8 painted ids (`ids.Id`).
    """
    look = LOOKS[domain]
    rng = np.random.default_rng((seed, zlib.crc32(domain.encode()), number))
    wanted = WANTED_CYCLE[number % len(WANTED_CYCLE)]
    for _ in range(_ATTEMPTS):  # a wanted thing may be hidden by chance: then another street is drawn
        canvas = draw_scene(rng, look, size=size, wanted=wanted)
        label = canvas.label_image()
        if all(np.count_nonzero(label == i) >= max(_ENOUGH * label.size, 1) for i in wanted):
            break
    return render(rng, canvas, look), label
