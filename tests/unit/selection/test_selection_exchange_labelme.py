"""What LabelMe stores, and every mistake in it."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from toy_exchange import edit, exported, read

from selection.exchange.crops import CropSettings
from selection.exchange.packages import Sharing
from tests.toy_annotation import (
    CLASS_NAMES,
)
from utils.errors import UserError


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


def picture(side: int) -> str:
    """A blank PNG of so many pixels a side, in base 64."""
    stream = io.BytesIO()
    Image.new("1", (side, side)).save(stream, format="PNG")
    return base64.b64encode(stream.getvalue()).decode()


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
        (lambda c: c["shapes"][0]["points"][0].__setitem__(0, 10**400), "a coordinate is too large; draw it"),
        (lambda c: c["shapes"][0]["points"][0].__setitem__(0, float("nan")), "a coordinate is not finite"),
        (
            lambda c: c["shapes"][0].update(shape_type="polygon"),
            "it has 2 point(s) and needs 3; draw it again",
        ),
        (
            lambda c: c["shapes"][0].update(shape_type="mask", points=[[float("inf"), 0]], mask=picture(2)),
            "shape 1 (",
        ),
        (lambda c: c["shapes"][0].update(shape_type="mask", mask=picture(999)), "a mask has 999x999 pixels"),
        (lambda c: c["shapes"][0].update(shape_type="mask", mask=picture(20000)), "a mask"),
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
    assert f"{path}: the file of a crop is gone" in report.problems[1]
    assert report.waiting == {}  # not "their flag 'done' is not ticked"


def test_a_file_that_is_no_json_is_a_problem(tmp_path: Path) -> None:
    queries, _ = exported(tmp_path, "labelme")
    (path,) = tmp_path.glob("*/crops/*.json")
    path.write_text(path.read_text()[:-9])
    assert "no LabelMe file (JSONDecodeError" in read(tmp_path, queries)[1].problems[0]
