"""Who labels what: balanced, disjoint, with duplicates and blind crops, the same for the same seed."""

from __future__ import annotations

import pytest

from selection.exchange.crops import Crop, CropSettings, cut_crops
from selection.exchange.packages import Sharing, Task, share_out
from tests.toy_annotation import asked, random_picks
from utils.errors import UserError

CROPS = [
    crop
    for query in asked([random_picks(60), random_picks(40, seed=1)], 1).images
    for crop in cut_crops(query, 1, CropSettings(2, 6, 20))
]


def tasks_of(**settings: object) -> dict[str, tuple[Task, ...]]:
    """The tasks of the toy crops."""
    return share_out(CROPS, Sharing(**settings))


def keys(tasks: tuple[Task, ...]) -> set[tuple[str, int, int]]:
    """What tells crops apart."""
    return {(task.crop.image, task.crop.top, task.crop.left) for task in tasks}


def test_annotators_get_disjoint_parts_of_about_equal_work() -> None:
    tasks = tasks_of(annotators=("ann", "bob", "cat"))
    assert list(tasks) == ["ann", "bob", "cat"]
    assert sum(len(own) for own in tasks.values()) == len(CROPS) > 20
    assert len(set.union(*map(keys, tasks.values()))) == len(CROPS)
    decisions = [sum(task.decisions for task in own) for own in tasks.values()]
    assert max(decisions) - min(decisions) <= max(len(crop.regions) for crop in CROPS)
    numbers = sorted(task.number for own in tasks.values() for task in own)
    assert numbers == list(range(len(CROPS)))


def test_a_duplicate_goes_to_another_annotator_and_looks_like_any_other_crop() -> None:
    tasks = tasks_of(annotators=("ann", "bob"), duplicate_share=0.2, blind_share=0.5)
    owner = {task.number: (name, task) for name, own in tasks.items() for task in own}
    duplicates = [(name, task) for name, task in owner.values() if task.duplicate_of is not None]
    assert len(duplicates) == -(-len(CROPS) // 5)
    for name, task in duplicates:
        first_name, first = owner[task.duplicate_of]
        assert name != first_name
        assert (first.crop, first.blind, first.duplicate_of) == (task.crop, task.blind, None)
    for own in tasks.values():
        assert [task.number for task in own] == sorted(task.number for task in own)
        assert len(keys(own)) == len(own)
    images = [owner[number][1].crop.image for number in sorted(owner)]
    assert images == sorted(images)  # numbers do not tell duplicates from the rest


def test_one_annotator_gets_the_duplicates_in_a_second_package() -> None:
    tasks = tasks_of(annotators=("ann",), duplicate_share=0.1)
    assert list(tasks) == ["ann", "ann-again"]
    assert len(tasks["ann"]) == len(CROPS)
    assert {task.duplicate_of for task in tasks["ann-again"]} <= {task.number for task in tasks["ann"]}


@pytest.mark.parametrize(
    ("share", "count"), [(0.0, 0), (0.01, 1), (0.5, -(-len(CROPS) // 2)), (1.0, len(CROPS))]
)
def test_the_share_of_blind_crops_is_rounded_up(share: float, count: int) -> None:
    assert sum(task.blind for task in tasks_of(blind_share=share)["annotator"]) == count


def test_the_seed_decides() -> None:
    settings = {"annotators": ("ann", "bob"), "blind_share": 0.3, "duplicate_share": 0.3}
    assert tasks_of(**settings, seed=1) == tasks_of(**settings, seed=1)
    assert tasks_of(**settings, seed=1) != tasks_of(**settings, seed=2)


def test_more_annotators_than_crops() -> None:
    tasks = share_out(CROPS[:1], Sharing(("ann", "bob", "cat")))
    assert list(tasks) == ["ann"]


@pytest.mark.parametrize("names", [("a/b",), ("",), ("..",), ("ann", "Ann"), ("a b",)])
def test_names_that_are_no_folders_or_equal_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="--annotators"):
        Sharing(names)


def test_file_names_are_plain() -> None:
    crop = CROPS[0]
    strange = Crop("zürich/3 & <4>.png", *(getattr(crop, name) for name in Crop.__slots__[1:]))
    assert Task(12, strange).stem == "000012_3_4_"
    assert len(Task(0, Crop("a" * 300, *(getattr(crop, name) for name in Crop.__slots__[1:]))).stem) < 80
