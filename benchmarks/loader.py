"""One training sample on one core: 1914x1052 PNG -> 1280x720 with scale jitter -> crop 1024x512, with label.

The plain way is that of the original loaders: decode and resize with Pillow, one boolean mask per class, best
of ten crops by `np.unique`, and the image as normalised floats. Ours ends in bytes, which the network
normalises on the device; after that the pixels are the same. Two thirds of our time is decoding the PNG.
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
from data_loaders.transforms import TrainingTransform
from utils import seeding
from utils.class_spaces import IGNORE_LABEL

_FILE_SIZE, _SIZE, _CROP = (1914, 1052), (1280, 720), (512, 1024)  # width, height; the crop height, width
_MEAN_BGR = np.array((104.00698793, 116.66876762, 122.67891434), np.float32)[:, None, None]
_DRAWS = 4  # scales and crops differ


def run() -> list[Result]:
    """Aim: 1.5 times as many images per second and core."""
    with tempfile.TemporaryDirectory() as folder:
        item = _write_pair(Path(folder))
        description = load_description("gta5")
        table = description.label_table("cityscapes19")
        dataset = SegmentationDataset(
            FileList(description, Path(folder), "", "train", (item,)),
            label_table=table,
            transform=TrainingTransform(
                size=_SIZE,
                crop=_CROP,
                scale_range=(0.8, 1.2),
                crop_attempts=10,
                crop_min_classes=10,
                mirror=True,
            ),
        )
        for draw in range(_DRAWS):
            ours = dataset.sample(0, _generator(draw))
            image, label = _plain_sample(item, table, _generator(draw))
            assert ours.label is not None
            assert np.array_equal(ours.image.numpy()[::-1] - _MEAN_BGR, image)
            assert np.array_equal(ours.label.numpy(), label)
        result = compare(
            f"loader, {_DRAWS} samples",
            lambda: [_plain_sample(item, table, _generator(draw)) for draw in range(_DRAWS)],
            lambda: [dataset.sample(0, _generator(draw)) for draw in range(_DRAWS)],
        )
    rates = f"{_DRAWS / result.plain_s:.1f} -> {_DRAWS / result.fast_s:.1f} images/s and core; aim 1.5x"
    return [Result(result.name, result.plain_s, result.fast_s, rates)]


def _generator(draw: int) -> np.random.Generator:
    return seeding.generator(0, "benchmark", draw)


def _write_pair(folder: Path) -> Item:
    """A picture with about the detail of a game's, and a palette label with all 34 ids in irregular areas."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (40, 72, 3), np.uint8)
    image = cv2.resize(coarse, _FILE_SIZE, interpolation=cv2.INTER_CUBIC)
    image = cv2.add(image, random.integers(0, 8, image.shape, np.uint8))  # 1.6 bytes a pixel, as in GTA5
    item = Item("00001.png", folder / "image.png", folder / "label.png")
    Image.fromarray(image).save(item.image)
    areas = random.random((34, 20, 36), np.float32)
    ids = np.argmax([cv2.resize(area, _FILE_SIZE, interpolation=cv2.INTER_CUBIC) for area in areas], axis=0)
    label = Image.fromarray(ids.astype(np.uint8))
    label.putpalette(random.integers(0, 256, 3 * 256, np.uint8).tolist())
    label.save(item.label)
    return item


def _plain_sample(
    item: Item, table: np.ndarray, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(3, H, W) float32 image in the order BGR, mean colour 0, and (H, W) float32 label."""
    scale = 0.8 + 0.4 * generator.random()
    size = (round(_SIZE[0] * scale), round(_SIZE[1] * scale))
    picture = Image.open(item.image).convert("RGB").resize(size, Image.Resampling.BICUBIC)
    image = np.asarray(picture, np.float32)
    raw = np.asarray(Image.open(item.label).resize(size, Image.Resampling.NEAREST), np.float32)
    label = np.full(raw.shape, IGNORE_LABEL, np.float32)
    for value in np.flatnonzero(table != IGNORE_LABEL):
        label[raw == value] = table[value]
    for _ in range(10):
        top = generator.integers(0, size[1] - _CROP[0], endpoint=True)
        left = generator.integers(0, size[0] - _CROP[1], endpoint=True)
        window = (slice(top, top + _CROP[0]), slice(left, left + _CROP[1]))
        if len(np.unique(label[window])) > 10:
            break
    image = (image[window][..., ::-1] - _MEAN_BGR[:, 0, 0]).transpose(2, 0, 1)
    label = label[window]
    if generator.random() < 0.5:
        image, label = image[..., ::-1], label[:, ::-1]
    return image.copy(), label.copy()
