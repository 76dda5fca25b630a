"""RIPU's class-balanced source list from the tables of a data set (Xie et al., CVPR 2022, released code)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from data_loaders.balanced_order import ListedOrder, class_balanced_list
from data_loaders.discovery import FileList
from data_loaders.parallel import ProgressLine
from data_loaders.statistics import LabelInfo, count_classes, label_info, read_label_info, write_label_info
from utils import distributed
from utils.class_spaces import ClassSpace
from utils.errors import UserError

logger = logging.getLogger(__name__)

KEPT = "label_info.p"  # in the run folder


class SourceOrder(ListedOrder):
    """The order, and the table that was counted for it; None where there was one."""

    counted: LabelInfo | None = None

    def keep(self, run: Path) -> None:
        """Puts a counted table into the run folder, so that the next start need not count. Rank 0 only."""
        if self.counted is not None:
            write_label_info(run / KEPT, self.counted)


def class_balanced_order(
    files: FileList,
    space: ClassSpace,
    *,
    table: Path | None,
    run: Path,
    seed: int,
    draws: int,
    num_workers: int,
) -> SourceOrder:
    """The order in which a run draws its source images. Collective.

    Args:
        files: the source images.
        space: classes in use.
        table: `*_label_info.p`; None: one beside the data that knows all images, else the classes are counted
            now.
        run: run folder, where an earlier start has kept what it counted.
        seed: of the list and of its shuffling; 0 gives the list of the original runs.
        draws: images that the whole schedule needs.
        num_workers: processes that count classes.

    Raises:
        UserError: a class that no image holds, a table of other classes or images, file names that repeat.
    """
    place = {item.image.name: index for index, item in enumerate(files.items)}
    if len(place) != len(files.items):
        raise UserError(
            "--source-order class-balanced tells images apart by their file names, but several of "
            f"{files.root} have the same one; use --source-order shuffled"
        )
    ready = _found(run, files, place, space) if table is None else _given(table, space, place, files)
    info = _counted(files, space, num_workers) if ready is None else ready
    names = class_balanced_list(_restricted(info, place, files), seed=seed, length=draws)
    order = SourceOrder([place[name] for name in names], seed, "source")
    order.counted = info if ready is None else None
    return order


def _found(run: Path, files: FileList, place: Mapping[str, int], space: ClassSpace) -> LabelInfo | None:
    """The first table of as many classes, beside the data or kept by the run, that knows every image."""
    kept = run / KEPT
    for path in [*sorted(files.root.glob("*label_info.p")), *([kept] if kept.is_file() else [])]:
        info = read_label_info(path)
        if len(info.label_to_file) != space.num_classes:
            continue
        unknown = place.keys() - info.file_to_label.keys()
        if not unknown:
            logger.info("class-balanced source list from %s", path)
            return info
        logger.warning(
            "%s does not know %d of %d source images, first %s, and is not used: it would never show them",
            path,
            len(unknown),
            len(place),
            min(unknown),
        )
    return None


def _given(table: Path, space: ClassSpace, place: Mapping[str, int], files: FileList) -> LabelInfo:
    """The table that was asked for, with a warning where it does not know all images."""
    info = read_label_info(table)
    if len(info.label_to_file) != space.num_classes:
        raise UserError(
            f"{table} is a table of {len(info.label_to_file)} classes, {space.num_classes} ({space.name}) "
            "are in use; give one of these classes with --label-info"
        )
    logger.info("class-balanced source list from %s", table)
    unknown = place.keys() - info.file_to_label.keys()
    if unknown and len(unknown) < len(place):  # all: `_restricted` refuses the table
        logger.warning(
            "%d of %d source images in %s are not in %s, first %s: they are never drawn; without "
            "--label-info the classes are counted",
            len(unknown),
            len(place),
            files.root,
            table,
            min(unknown),
        )
    return info


def _counted(files: FileList, space: ClassSpace, num_workers: int) -> LabelInfo:
    logger.info(
        "counting the classes of %d source images for the class-balanced list; `prepare_data.py statistics` "
        "keeps the table for --label-info",
        len(files.items),
    )

    def count() -> LabelInfo:
        progress = ProgressLine(len(files.items))
        counts = count_classes(files, space.name, num_workers=num_workers, progress=progress)
        return label_info(counts, space.num_classes)

    return distributed.from_rank_zero(count)


def _restricted(info: LabelInfo, place: Mapping[str, int], files: FileList) -> LabelInfo:
    """The table without images that this copy of the data lacks; with all of them it is RIPU's own."""
    missing = info.file_to_label.keys() - place.keys()
    if not missing:
        return info
    if len(missing) == len(info.file_to_label):
        raise UserError(
            f"the class table names {min(missing)} and others, none of which is in {files.root}; give the "
            "table of this data set with --label-info"
        )
    logger.warning(
        "%d images of the class table are not in %s, first %s: they are left out of the list",
        len(missing),
        files.root,
        min(missing),
    )
    return LabelInfo(
        [[name for name in names if name in place] for names in info.label_to_file],
        {name: classes for name, classes in info.file_to_label.items() if name in place},
    )
