"""Oracles of a round: label files, and people whose answers come later or never."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from selection.exchange.earlier_run import EarlierLabels
from selection.rounds import UNANSWERED, RoundFolder, RoundQueries
from tests.unit.selection.toy_rounds import NAMES, SIZES, begun, toy_classes, toy_queries, whole_queries
from trainers.loop_settings import Interrupted, WaitForLabels
from trainers.oracles import PeopleOracle, TruthOracle
from utils.class_spaces import IGNORE_LABEL
from utils.errors import UserError


@pytest.fixture
def asked(tmp_path: Path) -> tuple[RoundFolder, RoundQueries]:
    """A round with queries and no answers."""
    queries = toy_queries()
    folder = RoundFolder(tmp_path / "round_00")
    folder.begin(queries.info)
    folder.write_queries(queries)
    return folder, queries


def truth(name: str) -> np.ndarray:
    """Labels that differ from image to image and pixel to pixel."""
    number = NAMES.index(name)
    height, width = SIZES[number]
    return ((np.arange(height * width) + 5 * number) % 19).astype(np.uint8).reshape(height, width)


class TestTruth:
    @pytest.mark.parametrize("workers", [0, 2])
    def test_answers_every_queried_pixel(self, asked: tuple[RoundFolder, RoundQueries], workers: int) -> None:
        folder, queries = asked
        assert TruthOracle(truth, num_workers=workers).answer(folder, queries) is None
        labels = folder.labels()
        for query in queries.images:
            expected = truth(query.name).reshape(-1)[query.pixels(queries.info.label_radius)]
            assert np.array_equal(labels[queries.slice_of(query.name)], expected)

    def test_stop_writes_nothing(self, asked: tuple[RoundFolder, RoundQueries]) -> None:
        folder, queries = asked
        read = []

        def noted(name: str) -> np.ndarray:
            read.append(name)
            return truth(name)

        outcome = TruthOracle(noted, num_workers=0, stop=lambda: len(read) == 2).answer(folder, queries)
        assert isinstance(outcome, Interrupted)
        assert not folder.has_labels()

    def test_stop_after_the_last_image_comes_too_late(self, asked: tuple[RoundFolder, RoundQueries]) -> None:
        folder, queries = asked
        read = []

        def noted(name: str) -> np.ndarray:
            read.append(name)
            return truth(name)

        oracle = TruthOracle(noted, num_workers=0, stop=lambda: len(read) == len(NAMES))
        assert oracle.answer(folder, queries) is None
        assert folder.has_labels()

    def test_label_of_another_size(self, asked: tuple[RoundFolder, RoundQueries]) -> None:
        folder, queries = asked
        with pytest.raises(UserError, match="4x3 pixels but the image has 40x30"):
            TruthOracle(lambda name: np.zeros((3, 4), np.uint8), num_workers=0).answer(folder, queries)
        assert not folder.has_labels()


class TestPeople:
    def test_work_that_nobody_has_begun(self, asked: tuple[RoundFolder, RoundQueries]) -> None:
        folder, queries = asked
        for partial, has_file in ((False, False), (True, False), (False, True), (True, True)):
            if has_file:
                folder.write_answers(np.full(queries.pixels, UNANSWERED, np.uint8))
            outcome = PeopleOracle("runs/a", "7 decisions", accept_partial=partial).answer(folder, queries)
            assert isinstance(outcome, WaitForLabels)
            for text in ("round 1 of 5", "7 decisions", "nothing is answered", "annotate.py export runs/a"):
                assert text in outcome.text
        assert not folder.has_labels()

    def test_complete_answers_end_the_round(self, asked: tuple[RoundFolder, RoundQueries]) -> None:
        folder, queries = asked
        classes = toy_classes(queries)
        assert (classes == IGNORE_LABEL).any()
        folder.write_answers(classes)
        assert PeopleOracle("runs/a", "").answer(folder, queries) is None
        assert np.array_equal(folder.labels(), classes)

    @pytest.mark.parametrize("partial", [False, True])
    def test_gaps(
        self, asked: tuple[RoundFolder, RoundQueries], partial: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder, queries = asked
        classes = toy_classes(queries)
        first, last = queries.offsets[1], queries.offsets[2]
        classes[first:last] = UNANSWERED
        folder.write_answers(classes)
        left = f"{last - first} of {queries.pixels}"
        outcome = PeopleOracle("runs/a", "", accept_partial=partial).answer(folder, queries)
        if partial:
            assert outcome is None
            labels = folder.labels()
            assert (labels[first:last] == IGNORE_LABEL).all()
            assert np.array_equal(np.delete(labels, np.s_[first:last]), np.delete(classes, np.s_[first:last]))
            assert f"{left} queried pixels are not answered" in caplog.text
            assert f"1 images lack some, the first {NAMES[1]}" in caplog.text
        else:
            assert isinstance(outcome, WaitForLabels)
            assert f"{left} pixels are not answered" in outcome.text
            assert "--accept-partial" in outcome.text
            assert "`python annotate.py status runs/a --list` lists them" in outcome.text
            assert not folder.has_labels()

    def test_whole_images_are_asked_as_such(self, tmp_path: Path) -> None:
        queries = whole_queries()
        folder = begun(tmp_path, queries)
        outcome = PeopleOracle("runs/a", "5%", hours_per_image=0.5).answer(folder, queries)
        assert isinstance(outcome, WaitForLabels)
        work = "people are to label 2 whole images (about 1.0 h at an assumed 0.5 h per image)"
        assert outcome.text.startswith(f"{work}, nothing is answered yet. ")
        assert "--budget" not in outcome.text

    def test_images_that_are_answered_are_no_work_any_more(self, tmp_path: Path) -> None:
        queries = whole_queries()
        folder = begun(tmp_path, queries)
        classes = toy_classes(queries)
        classes[queries.offsets[1]] = UNANSWERED
        folder.write_answers(classes)
        outcome = PeopleOracle("runs/a", "").answer(folder, queries)
        assert isinstance(outcome, WaitForLabels)
        work = "people are to label 1 of 2 whole images (about 1.5 h at an assumed 1.5 h per image)"
        assert outcome.text.startswith(f"{work}, 1 of {queries.pixels} pixels are not answered (99.")


class TestLabelsOfAnotherRun:
    @pytest.fixture
    def waiting(self, tmp_path: Path) -> tuple[RoundFolder, RoundQueries]:
        queries = whole_queries()
        return begun(tmp_path / "here", queries), queries

    @pytest.mark.parametrize("partial", [False, True])
    def test_where_they_are_complete_nobody_is_waited_for(
        self, waiting: tuple[RoundFolder, RoundQueries], partial: bool, tmp_path: Path
    ) -> None:
        classes = toy_classes(waiting[1])
        begun(tmp_path / "there", whole_queries(seed=2)).write_labels(classes)
        oracle = PeopleOracle("runs/a", "", accept_partial=partial, earlier=EarlierLabels(tmp_path / "there"))
        assert oracle.answer(*waiting) is None
        np.testing.assert_array_equal(waiting[0].labels(), classes)

    def test_the_rest_is_asked_as_usual(
        self, waiting: tuple[RoundFolder, RoundQueries], tmp_path: Path
    ) -> None:
        queries = whole_queries(NAMES[1:2])
        begun(tmp_path / "there", queries).write_labels(toy_classes(queries))
        oracle = PeopleOracle("runs/a", "", earlier=EarlierLabels(tmp_path / "there"))
        outcome = oracle.answer(*waiting)
        assert isinstance(outcome, WaitForLabels)
        assert outcome.text.startswith("people are to label 1 of 2 whole images (about 1.5 h at")
        assert "export runs/a --to labelme --out DIR --unanswered`" in outcome.text
        assert not waiting[0].has_labels()
        answers = waiting[0].answers()
        first = len(waiting[1].images[0].predicted)
        assert (answers[:first] == UNANSWERED).all()
        np.testing.assert_array_equal(answers[first:], toy_classes(queries))
