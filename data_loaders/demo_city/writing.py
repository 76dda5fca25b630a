"""Files of the demo city: the official layouts and encodings of GTA5, Cityscapes and SYNTHIA."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from data_loaders.demo_city.ids import cityscapes_palette, cityscapes_table, synthia_table
from utils.files import write_atomically

_CITIES = {  # invented; as in the real set, no city is in both splits
    "train": ("ahrenbruck", "dunkelau", "falkenrode", "immerfurt", "lindenmark", "seewalde"),
    "val": ("grauhafen", "mirow-nord", "tannstedt"),
}
_SAVED_FRAME = 19  # the 20th of each 30-frame snippet is the labelled one in Cityscapes
FIRST_VAL_NUMBER = 1_000_000  # validation images keep their content whatever the number of training images
_COMPRESSION = 2  # PNG level; the pictures are noisy, higher ones cost time and save little


@dataclass(frozen=True, slots=True)
class Target:
    """Image `number` of `domain`, and the two files that it becomes, relative to the city's folder."""

    domain: str
    number: int
    image: str
    label: str


def list_targets(domain: str, *, train: int, val: int) -> list[Target]:
    """All images of one domain, in the order of their numbers."""
    if domain == "game":
        names = [f"{i + 1:05d}.png" for i in range(train)]
        return [Target(domain, i, f"gta5/images/{n}", f"gta5/labels/{n}") for i, n in enumerate(names)]
    if domain == "synthia":
        names = [f"{i:07d}.png" for i in range(train)]
        return [Target(domain, i, f"synthia/RGB/{n}", f"synthia/GT/LABELS/{n}") for i, n in enumerate(names)]
    return _cityscapes_targets(domain, "train", train, 0) + _cityscapes_targets(
        domain, "val", val, FIRST_VAL_NUMBER
    )


def _cityscapes_targets(domain: str, split: str, count: int, first: int) -> list[Target]:
    cities = _CITIES[split]
    targets: list[Target] = []
    for i in range(count):
        city = cities[i % len(cities)]
        stem = f"{split}/{city}/{city}_{i // len(cities):06d}_{_SAVED_FRAME:06d}"
        image = f"cityscapes/leftImg8bit/{stem}_leftImg8bit.png"
        targets.append(Target(domain, first + i, image, f"cityscapes/gtFine/{stem}_gtFine_labelIds.png"))
    return targets


def write_picture(root: Path, target: Target, picture: np.ndarray, label: np.ndarray) -> None:
    """Writes image and label; each file appears whole or not at all.

    Args:
        picture: (H, W, 3) uint8 RGB.
        label: (H, W) uint8 painted ids (`ids.Id`).
    """
    encode = {"game": _encode_palette, "camera": _encode_grey, "synthia": _encode_synthia}[target.domain]
    write_atomically(root / target.label, encode(label))
    write_atomically(root / target.image, _encode_png(picture[..., ::-1]))


def _encode_palette(label: np.ndarray) -> bytes:
    """GTA5: palette PNG whose indices are Cityscapes label ids."""
    image = Image.fromarray(cityscapes_table()[label], mode="P")
    image.putpalette(cityscapes_palette())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=_COMPRESSION)
    return buffer.getvalue()


def _encode_grey(label: np.ndarray) -> bytes:
    """Cityscapes: 8-bit grey PNG of label ids."""
    return _encode_png(cityscapes_table()[label])


def _encode_synthia(label: np.ndarray) -> bytes:
    """SYNTHIA: 16-bit RGB PNG; red the class, green an instance id (0 for what is not a thing), blue 0."""
    classes = synthia_table()[label]
    pixels = np.zeros((*label.shape, 3), dtype=np.uint16)  # in OpenCV's order: blue, green, red
    pixels[..., 2] = classes
    pixels[..., 1] = _number_instances(classes)
    return _encode_png(pixels)


def _number_instances(classes: np.ndarray) -> np.ndarray:
    """(H, W) int32 numbers from 1 of the connected areas of people, riders and vehicles."""
    instances = np.zeros(classes.shape, dtype=np.int32)
    first = 0
    for thing in (8, 10, 11, 12, 17, 18, 19, 20):  # SYNTHIA ids of car, pedestrian, ..., train
        count, areas = cv2.connectedComponents((classes == thing).astype(np.uint8))
        instances = np.where(areas > 0, areas + first, instances)
        first += count - 1
    return instances


def _encode_png(pixels: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, _COMPRESSION])
    assert done, f"OpenCV cannot encode {pixels.shape} {pixels.dtype}"
    return data.tobytes()


def data_folders(domains: Sequence[str]) -> list[str]:
    """The folders, relative to the city's, that hold nothing but its images and labels."""
    folders = {
        "game": ("gta5/images", "gta5/labels"),
        "camera": ("cityscapes/leftImg8bit", "cityscapes/gtFine"),
        "synthia": ("synthia/RGB", "synthia/GT"),
    }
    return [folder for domain in domains for folder in folders[domain]]
