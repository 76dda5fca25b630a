"""What an iteration of MADA's stage 1 loads, per image of the batch: one sample of the source and one bought.

The plain way is that of the original loaders: it also decodes and augments a target image that nothing uses,
maps labels by one boolean mask per id, resizes whole frames by the random scale to crop them, and normalises
in float64. Ours opens no target image, resizes the crop alone, and ends in bytes: the same pixels.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from benchmarks.harness import Result, compare
from data_loaders.dataset import SegmentationDataset
from data_loaders.description import load_description
from data_loaders.discovery import FileList, Item
from data_loaders.scaled_crops import ScaledCropTransform
from utils import seeding
from utils.class_spaces import IGNORE_LABEL

_GAME, _CITY = (1914, 1052), (2048, 1024)  # width, height, of files and of the first resize
_CROP, _SCALED_WIDTH, _SCALES = (512, 896), 2200, (0.5, 1.5)  # crop height, width
_DRAWS = 3


def run() -> list[Result]:
    """Aim: no unlabelled target image is decoded."""
    with tempfile.TemporaryDirectory() as folder:
        game, city = (_write_pair(Path(folder), size) for size in (_GAME, _CITY))
        table = load_description("gta5").label_table("cityscapes19")
        read = [_dataset(item, table) for item in (game, city)]  # bought images too get the game's size

        def plain(draw: int) -> list[tuple[np.ndarray, np.ndarray]]:
            used = [_plain_sample(item, table, _GAME, _generator(draw)) for item in (game, city)]
            _plain_sample(city, table, _CITY, _generator(draw))  # loaded and thrown away
            return used

        for draw in range(_DRAWS):
            for (image, label), dataset in zip(plain(draw), read, strict=True):
                ours = dataset.sample(0, _generator(draw))
                assert ours.label is not None
                assert np.array_equal((ours.image.numpy() / 255).astype(np.float32), image)
                assert np.array_equal(ours.label.numpy(), label)
        result = compare(
            f"stage 1 loading, {_DRAWS} iterations",
            lambda: [plain(draw) for draw in range(_DRAWS)],
            lambda: [dataset.sample(0, _generator(draw)) for draw in range(_DRAWS) for dataset in read],
        )
    note = (
        f"{_DRAWS / result.plain_s:.2f} -> {_DRAWS / result.fast_s:.2f} iterations of one image a s and core"
    )
    return [Result(result.name, result.plain_s, result.fast_s, note)]


def _generator(draw: int) -> np.random.Generator:
    return seeding.generator(0, "benchmark", draw)


def _dataset(item: Item, table: np.ndarray) -> SegmentationDataset:
    files = FileList(load_description("gta5"), item.image.parent, "", "train", (item,))
    transform = ScaledCropTransform(size=_GAME, crop=_CROP, scaled_width=_SCALED_WIDTH, scale_range=_SCALES)
    return SegmentationDataset(files, transform=transform, label_table=table)


def _write_pair(folder: Path, size: tuple[int, int]) -> Item:
    """A picture with about the detail of a photograph, and a label with 34 ids in irregular areas."""
    random = np.random.default_rng(size[0])
    image = cv2.resize(random.integers(0, 256, (40, 72, 3), np.uint8), size, interpolation=cv2.INTER_CUBIC)
    image = cv2.add(image, random.integers(0, 8, image.shape, np.uint8))
    item = Item(f"{size[0]}.png", folder / f"image{size[0]}.png", folder / f"label{size[0]}.png")
    Image.fromarray(image).save(item.image)
    areas = random.random((34, 20, 36), np.float32)
    ids = np.argmax([cv2.resize(area, size, interpolation=cv2.INTER_CUBIC) for area in areas], axis=0)
    Image.fromarray(ids.astype(np.uint8)).save(item.label)
    return item


def _plain_sample(
    item: Item, table: np.ndarray, size: tuple[int, int], generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(3, H, W) float32 image in [0, 1] and (H, W) uint8 label of a crop."""
    image = Image.open(item.image).convert("RGB").resize(size, Image.Resampling.BILINEAR)
    raw = np.asarray(Image.open(item.label).resize(size, Image.Resampling.NEAREST))
    mapped = np.full(raw.shape, IGNORE_LABEL, np.uint8)
    for value in np.flatnonzero(table != IGNORE_LABEL):
        mapped[raw == value] = table[value]
    scale = _SCALES[0] + (_SCALES[1] - _SCALES[0]) * generator.random()
    width = int(scale * _SCALED_WIDTH)
    scaled = (width, int(width / (size[0] / size[1])))
    image = image.resize(scaled, Image.Resampling.BILINEAR)
    label = Image.fromarray(mapped).resize(scaled, Image.Resampling.NEAREST)
    left = int(generator.integers(0, scaled[0] - _CROP[1], endpoint=True))
    top = int(generator.integers(0, scaled[1] - _CROP[0], endpoint=True))
    box = (left, top, left + _CROP[1], top + _CROP[0])
    pixels, ids = np.asarray(image.crop(box)), np.asarray(label.crop(box))
    if generator.random() < 0.5:
        pixels, ids = pixels[:, ::-1], ids[:, ::-1]
    return (pixels.astype(np.float64) / 255).astype(np.float32).transpose(2, 0, 1), ids
