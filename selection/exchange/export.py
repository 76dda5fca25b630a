"""Writes the queries of a round as packages for annotators."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from selection.exchange.class_names import ClassNames
from selection.exchange.crops import Crop, CropSettings, cut_crops, suggestion_map
from selection.exchange.packages import FILE, PICTURES, PREVIEWS, Package, Sharing, Task, share_out
from selection.exchange.tools import TOOLS
from selection.queries import RoundQueries
from selection.rounds import UNANSWERED, RoundFolder
from utils.class_spaces import IGNORE_LABEL, Color
from utils.errors import UserError
from utils.files import write_atomically
from utils.pictures import write_png

OUTLINE: Color = (255, 230, 0)
README = "README.txt"


class Mapper(Protocol):
    """What `map` does, or that of a thread pool."""

    def __call__(self, function: Callable[[str], None], items: Iterable[str], /) -> Iterable[None]: ...


def plan(
    queries: RoundQueries,
    tool: str,
    *,
    run: str,
    crops: CropSettings,
    sharing: Sharing,
    answers: np.ndarray | None = None,
    export: str = "",
) -> list[Package]:
    """The packages of a round; nothing is read or written.

    Args:
        queries: of the round.
        tool: "labelme", "coco" or "png".
        run: the run folder, for people.
        crops: how they are cut.
        sharing: who gets them.
        answers: (P,) uint8; only regions with an unanswered pixel (254) are asked. None: all.
        export: id, of `new_export_id`.

    Raises:
        UserError: there is nothing to ask.
    """
    cut: list[Crop] = []
    for query in queries.images:
        still_open = None if answers is None else answers[queries.slice_of(query.name)] == UNANSWERED
        cut += cut_crops(query, queries.info.label_radius, crops, still_open)
    if not cut:
        raise UserError(
            f"round {queries.info.number + 1} of {run} has nothing left to label; import what there is"
        )
    info = queries.info
    return [
        Package(annotator, tool, info.number, queries.digest(), info.class_space, run, tasks, export)
        for annotator, tasks in share_out(cut, sharing).items()
    ]


def write_packages(
    packages: Sequence[Package],
    queries: RoundQueries,
    out: Path,
    names: ClassNames,
    *,
    read_image: Callable[[str], np.ndarray],
    previews: bool = True,
    mapper: Mapper = map,
) -> None:
    """Writes a folder per package: pictures first, package.json last; a package with that is left as it is.

    Args:
        packages: of one round.
        queries: of that round.
        out: gets a folder per annotator.
        names: of the classes.
        read_image: (H, W, 3) uint8 RGB of the image of that name.
        previews: also write pictures in which the regions are outlined; whole images have none.
        mapper: `map`, or that of a thread pool.

    Raises:
        UserError: a folder holds a package already, an image has another size than when it was queried, or
            the disk is full.
    """
    check_new(packages, out)
    packages = [package for package in packages if not (out / package.annotator / FILE).exists()]
    tasks: dict[str, list[tuple[Path, Task]]] = defaultdict(list)
    for package in packages:
        for task in package.tasks:
            tasks[task.crop.image].append((out / package.annotator, task))

    def write_image(name: str) -> None:
        image = read_image(name)
        _check_size(name, image, queries[name].size)
        for folder, task in tasks[name]:
            _write_pictures(folder, task, image, previews=previews)

    for _ in mapper(write_image, list(tasks)):
        pass
    for package in packages:
        folder = out / package.annotator
        TOOLS[package.tool].write(folder, package, lambda task: suggestions(task, queries), names)
        write_atomically(folder / README, _readme(package))
        package.write(folder / FILE)


def new_export_id() -> str:
    """Says which export a package is of; later ones sort after earlier ones."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def resumed(packages: Sequence[Package], out: Path) -> list[Package]:
    """The packages under the id of an export of the same kind in `out` that was killed before its end."""
    for package in packages:
        path = out / package.annotator / FILE
        if path.exists():
            there = Package.read(path).export
            return [replace(package, export=there) for package in packages]
    return list(packages)


