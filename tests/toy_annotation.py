"""A run that waits for people, made by hand: drawn images, a round of queries, and what is true."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import annotate
from selection.exchange.class_names import ClassNames
from selection.exchange.crops import CropSettings
from selection.exchange.export import answer_from_truth, plan, write_packages
from selection.exchange.packages import FILE, Package, Sharing
from selection.queries import WHOLE_IMAGE, queried_pixels, whole_image_pick
from selection.rounds import ImageQuery, RoundFolder, RoundInfo, RoundQueries
from selection.store import AnnotationStore
from utils.class_spaces import IGNORE_LABEL, class_space
from utils.pictures import write_png

NAMES = ("aachen/aachen_000000_000019_leftImg8bit.png", "ulm/ulm_000001_000019_leftImg8bit.png")
SIZE = (60, 90)
CLASSES = 19
CLASS_NAMES = ClassNames(class_space("cityscapes19"))
SMALL_CROPS = CropSettings(margin=4, smallest=16, largest=40)
COMMAND = "train_al.py --oracle people --seed 1"

Picks = Sequence[Sequence[int]]


def asked(
    picks: Sequence[Picks], radius: int, *, sizes: Sequence[tuple[int, int]] | None = None, number: int = 0
) -> RoundQueries:
    """A round with these picks in the first images; predictions are drawn in blocks."""
    images = []
    for name, places, size in zip(NAMES, picks, sizes or [SIZE] * len(picks), strict=False):
        where = np.array(places, np.uint16).reshape(-1, 2)
        predicted = blocks(size, seed=7 + number).reshape(-1)[queried_pixels(where, radius, size)]
        images.append(ImageQuery(name, size, where, predicted % CLASSES))
    info = RoundInfo(
        number=number,
        iteration=10 * (number + 1),
        method="ripu",
        setting="region",
        label_radius=radius,
        exclusion_radius=2 * radius,
        budget="2.2%",
        rounds=2,
        class_space="cityscapes19",
        image_list="0a1b",
        images=len(images),
        seed=1,
    )
    return RoundQueries(info, images)


def asked_whole(*sizes: tuple[int, int], **settings: object) -> RoundQueries:
    """A round that asks about whole images of these sizes; predictions are drawn in blocks."""
    sizes = sizes or (SIZE, (31, 57))
    queries = asked([whole_image_pick(size).tolist() for size in sizes], WHOLE_IMAGE, sizes=sizes)
    whole = {"method": "mada", "setting": "image", "budget": "5%", "rounds": 1}
    info = dataclasses.replace(queries.info, exclusion_radius=WHOLE_IMAGE, **{**whole, **settings})
    return RoundQueries(info, queries.images)


def random_picks(count: int, size: tuple[int, int] = SIZE, seed: int = 0) -> list[list[int]]:
    """Picks anywhere, the image's corners first."""
    height, width = size
    corners = [[0, 0], [height - 1, width - 1], [0, width - 1]]
    generator = np.random.default_rng(seed)
    drawn = np.stack([generator.integers(0, side, count) for side in size], axis=1).tolist()
    return [*corners, *drawn][:count]


def blocks(size: tuple[int, int], seed: int) -> np.ndarray:
    """(H, W) uint8 train ids in blocks of 4x5 pixels, some of them 255."""
    classes = np.random.default_rng(seed).integers(
        0, CLASSES + 1, (-(-size[0] // 4), -(-size[1] // 5)), np.uint8
    )
    classes[classes == CLASSES] = IGNORE_LABEL
    return np.ascontiguousarray(classes.repeat(4, 0).repeat(5, 1)[: size[0], : size[1]])


def truth_of(queries: RoundQueries, seed: int = 3) -> Callable[[str], np.ndarray]:
    """What is true about each image of a round, by name."""
    return lambda name: blocks(queries[name].size, seed + NAMES.index(name))


def image_of(queries: RoundQueries) -> Callable[[str], np.ndarray]:
    """(H, W, 3) noise for each image of a round, by name."""

    def read(name: str) -> np.ndarray:
        generator = np.random.default_rng(NAMES.index(name))
        return generator.integers(0, 256, (*queries[name].size, 3), np.uint8)

    return read


def export(
    queries: RoundQueries,
    tool: str,
    out: Path,
    *,
    sharing: Sharing | None = None,
    crops: CropSettings = SMALL_CROPS,
) -> list[Package]:
    """Writes the packages of a round, with pictures but without previews."""
    packages = plan(queries, tool, run="runs/toy", crops=crops, sharing=sharing or Sharing())
    write_packages(packages, queries, out, CLASS_NAMES, read_image=image_of(queries), previews=False)
    return packages


def answer(out: Path, truth: Callable[[str], np.ndarray]) -> None:
    """Answers every package in a folder from the truth."""
    for path in sorted(out.glob(f"*/{FILE}")):
        answer_from_truth(path.parent, Package.read(path), CLASS_NAMES, truth)


def make_run(folder: Path, queries: RoundQueries, *, processes: int = 1) -> Path:
    """The folder of a run that waits for labels; its images lie in `folder`/city."""
    city, run = folder / "city", folder / "run"
    read = image_of(queries)
    for query in queries.images:
        write_png(city / "leftImg8bit" / "train" / query.name, read(query.name))
    settings = {"target": "cityscapes", "target_root": str(city), "target_split": "train", "data_root": None}
    start = {"time": "now", "world_size": processes, "command_line": COMMAND}
    record = {"arguments": {**settings, "target_list": None, "classes": None}, "command_line": COMMAND}
    run.mkdir(parents=True, exist_ok=True)
    (run / "arguments.json").write_text(json.dumps({**record, "starts": [start]}))
    round_folder = AnnotationStore(run / "queries").round(queries.info.number)
    round_folder.begin(queries.info)
    round_folder.write_queries(queries)
    return run


def run_export(run: Path, out: Path, *options: str, to: str = "labelme") -> int:
    """Exports with small crops by annotate.py; returns the exit code."""
    small = ["--margin", "4", "--min-crop", "16", "--max-crop", "40", "--num-workers", "0"]
    return annotate.main(["export", str(run), "--to", to, "--out", str(out), *small, *options])


def round_of(run: Path, number: int = 0) -> RoundFolder:
    """A round of the run."""
    return AnnotationStore(run / "queries").round(number)


def spoil(out: Path, count: int) -> None:
    """Gives the first shape of so many files a wrong name."""
    for path in sorted(out.glob("*/crops/*.json"))[:count]:
        content = json.loads(path.read_text())
        content["shapes"][0]["label"] = "Side Walk"
        path.write_text(json.dumps(content))
