"""How the domains differ: materials, light, camera and habits of the street, one `Look` per domain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Rgb = tuple[float, float, float]
Range = tuple[float, float]  # uniform between the two


@dataclass(frozen=True, slots=True)
class Materials:
    """Colours before light, haze and the camera, R, G, B in [0, 255]."""

    road: Rgb
    marking: Rgb
    centre_marking: Rgb
    sidewalk: Rgb
    kerb: Rgb
    terrain: Rgb
    facades: tuple[Rgb, ...]
    roofs: tuple[Rgb, ...]
    walls: tuple[Rgb, ...]
    fences: tuple[Rgb, ...]
    poles: tuple[Rgb, ...]
    leaves: tuple[Rgb, ...]
    cars: tuple[Rgb, ...]
    buses: tuple[Rgb, ...]
    trains: tuple[Rgb, ...]
    clothes: tuple[Rgb, ...]
    sky_top: Rgb
    sky_low: Rgb
    cloud: Rgb


@dataclass(frozen=True, slots=True)
class Habits:
    """What stands in the streets: metres, and shares in [0, 1] of streets or places."""

    lanes: tuple[float, ...]  # share of streets with 1, 2, ... lanes per direction
    eye: Range  # m, camera above the ground
    horizon: Range  # share of the image height
    focal: Range  # share of the image width (of a 2:1 image)
    hood: float  # the own bonnet is in the picture
    traffic: float  # share of the places in a lane that are taken
    parking: float
    verge: float  # streets with a green strip
    park: float  # frontage without a building
    trees: float
    people: float  # per metre of pavement
    vehicles: Mapping[str, float]  # weights of what drives
    cycles: float  # per side of a street
    train: float
    barriers: float  # frontage behind a wall or fence
    lights: float  # junctions with traffic lights
    signs: float  # per side of a street
    floors: tuple[int, int]  # of buildings, inclusive


@dataclass(frozen=True, slots=True)
class Rendering:
    """Light and camera electronics; ranges are drawn once per image."""

    ambient: Range
    diffuse: Range
    shadow: Range
    sun_height: Range  # rad
    clouds: Range  # share of the sky
    haze_colour: Rgb
    haze_distance: Range  # m at which 37 % of the contrast is left
    texture: float  # multiplies the texture contrast
    grain: float  # size of texture details, 1 = fine
    exposure: Range
    contrast: Range
    saturation: Range
    cast: Rgb  # gains of red, green, blue
    cast_spread: float  # standard deviation of those gains
    blur: Range  # standard deviation in pixels of the final image
    sharpen: float
    noise: Range  # standard deviation of grey levels at mid grey
    colour_noise: float  # share of the noise that differs between the colours
    vignette: float  # light lost in the corners
    bloom: float


@dataclass(frozen=True, slots=True)
class Look:
    """One domain."""

    materials: Materials
    habits: Habits
    rendering: Rendering


_CLOTHES = (
    (40.0, 44.0, 60.0),
    (170.0, 40.0, 44.0),
    (60.0, 90.0, 150.0),
    (210.0, 205.0, 195.0),
    (70.0, 110.0, 70.0),
    (220.0, 180.0, 60.0),
    (90.0, 70.0, 60.0),
    (150.0, 110.0, 160.0),
)
_DARK_CLOTHES = (
    (30.0, 32.0, 38.0),
    (52.0, 56.0, 70.0),
    (80.0, 72.0, 66.0),
    (44.0, 62.0, 92.0),
    (120.0, 50.0, 52.0),
    (150.0, 150.0, 150.0),
    (64.0, 74.0, 58.0),
)

_GAME = Look(
    Materials(
        road=(98.0, 95.0, 92.0),
        marking=(232.0, 230.0, 218.0),
        centre_marking=(226.0, 178.0, 48.0),
        sidewalk=(186.0, 176.0, 160.0),
        kerb=(206.0, 200.0, 186.0),
        terrain=(112.0, 142.0, 66.0),
        facades=(
            (206.0, 158.0, 112.0),
            (184.0, 98.0, 74.0),
            (222.0, 206.0, 168.0),
            (150.0, 164.0, 178.0),
            (118.0, 134.0, 156.0),
            (230.0, 222.0, 206.0),
            (168.0, 84.0, 78.0),
            (116.0, 158.0, 152.0),
        ),
        roofs=((96.0, 74.0, 66.0), (120.0, 118.0, 118.0), (150.0, 90.0, 66.0)),
        walls=((196.0, 178.0, 150.0), (172.0, 110.0, 84.0), (168.0, 166.0, 162.0)),
        fences=((92.0, 98.0, 104.0), (170.0, 138.0, 96.0), (210.0, 208.0, 200.0)),
        poles=((112.0, 114.0, 116.0), (96.0, 84.0, 70.0), (70.0, 84.0, 76.0)),
        leaves=(
            (74.0, 124.0, 52.0),
            (96.0, 142.0, 58.0),
            (56.0, 106.0, 60.0),
            (118.0, 136.0, 66.0),
            (70.0, 98.0, 54.0),
        ),
        cars=(
            (200.0, 36.0, 34.0),
            (36.0, 84.0, 170.0),
            (232.0, 232.0, 232.0),
            (30.0, 30.0, 34.0),
            (240.0, 190.0, 40.0),
            (60.0, 140.0, 90.0),
            (170.0, 172.0, 176.0),
            (230.0, 120.0, 40.0),
        ),
        buses=((222.0, 214.0, 200.0), (220.0, 140.0, 40.0), (60.0, 110.0, 180.0)),
        trains=((196.0, 200.0, 206.0), (200.0, 60.0, 50.0)),
        clothes=_CLOTHES,
        sky_top=(64.0, 124.0, 214.0),
        sky_low=(186.0, 214.0, 240.0),
        cloud=(250.0, 248.0, 244.0),
    ),
    Habits(
        lanes=(0.35, 0.65),
        eye=(1.5, 2.3),
        horizon=(0.38, 0.47),
        focal=(0.62, 0.82),
        hood=0.0,
        traffic=0.3,
        parking=0.45,
        verge=0.3,
        park=0.22,
        trees=0.45,
        people=0.035,
        vehicles={"car": 0.7, "truck": 0.14, "bus": 0.06, "motorcycle": 0.08, "bicycle": 0.02},
        cycles=0.12,
        train=0.04,
        barriers=0.18,
        lights=0.8,
        signs=0.9,
        floors=(1, 7),
    ),
    Rendering(
        ambient=(0.45, 0.75),
        diffuse=(0.25, 0.75),
        shadow=(0.25, 0.6),
        sun_height=(0.45, 1.0),
        clouds=(0.1, 0.8),
        haze_colour=(196.0, 212.0, 232.0),
        haze_distance=(110.0, 420.0),
        texture=0.7,
        grain=1.8,
        exposure=(0.65, 1.15),
        contrast=(0.9, 1.3),
        saturation=(0.75, 1.35),
        cast=(1.06, 1.0, 0.92),
        cast_spread=0.045,
        blur=(0.0, 0.45),
        sharpen=0.35,
        noise=(0.3, 2.0),
        colour_noise=0.2,
        vignette=0.04,
        bloom=0.12,
    ),
)

_CAMERA = Look(
    Materials(
        road=(118.0, 119.0, 122.0),
        marking=(206.0, 208.0, 206.0),
        centre_marking=(206.0, 208.0, 206.0),
        sidewalk=(146.0, 140.0, 136.0),
        kerb=(164.0, 162.0, 158.0),
        terrain=(98.0, 120.0, 66.0),
        facades=(
            (182.0, 172.0, 154.0),
            (202.0, 192.0, 172.0),
            (156.0, 146.0, 132.0),
            (172.0, 150.0, 130.0),
            (132.0, 128.0, 126.0),
            (196.0, 180.0, 140.0),
            (146.0, 122.0, 108.0),
        ),
        roofs=((122.0, 82.0, 68.0), (88.0, 86.0, 88.0), (104.0, 72.0, 62.0)),
        walls=((150.0, 144.0, 134.0), (140.0, 104.0, 90.0), (126.0, 126.0, 124.0)),
        fences=((74.0, 84.0, 80.0), (110.0, 112.0, 114.0), (120.0, 102.0, 82.0)),
        poles=((96.0, 100.0, 102.0), (122.0, 124.0, 124.0), (78.0, 84.0, 84.0)),
        leaves=((66.0, 98.0, 48.0), (84.0, 110.0, 54.0), (54.0, 86.0, 52.0), (100.0, 110.0, 58.0)),
        cars=(
            (34.0, 35.0, 38.0),
            (58.0, 60.0, 64.0),
            (120.0, 122.0, 126.0),
            (176.0, 178.0, 180.0),
            (222.0, 222.0, 222.0),
            (40.0, 52.0, 84.0),
            (120.0, 36.0, 36.0),
        ),
        buses=((214.0, 196.0, 120.0), (186.0, 60.0, 56.0), (216.0, 216.0, 214.0)),
        trains=((214.0, 188.0, 70.0), (176.0, 50.0, 50.0), (210.0, 212.0, 214.0)),
        clothes=_DARK_CLOTHES,
        sky_top=(184.0, 206.0, 228.0),
        sky_low=(238.0, 240.0, 240.0),
        cloud=(250.0, 250.0, 250.0),
    ),
    Habits(
        lanes=(0.75, 0.25),
        eye=(1.15, 1.35),
        horizon=(0.42, 0.48),
        focal=(0.85, 1.02),
        hood=0.85,
        traffic=0.3,
        parking=0.75,
        verge=0.25,
        park=0.2,
        trees=0.6,
        people=0.06,
        vehicles={"car": 0.76, "truck": 0.05, "bus": 0.05, "motorcycle": 0.03, "bicycle": 0.11},
        cycles=0.45,
        train=0.08,
        barriers=0.14,
        lights=0.7,
        signs=1.4,
        floors=(2, 5),
    ),
    Rendering(
        ambient=(0.66, 0.8),
        diffuse=(0.12, 0.3),
        shadow=(0.2, 0.38),
        sun_height=(0.5, 0.9),
        clouds=(0.5, 0.9),
        haze_colour=(206.0, 212.0, 214.0),
        haze_distance=(90.0, 200.0),
        texture=1.1,
        grain=1.0,
        exposure=(0.78, 1.02),
        contrast=(0.84, 1.02),
        saturation=(0.72, 0.95),
        cast=(0.93, 1.03, 0.96),
        cast_spread=0.03,
        blur=(0.35, 0.65),
        sharpen=0.0,
        noise=(1.5, 3.5),
        colour_noise=0.5,
        vignette=0.22,
        bloom=0.05,
    ),
)

_SYNTHIA = Look(
    Materials(
        road=(84.0, 88.0, 98.0),
        marking=(244.0, 244.0, 244.0),
        centre_marking=(244.0, 244.0, 244.0),
        sidewalk=(158.0, 148.0, 150.0),
        kerb=(190.0, 186.0, 184.0),
        terrain=(76.0, 128.0, 58.0),
        facades=(
            (214.0, 200.0, 186.0),
            (166.0, 84.0, 60.0),
            (120.0, 150.0, 190.0),
            (226.0, 190.0, 120.0),
            (190.0, 196.0, 204.0),
        ),
        roofs=((120.0, 66.0, 52.0), (98.0, 102.0, 112.0)),
        walls=((180.0, 120.0, 92.0), (176.0, 180.0, 186.0)),
        fences=((60.0, 66.0, 80.0), (190.0, 194.0, 200.0)),
        poles=((90.0, 96.0, 108.0), (60.0, 64.0, 70.0)),
        leaves=((48.0, 104.0, 40.0), (74.0, 128.0, 44.0), (40.0, 86.0, 56.0)),
        cars=(
            (190.0, 30.0, 40.0),
            (40.0, 60.0, 150.0),
            (240.0, 240.0, 244.0),
            (24.0, 24.0, 30.0),
            (70.0, 150.0, 190.0),
        ),
        buses=((200.0, 40.0, 40.0), (240.0, 240.0, 240.0)),
        trains=((70.0, 110.0, 180.0),),
        clothes=_CLOTHES,
        sky_top=(84.0, 140.0, 226.0),
        sky_low=(200.0, 220.0, 246.0),
        cloud=(255.0, 255.0, 255.0),
    ),
    Habits(
        lanes=(0.3, 0.7),
        eye=(1.2, 3.6),
        horizon=(0.3, 0.46),
        focal=(0.6, 0.9),
        hood=0.0,
        traffic=0.32,
        parking=0.3,
        verge=0.1,
        park=0.18,
        trees=0.5,
        people=0.09,
        vehicles={"car": 0.72, "truck": 0.02, "bus": 0.08, "motorcycle": 0.08, "bicycle": 0.1},
        cycles=0.3,
        train=0.0,
        barriers=0.16,
        lights=0.6,
        signs=0.9,
        floors=(3, 9),
    ),
    Rendering(
        ambient=(0.46, 0.66),
        diffuse=(0.45, 0.7),
        shadow=(0.4, 0.6),
        sun_height=(0.4, 1.1),
        clouds=(0.0, 0.4),
        haze_colour=(200.0, 214.0, 240.0),
        haze_distance=(260.0, 500.0),
        texture=0.55,
        grain=2.4,
        exposure=(0.85, 1.15),
        contrast=(1.0, 1.2),
        saturation=(1.0, 1.3),
        cast=(0.95, 0.98, 1.08),
        cast_spread=0.04,
        blur=(0.0, 0.15),
        sharpen=0.15,
        noise=(0.0, 0.4),
        colour_noise=0.2,
        vignette=0.0,
        bloom=0.05,
    ),
)

LOOKS: Mapping[str, Look] = {"game": _GAME, "camera": _CAMERA, "synthia": _SYNTHIA}
