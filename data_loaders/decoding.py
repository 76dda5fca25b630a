"""Reading images and label files, and writing label PNGs.

Images are decoded by OpenCV into RGB. Label files hold ids, not colours, so each encoding has the one reader
that keeps them: Pillow for palette PNGs (OpenCV expands them to colours), OpenCV for 16-bit RGB PNGs (Pillow
keeps the high byte only, which is 0 everywhere).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, get_args

import cv2
import numpy as np
from PIL import Image

from utils.class_spaces import IGNORE_LABEL, TABLE_SIZE
from utils.errors import BadFileError, UserError
from utils.files import write_atomically

LabelEncoding = Literal["index", "palette", "rgb16_first_channel", "first_channel"]
LABEL_ENCODINGS: tuple[str, ...] = get_args(LabelEncoding)

_INDEX_MODES = frozenset({"1", "L", "P", "I", "I;16", "I;16B"})  # Pillow modes whose values are ids


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB.

    Raises:
        BadFileError: the file is missing, empty, truncated or no image.
    """
    content = _read_bytes(path, "image")
    _refuse_truncated(content, path, "image")
    # As Pillow, and as the labels: pixels as stored, whatever a camera's EXIF entry says about turning them.
    image = cv2.imdecode(content, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise BadFileError(
            f"image {path} cannot be decoded ({content.size} bytes): damaged or no image; copy it again."
        )
    return image


def read_raw_label(path: Path, encoding: str) -> np.ndarray:
    """(H, W) uint8 ids as stored; ids above 255 become 255.

    Args:
        path: the label file.
        encoding: "index" and "palette": a single-channel or palette PNG, the stored numbers are the ids;
            "rgb16_first_channel": SYNTHIA's 16-bit RGB PNG, the id is the red channel;
            "first_channel": the first of one to four 8-bit channels.

    Raises:
        BadFileError: the file is missing or damaged.
        UserError: it is of another encoding.
    """
    if encoding == "rgb16_first_channel":
        return _read_rgb16_first_channel(path)
    if encoding not in LABEL_ENCODINGS:
        raise UserError(
            f"label encoding {encoding!r} is unknown; choose one of {', '.join(LABEL_ENCODINGS)}."
        )
    pixels, mode = _read_with_pillow(path)
    if encoding == "first_channel" and pixels.ndim == 3:
        pixels = np.ascontiguousarray(pixels[..., 0])
    elif mode not in _INDEX_MODES:
        raise UserError(
            f"label {path} is a colour picture (mode {mode}), not ids; the ids are usually in a file beside "
            "it "
            "(*_labelIds.png, *_labelTrainIds.png), or set label.encoding = 'first_channel' in the "
            "description."
        )
    return _as_uint8(pixels)


def map_label(raw: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Train ids of raw ids: `table[raw]` for an (H, W) uint8 map and a (256,) uint8 table, in one pass."""
    return cv2.LUT(raw, table)


def unknown_values(label: np.ndarray, unknown: np.ndarray) -> dict[int, int]:
    """Pixels of each value that must not be there, usually {}; that case costs a fifth of a histogram.

    Args:
        label: (H, W) uint8.
        unknown: (256,) uint8, not 0 where a value is unknown, as `unknown_table` makes it.
    """
    if cv2.countNonZero(cv2.LUT(np.ascontiguousarray(label), unknown)) == 0:
        return {}
    counts = np.bincount(label.ravel(), minlength=TABLE_SIZE)
    return {value: int(counts[value]) for value in np.flatnonzero(counts).tolist() if unknown[value]}


def unknown_table(known: Iterable[int]) -> np.ndarray:
    """(256,) uint8: 0 for the known values, 1 for all others."""
    table = np.ones(TABLE_SIZE, np.uint8)
    table[list(known)] = 0
    return table


def write_label_png(path: Path, ids: np.ndarray, palette: Sequence[Sequence[int]] | None = None) -> None:
    """Writes (H, W) uint8 ids as an 8-bit PNG, completely or not at all; with a palette viewers show colours.

    Colours without a class, 255 among them, are black. Parent folders are made.

    Raises:
        UserError: the file cannot be written.
    """
    if ids.ndim != 2 or ids.dtype != np.uint8:
        raise ValueError(f"a label map is (H, W) uint8, got {ids.shape} {ids.dtype}")
    picture = Image.fromarray(ids)
    if palette is not None:
        colors = np.zeros((TABLE_SIZE, 3), np.uint8)
        colors[: len(palette)] = palette
        picture.putpalette(colors.ravel().tolist())  # turns mode L into P, the values stay
    write_atomically(path, lambda file: picture.save(file, format="PNG", compress_level=3))


def _read_bytes(path: Path, what: str) -> np.ndarray:
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise BadFileError(f"{what} {path} cannot be read: {error.strerror or error}.") from None
    if content.size == 0:
        raise BadFileError(f"{what} {path} is empty (0 bytes); copy it again.")
    return content


_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
_JPEG_START = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_SCAN = 0xDA  # second byte of the mark before a JPEG's pixels
_TAIL = 4096  # most writers append at most a few bytes after the end mark


def _refuse_truncated(content: np.ndarray, path: Path, what: str) -> None:
    """Decoders fill the missing rows of a cut file with grey or black and only print a warning.

    Cameras append previews and depth maps: without an end mark in the tail, all of the picture is searched.
    """
    start = content[:8].tobytes()
    if start == _PNG_START:
        begin, mark = len(_PNG_START), _PNG_END
    elif start.startswith(_JPEG_START):
        begin, mark = _first_scan(content), _JPEG_END
    else:
        return
    tail = max(begin, content.size - _TAIL)
    if mark not in content[tail:].tobytes() and mark not in content[begin:].tobytes():
        raise BadFileError(
            f"{what} {path} is truncated: its end is missing ({content.size} bytes); copy it again."
        )


def _first_scan(content: np.ndarray) -> int:
    """Where a JPEG's pixels begin: behind the segments that may hold a thumbnail with its own end mark."""
    place = 2
    while place + 4 <= content.size and content[place] == 0xFF and content[place + 1] != _SCAN:
        if content[place + 1] == 0xFF:  # filling
            place += 1
        else:
            place += 2 + int(content[place + 2]) * 256 + int(content[place + 3])
    return place


def _read_rgb16_first_channel(path: Path) -> np.ndarray:
    content = _read_bytes(path, "label")
    _refuse_truncated(content, path, "label")
    pixels = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise BadFileError(
            f"label {path} cannot be decoded ({content.size} bytes): damaged or no image; copy it again."
        )
    if pixels.dtype != np.uint16 or pixels.ndim != 3:
        channels = 1 if pixels.ndim == 2 else pixels.shape[2]
        raise UserError(
            f"label {path} has {channels} channel(s) of {pixels.dtype}, but SYNTHIA's GT/LABELS are 16-bit "
            "RGB PNGs; "
            "a conversion with Pillow loses the ids. Use the original files, or give label.encoding in a "
            "description."
        )
    return _as_uint8(pixels[..., 2])  # OpenCV's order is B, G, R


def _read_with_pillow(path: Path) -> tuple[np.ndarray, str]:
    try:
        with Image.open(path) as picture:
            return np.asarray(picture), picture.mode
    except FileNotFoundError:
        raise BadFileError(f"label {path} does not exist.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadFileError(
            f"label {path} cannot be decoded: {error}; damaged or no image, copy it again."
        ) from None


def _as_uint8(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    outside = (pixels < 0) | (pixels > IGNORE_LABEL)
    return np.where(outside, IGNORE_LABEL, pixels).astype(np.uint8)
