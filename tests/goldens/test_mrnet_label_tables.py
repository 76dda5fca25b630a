"""Label tables, scoring tables, class names and palettes against the MRNet release (label_luts.json)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_files import NO_CASES, golden_path, has_golden, load_json

from data_loaders.dataset import PseudoLabels, pseudo_label_path
from data_loaders.decoding import write_label_png
from data_loaders.description import load_description
from data_loaders.discovery import Item
from utils.class_spaces import IGNORE_LABEL, class_space
from utils.errors import UserError

FILE = "label_luts.json"
OUR_SPELLING = {"motocycle": "motorcycle"}  # their info.json misspells it
TABLES = {  # golden: our data set, class space
    "gta5": ("gta5", "cityscapes19"),
    "cityscapes": ("cityscapes", "cityscapes19"),
    "synthia": ("synthia", "cityscapes19"),
    "cityscapes_to_robot": ("cityscapes", "robotcar9"),
    "robot": ("robotcar", "robotcar9"),
}
SPACES = {"cityscapes": "cityscapes19", "robot": "robotcar9"}


def entries(kind: str) -> list[str]:
    """Names of one kind of entry; where the file is missing a placeholder, which skips or fails."""
    if not has_golden("mrnet", FILE):
        return ["missing-goldens"]
    names = [name for name in json.loads(golden_path("mrnet", FILE).read_text()) if not name.startswith("_")]
    return [name for name in names if kind_of(name) == kind] or [NO_CASES]


def kind_of(name: str) -> str:
    """What an entry holds."""
    if name.endswith(("_names", "_palette")):
        return name.rpartition("_")[2]
    if name.startswith("eval_"):
        return "scoring"
    return "pseudo" if name.endswith("_pseudo") else "loader"


def golden(name: str) -> Any:
    """One entry of the file."""
    return load_json("mrnet", FILE)[name]


def space_of(name: str) -> str:
    """The class space of an entry such as eval_robot_names or robot_pseudo."""
    return SPACES[name.removeprefix("eval_").partition("_")[0]]


@pytest.mark.parametrize("name", entries("loader"))
def test_all_256_ids_become_the_train_ids_of_the_original_loader(name: str) -> None:
    expected = golden(name)
    dataset, space = TABLES[name]
    assert load_description(dataset).label_table(space).tolist() == expected


@pytest.mark.parametrize("name", entries("pseudo"))
def test_pseudo_label_train_ids_stay_as_stored(name: str, tmp_path: Path) -> None:
    expected = np.array(golden(name))
    num_classes = class_space(space_of(name)).num_classes
    valid = np.r_[0:num_classes, IGNORE_LABEL].astype(np.uint8)
    np.testing.assert_array_equal(read_pseudo_label(tmp_path, valid, num_classes), expected[valid])
    # The original passes others on to the loss, which fails on them, or drops them without a word (RobotCar).
    for unknown in (num_classes, IGNORE_LABEL - 1):
        with pytest.raises(UserError, match=f"label values \\[{unknown}\\] in .* are not train ids"):
            read_pseudo_label(tmp_path, np.append(valid, np.uint8(unknown)), num_classes)


def read_pseudo_label(folder: Path, values: np.ndarray, num_classes: int) -> np.ndarray:
    """What the pseudo-label reader makes of a stored row of train ids."""
    write_label_png(pseudo_label_path(folder, "row.png"), values[None])
    return PseudoLabels(folder, num_classes)(Item("row.png", Path("row.png"), None))[0]


@pytest.mark.parametrize("name", entries("scoring"))
def test_scoring_counts_the_same_ids_as_the_same_classes(name: str) -> None:
    expected = np.array(golden(name))
    space = class_space(space_of(name))
    dataset = {"cityscapes19": "cityscapes", "robotcar9": "robotcar"}[space.name]
    # Ids above 33 stay as they are in the original, which also puts them outside the classes.
    scored = np.where(expected < space.num_classes, expected, IGNORE_LABEL)
    np.testing.assert_array_equal(load_description(dataset).label_table(space.name), scored)


@pytest.mark.parametrize("name", entries("names"))
def test_class_names_are_those_of_the_release(name: str) -> None:
    expected = tuple(OUR_SPELLING.get(word, word) for word in golden(name))
    assert class_space(space_of(name)).class_names == expected


@pytest.mark.parametrize("name", entries("palette"))
def test_palette_is_that_of_the_release(name: str) -> None:
    *colors, unused = golden(name)
    assert [list(color) for color in class_space(space_of(name)).palette] == colors
    assert unused == [0, 0, 0]
