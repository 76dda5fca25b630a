"""The class statistics on disk, matched with the images of a list and checked against their labels."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from data_loaders.file_list import FileList, join_names
from data_loaders.statistics import (
    count_classes,
    counted_class_space,
    label_stem,
    read_class_statistics,
    statistics_file,
    statistics_folder,
)
from utils.class_spaces import ClassSpace
from utils.errors import UserError, alike_everywhere

_MAX_FOLDERS = 6  # of a label's path that are compared where file names repeat

Counts = dict[int, int]


@alike_everywhere()
def statistics_for(files: FileList, space: ClassSpace, path: Path | None = None) -> list[Counts]:
    """Train id -> pixels of every labelled image, in the order of the list.

    Read from what `prepare_data.py statistics` or the originals' converters wrote; images are told by the
    base names of their labels, so folders may have moved. The first and the last label are counted again.

    Args:
        files: every item has a label.
        space: the class space of the training run.
        path: --class-statistics, a folder or JSON file; None: where `prepare_data.py statistics` writes.

    Raises:
        UserError: no statistics, damaged ones, those of other classes, images or labels; with the command
            that writes the right ones.
    """
    folder = path or statistics_folder(files, space.name)
    file = statistics_place(files, space, path)
    command = statistics_command(files, space, path)
    remedy = f"count again: {command}"
    if not file.is_file():
        elsewhere = " (or name their folder with --class-statistics)" if path is None else ""
        raise UserError(
            f"rare class sampling needs the pixels per class of the source images, but {file} is not there; "
            f"count them once: {command}{elsewhere}"
        )
    try:
        counted, statistics = counted_class_space(folder), read_class_statistics(file)
    except UserError as error:
        raise UserError(f"{error} Here: {command}") from None
    if counted not in (None, space.name):
        raise UserError(f"{file} counts the classes of {counted}, the run trains {space.name}; {remedy}")
    unknown = sorted(
        {train for counts in statistics.values() for train in counts} - {*range(space.num_classes)}
    )
    if unknown:
        raise UserError(
            f"{file} counts class {unknown[0]}, but {space.name} has the classes 0..{space.num_classes - 1}; "
            f"{remedy}"
        )
    matched = _matched(files, statistics, file, remedy)
    _recount(files, space, matched, file, remedy)
    return matched


def statistics_place(files: FileList, space: ClassSpace, path: Path | None) -> Path:
    """The file that `statistics_for` reads, there or not; arguments as there."""
    return statistics_file(path or statistics_folder(files, space.name))


def statistics_command(files: FileList, space: ClassSpace, path: Path | None) -> str:
    """The command that writes the statistics of a list where `statistics_for` looks for them.

    Statistics that a given `path` has already may be another data set's and are not written over: the command
    writes to a folder in it, and says to name that by --class-statistics.
    """
    description = files.description
    name = str(description.file) if description.is_own else description.name
    parts = ["python", "prepare_data.py", "statistics", name, "--root", str(files.root)]
    if files.split != "train":
        parts += ["--split", files.split]
    if space.name != description.default_class_space:
        parts += ["--classes", space.name]
    if path is None:
        return shlex.join(parts)
    folder = path.parent if path.is_file() or path.suffix == ".json" else path
    if not statistics_file(path).is_file():
        return shlex.join([*parts, "--output", str(folder)])
    fresh = folder / f"{description.name}_{space.name}"
    renamed = shlex.join(["--class-statistics", str(fresh)])
    return f"{shlex.join([*parts, '--output', str(fresh)])} (then give {renamed})"


def _matched(files: FileList, statistics: dict[str, Counts], file: Path, remedy: str) -> list[Counts]:
    """The counts of every item; as many folders as needed are compared to tell the labels apart."""
    labels, known = [str(item.label) for item in files.items], list(statistics)
    for folders in range(_MAX_FOLDERS):
        wanted, there = _tails(labels, folders), _tails(known, folders)
        if len(set(wanted)) == len(wanted) and len(set(there)) == len(there):
            break
    else:
        raise UserError(f"{file} has several labels of one name in folders of one name; {remedy}")
    place = dict(zip(there, known, strict=True))
    missing = [item.name for item, tail in zip(files.items, wanted, strict=True) if tail not in place]
    if missing:
        raise UserError(
            f"{file} lacks {len(missing)} of {len(files.items)} source images ({join_names(missing, 3)}); "
            f"{remedy}"
        )
    return [statistics[place[tail]] for tail in wanted]


def _tails(names: Sequence[str], folders: int) -> list[tuple[str, ...]]:
    """Per label its stem after the names of its last `folders` folders."""
    parts = [name.split("/") for name in names]
    return [(*part[-1 - folders : -1], label_stem(part[-1])) for part in parts]


def _recount(files: FileList, space: ClassSpace, counts: Sequence[Counts], file: Path, remedy: str) -> None:
    """Refuses statistics that differ from what the first and the last label hold."""
    places = sorted({0, len(files.items) - 1})
    few = replace(files, items=tuple(files.items[place] for place in places))
    for place, image in zip(places, count_classes(few, space.name, num_workers=0), strict=True):
        said, held = counts[place], image.pixels
        differing = [train for train in range(space.num_classes) if said.get(train, 0) != held.get(train, 0)]
        if differing:
            train = differing[0]
            raise UserError(
                f"{file} has {said.get(train, 0)} pixels of class {train} ({space.class_names[train]}) for "
                f"{image.label}, which holds {held.get(train, 0)}: statistics of another conversion; {remedy}"
            )
