"""Target images, those that a list chooses, the rest, and where labels lie (dataset_listing.json)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from golden_files import load_json

from data_loaders.description import load_description
from data_loaders.discovery import FileList, find_files
from selection.anchor_files import read_list, remaining_positions, write_list

ARCHIVE = "dataset_listing.json"
SPLIT = "train"
NO_LIST = np.array([], np.int64)


@pytest.fixture(name="golden")
def fixture_golden() -> dict[str, list[str]]:
    return load_json("mada", ARCHIVE)


@pytest.fixture(name="root")
def fixture_root(golden: dict[str, list[str]], tmp_path: Path) -> Path:
    """A data folder with the golden's files, all empty, made in its order."""
    root = tmp_path / "cityscapes"
    for name in golden["created"]:
        label = name.removesuffix("leftImg8bit.png") + "gtFine_labelIds.png"
        for path in (root / "leftImg8bit" / SPLIT / name, root / "gtFine" / SPLIT / label):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    return root


def find(root: Path, list_file: Path | None = None) -> FileList:
    description = load_description("cityscapes")
    return find_files(description, split=SPLIT, root=root, labels="required", list_file=list_file)


def names(files: FileList) -> list[str]:
    return [item.name for item in files.items]


def active_list(golden: dict[str, list[str]], folder: Path) -> Path:
    """The golden's list as a file."""
    path = folder / "list.txt"
    write_list(path, golden["active_list"])
    return path


def test_images_are_sorted(golden: dict[str, list[str]], root: Path) -> None:
    assert names(find(root)) == golden["sorted"] == golden["files_no_list"]


def test_without_a_list_all_images_remain(golden: dict[str, list[str]], root: Path) -> None:
    found = names(find(root))
    remaining = [found[index] for index in remaining_positions(len(found), NO_LIST)]
    assert remaining == golden["remaining_no_list"]


def test_a_list_chooses_its_images_and_leaves_the_rest(
    golden: dict[str, list[str]], root: Path, tmp_path: Path
) -> None:
    found = names(find(root))
    chosen = read_list(active_list(golden, tmp_path), found)
    assert sorted(found[index] for index in chosen) == sorted(golden["files_with_list"])
    assert list(chosen) == sorted(chosen)
    remaining = [found[index] for index in remaining_positions(len(found), chosen)]
    assert remaining == golden["remaining_with_list"]


def test_labelled_training_reads_the_images_of_the_list(
    golden: dict[str, list[str]], root: Path, tmp_path: Path
) -> None:
    files = find(root, active_list(golden, tmp_path))
    assert names(files) == golden["active_loader_files"]
    first = next(item for item in files.items if item.name == golden["active_list"][0])
    assert first.label is not None
    assert first.label.relative_to(root).as_posix() == golden["label_path_for_first_active"]
