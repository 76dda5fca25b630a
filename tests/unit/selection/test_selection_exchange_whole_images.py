"""Whole images in the exchange with people: shapes on top of each other, suggestions that can be edited."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from toy_exchange import edit, read

from selection.exchange import shapes
from selection.exchange.answers import RoundAnswers
from selection.exchange.crops import Crop, CropSettings
from selection.exchange.export import answer_from_truth, plan, write_packages
from selection.exchange.importing import UNCHANGED, read_packages
from selection.exchange.outlines import outlines
from selection.exchange.packages import Package, Sharing
from selection.exchange.shapes import CropAnswer
from selection.exchange.status import assumed_seconds, format_status, open_work, round_status
from selection.exchange.tools import TOOLS
from selection.rounds import ImageQuery, RoundQueries
from tests.toy_annotation import CLASS_NAMES, NAMES, answer, asked, asked_whole, export, image_of, truth_of

Points = list[list[float]]
ROAD, CAR, SKY = 0, 13, 10


def scene(size: tuple[int, int], seed: int, cell: int = 12, classes: int = 7) -> np.ndarray:
    """(H, W) uint8 a label map with smooth borders, as networks predict them."""
    generator = np.random.default_rng(seed)
    coarse = generator.normal(size=(classes, size[0] // cell + 2, size[1] // cell + 2)).astype(np.float32)
    planes = [cv2.resize(one, size[::-1], interpolation=cv2.INTER_CUBIC) for one in coarse]
    return np.argmax(planes, axis=0).astype(np.uint8)


def drawn(label: np.ndarray) -> np.ndarray:
    """The outlines of a label map, painted over each other; 254 where none lies."""
    crop = Crop("a.png", label.shape, 0, 0, *label.shape, 1, ())
    painted = CropAnswer.blank(label.shape)
    for class_id, corners in outlines(label):
        painted.paint(shapes.polygon(crop, corners), class_id, over=True)
    return painted.first


def whole_round(label: np.ndarray) -> RoundQueries:
    """A round about one image that is predicted as this map."""
    (query,) = asked_whole(label.shape).images
    predicted = ImageQuery(query.name, query.size, query.picks, label.ravel())
    return RoundQueries(asked_whole(label.shape).info, [predicted])


# Outlines.


@pytest.mark.parametrize("seed", range(6))
def test_the_outlines_leave_no_gap_and_follow_the_map(seed: int) -> None:
    label = scene((120 + seed, 200), seed, cell=40)
    painted = drawn(label)
    assert (painted != 254).all()
    window = np.ones((7, 7), np.uint8)
    far_from_borders = cv2.dilate(label, window) == cv2.erode(label, window)
    assert far_from_borders.mean() > 0.3
    np.testing.assert_array_equal(painted[far_from_borders], label[far_from_borders])
    assert sum(len(corners) for _, corners in outlines(label)) < 0.05 * (~far_from_borders).sum()


def test_what_lies_inside_of_something_is_drawn_after_it() -> None:
    label = np.full((40, 60), ROAD, np.uint8)
    label[10:30, 10:50], label[15:25, 20:40], label[18:22, 28:34] = CAR, ROAD, SKY
    assert [class_id for class_id, _ in outlines(label)] == [ROAD, CAR, ROAD, SKY]
    np.testing.assert_array_equal(drawn(label), label)


def test_the_border_of_two_classes_is_drawn_once_and_the_earlier_one_reaches_below() -> None:
    label = np.full((20, 50), ROAD, np.uint8)
    label[:, 30:] = CAR
    (first, road), (second, car) = outlines(label)
    assert (first, second) == (ROAD, CAR)
    assert road.max(0).tolist() == [34, 20]
    assert car.min(0).tolist() == [30, 0]


def test_dust_takes_the_class_of_its_neighbours() -> None:
    label = np.full((400, 400), ROAD, np.uint8)
    label[:, 200:] = SKY
    label[50, 50:54], label[90:92, 300:302], label[300:303, 100:103] = CAR, CAR, CAR  # 4, 4 and 9 pixels
    assert sorted(class_id for class_id, _ in outlines(label)) == [ROAD, SKY, CAR]
    painted = drawn(label)
    assert (painted[50, 50:54] == ROAD).all()
    assert (painted[90:92, 300:302] == SKY).all()
    assert (painted[300:303, 100:103] == CAR).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1)])
def test_the_smallest_images_have_outlines_too(size: tuple[int, int]) -> None:
    label = np.zeros(size, np.uint8)
    label.reshape(-1)[size[0] * size[1] // 2 :] = CAR
    assert (drawn(label) != 254).all()


def test_a_map_of_dust_alone_is_drawn_as_it_is() -> None:
    label = np.random.default_rng(0).integers(0, 19, (300, 300), np.uint8)
    assert (drawn(label) != 254).all()


# Packages.


@pytest.mark.parametrize("tool", TOOLS)
def test_a_whole_image_is_one_task_at_its_own_size(tool: str, tmp_path: Path) -> None:
    queries = asked_whole()
    crops = CropSettings(4, 8, 16, scale=3)  # what crops are cut to and enlarged by
    packages = plan(queries, tool, run="runs/toy", crops=crops, sharing=Sharing())
    write_packages(packages, queries, tmp_path, CLASS_NAMES, read_image=image_of(queries))
    (package,) = packages
    assert [task.crop.image for task in package.tasks] == list(NAMES)
    assert (package.decisions, package.asked) == (2, "2 whole images")
    for task in package.tasks:
        picture = np.array(Image.open(tmp_path / "annotator" / "crops" / f"{task.stem}.png"))
        np.testing.assert_array_equal(picture, image_of(queries)(task.crop.image))
    assert not (tmp_path / "annotator" / "previews").exists()
    text = (tmp_path / "annotator" / "README.txt").read_text()
    assert "Work for annotator: 2 whole images of round 1 of runs/toy" in text
    assert TOOLS[tool].WHOLE_GUIDE in text


def test_label_pictures_suggest_the_prediction_itself(tmp_path: Path) -> None:
    queries = asked_whole()
    (package,) = export(queries, "png", tmp_path)
    for task in package.tasks:
        query = queries[task.crop.image]
        shown = np.array(Image.open(tmp_path / "annotator" / "suggestions" / f"{task.stem}.png"))
        np.testing.assert_array_equal(shown, query.predicted.reshape(query.size))


@pytest.mark.parametrize("tool", ["labelme", "coco"])
def test_polygons_suggest_the_parts_of_the_prediction(tool: str, tmp_path: Path) -> None:
    label = scene((80, 120), 3)
    (package,) = export(whole_round(label), tool, tmp_path)
    written = [class_id for class_id, _ in outlines(label)]
    if tool == "labelme":
        content = json.loads(next(tmp_path.glob("*/crops/*.json")).read_text())
        assert {shape["shape_type"] for shape in content["shapes"][1:]} == {"polygon"}
        names = [shape["label"] for shape in content["shapes"]]
        assert content["shapes"][0]["points"] == [[0, 0], [120, 80]]
    else:
        content = json.loads((tmp_path / "annotator" / "tasks.json").read_text())
        categories = {one["id"]: one["name"] for one in content["categories"]}
        names = [categories[one["category_id"]] for one in content["annotations"]]
        assert {one["iscrowd"] for one in content["annotations"]} == {0}
        assert content["annotations"][0]["bbox"] == [0, 0, 120, 80]
    assert names == ["?", *map(CLASS_NAMES.name, written)]
    np.testing.assert_array_equal(TOOLS[tool].as_read(package.tasks[0].crop, label), drawn(label))


@pytest.mark.parametrize("tool", ["labelme", "coco"])
def test_a_blind_image_shows_no_prediction(tool: str, tmp_path: Path) -> None:
    export(asked_whole(), tool, tmp_path, sharing=Sharing(blind_share=1.0))
    for path in tmp_path.glob("*/crops/*.json"):
        assert [shape["label"] for shape in json.loads(path.read_text())["shapes"]] == ["?"]
    for path in tmp_path.glob("*/tasks.json"):
        assert len(json.loads(path.read_text())["annotations"]) == 2


# Answers.


@pytest.mark.parametrize("tool", ["labelme", "coco"])
def test_a_suggestion_that_is_confirmed_has_no_gaps(tool: str, tmp_path: Path) -> None:
    label = scene((80, 120), 4)
    queries = whole_round(label)
    export(queries, tool, tmp_path)
    confirm(tmp_path, tool)
    answers, report = read(tmp_path, queries)
    assert (report.problems, report.gaps, report.conflicts) == ([], [], [])
    np.testing.assert_array_equal(answers.combined().reshape(label.shape), drawn(label))


def confirm(out: Path, tool: str) -> None:
    """Takes the suggestions for answers."""
    if tool == "labelme":
        edit(out, lambda content: content["flags"].update(done=True))
    else:
        folder = out / "annotator"
        (folder / "answers.json").write_text((folder / "tasks.json").read_text())


@pytest.mark.parametrize("tool", ["coco", "png"])
def test_a_suggestion_that_was_only_copied_is_no_answer(tool: str, tmp_path: Path) -> None:
    queries = whole_round(scene((80, 120), 4))
    (package,) = export(queries, tool, tmp_path)
    if tool == "coco":
        confirm(tmp_path, tool)
    else:
        name = f"{package.tasks[0].stem}.png"
        folder = tmp_path / "annotator"
        (folder / "labels" / name).write_bytes((folder / "suggestions" / name).read_bytes())
    answers = RoundAnswers(queries)
    report = read_packages([tmp_path], answers, CLASS_NAMES)
    assert report.waiting == {UNCHANGED: 1}
    assert (answers.combined() == 254).all()


def polygons(out: Path, tool: str, shapes_drawn: list[tuple[str, Points]]) -> None:
    """Draws these polygons in place of what was suggested, and says that the image is finished."""

    def change(content: Any) -> None:
        if tool == "labelme":
            content["flags"]["done"] = True
            content["shapes"] = [
                {"label": name, "points": points, "shape_type": "polygon"} for name, points in shapes_drawn
            ]
            return
        numbers = {one["name"]: one["id"] for one in content["categories"]}
        content["annotations"] = [
            {"image_id": 1, "category_id": numbers[name], "segmentation": [np.ravel(points).tolist()]}
            for name, points in shapes_drawn
        ]

    confirm(out, tool)
    edit(out, change, "crops/*.json" if tool == "labelme" else "answers.json")


def box(left: int, top: int, right: int, bottom: int) -> Points:
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


@pytest.mark.parametrize("tool", ["labelme", "coco"])
def test_of_shapes_on_top_of_each_other_the_last_one_counts(tool: str, tmp_path: Path) -> None:
    queries = asked_whole((40, 60))
    export(queries, tool, tmp_path)
    everything, car = box(0, 0, 60, 40), box(10, 10, 30, 30)
    polygons(
        tmp_path,
        tool,
        [
            ("road", everything),
            ("sky", box(0, 0, 60, 15)),
            ("car", car),
            ("cannot tell", box(20, 20, 25, 25)),
        ],
    )
    expected = np.full((40, 60), ROAD)
    expected[:15], expected[10:30, 10:30], expected[20:25, 20:25] = SKY, CAR, 255
    answers, report = read(tmp_path, queries)
    assert (report.problems, report.conflicts, report.gaps) == ([], [], [])
    np.testing.assert_array_equal(answers.combined().reshape(40, 60), expected)


@pytest.mark.parametrize("tool", ["labelme", "coco"])
@pytest.mark.parametrize(("rest", "value"), [("?", 254), ("cannot tell", 255), (None, 254)])
def test_the_rest_is_open_unless_it_cannot_be_told(
    rest: str | None, value: int, tool: str, tmp_path: Path
) -> None:
    queries = asked_whole((40, 60))
    export(queries, tool, tmp_path)
    first = [] if rest is None else [(rest, box(0, 0, 60, 40))]
    polygons(tmp_path, tool, [*first, ("car", box(0, 0, 60, 20)), ("?", box(0, 0, 5, 5))])
    answers, report = read(tmp_path, queries)
    classes = answers.combined().reshape(40, 60)
    assert (classes[20:] == value).all()
    assert (classes[:5, :5] == 254).all()  # taken back
    assert (classes == CAR).sum() == 60 * 20 - 25
    left = int((classes == 254).sum())
    assert f"{left} of 2400 queried pixels have no label" in report.gaps[0]


def test_regions_still_may_not_overlap(tmp_path: Path) -> None:
    queries = asked([[[20, 20]]], 3)
    export(queries, "labelme", tmp_path)
    polygons(tmp_path, "labelme", [("car", box(0, 0, 90, 90)), ("sky", box(0, 0, 90, 90))])
    assert "49 pixels are labelled as two classes: sky and car" in read(tmp_path, queries)[1].problems[0]


# Status.


def status_of(answers: RoundAnswers, packages: list[Package]) -> str:
    seconds = assumed_seconds(answers.queries.info)
    return format_status(round_status(answers, packages, seconds_per_decision=seconds))


def test_the_status_counts_images_and_their_hours(tmp_path: Path) -> None:
    queries = asked_whole()
    packages = export(queries, "png", tmp_path)
    answers = RoundAnswers(queries)
    text = status_of(answers, packages)
    assert "answered: 0 of 2 images" in text
    assert "left: 2 images, about 3.0 h at an assumed 1.5 h per image" in text
    assert text.splitlines()[0].split() == ["annotator", "images", "answered", "cannot", "tell", "left"]
    assert text.splitlines()[1].split() == ["annotator", "2", "0", "0", "2"]
    assert "regions" not in text
    assert "crops" not in text
    name, count = NAMES[1], 31 * 57
    answers.put("annotator", name, slice(None), np.full(count, 3, np.uint8), blind=False)
    answers.put("annotator", NAMES[0], np.arange(60 * 90 - 1), np.zeros(60 * 90 - 1, np.uint8), blind=False)
    packages = [Package(**{**fields_of(packages[0]), "export": ""})]
    assert "answered: 1 of 2 images" in status_of(answers, packages)
    stem = packages[0].tasks[0].stem
    assert open_work(answers, packages) == [
        f"annotator: {stem} is open, image {NAMES[0]}",
        f"image {NAMES[0]}: 1 of 5400 queried pixels are open",
    ]


def fields_of(package: Package) -> dict[str, Any]:
    """The fields of a package by name."""
    return {name: getattr(package, name) for name in package.__slots__}


@pytest.mark.parametrize("tool", TOOLS)
def test_two_annotators_of_the_same_images_agree(tool: str, tmp_path: Path) -> None:
    queries = asked_whole()
    sharing = Sharing(("ann", "bob"), blind_share=0.5, duplicate_share=1.0)
    packages = export(queries, tool, tmp_path, sharing=sharing)
    answer(tmp_path, truth_of(queries))
    answers, _ = read(tmp_path, queries)
    text = status_of(answers, packages)
    assert f"agreement of two annotators: 100.0 % of {queries.pixels} pixels, Cohen's kappa 1.000" in text
    assert "left: 0 images" in text
    assert answers.disputed() == 0


def differing(queries: RoundQueries) -> Callable[[str], np.ndarray]:
    """Another truth: the first row of each image is car."""

    def read_truth(name: str) -> np.ndarray:
        label = truth_of(queries)(name).copy()
        label[0] = CAR
        return label

    return read_truth


def test_two_annotators_who_differ_are_listed_by_image(tmp_path: Path) -> None:
    queries = asked_whole()
    packages = export(queries, "png", tmp_path, sharing=Sharing(("ann", "bob"), duplicate_share=1.0))
    for package, truth in zip(packages, (truth_of(queries), differing(queries)), strict=True):
        answer_from_truth(tmp_path / package.annotator, package, CLASS_NAMES, truth)
    answers, report = read(tmp_path, queries)
    expected = sum(int((truth_of(queries)(name)[0] != CAR).sum()) for name in NAMES)
    assert answers.disputed() == expected > 0
    assert len(report.contradictions) == 2
    assert int((answers.combined("error") == 254).sum()) == expected
