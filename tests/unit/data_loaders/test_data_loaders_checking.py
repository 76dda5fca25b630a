"""Looking into label files: unknown ids, wrong files, unreadable files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_loaders.checking import check_files, check_first_labels, check_label_values, format_report
from data_loaders.decoding import write_label_png
from data_loaders.description import DatasetDescription, load_description
from data_loaders.discovery import FileList, find_files
from utils.errors import UserError


def raw(*values: int) -> np.ndarray:
    return np.array([values], np.uint8)


def train_id_description() -> DatasetDescription:
    cityscapes = load_description("cityscapes")
    return cityscapes.for_layout(next(layout for layout in cityscapes.layouts if layout.label_ids == "train"))


def make_gta(root: Path, number: int = 4, ids: tuple[int, ...] = (7, 26, 0, 34)) -> FileList:
    for i in range(number):
        (root / "images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(root / f"images/{i:05d}.png")
        write_label_png(root / f"labels/{i:05d}.png", np.array(ids, np.uint8).reshape(2, 2), [(0, 0, 0)])
    return find_files(load_description("gta5"), split="train", root=root, labels="required")


@pytest.mark.parametrize("values", [(0, 7, 33), (34,), (255,)])
def test_known_ids_pass(values: tuple[int, ...]) -> None:
    check_label_values(raw(*values), load_description("cityscapes"), Path("a_gtFine_labelIds.png"))


def test_unknown_ids_are_named_with_values_file_and_expectation() -> None:
    words = r"label values \{35, 200\} \(3 of 4 pixels\) in d/a.png are not label ids of cityscapes \(0..34"
    with pytest.raises(UserError, match=words):
        check_label_values(raw(35, 200, 200, 7), load_description("gta5"), Path("d/a.png"))


def test_a_file_with_another_end_than_the_layout_is_told_the_usual_one() -> None:
    with pytest.raises(
        UserError, match=r"did you mean \*_gtFine_labelIds.png\? is it a label of another data set"
    ):
        check_label_values(raw(99), load_description("cityscapes"), Path("x/a_gtFine_disparity.png"))


def test_raw_ids_read_as_train_ids_point_to_the_train_id_file() -> None:
    with pytest.raises(
        UserError, match=r"\{33, 34\} .* train ids 0..18 or 255; did you mean \*_labelTrainIds.png"
    ):
        check_label_values(raw(33, 34, 1), train_id_description(), Path("X.png"))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("a_gtFine_instanceIds.png", "a_gtFine_labelIds.png"),
        ("a_gtFine_color.png", "a_gtFine_labelIds.png"),
        ("a_gt_labelColor.png", "a_gt_labelIds.png"),
        ("a_gtFine_labelTrainIds.png", "a_gtFine_labelIds.png"),
    ],
)
def test_a_file_of_another_kind_names_the_one_that_was_meant(name: str, meant: str) -> None:
    with pytest.raises(UserError, match=rf"did you mean {meant}\?"):
        check_label_values(raw(1), load_description("cityscapes"), Path(name))


@pytest.mark.parametrize(
    "name",
    [
        "boulder_colorado_000001_000019_gtFine_labelIds.png",
        "instanceIds_of_a_town_gtFine_labelIds.png",
        "labelTrainIds_0001.png",
    ],
)
def test_only_the_end_of_a_file_name_says_what_it_holds(name: str) -> None:
    check_label_values(raw(1), load_description("cityscapes"), Path(name))


def test_a_raw_file_in_a_train_id_layout_names_the_converted_one() -> None:
    with pytest.raises(UserError, match=r"did you mean a_gtFine_labelTrainIds.png\?"):
        check_label_values(raw(1), train_id_description(), Path("a_gtFine_labelIds.png"))


def test_the_first_labels_are_checked_before_a_run(tmp_path: Path) -> None:
    files = make_gta(tmp_path)
    check_first_labels(files)
    write_label_png(files.items[-1].label, np.full((2, 2), 99, np.uint8))
    with pytest.raises(UserError, match=r"\{99\} .*00003.png"):
        check_first_labels(files)


def test_a_sound_copy_has_nothing_to_report(tmp_path: Path) -> None:
    report = check_files(make_gta(tmp_path), num_workers=0)
    report.verdict(strict=True)
    assert report.good_names() == [f"{i:05d}.png" for i in range(4)]
    assert {value: int(report.raw_counts[value]) for value in (0, 7, 26, 34)} == {0: 4, 7: 4, 26: 4, 34: 4}
    text = format_report(report, "cityscapes19")
    assert "image sizes: 2x2 (4)" in text
    assert "road" in text
    assert "UNKNOWN" not in text


def test_damaged_files_unknown_ids_and_sizes_are_reported_and_left_off_the_list(tmp_path: Path) -> None:
    files = make_gta(tmp_path)
    files.items[0].image.write_bytes(files.items[0].image.read_bytes()[:40])
    write_label_png(files.items[1].label, np.full((2, 2), 99, np.uint8))
    write_label_png(files.items[2].label, np.full((3, 5), 7, np.uint8))
    report = check_files(files, num_workers=0)
    assert [finding.name for finding in report.unreadable] == ["00000.png"]
    assert report.unknown_ids == {99: (4, "00001.png")}
    assert [finding.name for finding in report.other_size] == ["00002.png"]
    assert report.good_names() == ["00002.png", "00003.png"]
    assert "00000.png is truncated" in format_report(report, "cityscapes19")
    with pytest.raises(UserError, match=r"first 99 in 00001\.png"):
        report.verdict(strict=False)


def test_one_unreadable_pair_of_many_is_tolerated_unless_strict(tmp_path: Path) -> None:
    files = make_gta(tmp_path, 200)
    files.items[5].image.write_bytes(b"")
    report = check_files(files, num_workers=0)
    report.verdict(strict=False)
    with pytest.raises(UserError, match=r"1 of 200 .*00005.png.*--strict"):
        report.verdict(strict=True)


def test_images_without_labels_can_be_checked_too(tmp_path: Path) -> None:
    make_gta(tmp_path)
    files = find_files(load_description("gta5"), split="train", root=tmp_path, labels="never")
    report = check_files(files, num_workers=0)
    assert report.good_names() == [item.name for item in files.items]
    assert "train id" not in format_report(report, "cityscapes19")


def test_processes_find_the_same(tmp_path: Path) -> None:
    files = make_gta(tmp_path, 12)
    alone, together = check_files(files, num_workers=0), check_files(files, num_workers=2)
    assert format_report(alone, "cityscapes19") == format_report(together, "cityscapes19")
