"""Export, answer from truth, import: lossless in every format, and every mistake is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from selection.exchange.answers import RoundAnswers
from selection.exchange.crops import CropSettings
from selection.exchange.export import plan, write_packages
from selection.exchange.importing import ImportReport, find_packages, read_packages
from selection.exchange.packages import Package, Sharing
from selection.exchange.tools import TOOLS
from selection.oracles import GroundTruthOracle
from selection.rounds import RoundQueries
from tests.toy_annotation import (
    CLASS_NAMES,
    SIZE,
    SMALL_CROPS,
    answer,
    asked,
    export,
    image_of,
    random_picks,
    truth_of,
)
from utils.errors import UserError

ROUNDS: dict[str, Callable[[], RoundQueries]] = {
    "single pixels": lambda: asked([random_picks(30), random_picks(12, seed=1)], 0),
    "3x3 squares": lambda: asked([random_picks(40), random_picks(12, seed=1)], 1),
    "5x5 squares": lambda: asked([random_picks(25), random_picks(9, seed=1)], 2),
    "an exhausted image": lambda: asked([[[1, 1], [9, 9], [0, 0], [0, 0], [0, 0]], [[5, 5]]], 1),
    "whole images": lambda: asked([[[30, 40]], [[0, 0]]], 100),
    "images of one row and column": lambda: asked([[[0, 3], [0, 8]], [[7, 0]]], 1, sizes=[(1, 9), (8, 1)]),
    "an image without picks": lambda: asked([[], [[5, 5], [20, 30]]], 1),
}


def read(out: Path, queries: RoundQueries, on_conflict: Any = "error") -> tuple[RoundAnswers, ImportReport]:
    """The answers in a folder."""
    answers = RoundAnswers(queries)
    return answers, read_packages([out], answers, CLASS_NAMES, on_conflict=on_conflict)


def exported(out: Path, tool: str, *, done: bool = True, **options: Any) -> tuple[RoundQueries, Package]:
    """Two 3x3 regions of one crop, answered if `done`, and their package."""
    queries = asked([[[20, 20], [20, 25]]], 1)
    (package,) = export(queries, tool, out, **options)
    if done:
        answer(out, truth_of(queries))
    return queries, package


@pytest.mark.parametrize("kind", ROUNDS)
@pytest.mark.parametrize("tool", TOOLS)
def test_answers_from_truth_are_those_of_the_ground_truth_oracle(
    tool: str, kind: str, tmp_path: Path
) -> None:
    queries = ROUNDS[kind]()
    export(queries, tool, tmp_path)
    truth = truth_of(queries)
    answer(tmp_path, truth)
    answers, report = read(tmp_path, queries)
    report.refuse_problems()
    expected = GroundTruthOracle(truth).answer_round(queries)
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(answers.combined(), expected)
    assert (report.gaps, report.conflicts, report.waiting) == ([], [], {})
    assert report.pixels == queries.pixels
    assert report.cannot_tell == np.count_nonzero(expected == 255)


@pytest.mark.parametrize("tool", TOOLS)
def test_shares_and_scales_lose_nothing(tool: str, tmp_path: Path) -> None:
    queries = ROUNDS["3x3 squares"]()
    sharing = Sharing(("ann", "bob"), blind_share=0.5, duplicate_share=0.3, seed=4)
    export(queries, tool, tmp_path, sharing=sharing, crops=CropSettings(3, 9, 30, scale=5))
    answer(tmp_path, truth_of(queries))
    answers, _ = read(tmp_path, queries)
    np.testing.assert_array_equal(
        answers.combined(), GroundTruthOracle(truth_of(queries)).answer_round(queries)
    )


@pytest.mark.parametrize("tool", TOOLS)
def test_a_suggestion_that_nobody_looked_at_is_no_answer(tool: str, tmp_path: Path) -> None:
    queries, _ = exported(tmp_path, tool, done=False)
    answers, report = read(tmp_path, queries)
    assert report.waiting == {TOOLS[tool].NOT_ANSWERED: 1}
    assert (answers.combined() == 254).all()
    assert report.crops == 0


@pytest.mark.parametrize("tool", TOOLS)
def test_a_package_names_its_regions_and_draws_them(tool: str, tmp_path: Path) -> None:
    queries = asked([[[20, 20], [20, 25]]], 1)
    packages = plan(queries, tool, run="runs/toy", crops=SMALL_CROPS, sharing=Sharing())
    write_packages(packages, queries, tmp_path, CLASS_NAMES, read_image=image_of(queries))
    folder, stem = tmp_path / "annotator", "000000_aachen_000000_000019_leftImg8bit"
    picture, preview = (np.array(Image.open(folder / kind / f"{stem}.png")) for kind in ("crops", "previews"))
    (task,) = packages[0].tasks
    image = image_of(queries)(task.crop.image)
    np.testing.assert_array_equal(picture, task.crop.enlarge(task.crop.cut(image)))
    differing = (picture != preview).any(-1)
    assert differing.any()
    for top, left, bottom, right in task.crop.boxes():
        scale = task.crop.scale
        assert not differing[top * scale : bottom * scale, left * scale : right * scale].any()
        assert (preview[top * scale - 1, left * scale : right * scale] == (255, 230, 0)).all()
    assert Package.read(folder / "package.json") == packages[0]
    assert "2 regions in 1 crops of round 1 of runs/toy" in (folder / "README.txt").read_text()


def test_a_package_is_not_written_over(tmp_path: Path) -> None:
    exported(tmp_path, "labelme")
    with pytest.raises(UserError, match=r"annotator holds a package already; name another folder by --out"):
        exported(tmp_path, "png")


def test_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    queries = asked([[[5, 5]]], 1)
    packages = plan(queries, "png", run="r", crops=SMALL_CROPS, sharing=Sharing())
    with pytest.raises(UserError, match="is 7x8 pixels now but was 90x60 when it was queried"):
        write_packages(
            packages, queries, tmp_path, CLASS_NAMES, read_image=lambda name: np.zeros((8, 7, 3), np.uint8)
        )
    assert not (tmp_path / "annotator" / "package.json").exists()


# LabelMe


def edit(out: Path, change: Callable[[Any], None], name: str = "crops/*.json") -> Path:
    """Changes the JSON file of a package."""
    (path,) = out.glob(f"*/{name}")
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


def test_the_suggestions_of_blind_crops_are_hidden_in_labelme(tmp_path: Path) -> None:
    queries, package = exported(tmp_path / "shown", "labelme", done=False)
    exported(tmp_path / "blind", "labelme", done=False, sharing=Sharing(blind_share=1))
    found = {}
    for kind in ("shown", "blind"):
        (path,) = tmp_path.glob(f"{kind}/*/crops/*.json")
        content = json.loads(path.read_text())
        assert content["flags"] == {"done": False}
        found[kind] = [(shape["label"], shape["shape_type"]) for shape in content["shapes"]]
    suggested = [CLASS_NAMES.name(region.suggestion) for region in package.tasks[0].crop.regions]
    assert found["shown"] == [(name, "rectangle") for name in suggested]
    assert found["blind"] == [("?", "rectangle")] * 2
    assert queries.pixels == 18


def shape(label: str, points: list[list[float]], kind: str) -> dict[str, Any]:
    """A shape as LabelMe writes it."""
    return {"label": label, "points": points, "shape_type": kind, "flags": {}, "group_id": None}


def test_every_area_of_labelme_is_read(tmp_path: Path) -> None:
    queries, package = exported(tmp_path, "labelme", crops=CropSettings(4, 16, 40, scale=2))
    crop = package.tasks[0].crop
    (top, left, _, _), _ = crop.boxes()

    def at(row: float, column: float) -> list[float]:
        return [2 * (left + column), 2 * (top + row)]

    drawn = [
        shape("car", [at(0.5, 0.5)], "point"),
        shape("sky", [at(0, 1), at(0, 3), at(1, 3), at(1, 1)], "polygon"),
        shape("road", [at(1, 0), at(2, 2)], "rectangle"),
        shape("bus", [at(1.5, 2.5), at(1.5, 2.9)], "circle"),
        shape("cannot tell", [at(2, 0), at(2, 2), at(3, 2), at(3, 0)], "oriented_rectangle"),
        shape("?", [at(2, 2), at(3, 3)], "rectangle"),
    ]
    edit(tmp_path, lambda content: content.update(shapes=drawn))
    answers, report = read(tmp_path, queries)
    report.refuse_problems()
    car, sky, road, bus = (CLASS_NAMES.parse(name) for name in ("car", "sky", "road", "bus"))
    assert answers.combined().reshape(3, 6)[:, :3].tolist() == [
        [car, sky, sky],
        [road, road, bus],
        [255, 255, 254],
    ]
    assert [line.split(": ")[1] for line in report.gaps] == ["10 of 18 queried pixels have no label"]


def test_labels_outside_of_the_regions_are_counted_and_ignored(tmp_path: Path) -> None:
    queries, package = exported(tmp_path, "labelme")
    crop = package.tasks[0].crop
    height, width = crop.picture_size
    everything = shape("car", [[0, 0], [width, height]], "rectangle")
    edit(tmp_path, lambda content: content.update(shapes=[everything]))
    answers, report = read(tmp_path, queries)
    assert (answers.combined() == CLASS_NAMES.parse("car")).all()
    assert report.outside == crop.height * crop.width - 18


def test_contradictions_are_refused_settled_or_ignored(tmp_path: Path) -> None:
    queries, package = exported(tmp_path, "labelme")
    scale = package.tasks[0].crop.scale
    (top, left, _, right), _ = (tuple(scale * edge for edge in box) for box in package.tasks[0].crop.boxes())
    row = [[left, top], [right, top + scale]]
    drawn = [shape("car", row, "rectangle"), shape("bus", row, "rectangle")]
    path = edit(tmp_path, lambda content: content.update(shapes=drawn))
    answers, report = read(tmp_path, queries)
    assert report.problems == [
        f"{path}, image {package.tasks[0].crop.image}: 3 pixels are labelled as two classes: car and bus"
    ]
    assert (answers.combined() == 254).all()
    for on_conflict, expected in (("first", CLASS_NAMES.parse("car")), ("ignore", 255)):
        answers, report = read(tmp_path, queries, on_conflict)
        assert (report.problems, len(report.conflicts)) == ([], 1)
        assert answers.combined()[:3].tolist() == [expected] * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c["shapes"][0].update(label="Car"),
            "'Car' is no class of cityscapes19; did you mean 'car'?",
        ),
        (lambda c: c["shapes"][0].update(label="side walk"), "did you mean 'sidewalk'?"),
        (lambda c: c["shapes"][0].update(label="Cannot_tell"), "did you mean 'cannot tell'?"),
        (lambda c: c["shapes"][0].update(label="qqq"), "known: road, sidewalk,"),
        (lambda c: c.update(imagePath="other.png"), "it is about the picture other.png, not 000000_aachen"),
        (lambda c: c.update(imageHeight=5), "x5 pixels, the exported one"),
        (lambda c: c["shapes"][0].update(shape_type="line"), "a shape is a line, which covers no area"),
        (lambda c: c["shapes"][0].pop("points"), "no LabelMe file (KeyError('points'))"),
        (lambda c: c["shapes"][0].update(shape_type="mask", mask="@"), "a mask cannot be decoded"),
    ],
)
def test_a_wrong_labelme_file_is_a_problem(
    change: Callable[[Any], None], message: str, tmp_path: Path
) -> None:
    queries, _ = exported(tmp_path, "labelme")
    path = edit(tmp_path, change)
    answers, report = read(tmp_path, queries)
    assert len(report.problems) == 1
    assert report.problems[0].startswith(f"{path}: ")
    assert message in report.problems[0]
    assert not answers.classes
    with pytest.raises(UserError, match=r"1 problem\(s\), so nothing is stored"):
        report.refuse_problems()


def test_a_renamed_labelme_file_is_a_problem(tmp_path: Path) -> None:
    queries, _ = exported(tmp_path, "labelme")
    (path,) = tmp_path.glob("*/crops/*.json")
    path.rename(path.with_name("renamed.json"))
    _, report = read(tmp_path, queries)
    assert "renamed.json: no crop of this package has that name" in report.problems[0]
    assert sum(report.waiting.values()) == 1


def test_a_file_that_is_no_json_is_a_problem(tmp_path: Path) -> None:
    queries, _ = exported(tmp_path, "labelme")
    (path,) = tmp_path.glob("*/crops/*.json")
    path.write_text(path.read_text()[:-9])
    assert "no LabelMe file (JSONDecodeError" in read(tmp_path, queries)[1].problems[0]


# COCO


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


# Label pictures


def label_of(out: Path) -> Path:
    """The one label picture in a folder."""
    (path,) = out.glob("*/labels/*.png")
    return path


def test_label_pictures_of_programs_without_palette_are_read(tmp_path: Path) -> None:
    queries, _ = exported(tmp_path, "png")
    path = label_of(tmp_path)
    Image.fromarray(np.array(Image.open(path))).save(path)
    assert Image.open(path).mode == "L"
    answers, report = read(tmp_path, queries)
    report.refuse_problems()
    np.testing.assert_array_equal(
        answers.combined(), GroundTruthOracle(truth_of(queries)).answer_round(queries)
    )


def test_open_pixels_of_a_label_picture_are_gaps(tmp_path: Path) -> None:
    queries, package = exported(tmp_path, "png")
    path, crop = label_of(tmp_path), package.tasks[0].crop
    values = np.array(Image.open(path))
    (top, left, _, _), _ = crop.boxes()
    values[top * crop.scale : (top + 1) * crop.scale, left * crop.scale : (left + 2) * crop.scale] = 254
    Image.fromarray(values).save(path)
    answers, report = read(tmp_path, queries)
    assert "2 of 18 queried pixels have no label" in report.gaps[0]
    assert answers.combined()[:3].tolist() == [254, 254, truth_of(queries)(crop.image)[19, 21]]


def test_suggestion_pictures_show_classes_in_the_regions_alone(tmp_path: Path) -> None:
    _, package = exported(tmp_path, "png", done=False)
    (path,) = tmp_path.glob("*/suggestions/*.png")
    crop = package.tasks[0].crop
    values = np.array(Image.open(path))
    expected = np.full(crop.size, 254)
    for region, (top, left, bottom, right) in zip(crop.regions, crop.boxes(), strict=True):
        expected[top:bottom, left:right] = region.suggestion
    np.testing.assert_array_equal(values, crop.enlarge(expected))
    assert Image.open(path).getpalette()[: 3 * 2] == [128, 64, 128, 244, 35, 232]
    assert (tmp_path / "annotator/classes.txt").read_text().splitlines()[13] == "13\tcar\t0,0,142"


def spoil_palette(path: Path) -> None:
    picture = Image.open(path)
    colors = picture.getpalette()
    picture.putpalette(colors[3:] + colors[:3])
    picture.save(path)


def save_as(change: Callable[[Image.Image], Image.Image]) -> Callable[[Path], None]:
    """Opens a picture, changes it, and saves it in its place."""

    def spoil(path: Path) -> None:
        with Image.open(path) as picture:
            picture.load()
            changed = change(picture)
        changed.save(path)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (save_as(lambda picture: picture.convert("RGB")), "it is a colour picture (mode RGB), not ids"),
        (save_as(lambda picture: picture.resize((5, 6))), "it has 5x6 pixels, the exported picture"),
        (save_as(lambda picture: Image.new("L", picture.size, 77)), "its values [77] are no train ids"),
        (spoil_palette, "has changed the palette"),
        (lambda path: path.write_bytes(path.read_bytes()[:70]), "cannot be decoded"),
        (lambda path: path.rename(path.with_name("b.png")), "b.png: no crop of this package has that name"),
    ],
)
def test_a_wrong_label_picture_is_a_problem(
    spoil: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    queries, _ = exported(tmp_path, "png")
    spoil(label_of(tmp_path))
    _, report = read(tmp_path, queries)
    assert len(report.problems) == 1
    assert message in report.problems[0]


# Packages that do not fit


def test_a_package_of_another_run_or_round_is_refused(tmp_path: Path) -> None:
    queries, _ = exported(tmp_path, "labelme")
    other = asked([[[20, 20], [20, 26]]], 1)
    with pytest.raises(UserError, match="belongs to another run: it was exported from runs/toy"):
        read(tmp_path, other)
    later = asked([[[20, 20]]], 1, number=1)
    with pytest.raises(UserError, match=r"answers round 1 of run runs/toy, not round 2; .* --round 1"):
        read(tmp_path, later)
    assert read(tmp_path, queries)[1].crops == 1


def test_a_damaged_or_missing_package_file_is_refused(tmp_path: Path) -> None:
    queries, _ = exported(tmp_path, "labelme")
    path = tmp_path / "annotator" / "package.json"
    text = path.read_text()
    for damage, message in (
        (text[:-30], "package.json is damaged"),
        (text.replace('"tasks"', '"tusks"'), r"package.json is damaged \(KeyError"),
        (text.replace('"format_version": 1', '"format_version": 2'), "has format version 2"),
    ):
        path.write_text(damage)
        with pytest.raises(UserError, match=message):
            read(tmp_path, queries)
    path.unlink()
    with pytest.raises(UserError, match=r"holds no package.json; name a folder that `annotate.py export`"):
        find_packages([tmp_path])
