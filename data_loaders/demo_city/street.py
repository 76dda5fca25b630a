"""The cross-section and the frontage of one street; positions in metres, the camera is at x = 0."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from data_loaders.demo_city.ids import Id
from data_loaders.demo_city.looks import Habits

END = 150.0  # m; where the street is closed by a row of houses
TRACK = 3.0  # m; width that tram rails take in the middle of the road


@dataclass(frozen=True, slots=True)
class Frontage:
    """What is behind the pavement from z0 to z1: "building", "park", "wall", "fence" or "junction"."""

    z0: float
    z1: float
    kind: str


@dataclass(frozen=True, slots=True)
class Side:
    """One side of the street; every x is signed (left is negative)."""

    sign: int  # -1 left, 1 right
    edge: float  # x of the kerb
    parking: bool  # the outermost 2.2 m of the road are for parked cars
    verge: float  # m of green strip between kerb and pavement
    sidewalk: float  # m
    frontage: tuple[Frontage, ...]  # near to far

    def outside(self, distance: float) -> float:
        """x of the line `distance` m beyond the kerb (negative: on the road)."""
        return self.edge + self.sign * distance

    @property
    def front(self) -> float:
        """x of the building line."""
        return self.outside(self.verge + self.sidewalk)


@dataclass(frozen=True, slots=True)
class Street:
    """Everything about the street that does not move."""

    lane: float  # m
    lanes: int  # per direction
    centre: float  # x of the middle of the road
    tram: bool
    junction: tuple[float, float] | None  # z0, z1 of the crossing road
    left: Side
    right: Side

    def lane_centres(self) -> list[tuple[float, float]]:
        """(x, heading in rad) of every lane, own direction on the right."""
        half_track = TRACK / 2 if self.tram else 0.0
        offsets = [half_track + self.lane * (i + 0.5) for i in range(self.lanes)]
        ahead = [(self.centre + offset, 0.0) for offset in offsets]
        return ahead + [(self.centre - offset, np.pi) for offset in offsets]


def sample_street(rng: np.random.Generator, habits: Habits, wanted: Collection[Id]) -> Street:
    """Draws a street; classes in `wanted` that are parts of the street itself are made a part of it."""
    lanes = 1 + int(rng.choice(len(habits.lanes), p=np.array(habits.lanes)))
    tram = Id.TRAIN in wanted or rng.random() < habits.train
    lane = rng.uniform(3.1, 3.6)
    own = int(rng.integers(lanes))  # the lane that the camera drives in
    centre = -(lane * (own + 0.5) + (TRACK / 2 if tram else 0.0)) + rng.uniform(-0.3, 0.3)
    half = lane * lanes + (TRACK / 2 if tram else 0.0)
    junction = None
    if rng.random() < 0.55 or Id.TRAFFIC_LIGHT in wanted:
        start = rng.uniform(16.0, 38.0)
        junction = (start, start + rng.uniform(7.5, 11.0))
    first = _first_barriers(rng, wanted)
    sides = [_sample_side(rng, habits, wanted, sign, centre, half, junction, first[sign]) for sign in (-1, 1)]
    return Street(lane, lanes, centre, tram, junction, *sides)


def _first_barriers(rng: np.random.Generator, wanted: Collection[Id]) -> dict[int, str | None]:
    """A wall or fence that has to be seen comes first on one side."""
    kinds = [kind for kind, label in (("wall", Id.WALL), ("fence", Id.FENCE)) if label in wanted]
    side = int(rng.choice([-1, 1]))
    first: dict[int, str | None] = {-1: None, 1: None}
    for i, kind in enumerate(kinds):
        first[side if i == 0 else -side] = kind
    return first


def _sample_side(
    rng: np.random.Generator,
    habits: Habits,
    wanted: Collection[Id],
    sign: int,
    centre: float,
    half: float,
    junction: tuple[float, float] | None,
    first: str | None,
) -> Side:
    parking = rng.random() < habits.parking and first is None
    green = rng.random() < habits.verge or Id.TERRAIN in wanted
    return Side(
        sign=sign,
        edge=centre + sign * (half + (2.2 if parking else 0.3)),
        parking=parking,
        verge=rng.uniform(1.2, 3.0) if green else 0.0,
        sidewalk=rng.uniform(2.0, 4.2),
        frontage=_sample_frontage(rng, habits, junction, first),
    )


def _sample_frontage(
    rng: np.random.Generator, habits: Habits, junction: tuple[float, float] | None, first: str | None
) -> tuple[Frontage, ...]:
    parts: list[Frontage] = []
    z = 3.0
    while z < END:
        kind = _sample_kind(rng, habits)
        length = rng.uniform(8.0, 16.0) if kind == "building" else rng.uniform(12.0, 26.0)
        if first is not None and not parts:
            kind, length = first, rng.uniform(22.0, 34.0)
        if junction is not None and z < junction[1] and z + length > junction[0]:
            if junction[0] - z > 2.0:
                parts.append(Frontage(z, junction[0], kind))
            parts.append(Frontage(*junction, "junction"))
            z = junction[1]
            continue
        parts.append(Frontage(z, min(z + length, END), kind))
        z += length
    return tuple(parts)


def _sample_kind(rng: np.random.Generator, habits: Habits) -> str:
    draw = rng.random()
    if draw < habits.barriers:
        return "wall" if rng.random() < 0.5 else "fence"
    return "park" if draw < habits.barriers + habits.park else "building"
