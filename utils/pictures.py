"""Pictures for people, RGB uint8: label maps in colour, heat maps, overlays, errors, contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from utils.class_spaces import IGNORE_LABEL
from utils.files import write_atomically

Colour = tuple[int, int, int]

BLACK: Colour = (0, 0, 0)
WHITE: Colour = (255, 255, 255)
CORRECT: Colour = (160, 160, 160)
WRONG: Colour = (220, 30, 30)

FONT = cv2.FONT_HERSHEY_SIMPLEX
TEXT_HEIGHT = 22  # pixels of a title bar
GAP = 4  # pixels between the pictures of a sheet


def colorize(label: np.ndarray, palette: Sequence[Colour]) -> np.ndarray:
    """(H, W, 3) colours of an (H, W) map of train ids; ids without a colour (such as 255) are black."""
    return _colour_table(palette)[label]


def heat_map(values: np.ndarray, *, low: float | None = None, high: float | None = None) -> np.ndarray:
    """(H, W, 3) viridis colours of an (H, W) map, dark blue at `low`, yellow at `high`.

    The limits are the extremes of the finite values unless given; values that are not finite are black.
    """
    values = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(values)
    known = values[finite]
    if low is None:
        low = float(known.min()) if known.size else 0.0
    if high is None:
        high = float(known.max()) if known.size else 1.0
    share = np.clip((np.where(finite, values, low) - low) / max(high - low, 1e-12), 0, 1)
    colours = _viridis()[np.round(255 * share).astype(np.uint8)]
    colours[~finite] = BLACK
    return colours


def overlay(image: np.ndarray, colors: np.ndarray, alpha: float = 0.5) -> np.ndarray:
    """The image with the colours laid over it; `alpha` is the share of the colours, in [0, 1]."""
    return cv2.addWeighted(colors, alpha, image, 1 - alpha, 0)


def error_map(prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
    """(H, W, 3): grey where an (H, W) prediction equals the label, red where not, black where ignored."""
    colours = np.where((prediction == label)[..., None], np.uint8(CORRECT), np.uint8(WRONG))
    colours[label == IGNORE_LABEL] = BLACK
    return colours


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray | None]], titles: Sequence[str] = (), *, height: int = 256
) -> np.ndarray:
    """Pictures in rows of one height, columns aligned, a title above each column.

    Args:
        rows: (H, W, 3) or grey (H, W) uint8 pictures of any size; None leaves a place empty.
        titles: of the columns; cut off where the column is narrower.
        height: of every picture on the sheet, in pixels; widths keep their proportion.

    Returns:
        (H, W, 3) uint8.
    """
    scaled = [[None if cell is None else _to_height(cell, height) for cell in row] for row in rows]
    columns = max((len(row) for row in scaled), default=0)
    widths = [
        max((row[i].shape[1] for row in scaled if i < len(row) and row[i] is not None), default=height)
        for i in range(columns)
    ]
    top = TEXT_HEIGHT if titles else 0
    sheet = _canvas(top + GAP + len(scaled) * (height + GAP), GAP + sum(widths) + GAP * columns)
    lefts = [GAP + sum(widths[:i]) + GAP * i for i in range(columns)]
    for text, left, width in zip(titles, lefts, widths, strict=False):
        sheet[:TEXT_HEIGHT, left : left + width] = text_bar(text, width)
    for number, row in enumerate(scaled):
        y = top + GAP + number * (height + GAP)
        for cell, left in zip(row, lefts, strict=False):
            if cell is not None:
                sheet[y : y + height, left : left + cell.shape[1]] = cell
    return sheet


def legend(class_names: Sequence[str], palette: Sequence[Colour], *, columns: int = 5) -> np.ndarray:
    """A picture of the class names, each beside its colour."""
    width = 150
    lines = -(-len(class_names) // columns)
    picture = _canvas(lines * TEXT_HEIGHT, columns * width)
    for number, (name, colour) in enumerate(zip(class_names, palette, strict=True)):
        y, x = number // columns * TEXT_HEIGHT, number % columns * width
        picture[y + 3 : y + TEXT_HEIGHT - 3, x + 3 : x + 23] = colour
        picture[y : y + TEXT_HEIGHT, x + 26 : x + width] = text_bar(name, width - 26)
    return picture


def text_bar(text: str, width: int) -> np.ndarray:
    """(TEXT_HEIGHT, width, 3) black text on white, cut off at the right border."""
    bar = _canvas(TEXT_HEIGHT, width)
    cv2.putText(bar, text, (2, TEXT_HEIGHT - 7), FONT, 0.45, BLACK, 1, cv2.LINE_AA)
    return bar


def write_png(path: Path, array: np.ndarray, palette: Sequence[Colour] | None = None) -> None:
    """Writes (H, W, 3) RGB or (H, W) grey; with a palette (H, W) ids become a palette PNG that keeps the ids.

    The file appears whole or not at all; parent folders are made.

    Raises:
        UserError: the file cannot be written.
    """
    assert array.dtype == np.uint8
    path = Path(path)
    picture = Image.fromarray(np.ascontiguousarray(array))
    if palette is not None:
        assert array.ndim == 2
        picture = _with_palette(picture, palette)
    write_atomically(path, lambda file: picture.save(file, format="PNG", compress_level=1))


def _with_palette(picture: Image.Image, palette: Sequence[Colour]) -> Image.Image:
    indexed = Image.frombytes("P", picture.size, picture.tobytes())
    indexed.putpalette(_colour_table(palette).tobytes())
    return indexed


def _colour_table(palette: Sequence[Colour]) -> np.ndarray:
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    return table


def _viridis() -> np.ndarray:
    """(256, 3) RGB."""
    steps = np.arange(256, dtype=np.uint8)[:, None]
    return np.ascontiguousarray(cv2.applyColorMap(steps, cv2.COLORMAP_VIRIDIS)[:, 0, ::-1])


def _canvas(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), WHITE, np.uint8)


def _to_height(picture: np.ndarray, height: int) -> np.ndarray:
    if picture.ndim == 2:
        picture = np.repeat(picture[..., None], 3, axis=2)
    if picture.shape[0] == height:
        return picture
    width = max(1, round(picture.shape[1] * height / picture.shape[0]))
    shrinking = height < picture.shape[0]
    return cv2.resize(
        picture, (width, height), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_NEAREST
    )
