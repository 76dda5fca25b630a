"""What people see of a round: pictures, curves, the page, and what is said about it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from selection.report import picture_path, write_captions
from selection.rounds import ImageQuery, RoundFolder, RoundQueries
from selection.store import AnnotationStore
from tests.toy_training import run_in
from tests.unit.selection.toy_rounds import (
    NAMES,
    SIZES,
    fill_store,
    toy_classes,
    toy_info,
    toy_query,
    whole_queries,
)
from trainers.query_reports import report_round, write_score_map
from utils.class_spaces import IGNORE_LABEL, class_space

SPACE = class_space("cityscapes19")


class Pictures:
    """Grey images of the toy rounds; remembers which were asked for."""

    names = NAMES
    fingerprint = "0a1b"

    def __init__(self) -> None:
        self.seen: list[str] = []

    def network_input(self, name: str) -> tuple[torch.Tensor, tuple[int, int]]:
        """Not needed for pictures."""
        pytest.fail("a report needs no network")

    def picture(self, name: str) -> np.ndarray:
        """(H, W, 3) grey."""
        self.seen.append(name)
        return np.full((*SIZES[NAMES.index(name)], 3), 128, np.uint8)


def report(store: AnnotationStore, queries: RoundQueries, pictures: int = 1, run: object = None) -> Pictures:
    images = Pictures()
    report_round(store, queries, space=SPACE, images=images, pictures=pictures, run=run)
    return images


def test_first_images_are_drawn_and_the_page_shows_all_rounds(tmp_path: Path) -> None:
    store = AnnotationStore(tmp_path)
    rounds = [queries for queries, _ in fill_store(store, 2)]
    for number, queries in enumerate(rounds):
        write_score_map(store.round(number), NAMES[0], torch.rand(SIZES[0]))
        assert report(store, queries, pictures=2).seen == list(NAMES[:2])
        assert all(picture_path(store, number, name).is_file() for name in NAMES[:2])
        assert not picture_path(store, number, NAMES[2]).exists()
        page = (tmp_path / "index.html").read_text()
        assert page.count("<img") == 2 * (number + 1)


def test_images_with_captions_are_drawn_in_their_order(tmp_path: Path) -> None:
    store = AnnotationStore(tmp_path)
    [(queries, _)] = fill_store(store, 1)
    write_captions(store.round(0).folder, {"gone.png": "", NAMES[2]: "farthest", NAMES[0]: ""})
    assert report(store, queries, pictures=1).seen == [NAMES[2]]
    assert report(store, queries, pictures=4).seen == [NAMES[2], NAMES[0]]
    assert "; farthest" in (tmp_path / "index.html").read_text()
    assert report(store, queries, pictures=0).seen == []


def test_scores_are_drawn(tmp_path: Path) -> None:
    store = AnnotationStore(tmp_path)
    [(queries, _)] = fill_store(store, 1)
    drawn = []
    for score in (torch.zeros(SIZES[0]), torch.rand(SIZES[0])):
        write_score_map(store.round(0), NAMES[0], score)
        report(store, queries)
        drawn.append(picture_path(store, 0, NAMES[0]).read_bytes())
    assert drawn[0] != drawn[1]


def test_run_logs_shares_counts_and_pictures(tmp_path: Path) -> None:
    store = AnnotationStore(tmp_path / "queries")
    [(queries, classes)] = fill_store(store, 1)
    with run_in(tmp_path / "run") as run:
        report(store, queries, run=run)
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert line["iteration"] == queries.info.iteration
    assert line["queries/pixels"] == len(classes)
    assert line["queries/ignored"] == (classes == IGNORE_LABEL).sum()
    distinct = [len({tuple(pick) for pick in query.picks.tolist()}) for query in queries.images]
    assert line["queries/regions"] == sum(distinct)  # places that an exhausted image repeats count once
    shares = [line[f"queries/share/{name}"] for name in SPACE.class_names]
    assert shares == pytest.approx([100 * np.mean(classes == index) for index in range(19)])
    known = classes != IGNORE_LABEL
    agreement = np.mean(queries.predicted[known] == classes[known])
    assert line["queries/agreement"] == pytest.approx(100 * agreement)
    assert len(list((tmp_path / "run" / "pictures").iterdir())) == 1


def test_a_round_of_whole_images_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, queries = AnnotationStore(tmp_path / "queries"), whole_queries()
    store.round(0).begin(queries.info)
    store.round(0).write_queries(queries)
    store.round(0).write_labels(toy_classes(queries))
    with run_in(tmp_path / "run") as run, caplog.at_level(logging.INFO):
        report(store, queries, run=run)
    assert f"round 1 of 1: 2 whole images, {queries.pixels} pixels bought" in caplog.text
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert line["queries/images"] == 2
    assert "queries/regions" not in line


def one_image(folder: RoundFolder, picks: list[tuple[int, int]], label: int) -> RoundQueries:
    """A complete round of one image whose answers are all the same."""
    info = toy_info(images=1)
    query = toy_query(NAMES[0], SIZES[0], picks, info)
    queries = RoundQueries(info, [query])
    folder.begin(info)
    folder.write_queries(queries)
    folder.write_labels(np.full(queries.pixels, label, np.uint8))
    return queries


@pytest.mark.parametrize(
    ("picks", "label", "said"),
    [
        ([(5, 5), (9, 9)], IGNORE_LABEL, "no pixel of this round has a label"),
        ([(5, 5), (9, 9)], 3, None),
        ([(5, 5), (0, 0), (0, 0), (0, 0)], 3, "the budget is larger than what fits into 1 images"),
    ],
)
def test_rounds_that_are_not_as_they_should_be_are_warned_about(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    picks: list[tuple[int, int]],
    label: int,
    said: str | None,
) -> None:
    store = AnnotationStore(tmp_path)
    queries = one_image(store.round(0), picks, label)
    with caplog.at_level(logging.INFO):
        report(store, queries)
    warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert [said in warning for warning in warnings] == ([] if said is None else [True])
    if label == 3:
        assert f"{SPACE.class_names[3]} 100.0 %" in caplog.text


class TestScoreMaps:
    @staticmethod
    def written(tmp_path: Path, score: torch.Tensor) -> np.ndarray:
        folder = RoundFolder(tmp_path / "round_00")
        write_score_map(folder, "city/a.png", score)
        return cv2.imread(str(folder.folder / "scores" / "city_a.png"), cv2.IMREAD_GRAYSCALE)

    def test_reach_from_the_lowest_to_the_highest_finite_score(self, tmp_path: Path) -> None:
        score = torch.tensor([[-1.0, 0.0, 1.0], [float("-inf"), float("nan"), 3.0]])
        assert self.written(tmp_path, score).tolist() == [[0, 64, 128], [0, 0, 255]]

    @pytest.mark.parametrize("value", [0.5, float("nan")])
    def test_that_say_nothing_are_black(self, tmp_path: Path, value: float) -> None:
        assert not self.written(tmp_path, torch.full((4, 5), value)).any()


def test_query_without_pictures_reads_no_image(tmp_path: Path) -> None:
    store = AnnotationStore(tmp_path)
    [(queries, _)] = fill_store(store, 1)
    assert report(store, queries, pictures=0).seen == []
    assert isinstance(queries.images[0], ImageQuery)
