"""Finds out which data sets lie below a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_loaders.description import DatasetDescription, load_description, shipped_descriptions
from data_loaders.discovery import FileList, candidate_folders, find_files
from data_loaders.folders import FolderIndex
from data_loaders.scanning import Request
from utils.errors import UserError


@dataclass(frozen=True, slots=True)
class Match:
    """One split of one data set that was found."""

    dataset: str
    split: str
    root: Path
    layout: str
    num_images: int
    num_labels: int
    expected: int | None  # images of the complete split


def survey(folder: Path, names: Sequence[str] = ()) -> tuple[list[Match], list[str]]:
    """What lies in `folder` (a data root or a data set's own folder), and a line per data set that does not.

    Args:
        folder: where to look.
        names: data sets or description files; all shipped ones if empty.
    """
    index = FolderIndex()
    matches, missing = [], []
    for name in names or shipped_descriptions():
        description = load_description(name)
        found = [match for split in description.splits for match in _best(description, split, folder, index)]
        matches += found
        if not found:
            missing.append(_what_was_tried(description, folder, index))
    return _without_doubtful(matches), missing


def _without_doubtful(matches: Sequence[Match]) -> list[Match]:
    """Leaves out unlabelled matches where another data set has labels: the patterns fit by chance."""
    labelled = {(match.root, match.dataset) for match in matches if match.num_labels}
    owners = {root: {dataset for other, dataset in labelled if other == root} for root, _ in labelled}
    return [match for match in matches if match.dataset in owners.get(match.root, {match.dataset})]


def _best(description: DatasetDescription, split: str, folder: Path, index: FolderIndex) -> list[Match]:
    """The folder and layout with labels if there is one, else the first with images."""
    if split in description.lists:
        return _listed(description, split, folder)
    request = Request(description, split, "optional", None, index)
    without_labels: list[Match] = []
    for root, layout in request.candidates(candidate_folders(description, folder, folder)):
        found = request.scan(root, layout, need_label=False)
        if found is None:
            continue
        match = _match(found)
        if match.num_labels:
            return [match]
        without_labels.append(match)
    return without_labels[:1]


def _listed(description: DatasetDescription, split: str, folder: Path) -> list[Match]:
    try:
        found = find_files(description, split=split, root=folder, data_root=folder, labels="optional")
    except UserError:
        return []
    return [_match(found)]


def _match(found: FileList) -> Match:
    labels = sum(item.label is not None for item in found.items)
    expected = found.description.file_counts.get(found.split)
    return Match(found.description.name, found.split, found.root, found.layout, len(found), labels, expected)


def _what_was_tried(description: DatasetDescription, folder: Path, index: FolderIndex) -> str:
    tried = candidate_folders(description, None, folder)
    existing = [str(path) for path in tried if index.is_folder(path)]
    patterns = dict.fromkeys(layout.image.text for layout in description.layouts)
    return f"{description.name}: no {' or '.join(patterns)} in {', '.join(existing)}"


def format_survey(matches: Sequence[Match], missing: Sequence[str]) -> str:
    """A table of what was found, then what was looked for in vain."""
    rows = [("data set", "split", "images", "labels", "layout", "folder")]
    for match in matches:
        complete = "" if match.expected in (None, match.num_images) else f" of {match.expected}"
        images, labels = f"{match.num_images}{complete}", str(match.num_labels)
        rows.append((match.dataset, match.split, images, labels, match.layout, str(match.root)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    if not matches:
        lines = ["no data set found"]
    return "\n".join([*lines, *(["", "not found:"] if missing else []), *(f"  {line}" for line in missing)])
