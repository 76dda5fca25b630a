"""Descriptions: the shipped ones, and mistakes in a user's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_loaders.description import load_description, shipped_descriptions
from data_loaders.layouts import PathPattern
from utils.class_spaces import IGNORE_LABEL, class_space
from utils.errors import UserError

MINIMAL = """
class_space = "cityscapes19"
label_ids = "train"
[[layouts]]
image = "photos/{name}.{ext}"
label = "masks/{name}.png"
"""


def write(folder: Path, text: str, name: str = "my.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", shipped_descriptions())
def test_a_shipped_description_maps_its_ids_into_every_class_space_it_names(name: str) -> None:
    description = load_description(name)
    assert description.name == name
    assert description.class_spaces()[0] == description.default_class_space
    for layout in description.layouts:
        fixed = description.for_layout(layout)
        for space in description.class_spaces():
            table = fixed.label_table(space)
            used = set(table.tolist()) - {IGNORE_LABEL}
            assert used <= set(range(class_space(space).num_classes))
            assert {raw for raw in range(256) if table[raw] != IGNORE_LABEL} <= fixed.known_ids()


def test_all_promised_data_sets_are_shipped() -> None:
    promised = {"cityscapes", "gta5", "synthia", "robotcar", "camvid", "idd", "acdc", "dark_zurich"}
    assert promised <= set(shipped_descriptions())


def test_synthia_in_sixteen_classes() -> None:
    table = load_description("synthia").label_table("synthia16")
    # RIPU and DWACA: raw id -> train id of 16
    expected = {
        3: 0,
        4: 1,
        2: 2,
        21: 3,
        5: 4,
        7: 5,
        15: 6,
        9: 7,
        6: 8,
        1: 9,
        10: 10,
        17: 11,
        8: 12,
        19: 13,
        12: 14,
        11: 15,
    }
    assert {raw: int(train) for raw, train in enumerate(table) if train != IGNORE_LABEL} == expected


def test_a_layout_with_ids_of_another_set_uses_its_table() -> None:
    synthia = load_description("synthia")
    mapped = next(layout for layout in synthia.layouts if layout.label_ids == "cityscapes")
    expected = load_description("cityscapes").label_table("cityscapes19")
    np.testing.assert_array_equal(synthia.for_layout(mapped).label_table("cityscapes19"), expected)


def test_camvid_labels_merge_into_idd_classes() -> None:
    table = load_description("camvid").label_table("idd7")
    assert table[:12].tolist() == [6, 5, 4, 0, 1, 5, 4, 4, 3, 2, 255, 255]


def test_an_unknown_data_set_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown data set 'Cityscape'.*did you mean cityscapes\?"):
        load_description("Cityscape")


def test_labels_that_cannot_be_mapped_say_so() -> None:
    with pytest.raises(
        UserError, match="labels of data set idd cannot be mapped to class space cityscapes19"
    ):
        load_description("idd").label_table("cityscapes19")


def test_a_split_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(UserError, match="gta5 has no split 'val'; it has train"):
        load_description("gta5").split_folder("val")


def test_a_minimal_file_is_enough(tmp_path: Path) -> None:
    description = load_description(write(tmp_path, MINIMAL))
    assert (description.name, description.splits, description.label_ids) == ("my", ("train",), "train")
    assert description.known_ids() == {*range(19), 255}
    assert description.label_table("cityscapes19")[:20].tolist() == [*range(19), 255]


def test_a_description_without_labels_says_so_when_a_table_is_needed(tmp_path: Path) -> None:
    text = 'class_space = "cityscapes19"\n[[layouts]]\nimage = "{name}.png"\n'
    description = load_description(write(tmp_path, text))
    assert description.class_spaces() == ["cityscapes19"]
    with pytest.raises(UserError, match="data set my is described without labels"):
        description.label_table("cityscapes19")


def test_a_file_may_define_its_own_classes(tmp_path: Path) -> None:
    text = """
    image_size = [64, 32]
    [class_space]
    name = "test_site"
    names = ["ground", "things"]
    palette = [[128, 64, 128], [0, 0, 142]]
    subsets = { "only things" = [1] }
    [class_space.merge]
    idd7 = [0, 0, 1, 1, 1, 255, 255]
    [[layouts]]
    image = "{name}.png"
    label = "{name}_mask.png"
    [label_tables.test_site]
    10 = 0
    20 = 1
    """
    description = load_description(write(tmp_path, text))
    assert description.label_table("test_site")[[10, 20, 30]].tolist() == [0, 1, 255]
    assert class_space("test_site").subsets["only things"] == (1,)
    assert class_space("test_site").things == ()
    assert load_description("idd").label_table("test_site")[:3].tolist() == [0, 0, 1]


def own_things(name: str, things: str) -> str:
    return f"""
    [class_space]
    name = "{name}"
    names = ["ground", "car", "person"]
    palette = [[128, 64, 128], [0, 0, 142], [220, 20, 60]]
    things = {things}
    [[layouts]]
    image = "{{name}}.png"
    """


@pytest.mark.parametrize("things", ['["person", "car"]', '[1, 2, "car"]'])
def test_countable_classes_are_given_by_name_or_id(tmp_path: Path, things: str) -> None:
    load_description(write(tmp_path, own_things("test_things", things)))
    assert class_space("test_things").things == (1, 2)


@pytest.mark.parametrize("things", ['["cra"]', "[3]", "[-1]", "[true]", "[1.0]"])
def test_a_countable_class_that_is_not_there_is_refused(tmp_path: Path, things: str) -> None:
    with pytest.raises(
        UserError, match=r"my.toml \[class_space\]: things: no class is .*ground, car, person"
    ):
        load_description(write(tmp_path, own_things("test_no_things", things)))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('class_space = "cityscapes19"', "", "the key 'class_space' is missing"),
        ('"cityscapes19"', '"cityscape19"', "did you mean cityscapes19"),
        ("label_ids", "label_id", "unknown key 'label_id'; did you mean 'label_ids'"),
        ('"train"', '"raw"', r"\[label_tables.cityscapes19\] \(raw id = train id\) is missing"),
        ('"train"', '"kitti"', "label_ids = 'kitti'; possible are 'raw', 'train' or a shipped data set"),
        ("{name}.{ext}", "{nam}.png", r"unknown placeholders \['nam'\]"),
        ("{name}.{ext}", "all.png", r"needs \{name\} exactly once"),
        ("{name}.{ext}", "{group}/{group}/{name}.{ext}", r"\{group\} more than once"),
        ("{name}.{ext}", "{name}}.png", "a brace without its partner"),
        ("{name}.{ext}", "{name.{ext}", "a brace without its partner"),
        ("photos/", "../photos/", "must lie below the data set's folder"),
        ("masks/{name}", "masks/{group}/{name}", r"label has \{group\} but image has not"),
        ("[[layouts]]", "[[layouts", "is not valid TOML"),
        ("[[layouts]]", "splits = 3\n[[layouts]]", "splits = 3 should be a list"),
        ("[[layouts]]", "image_size = [0, 5]\n[[layouts]]", r"should be \[width, height\]"),
        ("[[layouts]]", "[label_tables.cityscapes19]\n300 = 0\n[[layouts]]", "300 = 0; raw ids are 0..255"),
        ("[[layouts]]", "[label_tables.cityscapes19]\n3 = 19\n[[layouts]]", "train ids 0..18 or 255"),
        ("[[layouts]]", "[label_tables.cityscapes19]\nroad = 0\n[[layouts]]", "raw id = train id"),
        ('label = "', 'label_encoding = "rgb"\nlabel = "', "label_encoding = 'rgb'; choose one of index"),
        ('label = "', 'splits = ["val"]\nlabel = "', r"splits \['val'\] are not among"),
    ],
)
def test_a_mistake_is_named_with_file_and_key(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in MINIMAL
    path = write(tmp_path, MINIMAL.replace(old, new, 1))
    with pytest.raises(UserError, match=words) as error:
        load_description(path)
    assert "did you mean cityscapes19" in words or "my.toml" in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.toml cannot be read"):
        load_description(tmp_path / "nowhere.toml")


def test_patterns_match_whole_paths_and_fill_back() -> None:
    pattern = PathPattern("rgb/{group}/{split}/{name}_img.{ext}")
    parts = pattern.match("rgb/fog/train/a/b_img.JPG", "train")
    assert parts == {"group": "fog", "name": "a/b", "ext": "JPG"}
    assert pattern.fill("train", parts) == "rgb/fog/train/a/b_img.JPG"
    assert pattern.match("rgb/fog/val/a/b_img.jpg", "train") is None
    assert pattern.match("old/rgb/fog/train/a/b_img.jpg", "train") is None
    assert (pattern.folder("train"), PathPattern("l/{split}/{name}.png").folder("val")) == ("rgb", "l/val")
