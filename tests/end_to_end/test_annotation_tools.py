"""Exported files in the tools themselves: LabelMe's loader and pycocotools. Not part of `make test`.

Needs labelme and pycocotools: `pip install -e .[annotation-tools]`, then `pytest -m annotation_tools`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from selection.exchange import shapes
from selection.exchange.answers import RoundAnswers
from selection.exchange.crops import Crop, CropSettings
from selection.exchange.importing import read_packages
from selection.exchange.packages import Package
from selection.oracles import GroundTruthOracle
from selection.rounds import RoundQueries
from tests.toy_annotation import CLASS_NAMES, answer, asked, export, random_picks, truth_of

pytestmark = pytest.mark.annotation_tools


@pytest.fixture(scope="module")
def labelme() -> Any:
    """LabelMe, which imports Qt; no window is opened."""
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    return pytest.importorskip("labelme", reason="labelme is not installed", exc_type=ImportError)


@pytest.fixture(scope="module")
def pycocotools() -> Any:
    """pycocotools with its two modules."""
    pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed", exc_type=ImportError)
    import pycocotools.coco
    import pycocotools.mask

    return pycocotools


def toy_round(radius: int = 1) -> RoundQueries:
    """Squares in two images, many over several classes."""
    return asked([random_picks(20), random_picks(8, seed=1)], radius)


@pytest.mark.parametrize("radius", [0, 1, 100])
@pytest.mark.parametrize("answered", [False, True])
def test_labelme_opens_what_is_exported(labelme: Any, answered: bool, radius: int, tmp_path: Path) -> None:
    queries = toy_round() if radius == 1 else asked([[[3, 3]], [[30, 40]]], radius)
    (package,) = export(queries, "labelme", tmp_path)
    if answered:
        answer(tmp_path, truth_of(queries))
    files = sorted(tmp_path.glob("*/crops/*.json"))
    assert len(files) == len(package.tasks)
    for path, task in zip(files, package.tasks, strict=True):
        loaded = labelme.LabelFile(str(path))
        content = json.loads(path.read_text())
        assert loaded.flags == {"done": answered}
        assert len(loaded.shapes) == len(content["shapes"]) >= task.decisions
        picture = labelme.utils.img_data_to_arr(getattr(loaded, "image_data", None) or loaded.imageData)
        assert picture.shape[:2] == task.crop.picture_size
        for shape in loaded.shapes:
            if shape["shape_type"] == "mask":
                (left, top), (right, bottom) = shape["points"]
                assert shape["mask"].shape == (bottom - top + 1, right - left + 1)


def test_answers_that_labelme_saves_again_are_the_same(labelme: Any, tmp_path: Path) -> None:
    queries = toy_round()
    export(queries, "labelme", tmp_path)
    answer(tmp_path, truth_of(queries))
    for path in tmp_path.glob("*/crops/*.json"):
        loaded = labelme.LabelFile(str(path))
        shapes_again = [
            {
                **{key: shape[key] for key in ("label", "points", "shape_type", "flags", "group_id")},
                "mask": None
                if shape["mask"] is None
                else labelme.utils.img_arr_to_b64(shape["mask"].astype(np.uint8)),
            }
            for shape in loaded.shapes
        ]
        content = json.loads(path.read_text())
        loaded.save(
            str(path),
            shapes_again,
            f"{path.stem}.png",
            content["imageHeight"],
            content["imageWidth"],
            flags=loaded.flags,
        )
        assert json.loads(path.read_text())["version"] == labelme.__version__
    answers = RoundAnswers(queries)
    read_packages([tmp_path], answers, CLASS_NAMES).refuse_problems()
    np.testing.assert_array_equal(
        answers.combined(), GroundTruthOracle(truth_of(queries)).answer_round(queries)
    )


@pytest.mark.parametrize("name", ["tasks.json", "answers.json"])
@pytest.mark.parametrize("scale", [1, 4, 5])
def test_pycocotools_sees_the_classes_that_were_written(
    pycocotools: Any, scale: int, name: str, tmp_path: Path
) -> None:
    queries = toy_round()
    export(queries, "coco", tmp_path, crops=CropSettings(4, 16, 40, scale=scale))
    answer(tmp_path, truth_of(queries))
    package = Package.read(tmp_path / "annotator" / "package.json")
    coco = pycocotools.coco.COCO(str(tmp_path / "annotator" / name))
    assert len(coco.imgs) == len(package.tasks)
    for task in package.tasks:
        crop = task.crop
        seen = np.full(crop.size, 254, np.uint8)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[task.number + 1])):
            drawn = coco.annToMask(annotation).astype(bool)
            assert drawn.sum() == annotation["area"]
            class_id = CLASS_NAMES.parse(coco.loadCats(annotation["category_id"])[0]["name"])
            seen[shapes.from_picture(crop, drawn)] = class_id
        truth = crop.cut(truth_of(queries)(crop.image))
        for region, (top, left, bottom, right) in zip(crop.regions, crop.boxes(), strict=True):
            box = seen[top:bottom, left:right]
            expected = truth[top:bottom, left:right] if name == "answers.json" else region.suggestion
            np.testing.assert_array_equal(box, np.broadcast_to(expected, box.shape))


def test_run_lengths_that_pycocotools_compresses_are_read(pycocotools: Any) -> None:
    generator = np.random.default_rng(0)
    for share in (0.0, 0.01, 0.5, 1.0):
        values = generator.random((57, 83)) < share
        encoded = pycocotools.mask.encode(np.asfortranarray(values.astype(np.uint8)))
        np.testing.assert_array_equal(shapes.decode_runs(encoded["counts"].decode(), (57, 83)), values)
        own = {"counts": shapes.encode_runs(values), "size": [57, 83]}
        theirs = pycocotools.mask.frPyObjects(own, 57, 83)
        np.testing.assert_array_equal(pycocotools.mask.decode(theirs).astype(bool), values)


def test_polygons_agree_with_pycocotools_but_for_their_outlines(pycocotools: Any) -> None:
    generator = np.random.default_rng(1)
    crop = Crop("a.png", (60, 80), 0, 0, 60, 80, 1, ())
    for _ in range(20):
        corners = generator.uniform(0, 60, (5, 2))
        corners = corners[np.argsort(np.arctan2(*(corners - corners.mean(0)).T))]
        theirs = pycocotools.mask.decode(pycocotools.mask.frPyObjects([corners.ravel().tolist()], 60, 80))
        differing = shapes.polygon(crop, corners) != theirs[..., 0].astype(bool)
        outline = np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=1).sum()
        assert differing.sum() < outline
