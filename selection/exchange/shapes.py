"""Shapes that people draw on a crop's picture, as pixels of the image.

Shapes are given in picture coordinates: (0, 0) is the top left corner of the picture, x goes right. A source
pixel (row, column) of the crop belongs to a shape when its centre, ((column + 0.5) * scale,
(row + 0.5) * scale), is inside. A centre exactly on an outline is inside on the left and upper side and
outside on the right and lower side, so that two shapes with a common edge never share a pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selection.exchange.crops import Crop
from selection.rounds import UNANSWERED

Points = Sequence[Sequence[float]] | np.ndarray  # (n, 2) x, y
FARTHEST = 1e9  # from the picture's corner: what lies beyond is a damaged number


@dataclass(frozen=True, slots=True, eq=False)
class CropAnswer:
    """The labels of one crop at the resolution of the image.

    Attributes:
        first: (h, w) uint8 train ids, 255 = cannot tell, 254 = nothing said.
        second: (h, w) uint8 the next different class that was said about the same pixel; 254: none.
    """

    first: np.ndarray
    second: np.ndarray

    @classmethod
    def blank(cls, size: tuple[int, int]) -> CropAnswer:
        """Nothing said yet about (h, w) pixels."""
        return cls(np.full(size, UNANSWERED, np.uint8), np.full(size, UNANSWERED, np.uint8))

    def paint(self, inside: np.ndarray, class_id: int, *, over: bool = False) -> None:
        """Says a class about the pixels of a (h, w) bool map.

        Args:
            inside: the map.
            class_id: train id; 255 is "cannot tell". 254 ("?") says nothing, with `over` it takes back.
            over: replaces what was said before and is no contradiction: shapes lie on top of each other.
        """
        if over:
            self.first[inside] = class_id
            return
        if class_id == UNANSWERED:
            return
        clash = inside & (self.first != UNANSWERED) & (self.first != class_id) & (self.second == UNANSWERED)
        self.second[clash] = class_id
        self.first[inside & (self.first == UNANSWERED)] = class_id


def coordinates(points: Points, least: int = 1) -> np.ndarray:
    """(n, 2) float64 x, y of at least so many points.

    Raises:
        ValueError: there are fewer, or a number is not finite, no number, or absurdly large.
        TypeError: they are no lists of numbers.
    """
    try:
        found = np.asarray(points, np.float64).reshape(-1, 2)
    except OverflowError as error:
        raise ValueError("a coordinate is too large") from error
    if len(found) < least:
        raise ValueError(f"it has {len(found)} point(s) and needs {least}")
    if not (np.abs(found) <= FARTHEST).all():  # false for NaN, too
        raise ValueError("a coordinate is not finite or too large")
    return found


def polygon(crop: Crop, points: Points) -> np.ndarray:
    """(h, w) bool inside of a closed polygon, by the even-odd rule. Errors as `coordinates`."""
    inside = np.zeros(crop.size, bool)
    corners = coordinates(points, 3)
    ends = np.roll(corners, -1, axis=0)
    rows, columns = ((np.arange(count) + 0.5) * crop.scale for count in crop.size)
    # An edge crosses the rows whose centres lie in [its upper end, its lower end).
    low, high = np.sort([np.searchsorted(rows, corners[:, 1]), np.searchsorted(rows, ends[:, 1])], axis=0)
    edge = np.repeat(np.arange(len(corners)), high - low)
    if not len(edge):
        return inside
    row = np.arange(len(edge)) - np.repeat(np.cumsum(high - low) - high, high - low)
    (x0, y0), (x1, y1) = corners[edge].T, ends[edge].T
    column = np.searchsorted(columns, x0 + (rows[row] - y0) * (x1 - x0) / (y1 - y0))
    # From a crossing on, every centre to its right changes sides.
    top, left, bottom, right = row.min(), column.min(), row.max() + 1, column.max() + 1
    crossings = np.zeros((bottom - top, right - left), np.uint8)
    np.add.at(crossings, (row - top, column - left), 1)
    sides = np.bitwise_xor.accumulate(crossings & 1, axis=1)
    inside[top:bottom, left:right] = sides[:, : crop.width - left]
    return inside


def rectangle(crop: Crop, points: Points) -> np.ndarray:
    """(h, w) bool inside of the rectangle between two opposite corners. Errors as `coordinates`."""
    corners = coordinates(points, 2)
    (left, top), (right, bottom) = corners.min(0), corners.max(0)
    inside = np.zeros(crop.size, bool)
    rows = slice(*_indices(crop.height, crop.scale, top, bottom))
    inside[rows, slice(*_indices(crop.width, crop.scale, left, right))] = True
    return inside


def circle(crop: Crop, points: Points) -> np.ndarray:
    """(h, w) bool inside of the circle around the first point through the second. Errors as `coordinates`."""
    (x, y), (edge_x, edge_y) = coordinates(points, 2)[:2]
    rows = (np.arange(crop.height) + 0.5)[:, None] * crop.scale - y
    columns = (np.arange(crop.width) + 0.5) * crop.scale - x
    return rows**2 + columns**2 < (edge_x - x) ** 2 + (edge_y - y) ** 2


def dots(crop: Crop, points: Points) -> np.ndarray:
    """(h, w) bool: the pixels that hold the points; outside the picture none. Errors as `coordinates`."""
    inside = np.zeros(crop.size, bool)
    places = np.floor(coordinates(points) / crop.scale)
    for x, y in places.tolist():
        if 0 <= y < crop.height and 0 <= x < crop.width:
            inside[int(y), int(x)] = True
    return inside


def bitmap(crop: Crop, values: np.ndarray, corner: tuple[int, int] = (0, 0)) -> np.ndarray:
    """(h, w) bool: the pixels whose centre lies on a set value.

    Args:
        crop: whose picture it was drawn on.
        values: (a, b) bool, one per pixel of the picture.
        corner: x, y of its top left value in the picture.
    """
    rows, own_rows = _sampled(crop.height, crop.scale, corner[1], values.shape[0])
    columns, own_columns = _sampled(crop.width, crop.scale, corner[0], values.shape[1])
    inside = np.zeros(crop.size, bool)
    inside[np.ix_(rows, columns)] = values[np.ix_(own_rows, own_columns)]
    return inside


def from_picture(crop: Crop, values: np.ndarray) -> np.ndarray:
    """(h, w) values of the source pixels from those (h * scale, w * scale) of a picture, at their centres."""
    return values[crop.scale // 2 :: crop.scale, crop.scale // 2 :: crop.scale]


def encode_runs(inside: np.ndarray) -> list[int]:
    """COCO's run lengths of an (h, w) bool map: column by column, first the unset ones."""
    flat = inside.T.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0], changes, [flat.size]])
    runs = np.diff(edges).tolist()
    return [0, *runs] if flat.size and flat[0] else runs


