"""COCO files of annotation tools, and every mistake in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_exchange import edit, exported, read

from selection.oracles import GroundTruthOracle
from tests.toy_annotation import (
    CLASS_NAMES,
    SIZE,
    answer,
    asked,
    export,
    truth_of,
)


def test_coco_files_of_a_tool_with_other_numbers_are_read(tmp_path: Path) -> None:
    queries, package = exported(tmp_path, "coco")
    crop = package.tasks[0].crop
    first, second = ([scale_ * crop.scale for scale_ in box] for box in crop.boxes())
    outline = [first[1], first[0], first[3], first[0], first[3], first[2], first[1], first[2]]

    def change(content: Any) -> None:
        image = {
            **content["images"][0],
            "id": "a7",
            "file_name": "folder\\" + content["images"][0]["file_name"],
        }
        box = [second[1], second[0], second[3] - second[1], second[2] - second[0]]
        content["images"] = [image]
        content["categories"] = [{"id": 4, "name": "bus"}, {"id": 0, "name": "void"}]
        content["annotations"] = [
            {"image_id": "a7", "category_id": 4, "segmentation": [outline]},
            {"image_id": "a7", "category_id": 0, "bbox": box},
        ]

    edit(tmp_path, change, "answers.json")
    answers, report = read(tmp_path, queries)
    report.refuse_problems()
    assert answers.combined().reshape(3, 6).tolist() == [[15, 15, 15, 255, 255, 255]] * 3


@pytest.mark.parametrize("name", ["1f3a-{}", "upload/2/9c0d1e2f-{}", "a-b-c-{}"])
def test_pictures_that_the_tool_gave_letters_in_front_are_found(name: str, tmp_path: Path) -> None:
    queries, package = exported(tmp_path, "coco")
    stored = name.format(f"{package.tasks[0].stem}.png")
    edit(tmp_path, lambda content: content["images"][0].update(file_name=stored), "answers.json")
    answers, report = read(tmp_path, queries)
    assert (report.problems, report.crops) == ([], 1)
    np.testing.assert_array_equal(
        answers.combined(), GroundTruthOracle(truth_of(queries)).answer_round(queries)
    )


def test_a_name_that_only_ends_alike_is_another_picture(tmp_path: Path) -> None:
    queries, package = exported(tmp_path, "coco")
    stored = f"x{package.tasks[0].stem}.png"
    edit(tmp_path, lambda content: content["images"][0].update(file_name=stored), "answers.json")
    assert f"no crop of this package is named {stored}" in read(tmp_path, queries)[1].problems[0]


def test_tasks_of_coco_have_the_suggestions_as_polygons(tmp_path: Path) -> None:
    _, package = exported(tmp_path, "coco", done=False)
    content = json.loads((tmp_path / "annotator" / "tasks.json").read_text())
    names = {one["id"]: one["name"] for one in content["categories"]}
    assert list(names.values()) == list(CLASS_NAMES.choices)
    suggested = [CLASS_NAMES.name(region.suggestion) for region in package.tasks[0].crop.regions]
    assert [names[one["category_id"]] for one in content["annotations"]] == suggested
    assert {(one["iscrowd"], one["area"]) for one in content["annotations"]} == {
        (0, 9 * package.tasks[0].crop.scale ** 2)
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["categories"][0].update(name="Road"), "'Road' is no class of cityscapes19"),
        (lambda c: c["categories"].clear(), "is not in the file's categories"),
        (lambda c: c["images"][0].update(width=3), "the picture has 3x"),
        (lambda c: c["images"][0].update(file_name="b.png"), "no crop of this package is named b.png"),
        (
            lambda c: c["annotations"][0].update(image_id=9),
            "1 annotations are of images that the file does not",
        ),
        (
            lambda c: c["annotations"][0].update(segmentation={"size": [1, 2], "counts": [2]}),
            "a mask has the size",
        ),
        (lambda c: c["annotations"][0].update(segmentation=["x"]), "an annotation is damaged"),
        (lambda c: c["annotations"][0].update(segmentation=[[0, 0, 9, 9]]), "it has 2 point(s) and needs 3"),
        (
            lambda c: c["annotations"][0]["segmentation"][0].__setitem__(0, float("nan")),
            "a coordinate is not finite",
        ),
        (
            lambda c: c["annotations"][0].update(
                segmentation={
                    "size": [c["images"][0]["height"], c["images"][0]["width"]],
                    "counts": [float("inf")],
                }
            ),
            "a run length is infinite",
        ),
        (lambda c: c.pop("images"), "no COCO file (KeyError('images'))"),
    ],
)
def test_a_wrong_coco_file_is_a_problem(change: Callable[[Any], None], message: str, tmp_path: Path) -> None:
    queries = asked([[[20, 20]]], 1)
    export(queries, "coco", tmp_path)
    answer(tmp_path, lambda name: np.zeros(SIZE, np.uint8))
    path = edit(tmp_path, change, "answers.json")
    _, report = read(tmp_path, queries)
    assert len(report.problems) == 1
    assert report.problems[0].startswith(str(path))
    assert message in report.problems[0]
