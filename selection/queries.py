"""What one round of active learning asks: the settings of the round, and the picks in every image.

A *pick* is the centre (row, column) of a region; the square of the label radius around it, clipped to the
image, is bought. Nothing is stored per pixel of the image: the queried pixels follow from picks and radius.
A square at least as large as the image is the whole image: so are whole images asked about, by one pick each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from utils.errors import UserError

LARGEST_SIDE = 2**16  # of an image, in pixels: picks are stored as uint16
WHOLE_IMAGE = LARGEST_SIDE  # label radius of a round of whole images: every square is clipped to the image


@dataclass(frozen=True, slots=True)
class RoundInfo:
    """The settings of a round; two rounds with equal infos and equal networks select the same pixels.

    Attributes:
        number: 0-based.
        iteration: optimizer updates done when it was selected.
        method, setting, score: names, such as "ripu", "region" and "published".
        network_input: "WxH" that images were scored at.
        label_radius, exclusion_radius: L and M, in pixels of the target images.
        budget: of the whole run, as given: "2.2%".
        rounds: of the whole run; the budget is divided by it.
        class_space: name of the classes of predictions and answers.
        image_list: fingerprint of the target image list.
        images: how many images the round asks about: all of the list, or the whole images that were chosen.
        seed: of the run.
        class_weights_from: what the class weights were measured on; "none" where there are none.
        class_weights: C of them, where the method uses any.
        run: identity of the run's settings (hex).
    """

    number: int
    iteration: int
    method: str
    setting: str
    label_radius: int
    exclusion_radius: int
    budget: str
    rounds: int
    class_space: str
    image_list: str
    images: int
    seed: int
    class_weights: tuple[float, ...] | None = None
    score: str = "published"
    network_input: str = ""
    class_weights_from: str = "none"
    run: str = ""

    @property
    def whole_images(self) -> bool:
        """Whether whole images are asked about and not regions of images."""
        return self.label_radius >= WHOLE_IMAGE

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` gives an equal info back."""
        values = asdict(self)
        if self.class_weights is not None:
            values["class_weights"] = [float(weight) for weight in self.class_weights]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RoundInfo:
        """The info of these values.

        Raises:
            ValueError: a field is missing, unknown or of another type.
        """
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            raise ValueError(f"its fields are not {', '.join(sorted(names))}")
        values = dict(values)
        weights = values.pop("class_weights")
        for name, value in values.items():
            expected = int if cls.__annotations__[name] == "int" else str
            if type(value) is not expected:
                raise ValueError(f"{name} is {value!r}, not {expected.__name__}")
        if weights is not None:
            if not isinstance(weights, (list, tuple)):
                raise ValueError(f"class_weights is {weights!r}, not a list")
            weights = tuple(float(weight) for weight in weights)
        return cls(**values, class_weights=weights)

    def differences(self, other: RoundInfo) -> list[str]:
        """One text per field that differs: "seed is 0 there and 1 here"; `self` is "there"."""
        return [
            f"{field.name} is {getattr(self, field.name)!r} there and {getattr(other, field.name)!r} here"
            for field in fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        ]


@dataclass(frozen=True, slots=True, eq=False)
class ImageQuery:
    """What is asked about one image.

    Attributes:
        name: of the image in its list.
        size: (H, W) in pixels.
        picks: (n, 2) uint16 (row, column), in the order chosen. A pick may repeat: an exhausted image has
            (0, 0) for every pick it could not place.
        predicted: (p,) uint8 predicted train id of every queried pixel, in the order of `pixels`.
    """

    name: str
    size: tuple[int, int]
    picks: np.ndarray
    predicted: np.ndarray

    def __post_init__(self) -> None:
        check_size(self.name, self.size)
        assert self.picks.dtype == np.uint16, self.picks.dtype
        assert self.picks.ndim == 2, self.picks.shape
        assert self.picks.shape[1] == 2, self.picks.shape
        assert self.predicted.dtype == np.uint8, self.predicted.dtype
        assert self.predicted.ndim == 1, self.predicted.shape
        assert len(self.picks) == 0 or (self.picks.max(0) < self.size).all(), "a pick lies outside the image"

    def pixels(self, label_radius: int) -> np.ndarray:
        """(p,) int64 queried pixels: flat positions row * W + column, ascending, each once."""
        return queried_pixels(self.picks, label_radius, self.size)

    def places(self, label_radius: int) -> np.ndarray | slice:
        """`pixels` as an index into a flat map of the image; without an array where that is all of it."""
        return queried_places(self.picks, label_radius, self.size)


