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
        table: `*_label_info.p`; None: one beside the data, else the classes are counted now.
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
    kept = run / KEPT
    table = table or _beside_the_data(files, space) or (kept if kept.is_file() else None)
    info = _counted(files, space, num_workers) if table is None else _read(table, space)
    names = class_balanced_list(_restricted(info, place, files), seed=seed, length=draws)
    order = SourceOrder([place[name] for name in names], seed, "source")
    order.counted = info if table is None else None
    return order


def _beside_the_data(files: FileList, space: ClassSpace) -> Path | None:
    """The first table of as many classes in the data's folder."""
    found = sorted(files.root.glob("*label_info.p"))
    return next(
        (path for path in found if len(read_label_info(path).label_to_file) == space.num_classes), None
    )


def _read(table: Path, space: ClassSpace) -> LabelInfo:
    info = read_label_info(table)
    if len(info.label_to_file) != space.num_classes:
        raise UserError(
            f"{table} is a table of {len(info.label_to_file)} classes, {space.num_classes} ({space.name}) "
            "are in use; give one of these classes with --label-info"
        )
    logger.info("class-balanced source list from %s", table)
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
