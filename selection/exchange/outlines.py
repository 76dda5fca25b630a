"""A label map of a whole image as polygons that people can edit: drawn over each other, later ones on top.

Each connected part of a class becomes one polygon without holes. What encloses something is drawn before it,
and every polygon reaches a little below those that are drawn later. So a border between two classes is drawn
once, by the later of the two, and moving it leaves no gap. Parts too small to draw take their neighbours'
class. The polygons are simplified: they suggest a labelling and do not keep it to the pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from selection.exchange import shapes
from selection.exchange.crops import Crop
from selection.exchange.shapes import CropAnswer
from selection.queries import count_values
from selection.rounds import UNANSWERED

DUST = 2**-15  # of the image's pixels: smaller parts are not drawn; 64 pixels of a 2048x1024 image
TOLERANCE = 1.5  # pixels that a simplified polygon may deviate
BELOW = 4  # pixels that a polygon reaches below later ones: more than two tolerances


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """The 4-connected parts of a label map.

    Attributes:
        number: (h, w) int32 number of the part that a pixel belongs to.
        classes: (n,) uint8 of each part.
        boxes: (n, 4) top, left, bottom, right, the last two exclusive.
        pixels: (n,) how many each has.
    """

    number: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray
    pixels: np.ndarray

    def window(self, part: int, margin: int = 0) -> tuple[slice, slice]:
        """Rows and columns of a part and so many around it."""
        top, left, bottom, right = self.boxes[part].tolist()
        return slice(max(top - margin, 0), bottom + margin), slice(max(left - margin, 0), right + margin)


def outlines(label: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """The polygons of a label map, in the order in which they are drawn over each other.

    Args:
        label: (h, w) uint8 classes.

    Returns:
        of each polygon its class and (n, 2) int64 corners x, y; (0, 0) is the top left corner of the map.
    """
    height, width = label.shape
    # Beyond the border the map goes on, so that simplifying cuts nothing off there.
    label = cv2.copyMakeBorder(_without_dust(label), *(BELOW,) * 4, cv2.BORDER_REPLICATE)
    parts = _parts(label)
    areas = [cv2.contourArea(_outline(parts.number[parts.window(i)] == i)) for i in range(len(parts.classes))]
    order = np.argsort(np.negative(areas), kind="stable")
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    layer = rank[parts.number]
    drawn = []
    for part in order.tolist():
        rows, columns = parts.window(part, BELOW)
        corners = _simplified(_reaching_below(layer[rows, columns], int(rank[part])))
        corners += (columns.start - BELOW, rows.start - BELOW)
        drawn.append((int(parts.classes[part]), corners.clip(0, (width, height))))
    return drawn


def suggested_outlines(label: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """`outlines` of the suggestion for a whole image; nothing where it is not shown (254)."""
    return [] if (label == UNANSWERED).all() else outlines(label)


def painted(crop: Crop, label: np.ndarray) -> np.ndarray:
    """(h, w) uint8: what `suggested_outlines` read as when nobody has changed them."""
    answer = CropAnswer.blank(crop.size)
    for class_id, corners in suggested_outlines(label):
        answer.paint(shapes.polygon(crop, corners), class_id, over=True)
    return answer.first


def _without_dust(label: np.ndarray) -> np.ndarray:
    """The map with every part that is too small to draw given the class of the nearest pixel of another."""
    for _ in range(2):  # what is filled may leave new crumbs
        parts = _parts(label)
        small = parts.pixels < DUST * label.size
        if not small.any() or small.all():
            break
        dust = small[parts.number]
        _, nearest = cv2.distanceTransformWithLabels(
            dust.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
        )
        classes = np.zeros(int(nearest.max()) + 1, np.uint8)
        classes[nearest[~dust]] = label[~dust]
        label = classes[nearest]
    return label


def _parts(label: np.ndarray) -> _Parts:
    number = np.zeros(label.shape, np.int32)
    classes, boxes, pixels = [], [], []
    count = 0
    for class_id in np.flatnonzero(count_values(label.reshape(-1))).tolist():
        inside = (label == class_id).astype(np.uint8)
        found, own, boxed, _ = cv2.connectedComponentsWithStats(inside, connectivity=4, ltype=cv2.CV_32S)
        np.copyto(number, own + (count - 1), where=inside.view(bool))
        left, top, columns, rows, area = boxed[1:].T
        classes += [class_id] * (found - 1)
        boxes.append(np.stack([top, left, top + rows, left + columns], axis=1))
        pixels.append(area)
        count += found - 1
    return _Parts(number, np.array(classes, np.uint8), np.concatenate(boxes), np.concatenate(pixels))


def _outline(inside: np.ndarray) -> np.ndarray:
    """(n, 1, 2) int32 corners x, y of the largest part of a bool map, along the edges of its pixels."""
    # Contours go through the centres of pixels: with a pixel more on the right and below, they are the edges.
    wider = np.zeros((inside.shape[0] + 1, inside.shape[1] + 1), np.uint8)
    for down in (0, 1):
        for right in (0, 1):
            wider[down : down + inside.shape[0], right : right + inside.shape[1]] |= inside.view(np.uint8)
    found, _ = cv2.findContours(wider, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return max(found, key=cv2.contourArea)


def _reaching_below(layer: np.ndarray, rank: int) -> np.ndarray:
    """(h, w) bool: the part of this rank, and `BELOW` pixels around it where later parts cover it."""
    own = (layer == rank).astype(np.uint8)
    grown = cv2.dilate(own, np.ones((2 * BELOW + 1,) * 2, np.uint8)).view(bool)
    return grown & (layer >= rank)


def _simplified(inside: np.ndarray) -> np.ndarray:
    """(n, 2) int64 corners of the outline, at least three."""
    outline = _outline(inside)
    corners = cv2.approxPolyDP(outline, TOLERANCE, closed=True)
    return (corners if len(corners) > 2 else outline).reshape(-1, 2).astype(np.int64)
