"""Finds the files of a data set: where its folder is, its layout, which label belongs to which image.

Folders are listed once with scandir; no file is opened and none is asked for its status, so 25 000 files take
well under a second also on a network file system. With labels="never" nothing in a label folder is touched.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from data_loaders.description import DatasetDescription
from data_loaders.file_list import FileList, Item, accept, join_names
from data_loaders.folders import FolderIndex
from data_loaders.list_files import find_listed_files
from data_loaders.scanning import LabelMode, Request
from utils.errors import UserError, alike_everywhere

__all__ = ["FileList", "Item", "LabelMode", "NothingFoundError", "candidate_folders", "find_files"]

DATA_ROOT_VARIABLE = "SEGADAPT_DATA"
_PARENTS = ("", "data", "datasets")  # folders of the original projects above the data sets


class NothingFoundError(UserError):
    """There is no file of what was looked for, and nothing is wrong with the rest."""


@alike_everywhere()
def find_files(
    description: DatasetDescription,
    *,
    split: str,
    root: Path | None = None,
    data_root: Path | None = None,
    labels: LabelMode,
    list_file: Path | None = None,
    label_root: Path | None = None,
    strict: bool = False,
    limit_skipped: bool = True,
) -> FileList:
    """The image and label files of one split of a data set.

    Args:
        description: from `load_description`.
        split: one of the description's splits.
        root: the data set's own folder; tried before `data_root`.
        data_root: the folder that holds data sets; without it and `root`, the variable SEGADAPT_DATA.
        labels: "required": images without a label, and labels without an image, are skipped and counted;
            "optional": such images stay, with label None; "never": label files are not looked for.
        list_file: only these images, in this order: a name per line, or image and label.
        label_root: labels lie here instead, below the pattern's label folder or directly.
        strict: makes every skipped file an error.
        limit_skipped: apply the 0.5 % rule; without it the caller looks at `skipped` itself.

    Raises:
        NothingFoundError: says what was looked for.
        UserError: no such split, a list entry does not exist, or more than 0.5 % of the pairs are incomplete.
    """
    description.split_folder(split)
    request = Request(description, split, labels, label_root, FolderIndex())
    folders = candidate_folders(description, root, data_root)
    list_file = list_file or _described_list(description, split, folders)
    if list_file is not None:
        found = find_listed_files(request, folders, list_file)
        return accept(found, strict=strict) if limit_skipped else found
    if not folders:
        raise NothingFoundError(
            f"no folder given for data set {description.name}: use --data-root (or the variable "
            f"{DATA_ROOT_VARIABLE}), or --source-root / --target-root."
        )
    for need_label in {"never": (False,), "required": (True,), "optional": (True, False)}[labels]:
        for folder, layout in request.candidates(folders):
            found = request.scan(folder, layout, need_label=need_label)
            if found is not None:
                return accept(found, strict=strict) if limit_skipped else found
    raise NothingFoundError(_nothing_found(request, folders))


def candidate_folders(
    description: DatasetDescription, root: Path | None, data_root: Path | None
) -> list[Path]:
    """Folders in which the data set may lie, best first, without checking that they exist."""
    found: list[Path] = []
    if root is None and data_root is None and (text := os.environ.get(DATA_ROOT_VARIABLE)):
        data_root = Path(text)
    if root is not None:
        found += _below(root, ("", *description.folders), description.subfolders)
    if description.root is not None:
        found += _below(description.file.parent / description.root, ("",), description.subfolders)
    if data_root is not None:
        for parent in _PARENTS:
            found += _below(data_root / parent, description.folders, description.subfolders)
        found += _below(data_root, ("",), description.subfolders)
    if description.is_own:
        found += _below(description.file.parent, ("",), description.subfolders)
    return list(dict.fromkeys(found))


def _below(folder: Path, names: Sequence[str], subfolders: Sequence[str]) -> list[Path]:
    return [folder.expanduser() / name / subfolder for name in names for subfolder in subfolders]


def _described_list(description: DatasetDescription, split: str, folders: Sequence[Path]) -> Path | None:
    """The list file that the description names for the split, relative to its own or the data folder."""
    name = description.lists.get(split)
    if name is None:
        return None
    tried = [folder / name for folder in (description.file.parent, *folders)]
    for path in tried:
        if path.is_file():
            return path
    raise UserError(
        f"{description.file}: lists.{split} = {name!r} is not there; looked in {join_names(tried)}."
    )


def _nothing_found(request: Request, folders: Sequence[Path]) -> str:
    """What was looked for and where, in one line."""
    description, layouts = request.description, request.description.layouts_of(request.split)
    where = f"data set {description.name}, split {request.split}"
    existing = [folder for folder in folders if request.index.is_folder(folder)]
    if not existing:
        tried = join_names(folders, 8)
        return f"{where}: none of its folders exists; tried {tried}. Check --data-root and the spelling."
    split = request.split_folder
    for folder in existing:
        for layout in layouts:
            count = len(request.images(folder, layout))
            if count:
                expected = [
                    o.label.text.replace("{split}", split)
                    for o in layouts
                    if o.label and o.image == layout.image
                ]
                hint = (
                    f"expected {join_names(expected)}"
                    if expected
                    else "its description has no label files for this split"
                )
                return f"{where}: {count} images in {folder} but no label for any of them; {hint} there."
    patterns = dict.fromkeys(layout.image.text.replace("{split}", split) for layout in layouts)
    return (
        f"{where}: no images; tried the patterns {join_names(list(patterns))} in {join_names(existing, 8)}. "
        f"prepare_data.py find DIR shows what a folder holds."
    )
