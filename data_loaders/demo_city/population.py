"""What stands and moves in a street besides the houses: traffic, parked cars, people, trees, furniture."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from data_loaders.demo_city.furniture import Bin, LampPost, Sign, TrafficLight
from data_loaders.demo_city.ids import Id
from data_loaders.demo_city.looks import Look
from data_loaders.demo_city.nature import Tree
from data_loaders.demo_city.people import Bicycle, Clothes, Motorcycle, Pedestrian
from data_loaders.demo_city.solids import Pose
from data_loaders.demo_city.street import Side, Street
from data_loaders.demo_city.things import Thing, pick, seed, vary
from data_loaders.demo_city.vehicles import Car, Coach, Truck

_SKIN = ((232.0, 190.0, 160.0), (206.0, 160.0, 126.0), (150.0, 104.0, 76.0), (104.0, 72.0, 54.0))
_HAIR = ((40.0, 32.0, 28.0), (88.0, 62.0, 42.0), (160.0, 130.0, 84.0), (120.0, 118.0, 116.0))
_HELMETS = ((226.0, 226.0, 226.0), (34.0, 34.0, 38.0), (196.0, 44.0, 40.0), (50.0, 90.0, 170.0))
_LABELS = {
    "car": Id.CAR,
    "truck": Id.TRUCK,
    "bus": Id.BUS,
    "motorcycle": Id.MOTORCYCLE,
    "bicycle": Id.BICYCLE,
}


class Population:
    """Fills one street from one generator; call `build` once."""

    def __init__(self, rng: np.random.Generator, street: Street, look: Look, wanted: Collection[Id]) -> None:
        self.rng = rng
        self.street = street
        self.look = look
        self.wanted = frozenset(wanted)

    def build(self) -> list[Thing]:
        """Every thing, in no order. What is wanted stands near the camera, where nothing hides it."""
        things = self._wanted_things()
        for x, heading in self.street.lane_centres():
            vehicles = [
                thing for thing in things if isinstance(thing, (Car, Truck, Coach)) and thing.pose.x == x
            ]
            first = max([thing.pose.z + 9.0 for thing in vehicles], default=8.0)
            things += self._traffic(x, heading, first)
        if self.street.tram and Id.TRAIN not in self.wanted:
            things += self._tram(self.rng.uniform(20.0, 60.0))
        for side in (self.street.left, self.street.right):
            things += self._parked(side) + self._pavement(side) + self._green(side)
        if self.street.junction is not None:
            things += self._junction(self.street.junction)
        return things

    def _clothes(self) -> Clothes:
        wear = self.look.materials.clothes
        top, trousers = vary(self.rng, pick(self.rng, wear)), vary(self.rng, pick(self.rng, wear))
        return Clothes(top, trousers, pick(self.rng, _SKIN), pick(self.rng, _HAIR))

    def _car(self, pose: Pose) -> Car:
        colour = vary(self.rng, pick(self.rng, self.look.materials.cars))
        return Car(
            pose, int(self.rng.choice(4, p=(0.35, 0.3, 0.25, 0.1))), colour, bool(self.rng.random() < 0.4)
        )

    def _vehicle(self, kind: str, x: float, z: float, heading: float) -> tuple[Thing, float]:
        """A vehicle whose near end is at z, and its length."""
        rng, materials = self.rng, self.look.materials
        if kind == "truck":
            length = rng.uniform(6.5, 9.5)
            cargo = vary(rng, pick(rng, ((226.0, 226.0, 222.0), (196.0, 190.0, 176.0), *materials.cars)))
            colours = (vary(rng, pick(rng, materials.cars)), cargo, vary(rng, pick(rng, materials.buses)))
            return Truck(Pose(x, z + length / 2, heading), length, *colours), length
        if kind == "bus":
            length = rng.uniform(10.0, 12.5)
            colours = (vary(rng, pick(rng, materials.buses)), vary(rng, pick(rng, materials.cars)))
            return Coach(Pose(x, z + length / 2, heading), length, 3.1, *colours, Id.BUS, True), length
        if kind == "motorcycle":
            return self._motorcycle(x, z + 1.0, heading + rng.normal(0, 0.12), ridden=True), 2.2
        if kind == "bicycle":
            sign = 1.0 if np.cos(heading) > 0 else -1.0
            beside = x + sign * 0.35 * self.street.lane
            return self._bicycle(beside, z + 0.9, heading + rng.normal(0, 0.15), ridden=True), 1.9
        return self._car(Pose(x, z + 2.2, heading + rng.normal(0, 0.02))), 4.6

    def _motorcycle(self, x: float, z: float, heading: float, *, ridden: bool) -> Motorcycle:
        colour = vary(self.rng, pick(self.rng, self.look.materials.cars))
        rider = self._clothes() if ridden else None
        return Motorcycle(Pose(x, z, heading), colour, rider, pick(self.rng, _HELMETS))

    def _bicycle(self, x: float, z: float, heading: float, *, ridden: bool) -> Bicycle:
        colour = vary(self.rng, pick(self.rng, self.look.materials.cars))
        return Bicycle(Pose(x, z, heading), colour, self._clothes() if ridden else None)

    def _pedestrian(self, x: float, z: float) -> Pedestrian:
        height = self.rng.uniform(1.1, 1.4) if self.rng.random() < 0.1 else self.rng.normal(1.72, 0.08)
        stride = float(self.rng.choice([-1, 1]) * self.rng.uniform(0.2, 1.0))
        return Pedestrian(x, z, float(height), stride, self._clothes(), bool(self.rng.random() < 0.3))

    def _traffic(self, x: float, heading: float, first: float) -> list[Thing]:
        habits, things = self.look.habits, []
        kinds, weights = list(habits.vehicles), np.array(list(habits.vehicles.values()))
        z = first + self.rng.exponential(8.0)
        while z < 110:
            if self.rng.random() < habits.traffic + (0.15 if z > 30 else 0.0):
                kind = kinds[int(self.rng.choice(len(kinds), p=weights / weights.sum()))]
                thing, length = self._vehicle(kind, x, z, heading)
                if not self._blocks_junction(z, z + length):
                    things.append(thing)
                z += length
            z += self.rng.uniform(4.0, 14.0)
        return things

    def _blocks_junction(self, z0: float, z1: float) -> bool:
        junction = self.street.junction
        return junction is not None and z1 > junction[0] - 4.0 and z0 < junction[1] + 1.0

    def _tram(self, first: float) -> list[Thing]:
        """Two to three sections on the rails; the first has its near end at `first`."""
        rng, materials = self.rng, self.look.materials
        colour, band = vary(rng, pick(rng, materials.trains)), vary(rng, pick(rng, materials.cars))
        sections, length = int(rng.integers(2, 4)), 8.5
        oncoming = rng.random() < 0.6
        return [
            Coach(
                Pose(self.street.centre, first + (length + 0.4) * i + length / 2, np.pi if oncoming else 0.0),
                length,
                3.5,
                colour,
                band,
                Id.TRAIN,
                driver=i == 0 if oncoming else i == sections - 1,
            )
            for i in range(sections)
        ]

    def _parked(self, side: Side) -> list[Thing]:
        if not side.parking:
            return []
        x, things = side.outside(-1.1), []
        heading = 0.0 if side.sign > 0 else np.pi
        z = self.rng.uniform(13.0, 17.0) if self.wanted else self.rng.uniform(5.0, 12.0)
        while z < 120:
            if not self._blocks_junction(z, z + 5) and self.rng.random() < 0.75:
                kind = "motorcycle" if self.rng.random() < 0.06 else "car"
                pose = Pose(x + self.rng.normal(0, 0.08), z + 2.3, heading)
                parked = (
                    self._car(pose)
                    if kind == "car"
                    else self._motorcycle(x, z + 1, heading + 0.9, ridden=False)
                )
                things.append(parked)
            z += self.rng.uniform(5.3, 7.0)
        return things

    def _pavement(self, side: Side) -> list[Thing]:
        rng, habits = self.rng, self.look.habits
        walk = side.verge + np.array([0.5, side.sidewalk - 0.4])
        things: list[Thing] = []
        for _ in range(rng.poisson(habits.people * 75)):
            z, x = rng.uniform(9.0, 75.0), side.outside(rng.uniform(*walk))
            things += [
                self._pedestrian(x + 0.55 * i, z + rng.normal(0, 0.2))
                for i in range(1 + int(rng.random() < 0.3))
            ]
        colour = vary(rng, pick(rng, self.look.materials.poles))
        height = rng.uniform(5.5, 8.0)
        for z in np.arange(rng.uniform(8.0, 22.0), 130.0, rng.uniform(22.0, 30.0)):
            things.append(
                LampPost(side.outside(0.5), float(z), height, -side.sign * rng.uniform(1.2, 2.4), colour)
            )
        for _ in range(rng.poisson(habits.signs)):
            things.append(self._sign(side, rng.uniform(10.0, 45.0)))
        if rng.random() < habits.cycles:
            z0, x = rng.uniform(9.0, 40.0), side.outside(side.verge + 0.6)
            slant = rng.uniform(0.7, 1.2)
            things += [
                self._bicycle(x, z0 + 0.8 * i, slant, ridden=False) for i in range(int(rng.integers(1, 4)))
            ]
        if rng.random() < 0.35:
            label = Id.STATIC if rng.random() < 0.7 else Id.DYNAMIC
            place = Pose(side.outside(side.verge + 0.9), rng.uniform(9.0, 35.0), rng.uniform(-0.4, 0.4))
            things.append(Bin(place, rng.uniform(0.8, 1.3), vary(rng, (70.0, 84.0, 74.0), 0.2), label))
        return things

    def _sign(self, side: Side, z: float) -> Sign:
        colour = pick(self.rng, self.look.materials.poles)
        yellow = int(self.rng.choice(6, p=(0.2, 0.2, 0.2, 0.2, 0.12, 0.08)))
        return Sign(side.outside(0.55), float(z), yellow, float(self.rng.uniform(2.1, 2.7)), colour)

    def _green(self, side: Side) -> list[Thing]:
        """Street trees, in the green strip or in the pavement."""
        if self.rng.random() >= self.look.habits.trees:
            return []
        x, things = side.outside(max(0.5 * side.verge, 0.8)), []
        leaf = pick(self.rng, self.look.materials.leaves)
        height = self.rng.uniform(4.5, 9.0)
        for z in np.arange(self.rng.uniform(12.0, 20.0), 140.0, self.rng.uniform(8.0, 14.0)):
            if self._blocks_junction(z - 3, z + 3):
                continue
            tall = height * self.rng.uniform(0.85, 1.15)
            things.append(Tree(x, float(z), tall, tall * 0.3, vary(self.rng, leaf), seed(self.rng)))
        return things

    def _junction(self, junction: tuple[float, float]) -> list[Thing]:
        rng, things = self.rng, []
        z0, z1 = junction
        if Id.TRAFFIC_LIGHT in self.wanted or rng.random() < self.look.habits.lights:
            colour, lit = (
                vary(rng, pick(rng, self.look.materials.poles)),
                int(rng.choice(3, p=(0.5, 0.1, 0.4))),
            )
            arm = rng.uniform(2.5, 4.0) if rng.random() < 0.5 else 0.0
            for side in (self.street.left, self.street.right):
                reach = -side.sign * arm if side.sign > 0 else 0.0
                for z in (z0 - 4.4, z1 + 1.0):
                    things.append(TrafficLight(side.outside(0.5), z, reach, lit, colour))
        if rng.random() < 0.5:
            toward = pick(rng, (-1, 1))
            x = self.street.centre + rng.uniform(-12.0, 12.0)
            heading = toward * np.pi / 2
            things.append(self._car(Pose(x, (z0 + z1) / 2 + toward * -2.0, heading)))
        for _ in range(rng.poisson(1.2)):
            x = rng.uniform(self.street.left.edge, self.street.right.edge)
            things.append(self._pedestrian(x, z0 - rng.uniform(1.0, 3.0)))
        return things

    def _wanted_things(self) -> list[Thing]:
        """One near and free-standing example of each wanted class that is a thing."""
        rng, street, things = self.rng, self.street, []
        right = street.right
        lanes = street.lane_centres()
        own, oncoming = lanes[0], lanes[street.lanes]
        for label in sorted(self.wanted):
            if label in (Id.CAR, Id.TRUCK, Id.BUS):
                kind = next(name for name, value in _LABELS.items() if value == label)
                x, heading = pick(rng, (own, oncoming))
                things.append(self._vehicle(kind, x, rng.uniform(9.0, 18.0), heading)[0])
            elif label == Id.TRAIN:
                things += self._tram(rng.uniform(9.0, 22.0))
            elif label == Id.MOTORCYCLE:
                x, z = right.outside(-1.0 - 2.2 * right.parking), rng.uniform(8.0, 12.0)
                heading = rng.choice([-1, 1]) * rng.uniform(0.4, 1.2)
                things.append(self._motorcycle(x, z, heading, ridden=bool(rng.random() < 0.6)))
            elif label in (Id.BICYCLE, Id.RIDER):
                x, z = right.outside(-0.9 - 2.2 * right.parking), rng.uniform(8.0, 12.0)
                heading = rng.choice([-1, 1]) * rng.uniform(0.5, 1.3)
                ridden = label == Id.RIDER or rng.random() < 0.5
                things.append(self._bicycle(x, z, heading, ridden=ridden))
            elif label == Id.PERSON:
                x = rng.uniform(own[0] + 0.8, right.outside(0.4 * right.verge + 0.6))
                things.append(self._pedestrian(x, rng.uniform(8.0, 12.0)))
            elif label == Id.TRAFFIC_SIGN:
                things.append(self._sign(right, rng.uniform(9.0, 14.0)))
            elif label == Id.POLE:
                colour = pick(rng, self.look.materials.poles)
                things.append(LampPost(right.outside(0.5), rng.uniform(12.0, 16.0), 7.0, -1.8, colour))
        return things
