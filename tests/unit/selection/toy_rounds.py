"""Small rounds for the tests of the store: random picks and classes, made from a seed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from selection.queries import WHOLE_IMAGE, whole_image_pick
from selection.rounds import ImageQuery, RoundFolder, RoundInfo, RoundQueries
from selection.store import AnnotationStore

CLASSES = 19
NAMES = ("aachen/aachen_0_leftImg8bit.png", "ulm/ulm_1_leftImg8bit.png", "zürich/3 & <4>.png")
SIZES = ((30, 40), (31, 57), (1, 9))


def toy_info(number: int = 0, **changes: object) -> RoundInfo:
    """Settings of a round with 3x3 squares over the toy images."""
    info = RoundInfo(
        number=number,
        iteration=100 * (number + 1),
        method="ripu",
        setting="region",
        label_radius=1,
        exclusion_radius=2,
        budget="2.2%",
        rounds=5,
        class_space="cityscapes19",
        image_list="0a1b",
        images=len(NAMES),
        seed=1,
    )
    return dataclasses.replace(info, **changes)


def toy_query(
    name: str, size: tuple[int, int], picks: Sequence[Sequence[int]], info: RoundInfo
) -> ImageQuery:
    """A query whose predictions are drawn from its name and the round."""
    places = np.array(picks, np.uint16).reshape(-1, 2)
    empty = ImageQuery(name, size, places, np.zeros(0, np.uint8))
    count = len(empty.pixels(info.label_radius))
    generator = np.random.default_rng([info.number, len(name), count])
    return ImageQuery(name, size, places, generator.integers(0, CLASSES, count, dtype=np.uint8))


def toy_images(info: RoundInfo, count: int = 7) -> list[ImageQuery]:
    """A query of `count` picks anywhere for every toy image."""
    generator = np.random.default_rng([7, info.number])
    return [
        toy_query(name, size, np.stack([generator.integers(0, side, count) for side in size], axis=1), info)
        for name, size in zip(NAMES, SIZES, strict=True)
    ]


def toy_queries(number: int = 0, **changes: object) -> RoundQueries:
    """The queries of a round."""
    info = toy_info(number, **changes)
    return RoundQueries(info, toy_images(info))


def whole_queries(names: Sequence[str] = NAMES[:2], **changes: object) -> RoundQueries:
    """A round that asks about these toy images as a whole."""
    settings = {"method": "mada", "setting": "image", "budget": "5%", "rounds": 1, "images": len(names)}
    info = toy_info(**{"label_radius": WHOLE_IMAGE, "exclusion_radius": WHOLE_IMAGE, **settings, **changes})
    sizes = [SIZES[NAMES.index(name)] for name in names]
    picks = [whole_image_pick(size) for size in sizes]
    return RoundQueries(info, list(map(toy_query, names, sizes, picks, [info] * len(names))))


def begun(run: Path, queries: RoundQueries) -> RoundFolder:
    """The first round of the run in this folder, which asks these queries and has no answers."""
    folder = AnnotationStore(run / "queries").round(0)
    folder.begin(queries.info)
    folder.write_queries(queries)
    return folder


def toy_classes(queries: RoundQueries) -> np.ndarray:
    """Answers to all queried pixels, a tenth of them "ignore"."""
    generator = np.random.default_rng([8, queries.info.number])
    classes = generator.integers(0, CLASSES, queries.pixels, dtype=np.uint8)
    classes[generator.random(queries.pixels) < 0.1] = 255
    return classes


def fill_store(
    store: AnnotationStore, rounds: int, **changes: object
) -> list[tuple[RoundQueries, np.ndarray]]:
    """Writes complete rounds; returns their queries and labels."""
    written = []
    for number in range(rounds):
        queries = toy_queries(number, **changes)
        folder = store.round(number)
        folder.begin(queries.info)
        folder.write_queries(queries)
        folder.write_labels(toy_classes(queries))
        written.append((queries, toy_classes(queries)))
    return written
