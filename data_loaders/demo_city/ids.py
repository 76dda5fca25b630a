"""The ids that the demo city paints: Cityscapes label ids, and how SYNTHIA numbers the same classes."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Id(IntEnum):
    """Cityscapes label ids (those below 7 are void: ignored in training), and one id of our own."""

    EGO_VEHICLE = 1
    OUT_OF_ROI = 3
    STATIC = 4
    DYNAMIC = 5
    ROAD = 7
    SIDEWALK = 8
    BUILDING = 11
    WALL = 12
    FENCE = 13
    POLE = 17
    TRAFFIC_LIGHT = 19
    TRAFFIC_SIGN = 20
    VEGETATION = 21
    TERRAIN = 22
    SKY = 23
    PERSON = 24
    RIDER = 25
    CAR = 26
    TRUCK = 27
    BUS = 28
    TRAIN = 31
    MOTORCYCLE = 32
    BICYCLE = 33
    LANE_MARKING = 200  # a class of SYNTHIA only; road in the Cityscapes formats


# The 19 classes, in train-id order.
EVALUATED = tuple(i for i in Id if Id.ROAD <= i <= Id.BICYCLE)

_SYNTHIA = {
    Id.SKY: 1,
    Id.BUILDING: 2,
    Id.ROAD: 3,
    Id.SIDEWALK: 4,
    Id.FENCE: 5,
    Id.VEGETATION: 6,
    Id.POLE: 7,
    Id.CAR: 8,
    Id.TRAFFIC_SIGN: 9,
    Id.PERSON: 10,
    Id.BICYCLE: 11,
    Id.MOTORCYCLE: 12,
    Id.TRAFFIC_LIGHT: 15,
    Id.TERRAIN: 16,
    Id.RIDER: 17,
    Id.TRUCK: 18,
    Id.BUS: 19,
    Id.TRAIN: 20,
    Id.WALL: 21,
    Id.LANE_MARKING: 22,
}

_PALETTE = {  # the official Cityscapes colours by label id; the other void ids are black
    Id.DYNAMIC: (111, 74, 0),
    Id.ROAD: (128, 64, 128),
    Id.SIDEWALK: (244, 35, 232),
    Id.BUILDING: (70, 70, 70),
    Id.WALL: (102, 102, 156),
    Id.FENCE: (190, 153, 153),
    Id.POLE: (153, 153, 153),
    Id.TRAFFIC_LIGHT: (250, 170, 30),
    Id.TRAFFIC_SIGN: (220, 220, 0),
    Id.VEGETATION: (107, 142, 35),
    Id.TERRAIN: (152, 251, 152),
    Id.SKY: (70, 130, 180),
    Id.PERSON: (220, 20, 60),
    Id.RIDER: (255, 0, 0),
    Id.CAR: (0, 0, 142),
    Id.TRUCK: (0, 0, 70),
    Id.BUS: (0, 60, 100),
    Id.TRAIN: (0, 80, 100),
    Id.MOTORCYCLE: (0, 0, 230),
    Id.BICYCLE: (119, 11, 32),
}


def cityscapes_table() -> np.ndarray:
    """(256,) uint8: painted id -> Cityscapes label id."""
    table = np.arange(256, dtype=np.uint8)
    table[Id.LANE_MARKING] = Id.ROAD
    return table


def synthia_table() -> np.ndarray:
    """(256,) uint8: painted id -> SYNTHIA class id, 0 (void) for what SYNTHIA does not name."""
    table = np.zeros(256, dtype=np.uint8)
    for painted, synthia in _SYNTHIA.items():
        table[painted] = synthia
    return table


def cityscapes_palette() -> list[int]:
    """768 values R, G, B, R, G, B, ... by Cityscapes label id, as Pillow's `putpalette` takes them."""
    palette = np.zeros((256, 3), dtype=np.uint8)
    for painted, colour in _PALETTE.items():
        palette[painted] = colour
    return palette.ravel().tolist()
