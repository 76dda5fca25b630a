"""Who labels what: balanced, disjoint, with duplicates and blind crops, the same for the same seed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selection.exchange.crops import Crop, CropSettings, cut_crops
from selection.exchange.export import plan
from selection.exchange.packages import FILE, Package, Sharing, Task, left_by_system, share_out
from tests.toy_annotation import SMALL_CROPS, asked, random_picks
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


def edited(folder: Path, change: Callable[[dict[str, Any]], None]) -> Package:
    """A package with two regions in a crop, whose file was changed by hand; its round is `QUERIES`."""
    (package,) = plan(QUERIES, "labelme", run="runs/toy", crops=SMALL_CROPS, sharing=Sharing())
    package.write(folder / FILE)
    content = json.loads((folder / FILE).read_text())
    change(content)
    (folder / FILE).write_text(json.dumps(content))
    return Package.read(folder / FILE)


QUERIES = asked([[[20, 20], [20, 25]], [[5, 5]]], 1)


def task_of(field: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    """Changes a field of the first task."""
    return lambda content: content["tasks"][0].update({field: change(content["tasks"][0][field])})


def moved_region(place: int, step: int) -> Callable[[list[list[int]]], list[list[int]]]:
    """Changes one number of the first region: pick, top, left, bottom, right or suggestion."""
    return lambda regions: [
        [value + step * (index == place) for index, value in enumerate(regions[0])],
        *regions[1:],
    ]


def test_an_unchanged_package_fits_its_round(tmp_path: Path) -> None:
    edited(tmp_path, lambda content: None).check(QUERIES, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(class_space="synthia16"), "class_space is 'synthia16', not 'city"),
        (task_of("image", lambda name: f"../../{name}"), r"image '../../aachen.* is none of it"),
        (task_of("image_size", lambda size: size[::-1]), r"image_size is \[90, 60\], not \[60, 90\]"),
        (task_of("top", lambda top: top + 5), "top, left are 17, 15, not 12, 15"),
        (task_of("left", lambda left: left - 1), "top, left are 12, 14, not 12, 15"),
        (task_of("top", lambda top: top + 9), "regions has pick 0 outside of the crop"),
        (task_of("regions", lambda regions: []), "regions is empty"),
        (task_of("top", lambda top: -200), "top, left, height, width are -200"),
        (task_of("left", lambda left: 10**6), "top, left, height, width are .*1000000"),
        (task_of("height", lambda height: 0), "outside of the image"),
        (task_of("scale", lambda scale: 0), "scale is 0"),
        (task_of("scale", lambda scale: 10**9), "scale is 1000000000"),
        (task_of("regions", moved_region(0, 9)), "regions has the pick 9, of 2"),
        (
            task_of("regions", moved_region(1, 1)),
            r"box \[20, 19, 22, 22\] for pick 0, not \[19, 19, 22, 22\]",
        ),
        (task_of("number", lambda number: 1), "number 1"),
    ],
)
def test_a_package_that_was_edited_is_refused_by_its_file_and_field(
    change: Callable[[dict[str, Any]], None], message: str, tmp_path: Path
) -> None:
    package = edited(tmp_path, change)
    with pytest.raises(UserError, match=message) as caught:
        package.check(QUERIES, tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / FILE}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(annotator=7), "annotator is 7, which is no str"),
        (lambda content: content.update(annotator="../../x"), r"annotator '../../x' is no name for a folder"),
        (lambda content: content.update(round="0"), "round is '0', which is no int"),
        (lambda content: content.update(tasks=5), "is damaged"),
        (task_of("top", lambda top: float("inf")), r"is damaged \(OverflowError"),
    ],
)
def test_a_package_file_of_other_values_is_refused(
    change: Callable[[dict[str, Any]], None], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        edited(tmp_path, change)
    assert str(caught.value).startswith(str(tmp_path / FILE))


def test_a_package_file_of_endless_lists_is_damaged(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("[" * 100_000)
    with pytest.raises(UserError, match="is damaged"):
        Package.read(tmp_path / FILE)


def test_files_of_the_system_are_told_apart() -> None:
    names = (".DS_Store", "._000001_x.json", "Thumbs.db", "desktop.ini", "000001_x.json", "x.png")
    assert [left_by_system(name) for name in names] == [True] * 4 + [False] * 2
