"""The class-balanced source list: where its table comes from, and tables that do not fit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from data_loaders.balanced_order import class_balanced_list
from data_loaders.description import load_description
from data_loaders.discovery import FileList, find_files
from data_loaders.statistics import LabelInfo, count_classes, label_info, read_label_info, write_label_info
from tests.official_formats import write_gta5
from trainers.source_order import KEPT, class_balanced_order
from utils.class_spaces import class_space
from utils.errors import UserError

SPACE = class_space("cityscapes19")
DRAWS = 40


@pytest.fixture
def files(tmp_path: Path) -> FileList:
    """Twelve labelled images, in which every class occurs twice."""
    write_gta5(tmp_path, 12, (64, 48))
    return find_files(load_description("gta5"), split="train", data_root=tmp_path, labels="required")


@pytest.fixture
def table(files: FileList) -> LabelInfo:
    """What prepare_data.py statistics counts."""
    return label_info(count_classes(files, SPACE.name, num_workers=0), 19)


def indices(files: FileList, path: Path | None = None, *, seed: int = 0) -> list[int]:
    run = files.root.parent / "run"
    order = class_balanced_order(files, SPACE, table=path, run=run, seed=seed, draws=DRAWS, num_workers=0)
    order.keep(run)
    return list(order.indices)


def of_16_classes(table: LabelInfo) -> LabelInfo:
    """The table without the last three classes."""
    files = {name: [label for label in labels if label < 16] for name, labels in table.file_to_label.items()}
    return LabelInfo(table.label_to_file[:16], files)


def write(path: Path, info: LabelInfo) -> Path:
    write_label_info(path, info)
    return path


def test_given_found_and_counted_tables_make_the_same_list(
    files: FileList, table: LabelInfo, tmp_path: Path
) -> None:
    counted = indices(files)
    names = [item.image.name for item in files.items]
    assert [names[index] for index in counted] == class_balanced_list(table, seed=0, length=DRAWS)
    (files.root / "labels").rename(files.root / "away")  # the second start does not count again
    assert indices(files) == counted
    (files.root / "away").rename(files.root / "labels")
    assert indices(files, write(tmp_path / "elsewhere.p", table)) == counted
    write(files.root / "gtav_label_info.p", table)
    assert indices(files) == counted
    assert indices(files, seed=1) != counted


def test_table_beside_the_data_of_other_classes_is_left_alone(files: FileList, table: LabelInfo) -> None:
    counted = indices(files)
    write(files.root / "a_label_info.p", of_16_classes(table))
    assert indices(files) == counted


def test_images_that_are_not_there_are_left_out_with_a_warning(
    files: FileList, table: LabelInfo, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = LabelInfo(
        [["00000.png", *names] for names in table.label_to_file],
        {"00000.png": list(range(19)), **table.file_to_label},
    )
    assert indices(files, write(tmp_path / "x.p", more)) == indices(files)
    assert "1 images of the class table are not in" in caplog.text
    assert "00000.png" in caplog.text


def test_table_of_another_data_set(files: FileList, tmp_path: Path) -> None:
    other = LabelInfo([["a.png", "b.png"]] * 19, {"a.png": list(range(19)), "b.png": list(range(19))})
    with pytest.raises(UserError, match=r"names a\.png and others, none of which is in .*--label-info"):
        indices(files, write(tmp_path / "x.p", other))


def test_table_of_other_classes(files: FileList, table: LabelInfo, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"x\.p is a table of 16 classes, 19 \(cityscapes19\)"):
        indices(files, write(tmp_path / "x.p", of_16_classes(table)))


def test_class_that_no_image_holds(files: FileList, table: LabelInfo, tmp_path: Path) -> None:
    lists = [names if number != 16 else [] for number, names in enumerate(table.label_to_file)]
    with pytest.raises(UserError, match="train id 16 is in none"):
        indices(files, write(tmp_path / "x.p", LabelInfo(lists, table.file_to_label)))


def test_file_names_that_repeat(files: FileList) -> None:
    item = files.items[0]
    twice = dataclasses.replace(files, items=(*files.items, dataclasses.replace(item, name=f"b/{item.name}")))
    with pytest.raises(UserError, match="--source-order shuffled"):
        indices(twice)


def without_the_first(table: LabelInfo) -> LabelInfo:
    """The table of a data set that lacked the first image."""
    first = min(table.file_to_label)
    lists = [[name for name in names if name != first] for names in table.label_to_file]
    return LabelInfo(lists, {name: labels for name, labels in table.file_to_label.items() if name != first})


@pytest.mark.parametrize("place", ["data/gtav_label_info.p", "run/label_info.p"])
def test_a_found_table_that_lacks_images_is_counted_again(
    place: str, files: FileList, table: LabelInfo, caplog: pytest.LogCaptureFixture
) -> None:
    counted = indices(files)
    kept = files.root.parent / "run" / KEPT
    kept.unlink()
    path = files.root / "gtav_label_info.p" if place.startswith("data") else kept
    write(path, without_the_first(table))
    assert indices(files) == counted
    assert f"{path} does not know 1 of 12 source images, first {min(table.file_to_label)}" in caplog.text
    assert read_label_info(kept).file_to_label == table.file_to_label


def test_a_given_table_that_lacks_images_is_used_with_a_warning(
    files: FileList, table: LabelInfo, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = indices(files, write(tmp_path / "x.p", without_the_first(table)))
    missing = min(table.file_to_label)
    assert missing not in {files.items[index].image.name for index in chosen}
    assert (
        f"1 of 12 source images in {files.root} are not in {tmp_path / 'x.p'}, first {missing}" in caplog.text
    )
