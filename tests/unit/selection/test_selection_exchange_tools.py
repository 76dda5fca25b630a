"""Export, answer from truth, import: lossless in every format, and every mistake is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_exchange import exported, read

from selection.exchange.crops import CropSettings
from selection.exchange.export import plan, write_packages
from selection.exchange.importing import find_packages
from selection.exchange.packages import Package, Sharing
from selection.exchange.tools import TOOLS
from selection.oracles import GroundTruthOracle
from selection.rounds import RoundQueries
from tests.toy_annotation import (
    CLASS_NAMES,
    SMALL_CROPS,
    answer,
    asked,
    asked_whole,
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
    "whole images of a round of such": lambda: asked_whole((60, 90), (1, 7)),
    "images of one row and column": lambda: asked([[[0, 3], [0, 8]], [[7, 0]]], 1, sizes=[(1, 9), (8, 1)]),
    "an image without picks": lambda: asked([[], [[5, 5], [20, 30]]], 1),
}


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


@pytest.mark.parametrize("tool", TOOLS)
def test_files_that_the_system_left_stop_nobody(tool: str, tmp_path: Path) -> None:
    queries, _ = exported(tmp_path, tool)
    for folder in ("crops", "labels"):
        (tmp_path / "annotator" / folder).mkdir(exist_ok=True)
        for name in (".DS_Store", "._000000_x.json", "._000000_x.png", "Thumbs.db", "desktop.ini"):
            (tmp_path / "annotator" / folder / name).write_bytes(b"\0")
    answers, report = read(tmp_path, queries)
    assert (report.problems, report.crops) == ([], 1)
    assert (answers.combined() != 254).all()


@pytest.mark.parametrize(("tool", "name"), [("labelme", "crops/*.json"), ("coco", "answers.json")])
def test_a_file_of_endless_lists_is_a_problem(tool: str, name: str, tmp_path: Path) -> None:
    queries, _ = exported(tmp_path, tool)
    (path,) = tmp_path.glob(f"*/{name}")
    path.write_text("[" * 100_000)
    _, report = read(tmp_path, queries)
    assert len(report.problems) == 1
    assert f"{path}: no " in report.problems[0]
