"""Finding files: layouts in the wild, lists, incomplete copies."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from data_loaders.description import load_description
from data_loaders.discovery import FileList, NothingFoundError, find_files
from data_loaders.list_files import read_list
from data_loaders.survey import survey
from utils.errors import UserError

CITY_IMAGE = "leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png"
CITY_LABEL = "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png"


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def gta(root: Path, number: int, *, without_label: int = 0) -> None:
    touch(root, *(f"images/{i:05d}.png" for i in range(number)))
    touch(root, *(f"labels/{i:05d}.png" for i in range(without_label, number)))


def find(
    name: str | Path, root: Path, split: str = "train", labels: str = "required", **more: object
) -> FileList:
    return find_files(load_description(name), split=split, root=None, data_root=root, labels=labels, **more)


WILD = [
    ("cityscapes", "cityscapes", CITY_IMAGE, CITY_LABEL),
    ("cityscapes", "data/Cityscapes/data", CITY_IMAGE, CITY_LABEL),
    ("cityscapes", "", CITY_IMAGE, CITY_LABEL.replace("labelIds", "labelTrainIds")),
    ("gta5", "datasets/gtav", "images/00001.png", "labels/00001.png"),
    ("gta5", "GTA5", "images/00001.png", "labels/00001.png"),
    ("gta5", "data/gta", "images/00001.png", "labels/00001_labelTrainIds.png"),
    ("synthia", "datasets/synthia/RAND_CITYSCAPES", "RGB/0000000.png", "GT/LABELS/0000000.png"),
    ("synthia", "data/synthia", "RGB/0000000.png", "GT/LABELS/0000000.png"),
    ("synthia", "synthia", "RGB/0000000.png", "synthia_mapped_to_cityscapes/0000000.png"),
    ("robotcar", "data/Oxford_Robot_ICCV19", "val/5.png", "anno/5.png"),
    ("acdc", "acdc", "rgb_anon/fog/train/GOPR1/a_rgb_anon.png", "gt/fog/train/GOPR1/a_gt_labelIds.png"),
    ("acdc", "data/acdc", "rgb_anon/train/a_rgb_anon.png", "gt/train/a_gt_labelTrainIds.png"),
    ("acdc", "datasets/acdc", "images/train/fog/a_rgb_anon.png", "gt/train/fog/a_gt_labelIds.png"),
    ("dark_zurich", "dark_zurich", "rgb_anon/val/night/G/a_rgb_anon.png", "gt/val/night/G/a_gt_labelIds.png"),
    ("camvid", "CamVid", "train/a.png", "trainannot/a.png"),
    ("idd", "idd_lite/idd20k_lite", "leftImg8bit/train/0/a_image.jpg", "gtFine/train/0/a_label.png"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "folder", "image", "label"), WILD)
def test_layouts_of_the_original_projects_are_found(
    tmp_path: Path, name: str, folder: str, image: str, label: str
) -> None:
    touch(tmp_path / folder, image, label)
    split = "val" if "val/" in image else "train"
    files = find(name, tmp_path, split)
    assert [item.image for item in files.items] == [tmp_path / folder / image]
    assert [item.label for item in files.items] == [tmp_path / folder / label]
    assert files.description.label_ids == (
        "train" if "labelTrainIds" in label else files.description.label_ids
    )
    own = find_files(
        load_description(name), split=split, root=tmp_path / folder, data_root=None, labels="required"
    )
    assert own.items == files.items
    assert (name, split, 1, 1) in [
        (m.dataset, m.split, m.num_images, m.num_labels) for m in survey(tmp_path)[0]
    ]


def test_names_are_paths_below_the_image_folder_and_sorted(tmp_path: Path) -> None:
    for city in ("bonn/bonn_1", "aachen/aachen_2"):
        touch(tmp_path, f"leftImg8bit/train/{city}_leftImg8bit.png")
    files = find("cityscapes", tmp_path, labels="never")
    assert [item.name for item in files.items] == [
        "aachen/aachen_2_leftImg8bit.png",
        "bonn/bonn_1_leftImg8bit.png",
    ]


def test_raw_labels_win_over_converted_ones_beside_them(tmp_path: Path) -> None:
    gta(tmp_path, 3)
    touch(tmp_path, *(f"labels/{i:05d}_labelTrainIds.png" for i in range(3)))
    files = find("gta5", tmp_path)
    assert files.description.label_ids == "cityscapes"
    assert not files.skipped


def test_never_does_not_look_into_label_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gta(tmp_path / "gta5", 3)
    listed: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: (listed.append(str(folder)), scandir(folder))[1])
    files = find("gta5", tmp_path, labels="never")
    assert all(item.label is None for item in files.items)
    assert not any("labels" in folder for folder in listed)
    assert any(folder.endswith("images") for folder in listed)


def test_a_target_without_label_folder_is_fine_unless_labels_are_required(tmp_path: Path) -> None:
    touch(tmp_path, CITY_IMAGE)
    assert len(find("cityscapes", tmp_path, labels="never")) == 1
    assert find("cityscapes", tmp_path, labels="optional").items[0].label is None
    with pytest.raises(
        UserError, match=r"1 images in .* but no label for any of them; expected gtFine/train/"
    ):
        find("cityscapes", tmp_path)


def test_up_to_half_a_percent_is_skipped_and_listed(tmp_path: Path) -> None:
    gta(tmp_path, 200, without_label=1)
    files = find("gta5", tmp_path)
    assert len(files) == 199
    assert files.skipped == ("00000.png: no label",)
    with pytest.raises(UserError, match=r"1 of 200 .*00000.png: no label.*--strict allows none"):
        find("gta5", tmp_path, strict=True)


def test_a_label_without_image_counts_too(tmp_path: Path) -> None:
    gta(tmp_path, 200)
    (tmp_path / "images" / "00007.png").unlink()
    assert find("gta5", tmp_path).skipped == ("labels/00007.png: no image",)
    (tmp_path / "images" / "00008.png").unlink()
    with pytest.raises(UserError, match=r"2 of 200 .* at most 0.5% may be"):
        find("gta5", tmp_path)
    assert len(find("gta5", tmp_path, limit_skipped=False).skipped) == 2


def test_a_missing_folder_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"gta5, split train: no images; tried the patterns images/\{name\}.png in "
    ):
        find("gta5", tmp_path)
    with pytest.raises(NothingFoundError, match=r"none of its folders exists; tried .*nowhere"):
        find("gta5", tmp_path / "nowhere")


def test_without_any_root_the_environment_variable_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEGADAPT_DATA", raising=False)
    with pytest.raises(NothingFoundError, match="SEGADAPT_DATA"):
        find_files(load_description("gta5"), split="train", labels="required")
    gta(tmp_path / "gta5", 1)
    monkeypatch.setenv("SEGADAPT_DATA", str(tmp_path))
    assert len(find_files(load_description("gta5"), split="train", labels="required")) == 1


def test_labels_may_lie_elsewhere(tmp_path: Path) -> None:
    touch(tmp_path / "gta5", "images/1.png")
    for folder in ("full/labels", "flat"):
        touch(tmp_path / folder, "1.png")
    for root in ("full", "flat"):
        files = find("gta5", tmp_path, label_root=tmp_path / root)
        assert files.items[0].label is not None
        assert files.items[0].label.is_relative_to(tmp_path / root)


def test_a_night_split_is_a_folder_of_the_training_split(tmp_path: Path) -> None:
    touch(tmp_path, "rgb_anon/train/night/G/a_rgb_anon.png", "rgb_anon/train/day/G/b_rgb_anon.png")
    assert len(find("dark_zurich", tmp_path, labels="never")) == 2
    night = find("dark_zurich", tmp_path, "train_night", labels="never")
    assert [item.name for item in night.items] == ["G/a_rgb_anon.png"]


def test_the_fingerprint_changes_with_names_and_order(tmp_path: Path) -> None:
    gta(tmp_path, 2)
    write_list(tmp_path, "00001.png\n00000.png\n")
    files = find("gta5", tmp_path)
    other = find("gta5", tmp_path, list_file=tmp_path / "list.txt")
    assert files.fingerprint() == find("gta5", tmp_path).fingerprint()
    assert (
        len({files.fingerprint(), other.fingerprint(), replace(files, items=files.items[1:]).fingerprint()})
        == 3
    )


def write_list(folder: Path, text: str) -> Path:
    path = folder / "list.txt"
    path.write_bytes(text.encode())
    return path


LISTS = [
    "00001.png\n00000.png\n",
    "00001.png\r\n00000.png\r\n",
    "# chosen by hand\n\n  00001.png  \n00000.png",
    "images/00001.png\nimages/00000.png\n",
    "00001\n00000\n",
    "images/00001.png labels/00001.png\nimages/00000.png labels/00000.png\n",
    "gta5/images/00001.png\tgta5/labels/00001.png\ngta5/images/00000.png gta5/labels/00000.png\n",
]


@pytest.mark.parametrize("text", LISTS)
def test_lists_of_all_originals_are_read_in_their_order(tmp_path: Path, text: str) -> None:
    gta(tmp_path / "gta5", 3)
    files = find("gta5", tmp_path, list_file=write_list(tmp_path, text))
    assert [item.name for item in files.items] == ["00001.png", "00000.png"]
    assert [item.label for item in files.items] == [
        tmp_path / "gta5/labels" / item.name for item in files.items
    ]


def test_a_list_of_pairs_needs_no_data_root(tmp_path: Path) -> None:
    touch(tmp_path, "train/a.png", "trainannot/a.png")
    path = write_list(tmp_path, "train/a.png trainannot/a.png\n")
    files = find_files(load_description("camvid"), split="val", labels="required", list_file=path)
    assert [(item.name, item.label) for item in files.items] == [("a.png", tmp_path / "trainannot/a.png")]


def test_a_target_list_of_pairs_does_not_open_the_labels(tmp_path: Path) -> None:
    touch(tmp_path, "train/a.png")
    path = write_list(tmp_path, "train/a.png trainannot/a.png\n")
    assert find("camvid", tmp_path, labels="never", list_file=path).items[0].label is None
    with pytest.raises(UserError, match=r"list.txt, line 1: 'trainannot/a.png' does not exist"):
        find("camvid", tmp_path, list_file=path)


def test_a_missing_entry_is_named_with_list_and_line(tmp_path: Path) -> None:
    gta(tmp_path, 300)
    path = write_list(tmp_path, "00001.png\n# note\n99999.png\n")
    with pytest.raises(UserError, match=r"list.txt, line 3: '99999.png' does not exist in .*images"):
        find("gta5", tmp_path, list_file=path)
    with pytest.raises(UserError, match=r"list.txt, line 1: 'x.png' does not exist"):
        find("gta5", tmp_path, list_file=write_list(tmp_path, "x.png\n"))


def test_an_empty_list_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no image names"):
        read_list(write_list(tmp_path, "# nothing\n\n"))


def test_names_with_spaces_are_one_name(tmp_path: Path) -> None:
    entries = read_list(write_list(tmp_path, "my photo.png\nb.png c.png\n"))
    assert [(entry.image, entry.label) for entry in entries] == [("my photo.png", None), ("b.png", "c.png")]


OWN = """
class_space = "cityscapes19"
label_ids = "train"
splits = ["train", "val"]
[lists]
train = "lists/train.txt"
[[layouts]]
image = "photos/{name}.{ext}"
label = "masks/{name}.png"
"""


def test_a_users_own_description_starts_at_its_own_folder(tmp_path: Path) -> None:
    touch(tmp_path, "photos/a.jpg", "photos/b.PNG", "masks/a.png", "masks/b.png")
    touch(tmp_path, "lists/train.txt")
    (tmp_path / "lists/train.txt").write_text("b.PNG\n")
    (tmp_path / "my.toml").write_text(OWN)
    description = load_description(tmp_path / "my.toml")
    train = find_files(description, split="train", labels="required")
    assert [(item.name, item.label) for item in train.items] == [("b.PNG", tmp_path / "masks/b.png")]
    assert [item.name for item in find_files(description, split="val", labels="required").items] == [
        "a.jpg",
        "b.PNG",
    ]


def test_listed_names_without_suffix_find_any_image_type(tmp_path: Path) -> None:
    touch(tmp_path, "photos/a.jpg", "photos/b.png", "masks/a.png", "masks/b.png", "lists/train.txt")
    (tmp_path / "lists/train.txt").write_text("a\nb\n")
    (tmp_path / "my.toml").write_text(OWN)
    files = find_files(load_description(tmp_path / "my.toml"), split="train", labels="required")
    assert [item.name for item in files.items] == ["a.jpg", "b.png"]
    matches, _ = survey(tmp_path, [str(tmp_path / "my.toml")])
    assert [(match.split, match.num_images, match.num_labels) for match in matches] == [
        ("train", 2, 2),
        ("val", 2, 2),
    ]


def test_a_root_in_the_description_is_relative_to_it(tmp_path: Path) -> None:
    touch(tmp_path / "data", "photos/a.jpg", "masks/a.png")
    (tmp_path / "my.toml").write_text(
        'root = "data"\n' + OWN.replace('[lists]\ntrain = "lists/train.txt"\n', "")
    )
    files = find_files(load_description(tmp_path / "my.toml"), split="train", labels="required")
    assert files.root == tmp_path / "data"


def test_the_survey_says_what_is_missing(tmp_path: Path) -> None:
    gta(tmp_path / "gta5", 2)
    matches, missing = survey(tmp_path)
    assert [(m.dataset, m.num_images, m.num_labels, m.expected) for m in matches] == [("gta5", 2, 2, 24966)]
    assert any(line.startswith("synthia: no RGB/{name}.png in ") for line in missing)


def test_a_linked_folder_is_followed(tmp_path: Path) -> None:
    gta(tmp_path / "real", 2)
    (tmp_path / "gta5").symlink_to(tmp_path / "real", target_is_directory=True)
    assert len(find("gta5", tmp_path)) == 2
