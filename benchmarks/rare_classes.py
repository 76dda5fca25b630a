"""Rare class sampling: start-up, the checks of a crop, drawing crops again, and the statistics it reads.

The plain ways are those of the original loaders: a random sampler over all pairs of images makes a list of
their permutation, `np.unique` sorts the pixels of every crop, every crop drawn again decodes both files
again, and the converter compares a label with every class in turn.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from benchmarks.harness import Result, compare
from benchmarks.peak_memory import peak_mib
from data_loaders.aspect_crops import AspectCropTransform, is_mixed
from data_loaders.dataset import SegmentationDataset
from data_loaders.description import load_description
from data_loaders.discovery import FileList, Item
from data_loaders.histogram import value_counts
from data_loaders.rare_classes import RareClassSampler, RareClassSamples
from data_loaders.samples import Sample
from data_loaders.statistics import label_classes
from utils import seeding
from utils.class_spaces import IGNORE_LABEL, class_space

_SOURCE, _TARGET, _PART = 24966, 2975, 20  # images; the pair list is measured on a 20th of the pairs
_FILE_SIZE, _LIMIT, _CROP = (1914, 1052), (1280, 720), (512, 512)
_SHARE, _RARE = 0.75, 17  # motorcycle: in one corner of the picture
_SPACE = class_space("cityscapes19")


def run() -> list[Result]:
    """Aims: start-up under 0.1 s and 50 MB; 10 times faster than `np.unique`."""
    label = _draw_label()
    crop = label[: _CROP[0], : _CROP[1]]
    return [_start_up(), _crop_check(crop), *_statistics(label), _drawn_again(label)]


def _start_up() -> Result:
    """Both samplers after the statistics are read."""
    random = np.random.default_rng(0)
    counts = [
        {int(train): int(random.integers(1, 200_000)) for train in random.permutation(19)[:15]}
        for _ in range(_SOURCE)
    ]

    def pairs() -> list[int]:
        return torch.randperm(_SOURCE * _TARGET // _PART).tolist()

    def ours() -> RareClassSampler:
        return RareClassSampler(counts, class_names=_SPACE.class_names, origin="drawn")

    memory = f"{_PART * peak_mib(pairs):.0f} -> {peak_mib(ours):.0f} MiB"
    result = compare("sampler start-up", pairs, ours, repeats=3)
    note = f"{_SOURCE} x {_TARGET} images, pair list measured on 1/{_PART}; {memory}; aim < 100 ms, < 50 MB"
    return Result(result.name, _PART * result.plain_s, result.fast_s, note)


def _crop_check(crop: np.ndarray) -> Result:
    def plain() -> bool:
        values, counts = np.unique(crop, return_counts=True)
        counts = counts[values != IGNORE_LABEL]
        return bool(len(counts) > 1 and counts.max() / counts.sum() < _SHARE)

    def ours() -> bool:
        return is_mixed(crop, _SHARE)

    assert plain() == ours()
    return compare("crop class check, 512x512", plain, ours, note="against numpy unique, aim 10x")


def _statistics(label: np.ndarray) -> list[Result]:
    """Raw GTA5 ids to pixels per class, without decoding."""
    table = load_description("gta5").label_table("cityscapes19")
    classes = [(value, int(train)) for value, train in enumerate(table) if train != IGNORE_LABEL]
    raw_of = np.zeros(256, np.uint8)
    for value, train in classes:
        raw_of[train] = value
    raw = raw_of[label]

    def masks() -> dict[int, int]:
        converted, counts = np.full(raw.shape, IGNORE_LABEL, np.uint8), {}
        for value, train in classes:
            mask = raw == value
            converted[mask] = train
            if pixels := int(mask.sum()):
                counts[train] = pixels
        return counts

    def unique() -> dict[int, int]:
        values, counts = np.unique(table[raw], return_counts=True)
        return dict(zip(values.tolist(), counts.tolist(), strict=True))

    def ours() -> dict[int, int]:
        return label_classes(raw, table)[0]

    assert masks() == unique() == ours()
    name = f"label statistics {_FILE_SIZE[0]}x{_FILE_SIZE[1]}"
    return [
        compare(name, masks, ours, note="against 19 masks, aim 10x"),
        compare(name, unique, ours, note="against numpy unique, aim 10x"),
    ]


def _drawn_again(label: np.ndarray) -> Result:
    """Samples of a class in one corner of the picture, most of which need crops to be drawn again."""
    draws = 4
    with tempfile.TemporaryDirectory() as folder:
        samples = _rare_samples(Path(folder), label)

        def plain(draw: int) -> Sample:
            generator = seeding.generator(0, "benchmark", draw)
            enough = samples.sampler.min_pixels * samples.min_crop_share
            _, index = samples.sampler.draw(generator)
            sample = samples.dataset.sample(index, generator)
            for _ in range(samples.attempts):
                if np.count_nonzero(sample.label.numpy() == _RARE) > enough:
                    break
                sample = samples.dataset.sample(index, generator)
            return sample

        def ours(draw: int) -> Sample:
            return samples.sample(0, seeding.generator(0, "benchmark", draw))

        for draw in range(draws):
            assert plain(draw).image.equal(ours(draw).image)
        return compare(
            f"rare class, {draws} samples",
            lambda: [plain(draw) for draw in range(draws)],
            lambda: [ours(draw) for draw in range(draws)],
            repeats=3,
            note="decoding once against once per crop drawn",
        )


def _rare_samples(folder: Path, label: np.ndarray) -> RareClassSamples:
    description = load_description("cityscapes")  # as label files with train ids
    item = Item("00001.png", folder / "image.png", folder / "label.png")
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (40, 72, 3), np.uint8)
    image = cv2.resize(coarse, _FILE_SIZE, interpolation=cv2.INTER_CUBIC)
    image = cv2.add(image, random.integers(0, 8, image.shape, np.uint8))  # 1.6 bytes a pixel, as in GTA5
    Image.fromarray(image).save(item.image)
    Image.fromarray(label).save(item.label)
    dataset = SegmentationDataset(
        FileList(description, folder, "", "train", (item,)),
        label_table=np.arange(256, dtype=np.uint8),
        transform=AspectCropTransform(limit=_LIMIT, crop=_CROP, largest_share=_SHARE),
    )
    counts = [{_RARE: int(value_counts(label)[_RARE])}]
    return RareClassSamples(dataset, RareClassSampler(counts, class_names=_SPACE.class_names, origin="drawn"))


def _draw_label() -> np.ndarray:
    """(H, W) uint8 train ids in irregular areas, the rare class at the right end only."""
    random = np.random.default_rng(1)
    areas = random.random((19, 20, 36), np.float32)
    scores = [cv2.resize(area, _FILE_SIZE, interpolation=cv2.INTER_CUBIC) for area in areas]
    label = np.argmax(scores, axis=0).astype(np.uint8)
    label[label == _RARE] = 0
    label[400:500, -120:] = _RARE
    return label