class RoundQueries:
    """The queries of a whole round; per-pixel arrays of the round are flat, image after image.

    Attributes:
        info: settings of the round.
        images: the queries in the order of the image list; images that nothing is asked about may be missing.
        offsets: (N + 1,) int64; the pixels of image i are `offsets[i]:offsets[i + 1]` of a flat array.
    """

    def __init__(self, info: RoundInfo, images: Sequence[ImageQuery]) -> None:
        self.info = info
        self.images = tuple(images)
        self.offsets = offsets_of(len(query.predicted) for query in self.images)
        assert len(self.images) == info.images, f"{len(self.images)} images, {info.images} are asked"
        assert len(self._numbers) == len(self.images), "an image is queried twice"

    @property
    def pixels(self) -> int:
        """P: how many pixels are queried in all images."""
        return int(self.offsets[-1])

    @cached_property
    def predicted(self) -> np.ndarray:
        """(P,) uint8 predicted train ids of all queried pixels."""
        return joined([query.predicted for query in self.images], np.uint8)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {query.name: number for number, query in enumerate(self.images)}

    def __contains__(self, name: object) -> bool:
        return name in self._numbers

    def __getitem__(self, name: str) -> ImageQuery:
        """The query of the image of this name; KeyError where it is not in the list."""
        return self.images[self._numbers[name]]

    def slice_of(self, name: str) -> slice:
        """Where the pixels of this image lie in the flat arrays of the round."""
        number = self._numbers[name]
        return slice(int(self.offsets[number]), int(self.offsets[number + 1]))

    def digest(self) -> str:
        """Hex SHA-256 of everything that was asked: settings, names, sizes, picks and predictions."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256(json.dumps(self.info.to_dict(), sort_keys=True).encode())
        for query in self.images:
            head = [query.name, *query.size, len(query.picks), len(query.predicted)]
            digest.update(json.dumps(head).encode())
            digest.update(query.picks.astype("<u2").tobytes())
            digest.update(query.predicted.tobytes())
        return digest.hexdigest()


def whole_image_pick(size: tuple[int, int]) -> np.ndarray:
    """(1, 2) uint16 centre of an (H, W) image: the pick that asks about all of it."""
    return np.array([[size[0] // 2, size[1] // 2]], np.uint16)


def covers_image(picks: np.ndarray, radius: int, size: tuple[int, int]) -> bool:
    """Whether any pick inside an (H, W) image asks about the whole of it."""
    return len(picks) > 0 and radius >= max(size) - 1


def _square_positions(picks: np.ndarray, radius: int, size: tuple[int, int]) -> np.ndarray:
    """Flat positions of all clipped squares in the order of the picks; overlapping squares repeat pixels."""
    height, width = size
    kind = np.int32 if height * width < 2**31 else np.int64  # sorting 32 bits is twice as fast
    steps = np.arange(-radius, radius + 1, dtype=kind)
    rows = picks[:, 0, None].astype(kind) + steps  # (n, 2 * radius + 1)
    columns = picks[:, 1, None].astype(kind) + steps
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    positions = rows[:, :, None] * kind(width) + columns[:, None, :]
    return positions.ravel() if inside.all() else positions[inside]


def queried_pixels(picks: np.ndarray, radius: int, size: tuple[int, int]) -> np.ndarray:
    """Flat positions row * W + column of the union of clipped squares.

    Args:
        picks: (n, 2) (row, column).
        radius: the squares have a side of 2 * radius + 1 pixels.
        size: (H, W).

    Returns:
        (p,) int64, ascending, each pixel once.
    """
    if covers_image(picks, radius, size):
        return np.arange(size[0] * size[1], dtype=np.int64)
    positions = np.sort(_square_positions(picks, radius, size))
    first = np.ones(len(positions), bool)
    np.not_equal(positions[1:], positions[:-1], out=first[1:])
    return positions[first].astype(np.int64)


def queried_places(picks: np.ndarray, radius: int, size: tuple[int, int]) -> np.ndarray | slice:
    """`queried_pixels` as an index into a flat map; a slice where that is the whole image."""
    return slice(None) if covers_image(picks, radius, size) else queried_pixels(picks, radius, size)


def offsets_of(counts: Iterable[int]) -> np.ndarray:
    """(N + 1,) int64 where each of N consecutive parts begins, and where the last one ends."""
    counts = np.fromiter(counts, np.int64)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])


def joined(arrays: Sequence[np.ndarray], kind: type[np.generic]) -> np.ndarray:
    """The arrays one after another; without any, an empty one of this type."""
    return np.concatenate(arrays) if arrays else np.zeros(0, kind)


def count_values(values: np.ndarray) -> np.ndarray:
    """(256,) int64: how often each value occurs in a flat uint8 array of any length."""
    counts = np.zeros(256, np.int64)
    for start in range(0, len(values), 2**20):  # bincount would hold eight bytes per value
        counts += np.bincount(values[start : start + 2**20], minlength=256)
    return counts


def check_size(name: str, size: tuple[int, int]) -> None:
    """Refuses an image whose positions do not fit the store.

    Raises:
        UserError: a side is longer than 65536 pixels.
    """
    if not 0 < min(size) <= max(size) <= LARGEST_SIDE:
        raise UserError(
            f"image {name} is {size[1]}x{size[0]} pixels; active learning takes 1 to {LARGEST_SIDE} a side: "
            "cut it into smaller images."
        )