def check_new(packages: Sequence[Package], out: Path) -> None:
    """Refuses to write over packages, in which somebody may have worked already.

    An export that was killed is continued: some of its packages are there, just as planned, and some are not.

    Raises:
        UserError: names the folder.
    """
    there = [package for package in packages if (out / package.annotator / FILE).exists()]
    planned = {package.annotator for package in packages}
    of_others = any(path.parent.name not in planned for path in out.glob(f"*/{FILE}"))
    for package in there:
        folder = out / package.annotator
        if of_others or len(there) == len(packages) or Package.read(folder / FILE) != package:
            raise UserError(f"{folder} holds a package already; name another folder by --out")


def remember(folder: RoundFolder, packages: Sequence[Package]) -> None:
    """Keeps what was exported in the round's folder, for the status; an earlier export is forgotten."""
    own = folder.folder / "packages"
    for package in packages:
        package.write(own / f"{package.annotator}.json")
    for path in own.glob("*.json"):
        if path.stem not in {package.annotator for package in packages}:
            path.unlink()


def remembered(folder: RoundFolder) -> list[Package]:
    """The packages of the last export, in the order of their names.

    Raises:
        UserError: a file is damaged.
    """
    return [Package.read(path) for path in sorted(folder.folder.joinpath("packages").glob("*.json"))]


def suggestions(task: Task, queries: RoundQueries) -> np.ndarray:
    """(h, w) uint8: what the prediction suggests for a task's regions; 254 where it is not shown."""
    if task.blind:
        return np.full(task.crop.size, UNANSWERED, np.uint8)
    return suggestion_map(task.crop, queries[task.crop.image], queries.info.label_radius)


def answer_from_truth(
    folder: Path, package: Package, names: ClassNames, truth: Callable[[str], np.ndarray]
) -> None:
    """Answers a package as somebody would who knows everything; nothing is lost on the way.

    Args:
        folder: of the package.
        package: its tasks.
        names: of the classes.
        truth: (H, W) uint8 train ids of the image of that name; 255 becomes "cannot tell".
    """
    TOOLS[package.tool].write(
        folder, package, lambda task: task.crop.cut(truth(task.crop.image)), names, answered=True
    )


def _check_size(name: str, image: np.ndarray, size: tuple[int, int]) -> None:
    if image.shape[:2] != size:
        raise UserError(
            f"image {name} is {image.shape[1]}x{image.shape[0]} pixels now but was {size[1]}x{size[0]} when "
            "it was queried; name the folder of that time by --target-root"
        )


def _write_pictures(folder: Path, task: Task, image: np.ndarray, *, previews: bool) -> None:
    # Pixels are repeated, not smoothed: regions are pixels, and people must see which.
    picture = task.crop.enlarge(task.crop.cut(image))
    write_png(folder / PICTURES / f"{task.stem}.png", picture)
    if previews and not task.crop.is_whole:  # a whole image has nothing to outline
        write_png(folder / PREVIEWS / f"{task.stem}.png", _outlined(picture, task.crop))


def _outlined(picture: np.ndarray, crop: Crop) -> np.ndarray:
    """The picture with a line around every region, just outside of it, black and yellow to show anywhere."""
    outlined = np.ascontiguousarray(picture.copy())
    for box in crop.boxes():
        top, left, bottom, right = (edge * crop.scale for edge in box)
        cv2.rectangle(outlined, (left - 2, top - 2), (right + 1, bottom + 1), (0, 0, 0), 1)
        cv2.rectangle(outlined, (left - 1, top - 1), (right, bottom), OUTLINE, 1)
    return outlined


def _readme(package: Package) -> str:
    tool = TOOLS[package.tool]
    guide = tool.WHOLE_GUIDE if package.whole_images else tool.GUIDE
    return (
        f"Work for {package.annotator}: {package.asked} of round "
        f"{package.round + 1} of {package.run}\n\n{guide}\nNever rename files, and leave {FILE} as it is. "
        f'Say "cannot tell" (label pictures: {IGNORE_LABEL}) where you cannot see what it is.\n'
    )
