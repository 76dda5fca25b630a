"""Queried regions of an image, merged into crops that people can read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from selection.queries import ImageQuery, count_values, covers_image
from selection.rounds import UNANSWERED
from utils.errors import UserError

Box = tuple[int, int, int, int]  # top, left, bottom, right in source pixels, the last two exclusive

READABLE_REGION = 12  # screen pixels that the shorter side of a region should have
LARGEST_PICTURE = 1280  # screen pixels of the longer side of an enlarged crop: what any screen shows
LARGEST_SCALE = 16


@dataclass(frozen=True, slots=True)
class CropSettings:
    """How crops are cut; all in pixels of the target images.

    Attributes:
        margin: context around the regions of a crop. Regions that lie no further apart share a crop.
        smallest: shortest side of a crop, where the image is large enough.
        largest: longest side to which regions are merged; a single large region may exceed it.
        scale: integer factor of the picture; None: chosen so that regions are readable.
    """

    margin: int = 64
    smallest: int = 160
    largest: int = 320
    scale: int | None = None

    def __post_init__(self) -> None:
        if self.smallest > self.largest:
            raise UserError(
                f"--min-crop {self.smallest} is larger than --max-crop {self.largest}; make one of them fit"
            )


@dataclass(frozen=True, slots=True)
class Region:
    """A square around a pick, clipped to the image.

    Attributes:
        pick: its place in `ImageQuery.picks`.
        box: top, left, bottom, right in pixels of the image; the last two exclusive.
        suggestion: the class that most of its pixels were predicted as.
    """

    pick: int
    box: Box
    suggestion: int


@dataclass(frozen=True, slots=True)
class Crop:
    """A part of an image with the regions to label in it.

    Source pixel (row, column) of the crop covers [column * scale, (column + 1) * scale) of the picture's x
    axis, and the same of its y axis by row.

    Attributes:
        image: name of the image.
        image_size: (H, W) of the image.
        top, left, height, width: the crop, in pixels of the image.
        scale: the picture is so many times larger.
        regions: in reading order.
    """

    image: str
    image_size: tuple[int, int]
    top: int
    left: int
    height: int
    width: int
    scale: int
    regions: tuple[Region, ...]

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) in pixels of the image."""
        return self.height, self.width

    @property
    def is_whole(self) -> bool:
        """Whether a whole image is asked about, as one region."""
        return len(self.regions) == 1 and self.regions[0].box == (0, 0, *self.image_size)

    @property
    def picture_size(self) -> tuple[int, int]:
        """(h, w) of the picture."""
        return self.height * self.scale, self.width * self.scale

    def boxes(self) -> Iterator[Box]:
        """The regions, counted from the crop's own corner."""
        for region in self.regions:
            top, left, bottom, right = region.box
            yield top - self.top, left - self.left, bottom - self.top, right - self.left

    def cut(self, values: np.ndarray) -> np.ndarray:
        """The crop's part (h, w, ...) of a map (H, W, ...) of the image."""
        return values[self.top : self.top + self.height, self.left : self.left + self.width]

    def enlarge(self, values: np.ndarray) -> np.ndarray:
        """The crop's (h, w, ...) values at the size of the picture: a square per value."""
        return values.repeat(self.scale, 0).repeat(self.scale, 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        regions = [[region.pick, *region.box, region.suggestion] for region in self.regions]
        return {**asdict(self), "image_size": list(self.image_size), "regions": regions}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Crop:
        """What `to_dict` made.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        height, width = values["image_size"]
        regions = tuple(
            Region(int(pick), (int(top), int(left), int(bottom), int(right)), int(suggestion))
            for pick, top, left, bottom, right, suggestion in values["regions"]
        )
        numbers = {name: int(values[name]) for name in ("top", "left", "height", "width", "scale")}
        return cls(str(values["image"]), (int(height), int(width)), **numbers, regions=regions)


def pixel_owners(query: ImageQuery, label_radius: int) -> np.ndarray:
    """(p,) int64: for every queried pixel the pick whose region it belongs to.

    Where regions overlap (the repeated picks of an exhausted image) the earlier pick owns the pixel, so that
    every pixel is asked once.
    """
    if covers_image(query.picks, label_radius, query.size):
        return np.zeros(len(query.predicted), np.int64)
    height, width = query.size
    owners = np.full(height * width, -1, np.int32).reshape(height, width)
    for pick in range(len(query.picks) - 1, -1, -1):  # the earliest is written last
        top, left, bottom, right = region_box(query, pick, label_radius)
        owners[top:bottom, left:right] = pick
    return owners.reshape(-1)[query.pixels(label_radius)].astype(np.int64)


def region_box(query: ImageQuery, pick: int, label_radius: int) -> Box:
    """The label square of a pick, clipped to the image."""
    (row, column), (height, width) = query.picks[pick].tolist(), query.size
    return (
        max(row - label_radius, 0),
        max(column - label_radius, 0),
        min(row + label_radius + 1, height),
        min(column + label_radius + 1, width),
    )


def regions_of(query: ImageQuery, label_radius: int, open_pixels: np.ndarray | None = None) -> list[Region]:
    """The regions of an image that own pixels, in reading order of their corners.

    Args:
        query: of the image.
        label_radius: of the round.
        open_pixels: (p,) bool; only regions with such a pixel are given. None: all.
    """
    if covers_image(query.picks, label_radius, query.size):
        asked = open_pixels is None or bool(open_pixels.any())
        return [Region(0, (0, 0, *query.size), int(count_values(query.predicted).argmax()))][:asked]
    owners = pixel_owners(query, label_radius)
    wanted = owners if open_pixels is None else owners[open_pixels]
    majority = _majority(query, owners)
    regions = [
        Region(pick, region_box(query, pick, label_radius), int(majority[pick]))
        for pick in np.unique(wanted).tolist()
    ]
    return sorted(regions, key=lambda region: region.box)


def cut_crops(
    query: ImageQuery,
    label_radius: int,
    settings: CropSettings,
    open_pixels: np.ndarray | None = None,
) -> list[Crop]:
    """The crops of an image; every region is in exactly one. Arguments as `regions_of`."""
    regions = regions_of(query, label_radius, open_pixels)
    return [_crop(query, [regions[i] for i in group], settings) for group in _groups(regions, settings)]


def suggested_classes(query: ImageQuery, label_radius: int, owners: np.ndarray) -> np.ndarray:
    """(p,) uint8 what is suggested for every queried pixel, whose regions are `owners` (of `pixel_owners`).

    A region is suggested as the class that most of its pixels were predicted as; a whole image pixel by
    pixel, as predicted.
    """
    if covers_image(query.picks, label_radius, query.size):
        return query.predicted
    whole = np.zeros(len(query.picks), bool)
    for pick in np.unique(owners).tolist():
        whole[pick] = region_box(query, pick, label_radius) == (0, 0, *query.size)
    return np.where(whole[owners], query.predicted, _majority(query, owners)[owners])


def suggestion_map(crop: Crop, query: ImageQuery, label_radius: int) -> np.ndarray:
    """(h, w) uint8 suggested classes of all queried pixels in a crop; 254 elsewhere. Not to be written to."""
    return crop.cut(_image_suggestions(query, label_radius))


@lru_cache(maxsize=2)  # the crops of an image follow each other; queries are told apart by identity
def _image_suggestions(query: ImageQuery, label_radius: int) -> np.ndarray:
    """(H, W) uint8 as `suggestion_map`, of the whole image."""
    if covers_image(query.picks, label_radius, query.size):
        whole = query.predicted.reshape(query.size).view()
        whole.flags.writeable = False
        return whole
    full = np.full(query.size, UNANSWERED, np.uint8)
    owners = pixel_owners(query, label_radius)
    full.reshape(-1)[query.pixels(label_radius)] = suggested_classes(query, label_radius, owners)
    full.flags.writeable = False
    return full


def _majority(query: ImageQuery, owners: np.ndarray) -> np.ndarray:
    """(picks,) uint8 the most frequent prediction among the pixels of each pick, the lowest of several."""
    votes = np.zeros((len(query.picks), 256), np.int32)
    np.add.at(votes, (owners, query.predicted), 1)
    return votes.argmax(axis=1).astype(np.uint8)


def _groups(regions: Sequence[Region], settings: CropSettings) -> list[list[int]]:
    """Regions that share a crop, by their numbers.

    The first region that is left starts a group, which takes in the nearest other one as long as that lies
    within the margin and the crop does not grow beyond its largest size.
    """
    boxes = np.array([region.box for region in regions], np.int64).reshape(-1, 4)
    free = np.ones(len(boxes), bool)
    groups = []
    for start in range(len(boxes)):
        if not free[start]:
            continue
        free[start] = False
        group, hull = [start], boxes[start]
        while (nearest := _nearest(hull, boxes, free, settings)) is not None:
            free[nearest] = False
            group.append(nearest)
            hull = _hull(hull, boxes[nearest])
        groups.append(sorted(group))
    return groups


def _nearest(hull: np.ndarray, boxes: np.ndarray, free: np.ndarray, settings: CropSettings) -> int | None:
    """The nearest free region that may join; None: none may."""
    candidates = np.flatnonzero(free)
    others = boxes[candidates]
    gaps = np.maximum(others[:, :2] - hull[2:], hull[:2] - others[:, 2:]).max(axis=1).clip(0)
    joined = _hull(hull, others)
    sides = (joined[:, 2:] - joined[:, :2]).max(axis=1) + 2 * settings.margin
    fits = (gaps <= settings.margin) & (sides <= settings.largest)
    if not fits.any():
        return None
    return int(candidates[fits][gaps[fits].argmin()])


def _hull(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(..., 4) the smallest boxes around `box` and each of `others`."""
    corners = np.minimum(box[:2], others[..., :2]), np.maximum(box[2:], others[..., 2:])
    return np.concatenate(corners, axis=-1)


def _crop(query: ImageQuery, regions: Sequence[Region], settings: CropSettings) -> Crop:
    boxes = np.array([region.box for region in regions])
    whole = any(region.box == (0, 0, *query.size) for region in regions)
    low, high = boxes[:, :2].min(0).tolist(), boxes[:, 2:].max(0).tolist()
    (top, bottom), (left, right) = (
        _with_context(first, last, side, settings)
        for first, last, side in zip(low, high, query.size, strict=True)
    )
    height, width = bottom - top, right - left
    shortest = int((boxes[:, 2:] - boxes[:, :2]).min())
    scale = 1 if whole else settings.scale or _readable_scale(shortest, max(height, width))
    return Crop(query.name, query.size, top, left, height, width, scale, tuple(regions))


def begin_of_crop(first: int, last: int, wanted: int, side: int) -> int:
    """Where `wanted` pixels with `first:last` in their middle begin, shifted into 0:side."""
    return min(max((first + last - wanted) // 2, 0), side - wanted)


def _with_context(first: int, last: int, side: int, settings: CropSettings) -> tuple[int, int]:
    """`first:last` with margins, at least the smallest crop; shifted rather than cut where the image ends."""
    wanted = min(max(last - first + 2 * settings.margin, settings.smallest), side)
    begin = begin_of_crop(first, last, wanted, side)
    return begin, begin + wanted


def _readable_scale(shortest_region: int, longest_side: int) -> int:
    wanted = -(-READABLE_REGION // shortest_region)
    return max(1, min(wanted, LARGEST_SCALE, LARGEST_PICTURE // longest_side))