def decode_runs(counts: Sequence[int] | str, size: tuple[int, int]) -> np.ndarray:
    """(h, w) bool map of COCO's run lengths, as a list or in the compressed text form.

    Raises:
        ValueError: the runs do not fill the size, or are no numbers.
    """
    try:
        runs = _decompress(counts) if isinstance(counts, str) else [int(count) for count in counts]
    except OverflowError as error:
        raise ValueError("a run length is infinite") from error
    if min(runs, default=0) < 0 or sum(runs) != size[0] * size[1]:
        raise ValueError(f"its runs are {sum(runs)} pixels long, not {size[1]}x{size[0]}")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(size[1], size[0]).T


def _decompress(text: str) -> list[int]:
    """Run lengths from the text form: base 32 digits from the lowest, as characters from "0" on.

    A digit's bit 32 says that another one follows, bit 16 of the last one is the sign. From the third run on
    the difference to the run two before is stored.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        digit = ord(character) - 48
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("its run lengths end in the middle")
    return runs


def _indices(count: int, scale: int, low: float, high: float) -> tuple[int, int]:
    """The pixels, of `count`, whose centres lie in [low, high)."""
    first, last = (int(np.ceil(edge / scale - 0.5)) for edge in np.clip((low, high), 0, count * scale))
    return first, last


def _sampled(count: int, scale: int, corner: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, of `count`, whose centres fall into `length` values from `corner` on; the values' places."""
    places = np.arange(count) * scale + scale // 2 - corner
    inside = np.flatnonzero((places >= 0) & (places < length))
    return inside, places[inside]
