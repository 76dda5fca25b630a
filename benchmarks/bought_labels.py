"""The store of bought labels against the originals' two bool maps and mask PNG per image: time and bytes.

One of five rounds that buy 2.2 % at 2048x1024: 1026 squares of 3x3 pixels per image. Labels are drawn blobs,
the prediction is the same with its boundaries moved, and squares are bought along predicted boundaries, where
the two often differ: harder to compress than the queries of a network that has learnt something.
"""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from benchmarks.harness import Result, compare
from selection.regions import select_regions
from selection.rounds import ImageQuery, RoundFolder, RoundInfo, RoundQueries
from selection.store import AnnotationStore

HEIGHT, WIDTH = SIZE = (1024, 2048)
CLASSES = 19
PICKS = 1026
IMAGES = 4


@dataclass(frozen=True, slots=True)
class Drawn:
    """The queries of a round and the labels they are answered from."""

    queries: RoundQueries
    labels: dict[str, np.ndarray]

    def classes(self) -> np.ndarray:
        """(P,) uint8 answers."""
        radius = self.queries.info.label_radius
        images = self.queries.images
        return np.concatenate([self.labels[one.name].reshape(-1)[one.pixels(radius)] for one in images])


def run() -> list[Result]:
    """Writing a round, and reading the mask of one training sample from it."""
    drawn = _draw(IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        plain, ours = Path(folder) / "plain", Path(folder) / "ours"
        plain.mkdir()
        numbers = itertools.count()

        def write_plain() -> None:
            for query in drawn.queries.images:
                _write_maps(plain, query, drawn)

        def write_ours() -> None:
            _write_round(ours / str(next(numbers)), drawn)

        writing = compare(f"bought labels, write {IMAGES} images", write_plain, write_ours, repeats=3)
        bought = AnnotationStore(ours / "0").load(1)
        name = drawn.queries.images[0].name

        def read_plain() -> np.ndarray:
            with Image.open(plain / f"{name}.png") as picture:
                return np.array(picture)

        assert np.array_equal(read_plain(), bought.mask(name))
        reading = compare("bought labels, one mask", read_plain, lambda: bought.mask(name))
        sizes = (
            f"{_size(ours / '0') / IMAGES / 1000:.1f} KB an image, plain {_size(plain) / IMAGES / 1e6:.2f} MB"
        )
    return [
        Result(writing.name, writing.plain_s, writing.fast_s, sizes),
        Result(reading.name, reading.plain_s, reading.fast_s, "full size; plain: decode the PNG"),
    ]


def _write_maps(folder: Path, query: ImageQuery, drawn: Drawn) -> None:
    """What the originals write after a round: indicator with two bool maps, and the mask."""
    active, selected = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    for row, column in query.picks.astype(int):
        active[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3] = True
        selected[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = True
    mask = np.where(selected, drawn.labels[query.name], np.uint8(255))
    maps = {"active": torch.from_numpy(active), "selected": torch.from_numpy(selected)}
    torch.save(maps, folder / f"{query.name}.pth")
    Image.fromarray(mask).save(folder / f"{query.name}.png")


def _write_round(folder: Path, drawn: Drawn) -> None:
    """Everything a round of ours leaves on disk."""
    round_folder: RoundFolder = AnnotationStore(folder).round(0)
    round_folder.begin(drawn.queries.info)
    round_folder.write_queries(drawn.queries)
    round_folder.write_labels(drawn.classes(), queries=drawn.queries)


def _draw(count: int) -> Drawn:
    generator = np.random.default_rng(0)
    labels, images = {}, []
    for number in range(count):
        label = _blobs(generator)
        prediction = _moved(label, generator)
        picks = _boundary_picks(prediction, generator)
        name = f"city_{number:06d}_000019"
        empty = ImageQuery(name, SIZE, picks, np.zeros(0, np.uint8))
        images.append(ImageQuery(name, SIZE, picks, prediction.reshape(-1)[empty.pixels(1)]))
        labels[name] = label
    return Drawn(RoundQueries(_info(count), images), labels)


def _info(images: int) -> RoundInfo:
    return RoundInfo(
        number=0,
        iteration=10000,
        method="ripu",
        setting="region",
        label_radius=1,
        exclusion_radius=2,
        budget="2.2%",
        rounds=5,
        class_space="cityscapes19",
        image_list="",
        images=images,
        seed=0,
    )


def _smooth(generator: np.random.Generator, cells: tuple[int, int]) -> np.ndarray:
    """(H, W) float32 noise, standard normal in each of the cells and smooth between."""
    noise = generator.standard_normal(cells).astype(np.float32)
    return cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def _blobs(generator: np.random.Generator) -> np.ndarray:
    """(H, W) uint8 label with regions of about a hundred pixels."""
    return np.argmax([_smooth(generator, (8, 16)) for _ in range(CLASSES)], axis=0).astype(np.uint8)


def _moved(label: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The label with every place moved by about three pixels."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    right, down = (3 * _smooth(generator, (64, 128)) for _ in range(2))
    return cv2.remap(label, columns + right, rows + down, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)


def _boundary_picks(prediction: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(1026, 2) uint16 picks where predicted classes meet and a smooth map is large."""
    window = np.ones((3, 3), np.uint8)
    boundary = cv2.dilate(prediction, window) != cv2.erode(prediction, window)
    score = np.where(boundary, 10, 0) + _smooth(generator, (32, 64)) + 0.1 * generator.random(SIZE)
    picks = select_regions(torch.from_numpy(score.astype(np.float32)), None, PICKS, exclusion_radius=2)
    return picks.numpy().astype(np.uint16)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
