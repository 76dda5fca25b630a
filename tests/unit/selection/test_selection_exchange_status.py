"""Who answered what, agreement, anchoring, what is left; and how answers of several people are combined."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from selection.exchange.answers import RoundAnswers
from selection.exchange.crops import CropSettings
from selection.exchange.export import plan, remember, remembered
from selection.exchange.packages import Package, Sharing
from selection.exchange.status import (
    RoundRegions,
    cohens_kappa,
    format_status,
    open_work,
    round_status,
    with_open_work,
)
from selection.round_files import pack_text
from selection.rounds import RoundFolder, RoundQueries
from tests.toy_annotation import NAMES, SMALL_CROPS, asked
from utils.errors import UserError

PICKS = [[[10, 10], [30, 30], [50, 50]], [[20, 20]]]


def answers_of(**said: list[int]) -> RoundAnswers:
    """Answers to single pixels by annotator; 254: none."""
    answers = RoundAnswers(asked(PICKS, 0))
    for name, classes in said.items():
        say(answers, name, np.array(classes, np.uint8), blind=name == "bob")
    return answers


def say(answers: RoundAnswers, name: str, classes: np.ndarray, *, blind: bool = False) -> None:
    """Answers to all pixels of the round, those of one image after those of another."""
    for query in answers.queries.images:
        own = classes[answers.queries.slice_of(query.name)]
        answers.put(name, query.name, np.arange(len(own)), own, blind=blind)


def of_the_round(answers: RoundAnswers, of_image: Callable[[str], np.ndarray]) -> list[int]:
    """What a function says of every image, one after another."""
    return [value for query in answers.queries.images for value in of_image(query.name).tolist()]


def packages_of(queries: RoundQueries, **sharing: object) -> list[Package]:
    """Packages with a crop per region."""
    crops = CropSettings(0, 1, 1)
    return plan(queries, "labelme", run="r", crops=crops, sharing=Sharing(**sharing))


def test_the_first_annotator_by_name_counts() -> None:
    answers = answers_of(bob=[1, 2, 3, 254], ann=[1, 4, 254, 254])
    assert answers.combined("first").tolist() == [1, 4, 3, 254]
    assert answers.combined("error").tolist() == [1, 254, 3, 254]
    for place, expected in enumerate(([254, 4, 254, 254], [254, 2, 254, 254])):
        assert of_the_round(answers, lambda image, n=place: answers.contradictions(image)[n]) == expected
    assert answers.disputed() == 1
    assert answers.combined("ignore").tolist() == [1, 255, 3, 254]
    for place, expected in enumerate(([1, 4, 3, 254], [1, 2, 254, 254])):
        assert of_the_round(answers, lambda image, n=place: answers.pairs(image)[n]) == expected


def test_a_third_annotator_may_disagree_too() -> None:
    answers = answers_of(ann=[1, 1, 1, 254], bob=[254, 1, 1, 2], cat=[2, 1, 3, 3])
    assert answers.combined("first").tolist() == [1, 1, 1, 2]
    assert of_the_round(answers, lambda image: answers.contradictions(image)[1]) == [2, 254, 3, 3]
    assert answers.combined("ignore").tolist() == [255, 1, 255, 255]


def test_a_later_answer_replaces_an_earlier_one_and_a_gap_does_not() -> None:
    answers = answers_of(ann=[1, 2, 3, 254])
    answers.put("ann", NAMES[0], np.array([1, 2]), np.array([254, 7], np.uint8), blind=False)
    assert answers.combined().tolist() == [1, 2, 7, 254]


def test_answers_are_kept_with_the_round(tmp_path: Path) -> None:
    answers = answers_of(bob=[1, 2, 3, 254], ann=[1, 4, 254, 255])
    folder = RoundFolder(tmp_path)
    folder.begin(answers.queries.info)
    folder.write_queries(answers.queries)
    assert RoundAnswers.load(folder, answers.queries).classes == {}
    answers.store(folder)
    assert folder.answers().tolist() == [1, 254, 3, 255]
    assert RoundAnswers.load(folder, answers.queries).on_conflict == "error"
    answers.on_conflict = "first"
    answers.store(folder)
    assert folder.answers().tolist() == [1, 4, 3, 255]
    again = RoundAnswers.load(folder, answers.queries)
    assert again.on_conflict == "first"
    assert again.annotators == ["ann", "bob"]
    assert of_the_round(again, lambda image: again.of("bob", image)) == [1, 2, 3, 254]
    assert of_the_round(again, lambda image: again.of("ann", image)) == [1, 4, 254, 255]
    assert list(again.classes["bob"]) == [NAMES[0]]  # nothing is kept of images without an answer
    assert again.blind["bob"][NAMES[0]].tolist() == [True, True, True]
    assert not any(blind.any() for blind in again.blind["ann"].values())
    folder.write_answers(np.array([5, 254, 254, 254], np.uint8))
    assert RoundAnswers.load(folder, answers.queries).combined().tolist() == [5, 254, 254, 254]


def test_answers_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    queries, folder = asked(PICKS, 0), RoundFolder(tmp_path)
    folder.begin(queries.info)
    folder.write_queries(queries)
    folder.write_answers(
        np.array([1, 2, 254, 254], np.uint8),
        annotators=pack_text('["ann"]'),
        on_conflict=pack_text("first"),
        classes_0=np.array([1, 2, 254, 254], np.uint8),
        blind_0=np.packbits(np.array([False, True, False, False])),
    )
    answers = RoundAnswers.load(folder, queries)
    assert of_the_round(answers, lambda image: answers.of("ann", image)) == [1, 2, 254, 254]
    assert answers.blind["ann"][NAMES[0]].tolist() == [False, True, False]


def test_answers_without_the_classes_of_a_name_are_damaged(tmp_path: Path) -> None:
    queries, folder = asked(PICKS, 0), RoundFolder(tmp_path)
    folder.begin(queries.info)
    folder.write_queries(queries)
    folder.write_answers(np.full(4, 1, np.uint8), annotators=pack_text('["ann"]'))
    with pytest.raises(UserError, match=r"answers\.npz is damaged .*classes_0"):
        RoundAnswers.load(folder, queries)


def test_two_exports_under_one_name_are_told_apart() -> None:
    answers = answers_of(
        **{"ann@2": [1, 1, 1, 1], "ann@1": [2, 2, 2, 2], "ann-again@1": [3] * 4, "bob@1": [1] * 4}
    )
    assert answers.annotators == ["ann@1", "ann@2", "ann-again@1", "bob@1"]
    assert [answers.shown(key) for key in answers.annotators] == ["ann@1", "ann@2", "ann-again", "bob"]


def test_contradictions_and_open_work_are_said() -> None:
    queries = asked(PICKS, 0)
    packages = packages_of(queries, annotators=("ann", "bob"), duplicate_share=1.0)
    answers = RoundAnswers(queries)
    say(answers, "ann", np.array([1, 2, 3, 4], np.uint8))
    say(answers, "bob", np.array([1, 5, 3], np.uint8))
    assert "contradict each other in 1 pixels" in format_status(
        round_status(answers, packages, seconds_per_decision=1)
    )
    lines = open_work(answers, packages)
    assert [line.partition(":")[0] for line in lines] == ["bob", f"image {queries.images[0].name}"]
    assert lines[0].endswith(f"image {queries.images[1].name}")
    assert lines[1].endswith("1 of 3 queried pixels are open")
    assert with_open_work(answers, packages) == ["bob"]
    answers.on_conflict = "first"
    assert "contradict" not in format_status(round_status(answers, packages, seconds_per_decision=1))


def test_what_was_exported_is_remembered_until_the_next_export(tmp_path: Path) -> None:
    queries, folder = asked(PICKS, 1), RoundFolder(tmp_path)
    assert remembered(folder) == []
    remember(folder, packages_of(queries, annotators=("ann", "bob")))
    assert [package.annotator for package in remembered(folder)] == ["ann", "bob"]
    packages = packages_of(queries, annotators=("cat",))
    remember(folder, packages)
    assert remembered(folder) == packages


def test_the_status_counts_regions_of_each_annotator() -> None:
    queries = asked(PICKS, 1)
    (package,) = packages_of(queries)
    answers = RoundAnswers(queries)
    classes = np.full(36, 254, np.uint8)
    classes[:9], classes[9:18], classes[18:20] = 255, 3, 3
    say(answers, "annotator", classes)
    answers.put("other", NAMES[1], np.arange(9), np.zeros(9, np.uint8), blind=False)
    status = round_status(answers, [package], seconds_per_decision=1800)
    rows = [
        (row.name, row.crops, row.regions, row.answered, row.cannot_tell, row.left)
        for row in status.annotators
    ]
    assert rows == [("annotator", 4, 4, 2, 1, 2), ("other", 0, 1, 1, 0, 0)]
    assert (status.regions, status.answered, status.decisions_left) == (4, 3, 1)
    assert "left: 1 decisions, about 0.5 h at an assumed 1800 s per decision" in format_status(status)
    text = format_status(status)
    assert "answered: 3 of 4 regions" in text
    assert "left: 1 decisions, about 0.5 h at an assumed 1800 s per decision" in text


def test_a_second_opinion_is_a_decision_of_its_own() -> None:
    queries = asked(PICKS, 0)
    packages = packages_of(queries, annotators=("ann", "bob"), duplicate_share=1.0)
    answers = RoundAnswers(queries)

    def left() -> int:
        return round_status(answers, packages, seconds_per_decision=1).decisions_left

    assert left() == 8
    say(answers, "ann", np.zeros(4, np.uint8))
    assert left() == 4
    say(answers, "bob", np.zeros(3, np.uint8))
    assert left() == 1


def test_agreement_counts_pixels_that_two_have_answered() -> None:
    status = round_status(answers_of(ann=[1, 1, 255, 254], bob=[1, 2, 255, 3]), [], seconds_per_decision=1)
    assert (status.agreement.pixels, status.agreement.equal) == (3, 2)
    assert status.kappa == pytest.approx(0.5)
    assert "66.7 % of 3 pixels, Cohen's kappa 0.500" in format_status(status)
    nobody = round_status(answers_of(), [], seconds_per_decision=1)
    assert "agreement of two annotators: no pixels, Cohen's kappa not defined" in format_status(nobody)


def test_kappa_is_that_of_another_library() -> None:
    generator = np.random.default_rng(0)
    first = generator.integers(0, 5, 300, dtype=np.uint8)
    second = np.where(generator.random(300) < 0.6, first, generator.integers(0, 5, 300)).astype(np.uint8)
    assert cohens_kappa(first, second) == pytest.approx(cohen_kappa_score(first, second))
    assert cohens_kappa(first, first) == 1
    assert cohens_kappa(first[:0], first[:0]) is None
    assert cohens_kappa(np.ones(3, np.uint8), np.ones(3, np.uint8)) is None


def test_answers_like_the_suggestion_are_told_apart_by_whether_it_was_shown() -> None:
    regions = RoundRegions(asked(PICKS, 0))
    suggested = of_the_round(RoundAnswers(regions.queries), regions.suggestion)
    other = [(value + 1) % 19 for value in suggested]
    answers = answers_of(
        ann=[suggested[0], suggested[1], other[2], 255], bob=[254, 254, suggested[2], other[3]]
    )
    status = round_status(answers, [], seconds_per_decision=1)
    assert (status.as_suggested.pixels, status.as_suggested.equal) == (3, 2)
    assert (status.as_hidden.pixels, status.as_hidden.equal) == (2, 1)


def test_a_pick_without_pixels_of_its_own_is_no_region() -> None:
    queries = asked([[[0, 0], [0, 0], [9, 9]]], 1)
    regions = RoundRegions(queries)
    assert regions.pixels.tolist() == [4, 0, 9]
    assert regions.all_of([(NAMES[0], np.ones(13, bool))]).tolist() == [True, False, True]
    packages = plan(queries, "png", run="r", crops=SMALL_CROPS, sharing=Sharing())
    assert round_status(RoundAnswers(queries), packages, seconds_per_decision=1).decisions_left == 2
