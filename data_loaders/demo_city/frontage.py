"""What stands behind the pavements: houses, parks, walls and fences, and the houses that close the street."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from data_loaders.demo_city.barriers import Barrier
from data_loaders.demo_city.buildings import Building, EndBuilding
from data_loaders.demo_city.looks import Look, Materials
from data_loaders.demo_city.nature import Hedge, Tree
from data_loaders.demo_city.street import END, Frontage, Side, Street
from data_loaders.demo_city.things import Thing, pick, seed, vary

_SHOP_SIGNS = (
    (190.0, 40.0, 44.0),
    (40.0, 90.0, 160.0),
    (50.0, 120.0, 80.0),
    (226.0, 180.0, 60.0),
    (60.0, 60.0, 64.0),
)


def build_frontage(rng: np.random.Generator, street: Street, look: Look) -> list[Thing]:
    """Everything behind the pavements of both sides and at the end of the street."""
    things: list[Thing] = []
    for side in (street.left, street.right):
        for part in side.frontage:
            if part.kind == "building":
                things.append(_house(rng, side, part, look))
            elif part.kind == "park":
                things += _park(rng, side.front, side, part, look.materials)
            elif part.kind in ("wall", "fence"):
                things += _barrier(rng, side, part, look)
            elif part.kind == "junction":
                things += _side_street(rng, side, part, look)
    return things + _end(rng, look)


def _house(
    rng: np.random.Generator, side: Side, part: Frontage, look: Look, setback: float = 0.0
) -> Building:
    low, high = look.habits.floors
    return Building(
        x=side.front + side.sign * setback,
        z0=part.z0,
        z1=part.z1,
        sign=side.sign,
        floors=int(rng.integers(low, high, endpoint=True)),
        colour=vary(rng, pick(rng, look.materials.facades)),
        roof=vary(rng, pick(rng, look.materials.roofs)),
        style=int(rng.integers(4)),
        shop=vary(rng, pick(rng, _SHOP_SIGNS)) if rng.random() < 0.4 else None,
        seed=seed(rng),
    )


def _trees(
    rng: np.random.Generator, x: float, side: Side, part: Frontage, materials: Materials, spacing: float
) -> list[Thing]:
    """Trees at least `x` from the camera line, at random distances behind it."""
    count = int(rng.poisson((part.z1 - part.z0) / spacing))
    trees: list[Thing] = []
    for _ in range(count):
        height = rng.uniform(5.0, 11.0)
        place = x + side.sign * (0.25 * height + rng.uniform(0.5, 8.0))
        z = max(rng.uniform(part.z0, part.z1), 6.0)
        leaf = vary(rng, pick(rng, materials.leaves), 0.12)
        trees.append(Tree(place, z, height, height * rng.uniform(0.26, 0.36), leaf, seed(rng)))
    return trees


def _park(
    rng: np.random.Generator, x: float, side: Side, part: Frontage, materials: Materials
) -> list[Thing]:
    things = _trees(rng, x + side.sign, side, part, materials, spacing=3.5)
    if rng.random() < 0.5:
        leaf = vary(rng, pick(rng, materials.leaves))
        height, row = rng.uniform(0.9, 1.6), x + side.sign * 0.6
        things += [Hedge(row, z0, z1, height, leaf, seed(rng)) for z0, z1 in _pieces(part)]
    return things


def _barrier(rng: np.random.Generator, side: Side, part: Frontage, look: Look) -> list[Thing]:
    """A wall or fence; behind it trees or, further back, a house."""
    fence = part.kind == "fence"
    behind: list[Thing] = []
    if rng.random() < 0.5:
        behind.append(_house(rng, side, part, look, setback=5.0))
    behind += _trees(rng, side.front + side.sign * 0.5, side, part, look.materials, spacing=6.0)
    height = rng.uniform(1.1, 1.9) if fence else rng.uniform(1.5, 3.2)
    colour = vary(rng, pick(rng, look.materials.fences if fence else look.materials.walls))
    spacing = rng.uniform(0.16, 0.3) if fence else rng.uniform(0.3, 0.6)
    return behind + [
        Barrier(side.front, z0, z1, side.sign, height, colour, fence, spacing) for z0, z1 in _pieces(part)
    ]


def _pieces(part: Frontage) -> list[tuple[float, float]]:
    """(z0, z1) of parts of at most 3 m: short enough to be painted in order with the trees behind them."""
    edges = np.linspace(part.z0, part.z1, max(int(np.ceil((part.z1 - part.z0) / 3.0)), 1) + 1).tolist()
    return list(pairwise(edges))


def _side_street(rng: np.random.Generator, side: Side, part: Frontage, look: Look) -> list[Thing]:
    """Houses and trees along the far side of a crossing road."""
    things: list[Thing] = []
    x = side.front + side.sign * 12.5
    while abs(x) < 70:
        width = rng.uniform(9.0, 15.0)
        z = part.z1 + 2.6
        if rng.random() < 0.3:
            leaf = vary(rng, pick(rng, look.materials.leaves))
            things.append(
                Tree(
                    x + side.sign * width / 2, z + 3, rng.uniform(6, 9), rng.uniform(2, 2.8), leaf, seed(rng)
                )
            )
        else:
            x0, x1 = sorted((x, x + side.sign * width))
            floors = rng.integers(*look.habits.floors, endpoint=True)
            colour = vary(rng, pick(rng, look.materials.facades))
            things.append(SideStreetBuilding(x0, x1, z, 3.1 * float(floors) + 1.0, colour))
        x += side.sign * width
    return things


class SideStreetBuilding(EndBuilding):
    """A house in a crossing road: it stands among the things of the main street."""

    @property
    def key(self) -> float:
        """Behind what stands at the same distance along the main street."""
        return self.z + min(abs(self.x0), abs(self.x1)) + 4.0


def _end(rng: np.random.Generator, look: Look) -> list[Thing]:
    """Houses and trees that close the view at the end of the street."""
    things: list[Thing] = []
    x = -110.0
    while x < 110.0:
        width = rng.uniform(10.0, 24.0)
        colour = vary(rng, pick(rng, look.materials.facades))
        things.append(EndBuilding(x, x + width, END + 12.0, rng.uniform(6.0, 22.0), colour))
        if rng.random() < 0.7:
            leaf = vary(rng, pick(rng, look.materials.leaves))
            things.append(
                Tree(
                    x + rng.uniform(0, width),
                    END + 6.0,
                    rng.uniform(7, 13),
                    rng.uniform(3, 5),
                    leaf,
                    seed(rng),
                )
            )
        x += width
    return things
