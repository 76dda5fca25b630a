"""Draws the demo city into a folder, once."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2

from data_loaders.demo_city.looks import LOOKS
from data_loaders.demo_city.pictures import draw_picture
from data_loaders.demo_city.writing import Target, data_folders, list_targets, write_picture
from utils.errors import UserError

_VERSION = 1  # raise it when the same parameters give other pictures
_DONE = "demo_city.json"
_STARTED = "demo_city.started.json"
_SMALLEST = 16  # pixels per side

Progress = Callable[[int, int], None]


def draw_demo_city(
    root: Path,
    *,
    seed: int = 0,
    size: tuple[int, int] = (256, 128),
    train: int = 200,
    val: int = 40,
    domains: Sequence[str] = ("game", "camera"),
    workers: int = 1,
    progress: Progress | None = None,
) -> None:
    """Draws street scenes of all 19 Cityscapes classes and writes them as the real data sets are written.

    "game" becomes ROOT/gta5 (train only), "camera" ROOT/cityscapes (train and val), "synthia" ROOT/synthia
    (train only). An image depends on seed, domain, size and its number in its split, not on `workers` or on
    how many there are. A folder that holds this city is left as it is, an interrupted one is completed.

    Args:
        size: (width, height) in pixels.
        train, val: number of images per domain.
        workers: processes that draw; with more than 1 the calling script must be importable.
        progress: called with (images done, images in all) after every image.

    Raises:
        UserError: an argument is out of range, or the folder holds another city or files that are not ours.
            Nothing is overwritten then.
    """
    _check_arguments(seed, size, train, val, domains, workers)
    parameters = {
        "version": _VERSION,
        "seed": seed,
        "size": list(size),
        "train": train,
        "val": val,
        "domains": sorted(domains),
    }
    targets = [t for domain in sorted(domains) for t in list_targets(domain, train=train, val=val)]
    _check_folder(root, parameters, targets)
    missing = [t for t in targets if not ((root / t.image).exists() and (root / t.label).exists())]
    if not missing and (root / _DONE).exists():
        return
    root.mkdir(parents=True, exist_ok=True)
    if not (root / _DONE).exists():
        (root / _STARTED).write_text(json.dumps(parameters, indent=1) + "\n")
    there = len(targets) - len(missing)
    for done, _ in enumerate(_draw_all(root, seed, size, missing, workers), start=there + 1):
        if progress is not None:
            progress(done, len(targets))
    if (root / _STARTED).exists():
        (root / _STARTED).replace(root / _DONE)


def _check_arguments(
    seed: int, size: tuple[int, int], train: int, val: int, domains: Sequence[str], workers: int
) -> None:
    unknown = [domain for domain in domains if domain not in LOOKS]
    if unknown or not domains or len(set(domains)) != len(domains):
        raise UserError(
            f"demo city domains {list(domains)}: name each at most once, out of {', '.join(LOOKS)}"
        )
    if min(size) < _SMALLEST:
        raise UserError(
            f"demo city size {size[0]}x{size[1]} is too small; use at least {_SMALLEST} pixels per side"
        )
    if seed < 0 or train < 1 or val < 0 or workers < 1:
        given = f"seed {seed}, train {train}, val {val}, workers {workers}"
        raise UserError(f"demo city: {given}; seed and val must be 0 or more, train and workers 1 or more")


def _check_folder(root: Path, parameters: dict[str, object], targets: Iterable[Target]) -> None:
    """Refuses a folder with another city, or with files that drawing would mix with."""
    if root.exists() and not root.is_dir():
        raise UserError(f"{root} is a file; the demo city needs a folder, new or empty")
    marks = [root / name for name in (_DONE, _STARTED) if (root / name).exists()]
    if not marks:
        found = next(iter(sorted(root.iterdir())), None) if root.exists() else None
        if found is not None:
            raise UserError(
                f"{root} holds {found.name} but no {_DONE}: not a demo city; choose a new or empty folder"
            )
        return
    try:
        there = json.loads(marks[0].read_text())
    except ValueError as error:
        raise UserError(f"{marks[0]} is damaged ({error}); delete the folder or choose another") from error
    if there != parameters:
        there = there if isinstance(there, dict) else {}
        other = [f"{k} {there.get(k)} instead of {v}" for k, v in parameters.items() if there.get(k) != v]
        raise UserError(
            f"{root} holds another demo city ({', '.join(other)}); delete it or choose another folder"
        )
    ours = {root / name for t in targets for name in (t.image, t.label)}
    for folder in data_folders(list(LOOKS)):
        for path in sorted((root / folder).rglob("*.png")):
            if path not in ours:
                raise UserError(
                    f"{path} is not part of the demo city in {root}; move it away or choose another folder"
                )


def _draw_all(
    root: Path, seed: int, size: tuple[int, int], targets: Sequence[Target], workers: int
) -> Iterator[None]:
    """Draws every target; yields once per image written."""
    tasks = [(root, seed, size, target) for target in targets]
    if workers == 1 or len(tasks) < 2:
        yield from map(_draw_one, tasks)
        return
    context = multiprocessing.get_context("spawn")  # safe whatever threads the caller has started
    with ProcessPoolExecutor(
        min(workers, len(tasks)), context, initializer=cv2.setNumThreads, initargs=(1,)
    ) as pool:
        yield from pool.map(_draw_one, tasks, chunksize=4)


def _draw_one(task: tuple[Path, int, tuple[int, int], Target]) -> None:
    root, seed, size, target = task
    picture, label = draw_picture(seed, target.domain, target.number, size)
    write_picture(root, target, picture, label)
