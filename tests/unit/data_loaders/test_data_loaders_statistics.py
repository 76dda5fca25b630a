"""Class statistics and the files of the original projects."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_loaders.decoding import write_label_png
from data_loaders.description import load_description
from data_loaders.discovery import FileList, find_files
from data_loaders.statistics import (
    LabelInfo,
    count_classes,
    counted_class_space,
    label_info,
    label_stem,
    read_class_statistics,
    read_label_info,
    statistics_folder,
    total_pixels,
    write_class_statistics,
    write_label_info,
)
from utils.class_spaces import class_space
from utils.errors import UserError

LABELS = {
    "00001": [[7, 7, 33], [0, 26, 7]],
    "00002": [[33, 33, 33], [33, 33, 8]],
    "00003": [[0, 0, 0], [1, 2, 3]],
}


@pytest.fixture
def files(tmp_path: Path) -> FileList:
    (tmp_path / "images").mkdir()
    for name, ids in LABELS.items():
        Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(tmp_path / f"images/{name}.png")
        write_label_png(tmp_path / f"labels/{name}.png", np.array(ids, np.uint8))
    return find_files(load_description("gta5"), split="train", root=tmp_path, labels="required")


def test_pixels_are_counted_per_train_id_without_ignored_ones(files: FileList) -> None:
    images = count_classes(files, "cityscapes19", num_workers=0)
    assert [image.pixels for image in images] == [{0: 3, 13: 1, 18: 1}, {1: 1, 18: 5}, {}]
    pixels, occurrences = total_pixels(images, 19)
    assert (pixels[[0, 1, 13, 18]].tolist(), pixels.sum()) == ([3, 1, 1, 6], 11)
    assert occurrences[[0, 1, 13, 18]].tolist() == [1, 1, 1, 2]


def test_ids_that_share_a_class_are_added_up(files: FileList) -> None:
    assert count_classes(files, "idd7", num_workers=0)[0].pixels == {0: 3, 3: 2}  # car and bicycle: vehicles


def test_the_json_files_have_the_text_of_the_original_converters(files: FileList, tmp_path: Path) -> None:
    images = count_classes(files, "cityscapes19", num_workers=0)[:2]
    first, second = (image.label for image in images)
    written = write_class_statistics(tmp_path / "out", images)
    statistics = [{"0": 3, "13": 1, "18": 1, "file": first}, {"1": 1, "18": 5, "file": second}]
    by_file = {first: {"0": 3, "13": 1, "18": 1}, second: {"1": 1, "18": 5}}
    by_class = {"0": [[first, 3]], "13": [[first, 1]], "18": [[first, 1], [second, 5]], "1": [[second, 1]]}
    expected = {
        "sample_class_stats.json": statistics,
        "sample_class_stats_dict.json": by_file,
        "samples_with_class.json": by_class,
    }
    assert {path.name: path.read_text() for path in written} == {
        name: json.dumps(content, indent=2) for name, content in expected.items()
    }


def test_statistics_are_read_back_from_either_file_of_a_folder(files: FileList, tmp_path: Path) -> None:
    images = count_classes(files, "cityscapes19", num_workers=0)
    write_class_statistics(tmp_path, images)
    expected = {image.label: image.pixels for image in images}
    assert read_class_statistics(tmp_path) == expected
    assert read_class_statistics(tmp_path / "sample_class_stats.json") == expected
    (tmp_path / "sample_class_stats_dict.json").unlink()
    assert read_class_statistics(tmp_path) == expected


@pytest.mark.parametrize(
    "name", ["00009.png", "gta/labels/00009_labelTrainIds.png", "cs/train/x/00009_labelIds.png"]
)
def test_label_files_of_one_image_share_their_stem(name: str) -> None:
    assert label_stem(name) == "00009"


def test_the_counted_classes_are_told_beside_the_files(files: FileList, tmp_path: Path) -> None:
    images = count_classes(files, "idd7", num_workers=0)
    assert counted_class_space(tmp_path) is None
    assert tmp_path / "sample_class_space.json" in write_class_statistics(
        tmp_path, images, class_space("idd7")
    )
    assert counted_class_space(tmp_path) == "idd7"
    assert counted_class_space(tmp_path / "sample_class_stats.json") == "idd7"
    (tmp_path / "sample_class_space.json").write_text("[]")
    with pytest.raises(UserError, match=r"sample_class_space.json does not say which classes"):
        counted_class_space(tmp_path)


@pytest.mark.parametrize("text", ['{"a.png": {"3": 4, "5": -2}}', '[{"3": -2, "file": "a.png"}]'])
def test_counts_below_0_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(UserError, match=r"s.json has -2 pixels of a class in a.png.*prepare_data\.py"):
        read_class_statistics(tmp_path / "s.json")


def test_counts_of_other_classes_have_their_own_folder(files: FileList) -> None:
    assert statistics_folder(files, "cityscapes19") == files.root
    assert statistics_folder(files, "idd7") == files.root / "class_statistics_idd7"


@pytest.mark.parametrize("text", ["[1, 2]", "no json", '{"a": 3}', '[{"3": 4}]', '{"a": {"road": 3}}'])
def test_other_json_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(UserError, match=r"s.json is not a sample_class_stats_dict.json"):
        read_class_statistics(tmp_path / "s.json")
    with pytest.raises(UserError, match=r"prepare_data\.py statistics writes them"):
        read_class_statistics(tmp_path / "none.json")


def test_label_info_is_written_as_a_plain_pair_and_read_back(files: FileList, tmp_path: Path) -> None:
    info = label_info(count_classes(files, "cityscapes19", num_workers=0), 19)
    assert info.label_to_file[18] == ["00001.png", "00002.png"]
    assert info.file_to_label == {"00001.png": [0, 13, 18], "00002.png": [1, 18], "00003.png": []}
    write_label_info(tmp_path / "gtav_label_info.p", info)
    assert pickle.loads((tmp_path / "gtav_label_info.p").read_bytes()) == (
        info.label_to_file,
        info.file_to_label,
    )
    assert read_label_info(tmp_path / "gtav_label_info.p") == info


def test_classes_of_an_image_are_in_the_order_of_raw_ids(files: FileList) -> None:
    # SYNTHIA numbers its classes in another order than the train ids: raw 7, 8, 26, 33 -> pole, car, -, -
    table = load_description("synthia").label_table("cityscapes19")
    assert table[[7, 8]].tolist() == [5, 13]
    assert count_classes(files, "robotcar9", num_workers=0)[0].raw_order == (8, 3, 2)


class Hostile:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("hacked",)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.p").write_bytes(pickle.dumps(([], {"a": Hostile()})))
    with pytest.raises(UserError, match=r"x.p is refused: it asks for .*mkdir"):
        read_label_info(tmp_path / "x.p")
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    "content", [{"a": 1}, ([], []), ([["a"]], {"a": [1]}), ([[1]], {}), ([["a"]], {"a": 0})]
)
def test_a_pickle_of_something_else_is_refused(tmp_path: Path, content: object) -> None:
    (tmp_path / "x.p").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match="is no label table"):
        read_label_info(tmp_path / "x.p")


def test_a_damaged_or_missing_pickle_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.p").write_bytes(b"text")
    with pytest.raises(UserError, match=r"x.p is damaged or no pickle"):
        read_label_info(tmp_path / "x.p")
    with pytest.raises(UserError, match=r"y.p cannot be read"):
        read_label_info(tmp_path / "y.p")


def test_an_empty_table_is_valid(tmp_path: Path) -> None:
    write_label_info(tmp_path / "x.p", LabelInfo([[], []], {}))
    assert read_label_info(tmp_path / "x.p").label_to_file == [[], []]
