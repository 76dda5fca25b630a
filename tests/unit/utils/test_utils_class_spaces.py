"""Class spaces, their subsets and the merges between them."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.class_spaces import (
    CLASS_SPACES,
    IGNORE_LABEL,
    ClassSpace,
    class_space,
    merge_table,
    register_class_space,
)
from utils.errors import UserError

PAIRS = [
    ("cityscapes19", "idd7"),
    ("cityscapes19", "camvid11"),
    ("camvid11", "idd7"),
    ("cityscapes19", "robotcar9"),
    ("cityscapes19", "synthia16"),
    ("synthia16", "idd7"),
]

ADAPTED = {
    "synthia16": ["light", "sign", "person", "rider", "car", "bus", "motorcycle", "bicycle"],
    "robotcar9": ["person", "two-wheel", "automobile", "sign", "light"],
    "camvid11": ["sign", "car", "pedestrian", "bicyclist"],
    "idd7": ["living things", "vehicles", "roadside objects"],
}


@pytest.mark.parametrize("name", ["cityscapes19", "synthia16", "robotcar9", "camvid11", "idd7"])
def test_a_space_has_one_color_per_class_and_its_number_of_classes_in_the_name(name: str) -> None:
    space = class_space(name)
    assert name.endswith(str(space.num_classes))
    assert len(space.palette) == len(set(space.class_names)) == space.num_classes
    assert len(set(space.palette)) == space.num_classes


def test_synthia_subsets_leave_out_the_classes_of_the_protocol() -> None:
    subsets = class_space("cityscapes19").subsets
    assert set(range(19)) - set(subsets["16 classes"]) == {9, 14, 16}
    assert set(range(19)) - set(subsets["13 classes"]) == {3, 4, 5, 9, 14, 16}
    names = np.array(class_space("cityscapes19").class_names)
    assert tuple(names[list(subsets["16 classes"])]) == class_space("synthia16").class_names
    sixteen = class_space("synthia16")
    assert [sixteen.class_names[i] for i in sixteen.subsets["13 classes"]] == list(
        names[list(subsets["13 classes"])]
    )


def test_things_are_the_countable_classes() -> None:
    assert class_space("cityscapes19").things == (6, 7, 11, 12, 13, 14, 15, 16, 17, 18)  # DAFormer's
    found = {
        space: [class_space(space).class_names[i] for i in class_space(space).things] for space in ADAPTED
    }
    assert found == ADAPTED


def test_an_unknown_space_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean cityscapes19"):
        class_space("cityscape")


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_a_merge_covers_the_target_and_ignores_everything_outside_the_source(
    source: str, target: str
) -> None:
    table = merge_table(source, target)
    assert table.shape == (256,)
    assert table.dtype == np.uint8
    classes = class_space(source).num_classes
    assert (table[classes:] == IGNORE_LABEL).all()
    assert set(table[:classes].tolist()) - {IGNORE_LABEL} == set(range(class_space(target).num_classes))


def test_merging_by_hand() -> None:
    names = class_space("cityscapes19").class_names
    to_idd = merge_table("cityscapes19", "idd7")
    assert [int(to_idd[names.index(name)]) for name in ("road", "rider", "bicycle", "wall", "building")] == [
        0,
        2,
        3,
        4,
        5,
    ]
    assert merge_table("camvid11", "idd7")[10] == IGNORE_LABEL  # rider and bicycle in one class


@given(st.sampled_from(sorted(CLASS_SPACES)), st.integers(0, 255))
def test_a_space_merges_into_itself_unchanged(name: str, train_id: int) -> None:
    inside = train_id < class_space(name).num_classes
    assert merge_table(name, name)[train_id] == (train_id if inside else IGNORE_LABEL)


def test_there_and_back_keeps_the_sixteen_classes() -> None:
    round_trip = merge_table("cityscapes19", "synthia16")[merge_table("synthia16", "cityscapes19")[:16]]
    assert round_trip.tolist() == list(range(16))


def test_a_missing_merge_says_what_is_possible() -> None:
    with pytest.raises(
        UserError, match="no merge from class space idd7 to camvid11; into camvid11 go: cityscapes19"
    ):
        merge_table("idd7", "camvid11")


def test_a_space_survives_pickling() -> None:
    space = class_space("cityscapes19")
    copied = pickle.loads(pickle.dumps(space))
    assert copied == space
    assert copied.things == space.things


def test_registering_twice_is_harmless_but_not_with_other_classes() -> None:
    space = ClassSpace("test_two", ("a", "b"), ((0, 0, 0), (1, 1, 1)))
    register_class_space(space, {"idd7": (0, 0, 1, 1, 255, 255, 0)})
    register_class_space(space)
    assert merge_table("idd7", "test_two")[:8].tolist() == [0, 0, 1, 1, 255, 255, 0, 255]
    with pytest.raises(UserError, match="already defined"):
        register_class_space(replace(space, class_names=("a", "c")))
    with pytest.raises(UserError, match="already defined"):
        register_class_space(replace(space, things=(1,)))


@pytest.mark.parametrize(
    ("space", "merges", "words"),
    [
        (ClassSpace("test_bad", ("a",), ()), {}, "1 class names but 0 colours"),
        (ClassSpace("test_bad", (), ()), {}, "0 classes"),
        (ClassSpace("test_bad", ("a",), ((0, 0, 0),), {"x": (1,)}), {}, "subset 'x'"),
        (ClassSpace("test_bad", ("a",), ((0, 0, 0),), things=(0, 1)), {}, r"things \[0, 1\] has ids outside"),
        (ClassSpace("test_bad", ("a",), ((0, 0, 0),)), {"idd7": (0, 0)}, "needs 7 ids"),
    ],
)
def test_a_space_that_does_not_add_up_is_refused(space: ClassSpace, merges: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        register_class_space(space, merges)
    assert "test_bad" not in CLASS_SPACES
