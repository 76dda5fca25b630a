"""Class statistics from disk: found, matched with the images, and refused where they do not fit."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from toy_cityscapes import draw_cityscapes

import prepare_data
from data_loaders.decoding import map_label, write_label_png
from data_loaders.description import load_description
from data_loaders.discovery import FileList, find_files
from data_loaders.image_statistics import statistics_command, statistics_for
from data_loaders.statistics import STATISTICS_BY_FILE, count_classes, write_class_statistics
from utils.class_spaces import ClassSpace, class_space
from utils.errors import UserError

SPACE = class_space("cityscapes19")


@pytest.fixture
def files(tmp_path: Path) -> FileList:
    """Five toy pairs in the Cityscapes format."""
    draw_cityscapes(tmp_path / "cs", "train", 5)
    return found(tmp_path / "cs")


def found(root: Path, name: str = "cityscapes") -> FileList:
    return find_files(load_description(name), split="train", root=root, labels="required")


def counted(files: FileList, space: ClassSpace = SPACE) -> list[dict[int, int]]:
    return [image.pixels for image in count_classes(files, space.name, num_workers=0)]


def run(command: str) -> None:
    """Runs the command that an error offers."""
    words = shlex.split(command)
    assert words[:2] == ["python", "prepare_data.py"]
    assert prepare_data.main([*words[2:], "--num-workers", "0"]) == 0


@pytest.mark.parametrize("space", ["cityscapes19", "robotcar9"])
def test_the_command_in_the_error_writes_what_is_then_found(files: FileList, space: str) -> None:
    classes = class_space(space)
    with pytest.raises(UserError, match=r"is not there; count them once: python prepare_data\.py statistics"):
        statistics_for(files, classes)
    run(statistics_command(files, classes, None))
    assert statistics_for(files, classes) == counted(files, classes)


def test_statistics_can_lie_elsewhere(files: FileList, tmp_path: Path) -> None:
    place = tmp_path / "else where"
    with pytest.raises(
        UserError, match=r"else where is not there; count them once: .* --output '.*else where'$"
    ):
        statistics_for(files, SPACE, place)
    run(statistics_command(files, SPACE, place))
    assert not (files.root / STATISTICS_BY_FILE).exists()
    for path in (place, place / "sample_class_stats.json", place / STATISTICS_BY_FILE):
        assert statistics_for(files, SPACE, path) == counted(files)


@pytest.mark.parametrize("named", ["", STATISTICS_BY_FILE, "counts"])
def test_statistics_of_something_else_are_not_written_over(
    files: FileList, tmp_path: Path, named: str
) -> None:
    place, other = tmp_path / "place", class_space("robotcar9")
    write_class_statistics(place, count_classes(files, other.name, num_workers=0), other)
    (place / "counts").write_bytes((place / STATISTICS_BY_FILE).read_bytes())
    before = {path: path.read_bytes() for path in place.iterdir()}
    with pytest.raises(UserError, match=r"counts the classes of robotcar9.*; count again: ") as caught:
        statistics_for(files, SPACE, place / named)
    command, _, rest = str(caught.value).partition("count again: ")[2].partition(" (then give ")
    run(command)
    assert {path: path.read_bytes() for path in before} == before
    option, fresh = shlex.split(rest.rstrip(")"))
    assert option == "--class-statistics"
    assert Path(fresh).parent == place
    assert statistics_for(files, SPACE, Path(fresh)) == counted(files)


def test_a_file_that_is_missing_is_written_into_its_folder(files: FileList, tmp_path: Path) -> None:
    command = statistics_command(files, SPACE, tmp_path / "new" / "sample_class_stats.json")
    assert shlex.split(command)[-2:] == ["--output", str(tmp_path / "new")]


def test_the_command_names_split_classes_and_own_description(files: FileList, tmp_path: Path) -> None:
    command = statistics_command(replace(files, split="val"), class_space("robotcar9"), None)
    assert command.endswith(f"cityscapes --root {files.root} --split val --classes robotcar9")
    own = tmp_path / "my.toml"
    own.write_text(
        'class_space = "cityscapes19"\n[[layouts]]\nimage = "{name}.png"\nlabel = "l/{name}.png"\n'
        "[label_tables.cityscapes19]\n7 = 0\n"
    )
    mine = replace(files, description=load_description(own))
    assert f"statistics {own} --root" in statistics_command(mine, SPACE, None)


def test_the_originals_files_serve_after_the_data_moved(files: FileList) -> None:
    by_file = {
        f"/old/place/{item.label.name.replace('labelIds', 'labelTrainIds')}": pixels
        for item, pixels in zip(files.items, counted(files), strict=True)
        if item.label is not None
    }
    (files.root / STATISTICS_BY_FILE).write_text(json.dumps(by_file))
    assert statistics_for(files, SPACE) == counted(files)


def test_a_list_of_some_images_takes_its_own_statistics_in_its_order(files: FileList) -> None:
    write_class_statistics(files.root, count_classes(files, SPACE.name, num_workers=0))
    some = replace(files, items=(files.items[3], files.items[1]))
    assert statistics_for(some, SPACE) == [counted(files)[3], counted(files)[1]]


def write_groups(root: Path, folders: tuple[str, ...]) -> None:
    """IDD Lite pairs that are all called 1, in several folders, with another class each."""
    for number, folder in enumerate(folders):
        label = np.full((4, 6), number, np.uint8)
        write_label_png(root / f"gtFine/train/{folder}/1_label.png", label)
        (root / f"leftImg8bit/train/{folder}").mkdir(parents=True)
        image = np.repeat(label[..., None], 3, axis=-1)
        assert cv2.imwrite(str(root / f"leftImg8bit/train/{folder}/1_image.jpg"), image)


def test_repeated_file_names_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    write_groups(tmp_path / "idd", ("a/x", "b/x", "b/y"))
    files, space = found(tmp_path / "idd", "idd"), class_space("idd7")
    write_class_statistics(tmp_path / "idd", count_classes(files, space.name, num_workers=0))
    assert statistics_for(files, space) == [{0: 24}, {1: 24}, {2: 24}]
    content = json.loads((tmp_path / "idd" / STATISTICS_BY_FILE).read_text())
    content = {name: counts for name, counts in content.items() if "/b/x/" not in name}
    (tmp_path / "idd" / STATISTICS_BY_FILE).write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"lacks 1 of 3 source images \(b/x/1_image.jpg\)"):
        statistics_for(files, space)


def test_images_without_statistics_are_counted_and_named(files: FileList) -> None:
    few = replace(files, items=files.items[2:])
    write_class_statistics(files.root, count_classes(few, SPACE.name, num_workers=0))
    with pytest.raises(
        UserError, match=r"lacks 2 of 5 source images \(aachen/.*count again: python prepare_d"
    ):
        statistics_for(files, SPACE)


def test_statistics_of_other_classes_are_refused(files: FileList) -> None:
    other = class_space("robotcar9")
    images = count_classes(files, other.name, num_workers=0)
    write_class_statistics(files.root, images, other)
    with pytest.raises(
        UserError, match="counts the classes of robotcar9, the run trains cityscapes19; count"
    ):
        statistics_for(files, SPACE)


def test_unknown_class_ids_are_refused(files: FileList) -> None:
    content = {str(item.label): {"0": 5, "26": 3} for item in files.items}
    (files.root / STATISTICS_BY_FILE).write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"counts class 26, but cityscapes19 has the classes 0\.\.18; count"):
        statistics_for(files, SPACE)


@pytest.mark.parametrize("place", [0, -1])
def test_statistics_of_another_conversion_are_refused(files: FileList, place: int) -> None:
    images = count_classes(files, SPACE.name, num_workers=0)
    changed = dict(images[place].pixels)
    train, pixels = changed.popitem()
    images[place] = replace(images[place], pixels={**changed, (train + 1) % 19: pixels})
    write_class_statistics(files.root, images)
    with pytest.raises(
        UserError, match=r"which holds \d+: statistics of another conversion; count again: pyth"
    ):
        statistics_for(files, SPACE)


@pytest.mark.parametrize("text", ["", "[1]", '{"a": {"b": 1}}'])
def test_damaged_statistics_come_with_the_command(files: FileList, text: str) -> None:
    (files.root / STATISTICS_BY_FILE).write_text(text)
    with pytest.raises(
        UserError, match=r"is not a sample_class.* Here: python prepare_data\.py statistics"
    ) as caught:
        statistics_for(files, SPACE)
    assert caught.value.everywhere
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize(
    ("name", "raw", "converted"),
    [
        ("cityscapes", "_labelIds.png", "_labelTrainIds.png"),
        ("gta5", ".png", "_labelTrainIds.png"),
    ],
)
def test_converted_labels_are_neither_further_images_nor_other_labels(
    name: str, raw: str, converted: str, both: bool, files: FileList, tmp_path: Path
) -> None:
    """The originals write *_labelTrainIds.png beside the raw labels; some copies have nothing else."""
    root = files.root if name == "cityscapes" else gta_of(files, tmp_path / "gta5")
    expected = counted(files)
    table = load_description(name).label_table("cityscapes19")
    for item in found(root, name).items:
        assert item.label is not None
        ids = cv2.imread(str(item.label), cv2.IMREAD_UNCHANGED)
        write_label_png(Path(str(item.label).replace(raw, converted)), map_label(ids, table))
        if not both:
            item.label.unlink()
    again = found(root, name)
    assert len(again) == len(files)
    assert again.skipped == ()
    assert again.description.label_ids == (
        "train" if not both else {"cityscapes": "raw"}.get(name, "cityscapes")
    )
    assert counted(again) == expected
    write_class_statistics(root, count_classes(again, SPACE.name, num_workers=0), SPACE)
    assert statistics_for(again, SPACE) == expected


def gta_of(files: FileList, root: Path) -> Path:
    """The same pictures and raw ids as GTA5 names them."""
    for number, item in enumerate(files.items):
        assert item.label is not None
        for source, folder in ((item.image, "images"), (item.label, "labels")):
            place = root / folder / f"{number:05d}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(source.read_bytes())
    return root
